"""What a detector asks its project, and what of the answers is believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import LoopRefused, LoopUnavailable
from loop_node.loop.multipart import FilePart
from loop_node.loop.project import LoopProject, ModelRow, Target, _is_version
from loop_node.schemas.status import DetectorStatus, NodeState
from scripted import reply

UUID = "3c20d807-f71c-40dc-a996-8a8968aa5431"


@pytest.fixture
def project_at(client_of):
    """`async with client_of(server) as client: project_at(client)`."""
    return lambda client: LoopProject(client, "zauber zeug", "de/mo?")


async def test_the_status(serve, client_of, project_at):
    """Posted as JSON; a node without a version leaves that out, as older nodes do."""
    server = await serve(lambda _: reply(200, b""))
    status = DetectorStatus(
        uuid=UUID,
        name="pc7",
        state=NodeState.IDLE,
        uptime=3,
        model_format="openvino",
        current_model=None,
        target_model="1.2",
        errors={"model": "no"},
        operation_mode="idle",
    )
    async with client_of(server) as client:
        await project_at(client).report_detector(status)
        status.node_version = "1"
        await project_at(client).report_detector(status)
    assert server.asked == ["POST /api/zauber%20zeug/projects/de%2Fmo%3F/detectors"] * 2
    posted = [json.loads(request.body) for request in server.requests]
    assert posted[0] == {
        "uuid": UUID,
        "name": "pc7",
        "state": "idle",
        "uptime": 3,
        "model_format": "openvino",
        "current_model": None,
        "target_model": "1.2",
        "errors": {"model": "no"},
        "operation_mode": "idle",
    }
    assert posted[1]["node_version"] == "1"


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ({"model_uuid": UUID.upper(), "version": "1.12", "more": 1}, Target(model_uuid=UUID, version="1.12")),
        ({"model_uuid": None, "version": None}, None),
        ({"model_uuid": UUID}, None),
        ({"model_uuid": "../../etc", "version": "1.0"}, None),
        ({"model_uuid": UUID, "version": "../1.0"}, None),
        ({"model_uuid": UUID, "version": "1.0\n"}, None),
        ({"model_uuid": UUID, "version": 1.0}, None),
        (None, None),
        ([], None),
    ],
)
async def test_the_target(serve, client_of, project_at, answer, target):
    """Only an id and a version of their forms are a target; anything else is none."""
    server = await serve([reply(200, answer)])
    async with client_of(server) as client:
        assert await project_at(client).deployment_target() == target
    assert server.asked == ["GET /api/zauber%20zeug/projects/de%2Fmo%3F/deployment/target"]


async def test_no_target(serve, client_of, project_at):
    """404 is no target; another refusal is one."""
    server = await serve([reply(404, {"detail": "none"}), reply(403, {"detail": "no"})])
    async with client_of(server) as client:
        assert await project_at(client).deployment_target() is None
        with pytest.raises(LoopRefused):
            await project_at(client).deployment_target()


async def test_a_bad_target_is_told_once(serve, client_of, project_at, caplog):
    """Not at every poll."""
    server = await serve(lambda _: reply(200, {"model_uuid": "../..", "version": "1"}))
    async with client_of(server) as client:
        project = project_at(client)
        for _ in range(3):
            assert await project.deployment_target() is None
    assert caplog.text.count("deployment target is ignored") == 1


async def test_the_models(serve, client_of, project_at, caplog):
    """Unknown keys are ignored, rows that cannot be read are left out with a word."""
    rows = [
        {"id": UUID, "version": "4.0", "formats": ["openvino", 1], "host": "h", "created": "x"},
        {"id": UUID, "version": None},
        {"id": "../x", "version": "1"},
        {"id": UUID, "version": "latest/.."},
        {"id": UUID, "formats": "openvino"},
        "row",
    ]
    server = await serve([reply(200, {"models": rows}), reply(200, {"models": []})])
    async with client_of(server) as client:
        assert await project_at(client).models() == [
            ModelRow(id=UUID, version="4.0", formats=("openvino",), host="h"),
            ModelRow(id=UUID),
        ]
        assert await project_at(client).models("format a") == []
    assert server.asked[1] == "GET /api/zauber%20zeug/projects/de%2Fmo%3F/models?format=format+a"
    assert caplog.messages == ["4 of 6 models that the Learning Loop lists cannot be read"]


@pytest.mark.parametrize("answer", [[], {}, {"models": None}, "x"])
async def test_a_list_of_models_that_is_none(serve, client_of, project_at, answer):
    """The Loop's fault, and no crash."""
    server = await serve([reply(200, answer)])
    async with client_of(server) as client:
        with pytest.raises(LoopUnavailable, match="a form we do not know"):
            await project_at(client).models()


async def test_models_and_images_travel(serve, client_of, project_at, tmp_path):
    """To the contract's paths."""
    server = await serve([reply(200, b"zip"), reply(200, b"")])
    async with client_of(server) as client:
        project = project_at(client)
        await project.download_model(UUID, "openvino", tmp_path / "m.zip", max_bytes=10)
        await project.upload_images([FilePart(filename="a.json", content=b"{}")])
    assert server.asked == [
        f"GET /api/zauber%20zeug/projects/de%2Fmo%3F/models/{UUID}/openvino/file",
        "POST /api/zauber%20zeug/projects/de%2Fmo%3F/images",
    ]


@given(st.text())
def test_a_version_is_digits_and_dots(text):
    """Nothing else ever becomes the name of a folder."""
    if _is_version(text):
        assert set(text) <= set("0123456789.")
        assert all(text.split("."))
