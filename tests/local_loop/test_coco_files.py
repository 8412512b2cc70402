"""A COCO file on the side of whoever imports."""

import json
from pathlib import Path

import pytest

from loop_node.errors import InputError
from loop_node.local_loop.coco_files import read_coco_file

DOCUMENT = {
    "images": [{"id": 1, "file_name": "deep/a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 1}],
    "categories": [{"id": 1, "name": "cat"}],
}


def test_a_part_has_what_goes_with_its_images(tmp_path: Path) -> None:
    """By bare name; nothing of the others."""
    (tmp_path / "c.json").write_text(json.dumps(DOCUMENT))
    coco = read_coco_file(tmp_path / "c.json")
    assert coco.names == {"a.jpg", "b.jpg"}
    part = json.loads(coco.part_for(["a.jpg", "unheard of"]))
    assert [image["id"] for image in part["images"]] == [1]
    assert [one["image_id"] for one in part["annotations"]] == [1]
    assert part["categories"] == DOCUMENT["categories"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("{}", "lacks 'images'"),
        ("[]", "lists of objects"),
        ('{"images": 3}', "lists of objects"),
        ('{"images": [{"id": []}]}', "lists of objects"),
        ('{"images": [{"id": 1}]}', "lacks 'file_name'"),
        ('{"images": [{"id": 1, "file_name": 7}]}', "lists of objects"),
        ('{"images": []}', "lacks 'annotations'"),
    ],
)
def test_what_is_none_is_told_in_words(tmp_path: Path, text: str, said: str) -> None:
    """With its name, and without the words of a programming language."""
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_coco_file(tmp_path / "c.json")
    assert "Error" not in str(caught.value)


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As the system says it."""
    with pytest.raises(InputError, match=r"nowhere.json: No such file"):
        read_coco_file(tmp_path / "nowhere.json")
