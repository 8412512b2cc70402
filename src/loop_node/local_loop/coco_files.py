"""A COCO file on the side of whoever imports: cut into the parts that go with each batch of images."""

import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from loop_node.errors import InputError

__all__ = ["CocoParts", "read_coco_file"]


@frozen
class CocoParts:
    """The images and annotations of a COCO file by file name; what they mean is for the Loop to say."""

    categories: list[Any]
    images: dict[str, list[dict[str, Any]]]
    annotations: dict[Any, list[dict[str, Any]]]

    @property
    def names(self) -> set[str]:
        """The file names it knows."""
        return set(self.images)

    def part_for(self, names: Collection[str]) -> bytes:
        """A COCO document with the images of these names alone."""
        images = [image for name in sorted(names) for image in self.images.get(name, [])]
        annotations = [one for image in images for one in self.annotations.get(image.get("id"), [])]
        part = {"images": images, "annotations": annotations, "categories": self.categories}
        return json.dumps(part).encode()


def read_coco_file(file: Path) -> CocoParts:
    """Read a COCO file. Blocking.

    Raises:
        InputError: There is none, or it is none.
    """
    try:
        document = json.loads(file.read_bytes())
        images: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for image in document["images"]:
            hash(image.get("id"))  # or no annotation could be found by it
            images[PurePosixPath(image["file_name"].replace("\\", "/")).name].append(image)
        annotations: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in document["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        return CocoParts(document["categories"], dict(images), dict(annotations))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file} is no COCO file: it is no JSON") from None
    except KeyError as error:
        raise InputError(f"{file} is no COCO file: something in it lacks {error}") from None
    except (TypeError, AttributeError):
        raise InputError(
            f"{file} is no COCO file: `images`, `annotations` and `categories` must be lists of objects"
        ) from None
