"""COCO files as annotations of a project."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import InputError, SchemaError
from loop_node.local_loop.coco import read_coco
from loop_node.local_loop.projects import Categories
from loop_node.schemas.detections import Point, Shape
from loop_node.schemas.local_loop import AnnotationSet
from loop_node.schemas.models import Category, CategoryType

TYPES = {"bolt": "box", "hole": "point", "scratch": "segmentation", "good": "classification", "bad": "classification"}
CATEGORIES = Categories(
    tuple(Category(id=f"id of {name}", name=name, type=CategoryType(TYPES[name])) for name in TYPES)
)
NUMBERS = {name: number for number, name in enumerate(TYPES, 11)}


def coco(*annotations: tuple[str, dict[str, Any]], **image: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2026},
        "images": [{"id": 7, "file_name": "a.jpg"} | image],
        "categories": [{"id": number, "name": name, "supercategory": "thing"} for name, number in NUMBERS.items()],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": NUMBERS[name], "iscrowd": 0} | said for name, said in annotations
        ],
    }


def read(*annotations: tuple[str, dict[str, Any]], **image: Any) -> AnnotationSet:
    return read_coco(coco(*annotations, **image), CATEGORIES).annotations_for("a.jpg", 100, 50)


def test_boxes_are_rounded_by_their_corners_and_clipped() -> None:
    """Neither edge moves by more than half a pixel; what lies outside is cut off."""
    boxes = read(("bolt", {"bbox": [1.4, 2.6, 10.3, 5]}), ("bolt", {"bbox": [90, -5, 20, 10]})).box_annotations
    assert [(box.x, box.y, box.width, box.height) for box in boxes] == [(1, 3, 11, 5), (90, 0, 10, 5)]
    assert boxes[0].category_id == "id of bolt"


def test_a_box_of_which_nothing_is_left_is_dropped() -> None:
    """Outside of the image, or without a whole pixel."""
    outside, tiny = {"bbox": [100, 10, 5, 5]}, {"bbox": [10.1, 10.1, 0.2, 0.2]}
    assert read(("bolt", outside), ("bolt", tiny)) == AnnotationSet()


def test_a_polygon_of_a_box_category_becomes_its_bounding_box() -> None:
    """Over all of its polygons."""
    (box,) = read(("bolt", {"segmentation": [[10, 10, 20, 10, 15, 30], [40, 5, 50, 5, 45, 8]]})).box_annotations
    assert (box.x, box.y, box.width, box.height) == (10, 5, 40, 25)


def test_outlines_have_whole_pixels_one_for_each_polygon() -> None:
    """What COCO splits stays split."""
    polygons = [[10.4, 10, 20, 10.6, 15, 30], [40, 5, 50, 5, 45, 8]]
    first, second = read(("scratch", {"segmentation": polygons, "bbox": [0, 0, 1, 1]})).segmentation_annotations
    assert str(first.shape) == "10,10,20,11,15,30"
    assert str(second.shape) == "40,5,50,5,45,8"


@pytest.mark.parametrize("empty", [None, []])
def test_a_box_of_a_segmentation_category_becomes_four_corners(empty: Any) -> None:
    """Many tools write an empty segmentation beside a box."""
    (outline,) = read(("scratch", {"bbox": [1, 2, 3, 4], "segmentation": empty})).segmentation_annotations
    assert str(outline.shape) == "1,2,4,2,4,6,1,6"


def test_an_outline_is_cut_at_the_edge_of_the_image() -> None:
    """Along its own lines, not by moving its corners."""
    (outline,) = read(("scratch", {"segmentation": [[80, 10, 120, 20, 80, 30]]})).segmentation_annotations
    assert isinstance(outline.shape, Shape)
    corners = {(point.x, point.y) for point in outline.shape.points}
    assert corners == {(80, 10), (100, 15), (100, 25), (80, 30)}
    assert read(("scratch", {"segmentation": [[180, 10, 220, 20, 180, 30]]})) == AnnotationSet()


def test_a_point_category_gets_the_centre_of_the_box() -> None:
    """Not rounded: points are numbers of any kind; one outside of the image is dropped."""
    (point,) = read(("hole", {"bbox": [10, 20, 5, 5]}), ("hole", {"bbox": [200, 20, 5, 5]})).point_annotations
    assert (point.x, point.y, point.category_id) == (12.5, 22.5, "id of hole")


def test_a_classification_needs_no_place() -> None:
    """The same one twice is one."""
    said = read(("good", {}), ("good", {"bbox": [1, 2, 3, 4]})).classification_annotation
    assert said is not None
    assert said.category_id == "id of good"


def test_two_classifications_of_an_image_are_refused() -> None:
    """With the place of the second."""
    with pytest.raises(InputError, match=r"annotations\[1\]: a second classification, 'bad'"):
        read(("good", {}), ("bad", {}))


RUN_LENGTHS = {"segmentation": {"counts": [1, 2], "size": [50, 100]}, "iscrowd": 1}


def test_run_lengths_are_refused_where_no_box_suffices() -> None:
    """A box category is content with the box beside them."""
    assert len(read(("bolt", {"bbox": [1, 2, 3, 4]} | RUN_LENGTHS)).box_annotations) == 1
    with pytest.raises(InputError, match=r"annotations\[0\].segmentation: polygons are needed"):
        read(("scratch", {"bbox": [1, 2, 3, 4]} | RUN_LENGTHS))
    with pytest.raises(InputError, match=r"annotations\[0\]: a bbox or polygons are needed"):
        read(("bolt", RUN_LENGTHS))


@pytest.mark.parametrize("name", ["train/a.jpg", "C:\\images\\a.jpg"])
def test_folders_in_file_names_do_not_matter(name: str) -> None:
    """Whoever wrote the file had the images somewhere else."""
    assert len(read(("bolt", {"bbox": [1, 2, 3, 4]}), file_name=name).box_annotations) == 1


def test_a_name_that_fits_two_images_is_refused_when_it_is_asked_for() -> None:
    """With its folder it fits one of them."""
    document = coco()
    document["images"] = [{"id": 1, "file_name": "left/a.jpg"}, {"id": 2, "file_name": "right/a.jpg"}]
    document["annotations"] = [{"image_id": 2, "category_id": NUMBERS["bolt"], "bbox": [1, 2, 3, 4]}]
    file = read_coco(document, CATEGORIES)
    with pytest.raises(InputError, match=r"several images of this name: 'left/a.jpg', 'right/a.jpg'"):
        file.annotations_for("a.jpg", 100, 50)
    assert len(file.annotations_for("right/a.jpg", 100, 50).box_annotations) == 1
    assert file.annotations_for("b.jpg", 100, 50) == AnnotationSet()


def test_file_names_without_an_image_are_told() -> None:
    """In the order of the document."""
    document = coco()
    document["images"] = [{"id": number, "file_name": f"folder/{number}.jpg"} for number in range(4)]
    assert read_coco(document, CATEGORIES).unmatched(["2.jpg", "9.jpg", "folder/0.jpg"]) == [
        "folder/1.jpg",
        "folder/3.jpg",
    ]


def test_categories_that_the_project_lacks_are_listed_with_the_cure() -> None:
    """Only those that an annotation uses: a file may know a thousand."""
    document = coco(("bolt", {"bbox": [1, 2, 3, 4]}))
    document["categories"][:3] = [{"id": 11, "name": "nut"}, {"id": 12, "name": "unused"}, {"id": 13, "name": "washer"}]
    document["annotations"].append({"image_id": 7, "category_id": 13})
    with pytest.raises(InputError, match="lacks these categories of the COCO file: 'nut', 'washer'; make them first"):
        read_coco(document, CATEGORIES)


def test_a_size_that_is_not_the_upright_images_is_refused() -> None:
    """Such boxes would lie on their side."""
    assert read(width=100, height=50) == AnnotationSet()
    with pytest.raises(InputError, match="says 50 x 100 pixels, the upright image has 100 x 50"):
        read(width=50, height=100)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[0\].bbox: \[x, y, width, height\] is needed"),
        ({"bbox": [1, 2, -3, 4]}, r"annotations\[0\].bbox: "),
        ({"bbox": [1, 2, "3", 4]}, r"annotations\[0\].bbox\[2\]: a finite number is needed, not '3'"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"annotations\[0\].segmentation\[0\]: "),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, r"annotations\[0\].segmentation\[0\]: "),
        ({"segmentation": "polygon"}, r"annotations\[0\].segmentation: a list of polygons is needed"),
        ({"image_id": 8}, r"annotations\[0\].image_id: there is no image 8"),
        ({"category_id": 99}, r"annotations\[0\].category_id: there is no category 99"),
        ({"category_id": "bolt"}, r"annotations\[0\].category_id: a whole number is needed"),
    ],
)
def test_a_broken_annotation_is_named_by_its_path(broken: dict[str, Any], fault: str) -> None:
    """Before any image is looked at."""
    with pytest.raises(SchemaError, match=fault):
        read_coco(coco(("bolt", broken)), CATEGORIES)


@pytest.mark.parametrize("document", [None, [], {}, {"images": {}}, {"images": [{"id": 1}]}])
def test_what_is_no_coco_file_is_refused(document: object) -> None:
    """With the path of what is missing."""
    with pytest.raises(SchemaError):
        read_coco(document, CATEGORIES)


@pytest.mark.parametrize("entries", ["images", "categories"])
def test_ids_that_come_twice_are_refused(entries: str) -> None:
    """Nobody could tell whose annotation it is."""
    document = coco()
    document[entries].append(document[entries][0])
    with pytest.raises(SchemaError, match=rf"{entries}\[\d\].id: \d+ came before"):
        read_coco(document, CATEGORIES)


NUMBER = st.floats(-300, 300)
BOX = st.tuples(NUMBER, NUMBER, st.floats(0, 300), st.floats(0, 300)).map(list)
POLYGON = st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=8).map(lambda them: [n for one in them for n in one])


@given(st.lists(BOX))
def test_boxes_lie_in_the_image_and_near_what_was_said(boxes: list[list[float]]) -> None:
    """Whatever came, each box has an area inside, and no edge moved by more than half a pixel unless it was cut."""
    for one in boxes:
        for box in read(("bolt", {"bbox": one})).box_annotations:
            assert 0 <= box.x < box.x + box.width <= 100
            assert 0 <= box.y < box.y + box.height <= 50
            assert abs(box.x - min(max(one[0], 0), 100)) <= 0.5
            assert abs(box.y + box.height - min(max(one[1] + one[3], 0), 50)) <= 0.5


@given(POLYGON)
def test_outlines_lie_in_the_image(polygon: list[float]) -> None:
    """And have three corners, no two of the same place in a row."""
    for outline in read(("scratch", {"segmentation": [polygon]})).segmentation_annotations:
        assert isinstance(outline.shape, Shape)
        points = outline.shape.points
        assert len(points) >= 3
        assert all(0 <= point.x <= 100 and 0 <= point.y <= 50 for point in points)
        assert all(point != points[index - 1] for index, point in enumerate(points))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), min_size=3, max_size=8, unique=True))
def test_an_outline_inside_of_the_image_stays_as_it_is(corners: list[tuple[int, int]]) -> None:
    """Corner by corner."""
    (outline,) = read(("scratch", {"segmentation": [[n for one in corners for n in one]]})).segmentation_annotations
    assert outline.shape == Shape(points=[Point(x=x, y=y) for x, y in corners])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "bbox", "file_name", "image_id"]), inner),
)


@given(JSON, st.sampled_from(["images", "annotations", "categories"]), st.booleans())
def test_whatever_comes_it_is_read_or_refused(value: Any, place: str, is_entry: bool) -> None:
    """Never another error than ours."""
    document = coco(("bolt", {"bbox": [1, 2, 3, 4]}))
    document[place] = [value] if is_entry else value
    try:
        read_coco(document, CATEGORIES).annotations_for("a.jpg", 100, 50)
    except InputError:
        pass


def test_a_hundred_thousand_annotations_are_read_in_seconds() -> None:
    """The time grows with the file, not with images times annotations."""
    document = coco()
    document["images"] = [{"id": number, "file_name": f"{number}.jpg"} for number in range(10_000)]
    document["annotations"] = [
        {"image_id": number % 10_000, "category_id": NUMBERS["bolt"], "bbox": [1, 2, 3, 4]} for number in range(100_000)
    ]
    began = time.monotonic()
    file = read_coco(document, CATEGORIES)
    assert sum(len(file.annotations_for(f"{n}.jpg", 100, 50).box_annotations) for n in range(10_000)) == 100_000
    assert time.monotonic() - began < 20
