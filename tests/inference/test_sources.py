import json
import zipfile

import pytest

from loop_node.errors import ModelError
from loop_node.inference.sources import locate_model, read_model_folder

MODEL_JSON = {"id": "7", "organization": "o", "project": "p", "version": "1.3", "categories": [], "owner": "me"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


def _write(folder, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(MODEL_JSON) if path.name == "model.json" else name)


def _located(source, tmp_path):
    return locate_model(str(source), tmp_path / "unpacked")


def test_the_bundled_model_is_a_word(tmp_path):
    """`coco` needs no file."""
    located = _located("coco", tmp_path)
    assert located.file.name == "model.xml"
    assert (located.information.project, len(located.information.categories)) == ("coco", 80)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.xml", "model.bin", "model.json"], "model.xml"),
        (["best.onnx", "model.json"], "best.onnx"),
        (["net.tflite"], "net.tflite"),
        (["model.xml", "model.bin", "best.onnx"], "model.xml"),
        (["deep/down/x.xml", "deep/down/x.bin", "model.json"], "deep/down/x.xml"),
        (["openvino/model.xml", "openvino/model.bin", "openvino/model.json", "a.onnx"], "openvino/model.xml"),
    ],
)
def test_a_folder_holds_one_model(folder, tmp_path, names, chosen):
    """One file wherever it lies, or one model.xml among several; model.json beside it or at the top."""
    _write(folder, *names)
    located = _located(folder, tmp_path)
    assert located.file == folder / chosen
    assert located.information.version == ("1.3" if any("json" in name for name in names) else located.file.stem)


def test_several_models_are_refused_by_name(folder, tmp_path):
    """The error lists them and says what to do."""
    _write(folder, "a.onnx", "b/c.tflite")
    with pytest.raises(ModelError, match=r"several: a\.onnx, b/c\.tflite; leave one, or name one model\.xml"):
        _located(folder, tmp_path)


def test_a_folder_without_a_model_is_refused(folder, tmp_path):
    """The error says what it should hold."""
    _write(folder, "readme.txt", "model.json")
    with pytest.raises(ModelError, match=r"one file that ends in \.xml, \.onnx, \.tflite; .* holds none"):
        _located(folder, tmp_path)


def test_weights_must_lie_beside_their_graph(folder, tmp_path):
    """An .xml alone is half a model."""
    _write(folder, "model.xml")
    with pytest.raises(ModelError, match=r"has no weights: model\.bin must lie beside it"):
        _located(folder, tmp_path)


def test_a_bare_file_stands_for_itself(folder, tmp_path):
    """Its name is its version, its content its id."""
    _write(folder, "screws.onnx")
    first, again = (_located(folder / "screws.onnx", tmp_path).information for _ in range(2))
    assert first.version == "screws"
    assert first.id == again.id
    (folder / "screws.onnx").write_text("other weights")
    assert _located(folder / "screws.onnx", tmp_path).information.id != first.id


@pytest.mark.parametrize("name", ["nowhere", "picture.jpg"])
def test_what_is_no_model_is_refused_with_what_is_accepted(folder, tmp_path, name):
    """A missing path, and a file of another kind."""
    _write(folder, "picture.jpg")
    with pytest.raises(ModelError, match=rf"{name}.*accepted are a model folder, a model zip, .* or the word coco"):
        _located(folder / name, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", r"model\.json cannot be read"),
        ("[" * 100_000, r"model\.json cannot be read"),
        ("\x00", r"model\.json cannot be read"),
        ("[]", r"model\.json cannot be used"),
        ('{"id": 3, "organization": "o", "project": "p", "conf_threshold": 7}', "(?s)conf_threshold.*id: a string"),
        ('{"version": "\\ud800"}', r"model\.json cannot be read"),
    ],
)
def test_a_broken_model_json_is_refused_with_all_its_faults(folder, tmp_path, text, problem):
    """It names the file, and every fault at once."""
    _write(folder, "model.onnx")
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=problem):
        _located(folder, tmp_path)


def test_a_zip_is_unpacked_once(folder, tmp_path):
    """Its folder is named for its content, so the second start finds it there."""
    archive = folder / "screws.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("export/model.onnx", "weights")
        packed.writestr("export/model.json", json.dumps(MODEL_JSON))
    located = _located(archive, tmp_path)
    assert located.file.read_text() == "weights"
    assert located.information.version == "1.3"
    assert located.information.extra == {"owner": "me"}
    before = located.file.stat().st_ino
    assert _located(archive, tmp_path).file.stat().st_ino == before


def test_a_logic_of_ones_own_gets_the_description_of_any_folder(folder, tmp_path):
    """Whatever format the rest has; model.json may lie deeper, but only once."""
    _write(folder, "sub/model.json", "sub/weights.mine")
    information = read_model_folder(str(folder), tmp_path / "unpacked")
    assert (information.version, information.model_root_path) == ("1.3", str(folder / "sub"))
    _write(folder, "other/model.json")
    with pytest.raises(ModelError, match=r"must hold one model\.json, not 2"):
        read_model_folder(str(folder), tmp_path / "unpacked")
    with pytest.raises(ModelError, match="there is no model folder, zip or file at"):
        read_model_folder(str(folder / "none"), tmp_path / "unpacked")


def test_a_local_model_json_may_leave_out_what_the_loop_adds(folder, tmp_path):
    """Id, organization, project and version come from the file and its folder."""
    _write(folder, "model.onnx")
    (folder / "model.json").write_text('{"model_type": "YOLOX"}')
    information = locate_model(str(folder), tmp_path / "unpacked").information
    assert (information.model_type, information.version) == ("YOLOX", folder.name)
    assert information.id == locate_model(str(folder), tmp_path / "unpacked").information.id


def test_a_logic_gets_bare_files_and_the_bundled_model_too(folder, tmp_path):
    """Whatever `--model` takes."""
    _write(folder, "weights.bin")
    bare = read_model_folder(str(folder / "weights.bin"), tmp_path / "unpacked")
    assert (bare.version, bare.model_root_path) == ("weights", str(folder))
    assert read_model_folder("coco", tmp_path / "unpacked").project == "coco"
