"""What every node answers: errors in one shape, health, logging, its own description."""

import logging
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from quart import Response, request

from loop_node.errors import (
    Conflict,
    ImageError,
    InputError,
    LoginNeeded,
    Malformed,
    ModelError,
    NoModel,
    NotFound,
    Overloaded,
    RateLimited,
    SchemaError,
    StorageFull,
    TooLarge,
)
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.status import AboutResponse
from loop_node.serving.app import create_app, json_answer, text_answer
from loop_node.serving.openapi import Endpoint, Parameter
from loop_node.serving.uploads import read_body
from loop_node.supervision import Criticality, Health, TaskState

ERRORS = {
    "image": ImageError("no image"),
    "large": TooLarge("too much"),
    "none": NoModel("no model yet", retry_after_s=7),
    "model": ModelError("device lost"),
    "bug": ZeroDivisionError("secret detail"),
    "login": LoginNeeded("log in"),
    "missing": NotFound("no model 'x'"),
    "conflict": Conflict("it runs"),
    "object": Conflict("it is there", detail={"id": "17"}),
    "malformed": Malformed("half a form"),
    "input": InputError("no such field"),
    "schema": SchemaError(["a: missing", "b: no number"]),
    "often": RateLimited("too often", retry_after_s=7),
    "full": StorageFull("no room", retry_after_s=7),
    "line": Overloaded("a line", retry_after_s=7),
}


async def raise_it() -> Response:
    raise ERRORS[request.args["what"]]


async def name_parts(organization: str, number: int) -> Response:
    return json_answer([organization, number])


async def echo() -> Response:
    return text_answer((await read_body(request)).decode())


ENDPOINTS = [
    Endpoint(method="GET", path="/raise", handle=raise_it, summary="Fail.", answer=ImageMetadata, faults=(422, 503)),
    Endpoint(method="GET", path="/<organization>/models/<int:number>", handle=name_parts, summary="Name."),
    Endpoint(
        method="POST",
        path="/echo",
        handle=echo,
        summary="Say it again.",
        answer=AboutResponse,
        image_field="file",
        parameters=[Parameter(name="tags", where="header", description="Words.")],
    ),
]


def app_of(health: Health | None = None, failing: list[str] | None = None) -> Any:
    return create_app(
        "test", ENDPOINTS, health=health or Health(), not_ready=lambda: failing or [], max_body_bytes=1000
    )


@pytest.mark.parametrize(
    ("what", "status", "detail"),
    [
        ("image", 422, "no image"),
        ("large", 413, "too much"),
        ("none", 503, "no model yet"),
        ("model", 500, "device lost"),
        ("bug", 500, "Internal Server Error"),
        ("login", 401, "log in"),
        ("missing", 404, "no model 'x'"),
        ("conflict", 409, "it runs"),
        ("object", 409, {"id": "17"}),
        ("malformed", 400, "half a form"),
        ("input", 422, "no such field"),
        ("schema", 422, "a: missing; b: no number"),
        ("often", 429, "too often"),
        ("full", 507, "no room"),
        ("line", 503, "a line"),
    ],
)
async def test_errors_have_one_shape(serve: Any, what: str, status: int, detail: Any) -> None:
    """`{"detail": ...}`, with the status of whose fault it is; nothing of a bug's inside."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.get("/raise", params={"what": what})
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    assert answer.headers.get("Retry-After") == ("7" if status in (429, 503, 507) else None)


async def test_parts_of_the_path_reach_the_handler(serve: Any) -> None:
    """As text unless the path says otherwise, decoded; what does not fit is another path."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        assert (await client.get("/zauber%20zeug/models/17")).json() == ["zauber zeug", 17]
        assert (await client.get("/zauberzeug/models/x")).status_code == 404
        document = (await client.get("/openapi.json")).json()
    assert "/{organization}/models/{number}" in document["paths"]


