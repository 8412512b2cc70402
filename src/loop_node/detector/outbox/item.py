"""An image as it lies in the outbox: one file that is a JPEG to whoever opens it, and its name. Pure.

The file::

    the JPEG, byte for byte as received | its metadata, a JSON object in UTF-8 | footer, 24 bytes, big-endian
                                                                                 8  bytes of the JPEG
                                                                                 4  bytes of the metadata
                                                                                 4  CRC-32 of all before the footer
                                                                                 8  "LNOUTBX1"

Image viewers stop at the end of the JPEG and never see the rest.

The name is `<sequence>-<token>-<bytes>.jpg`: 16 decimal digits, 16 hexadecimal digits, the size of the file. The first
two are the item's id. Ids sort by sequence, so the order of images needs no clock; the token makes an id unique beyond
this outbox; the size spares a start with many images a look at each. All of it is legal on every file system.
"""

import re
import struct
import zlib
from typing import Final

from attrs import frozen

__all__ = [
    "BrokenItem",
    "Content",
    "file_name",
    "item_id",
    "pack",
    "packed_bytes",
    "parse_name",
    "sequence_of",
    "unpack",
]

_FOOTER: Final = struct.Struct(">QII8s")
_MAGIC: Final = b"LNOUTBX1"
_NAME: Final = re.compile(r"(\d{16}-[0-9a-f]{16})-(\d{1,15})\.jpg", re.ASCII)


class BrokenItem(Exception):
    """A file that is no whole item; the text says why."""


@frozen
class Content:
    """What an item holds: the JPEG as received, and the JSON object that goes to the Learning Loop beside it."""

    jpeg: bytes
    metadata: bytes


def item_id(sequence: int, token: str) -> str:
    """The id of the item with this place in the order; `token` is 16 hexadecimal digits."""
    return f"{sequence:016d}-{token}"


def sequence_of(item: str) -> int:
    """The place in the order that an id says."""
    return int(item[:16])


def file_name(item: str, size_bytes: int) -> str:
    """The name of the file that holds the item."""
    return f"{item}-{size_bytes}.jpg"


def parse_name(name: str) -> tuple[str, int] | None:
    """Id and size in bytes that a file's name says; None if it is no item's name."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def pack(content: Content) -> tuple[bytes, bytes]:
    """The file's bytes in two parts, the first of which is the JPEG itself, uncopied."""
    checksum = zlib.crc32(content.metadata, zlib.crc32(content.jpeg))
    footer = _FOOTER.pack(len(content.jpeg), len(content.metadata), checksum, _MAGIC)
    return content.jpeg, content.metadata + footer


def packed_bytes(content: Content) -> int:
    """How large the file will be."""
    return len(content.jpeg) + len(content.metadata) + _FOOTER.size


def unpack(data: bytes) -> Content:
    """Read a whole file.

    Raises:
        BrokenItem: It was cut, changed, or never was an item.
    """
    if len(data) < _FOOTER.size:
        raise BrokenItem(f"it has only {len(data)} bytes")
    jpeg_bytes, metadata_bytes, checksum, magic = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
    if magic != _MAGIC:
        raise BrokenItem("it was cut, or is no item of an outbox")
    if jpeg_bytes + metadata_bytes + _FOOTER.size != len(data):
        raise BrokenItem(
            f"it has {len(data)} bytes, not the {jpeg_bytes + metadata_bytes + _FOOTER.size} it should have"
        )
    if zlib.crc32(memoryview(data)[: -_FOOTER.size]) != checksum:
        raise BrokenItem("its bytes have changed: the checksum does not fit")
    return Content(data[:jpeg_bytes], data[jpeg_bytes : -_FOOTER.size])
