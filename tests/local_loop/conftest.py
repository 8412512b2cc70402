"""A store on a real disk."""

import io
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from loop_node.local_loop.loop import LocalLoop, open_local_loop
from loop_node.local_loop.projects import Project, create_project
from loop_node.schemas.local_loop import NewCategory
from loop_node.schemas.models import CategoryType

OPTIONS = {
    "username": None,
    "password": None,
    "is_loopback": True,
    "max_image_pixels": 10_000_000,
    "max_batch_bytes": 20_000_000,
    "max_model_bytes": 1_000_000,
    "max_uploads_per_minute": 0,
}


@pytest.fixture
def options() -> dict[str, object]:
    """Of a Learning Loop of the tests."""
    return dict(OPTIONS)


@pytest.fixture
async def loop(tmp_path: Path) -> AsyncIterator[LocalLoop]:
    """An empty store."""
    async with open_local_loop(tmp_path / "loop", **OPTIONS) as loop:  # type: ignore[arg-type]  # as written above
        yield loop


@pytest.fixture
async def project(loop: LocalLoop) -> Project:
    """A project with a category of each type."""
    categories = [NewCategory(name=f"some {kind}", type=kind) for kind in CategoryType]
    return await loop.database.write(lambda db: create_project(db, "org", "proj", categories))


def encode(width: int = 40, height: int = 30, *, color: tuple[int, int, int] = (200, 10, 10), exif: int = 1) -> bytes:
    buffer = io.BytesIO()
    tags = Image.Exif()
    tags[274] = exif
    Image.new("RGB", (width, height), color).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """Makes JPEG files."""
    return encode


@pytest.fixture
def make_zip() -> Callable[..., bytes]:
    """Makes zips of names and contents."""

    def make(**entries: bytes | str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
        return buffer.getvalue()

    return make