async def test_unknown_paths_and_methods(serve: Any) -> None:
    """404 and 405 in the same shape, OPTIONS included."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        missing, wrong, options = await client.get("/x"), await client.put("/raise"), await client.options("/raise")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    assert options.status_code == 405
    assert "GET" in wrong.headers["Allow"]


async def test_bodies_are_bounded_with_and_without_their_length(serve: Any) -> None:
    """413 whether the size is announced or only found out."""

    async def chunks() -> Any:
        for _ in range(30):
            yield bytes(100)

    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        for content in (bytes(1001), chunks()):
            answer = await client.post("/echo", content=content)
            assert (answer.status_code, answer.json()) == (413, {"detail": "the body is larger than 1000 bytes"})
        assert (await client.post("/echo", content=b"x" * 1000)).status_code == 200


async def test_liveness_tells_of_tasks_and_readiness_of_reasons(serve: Any) -> None:
    """Alive is not ready: a starting vital task or a missing model is."""
    health = Health()
    health.register("http_server", Criticality.VITAL)
    failing = ["no model"]
    async with serve(app_of(health, failing)) as served, httpx.AsyncClient(base_url=served.url) as client:
        for alive, ready in (("/healthz", "/readyz"), ("/v2/health/live", "/v2/health/ready")):
            assert (await client.get(alive)).json()["tasks"]["http_server"]["state"] == "starting"
            answer = await client.get(ready)
            assert answer.status_code == 503
            assert answer.json()["failing"] == ["http_server: starting", "no model"]
        health.enter("http_server", TaskState.RUNNING)
        failing.clear()
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "failing": []})


async def test_the_request_id_comes_back(serve: Any) -> None:
    """A proxy's id is echoed, cut to a sane length; one that could split a header is not."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.get("/healthz", headers={"X-Request-ID": "a" * 200})
        assert answer.headers["X-Request-ID"] == "a" * 128
        assert "X-Request-ID" not in (await client.get("/healthz", headers={"X-Request-ID": b"\xe4"})).headers


async def test_debug_logging_is_switched_and_refused(serve: Any) -> None:
    """`on`, `off`, and 400 for anything else."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        assert (await client.put("/debug_logging", content="on")).text == '"on"'
        assert logging.getLogger("loop_node").level == logging.DEBUG
        assert (await client.put("/debug_logging", content="off")).text == '"off"'
        assert logging.getLogger("loop_node").level == logging.NOTSET
        answer = await client.put("/debug_logging", content=b"\xff")
    assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid state"})


async def test_the_description_is_valid_and_complete(serve: Any) -> None:
    """Every endpoint is in it, and a validator agrees with it."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        document = (await client.get("/openapi.json")).json()
    validate(document)
    assert {"/raise", "/echo", "/healthz", "/readyz", "/debug_logging"} <= set(document["paths"])


async def test_the_page_needs_no_internet(serve: Any) -> None:
    """All it refers to is served by the node."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        page = (await client.get("/docs")).text
        assert "http:" not in page
        assert "https:" not in page
        for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"):
            assert f'"docs/{name}"' in page
            assert (await client.get(f"/docs/{name}")).status_code == 200


PAGE = "http://page.local"


@pytest.fixture
def open_app() -> Any:
    return create_app("t", ENDPOINTS, health=Health(), not_ready=list, max_body_bytes=1000, allowed_origins=(PAGE,))


async def test_pages_of_listed_origins_may_call(serve: Any, open_app: Any) -> None:
    """Preflight and answer carry what a browser wants to see."""
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "tags"}
    async with serve(open_app) as served, httpx.AsyncClient(base_url=served.url) as client:
        preflight = await client.options("/echo", headers=asked)
        answer = await client.post("/echo", content="x", headers={"Origin": PAGE})
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Headers"]) == (204, "tags")
    for one in (preflight, answer):
        assert one.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Origin" in one.headers["Vary"]


async def test_pages_of_other_origins_may_not(serve: Any, open_app: Any) -> None:
    """Their browsers see no permission; robots without an origin are served as ever."""
    asked = {"Origin": "http://evil.local", "Access-Control-Request-Method": "POST"}
    async with serve(open_app) as served, httpx.AsyncClient(base_url=served.url) as client:
        assert (await client.options("/echo", headers=asked)).status_code == 405
        answer = await client.post("/echo", content="x", headers={"Origin": "http://evil.local"})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert (await client.post("/echo", content="x")).text == "x"


async def test_without_listed_origins_there_is_no_word_of_it(serve: Any) -> None:
    """As nodes have always answered."""
    async with serve(app_of()) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.post("/echo", content="x", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_texts_are_json_strings() -> None:
    """The contract's `"OK"` has its quotes."""
    assert json_answer("OK").content_type == "application/json"
