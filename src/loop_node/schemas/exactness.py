"""Fields that a body has and its class has not: people's typing errors. `wire.structure` passes over them, as nodes need it."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, get_args

import attrs

from loop_node.errors import SchemaError

__all__ = ["refuse_unknown_fields"]

_MAX_NAMED: Final = 20


def refuse_unknown_fields(kind: Any, value: object) -> None:
    """Refuse a value, as it came out of JSON, with fields that the class `kind` or one inside of it does not have.

    Raises:
        SchemaError: The first 20 of them, each with its path, for example
            `box_annotations[2].widht: there is no such field, only x, y, width, height`.
    """
    problems = list(islice(_unknown(kind, value, ""), _MAX_NAMED))
    if problems:
        raise SchemaError(problems)


def _unknown(kind: Any, value: object, path: str) -> Iterator[str]:
    if attrs.has(kind):
        if isinstance(value, Mapping):
            yield from _unknown_members(kind, value, path)
        return
    for part in get_args(kind):  # of a list or a union; other types hold no classes of ours
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _unknown(part, item, f"{path}[{index}]")
        else:
            yield from _unknown(part, value, path)


def _unknown_members(kind: Any, value: Mapping[str, object], path: str) -> Iterator[str]:
    fields = attrs.fields_dict(kind)
    for name, member in value.items():
        place = f"{path}.{name[:60]}".removeprefix(".")
        if name in fields:
            yield from _unknown(fields[name].type, member, place)
        else:
            yield f"{place}: there is no such field, only {', '.join(fields)}"
