"""The one converter between JSON-ready values and the classes of this room.

Rules, for every class alike: unknown keys are ignored; `int` is accepted for `float`; a finite `float` is accepted for
`int` and rounded half to even (robots send box corners as floats); `bool` is no number and nothing but `str` is a
string. The faults of a body are found in one pass, each named by its path; of a list or an object the first 20.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import is_mapping, is_sequence
from cattrs.gen import make_dict_structure_fn

from loop_node.errors import SchemaError

from .detections import Shape
from .models import ModelInformation, OneOf, Within

__all__ = ["model_json", "read_model_information", "structure", "structure_strictly", "unstructure", "unstructure_flat"]

T = TypeVar("T")

_MAX_UNKNOWN: Final = 20
_LARGEST_INT: Final = 2**53
"""JSON readers of other languages keep integers exact up to here."""
_MAX_FAULTS: Final = 20


def _string(value: object, _: object) -> str:
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text: it could not be answered with. UnicodeError is a ValueError
        return value
    raise ValueError(f"a string is needed, not {_named(value)}")


def _integer(value: object, _: object) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_INT:
        return round(value)
    raise ValueError(f"a whole number is needed, not {_named(value)}")


def _number(value: object, _: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_INT:
        return float(value)
    raise ValueError(f"a finite number is needed, not {_named(value)}")


def _boolean(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"true or false is needed, not {_named(value)}")


def _one_of(value: object, kind: type[StrEnum]) -> StrEnum:
    if isinstance(value, str) and value in list(kind):
        return kind(value)
    raise ValueError(f"one of {', '.join(kind)} is needed, not {_named(value)}")


def _shape_or_string(value: object, _: object) -> Shape | str:
    return value if isinstance(value, str) else _converter.structure(value, Shape)


def _as_points(shape: Shape | str) -> Any:
    """A polygon as an object, also where a logic gave its flat form; any other text stays what it is."""
    if isinstance(shape, Shape):
        return _converter.unstructure(shape, Shape)
    try:
        numbers = [round(float(number)) for number in shape.split(",")]
    except (ValueError, OverflowError):
        return shape
    return {"points": [{"x": x, "y": y} for x, y in zip(numbers[::2], numbers[1::2], strict=False)]}


def _resolution(value: object, _: object) -> int | list[int]:
    return _converter.structure(value, list[int]) if isinstance(value, list) else _integer(value, int)


def _bounded(value: object, kind: Any) -> Any:
    plain, *bounds = get_args(kind)
    number = _converter.structure(value, plain)
    for bound in bounds:
        bound.check(number)
    return number


def _named(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_bounded(kind: Any) -> bool:
    return get_origin(kind) is Annotated and isinstance(get_args(kind)[1], (Within, OneOf))


def _checked_list(kind: Any) -> Callable[[object, Any], list[Any]]:
    (item_kind,) = get_args(kind) or (Any,)

    def read(value: object, _: Any) -> list[Any]:
        if isinstance(value, (list, tuple)):
            return [item for _, item in _read_items(enumerate(value), item_kind)]
        raise ValueError(f"a list is needed, not {_named(value)}")

    return read


def _checked_mapping(kind: Any) -> Callable[[object, Any], dict[Any, Any]]:
    key_kind, item_kind = get_args(kind) or (Any, Any)

    def read(value: object, _: Any) -> dict[Any, Any]:
        if isinstance(value, Mapping):
            items = _read_items(value.items(), item_kind)
            return {_converter.structure(key, key_kind): item for key, item in items}
        raise ValueError(f"an object is needed, not {_named(value)}")

    return read


def _read_items(items: Iterable[tuple[Any, object]], kind: Any) -> list[tuple[Any, Any]]:
    """Read the items of a list or an object, and give up after a few faults: each costs as much as many good ones."""
    read: list[tuple[Any, Any]] = []
    faults: list[Exception] = []
    hook = _converter.get_structure_hook(kind)
    for place, item in items:
        try:
            read.append((place, hook(item, kind)))
        except (cattrs.BaseValidationError, ValueError) as error:
            error.add_note(cattrs.IterableValidationNote(f"at {place!r}", place, kind))
            faults.append(error)
            if len(faults) == _MAX_FAULTS:
                break
    if faults:
        raise cattrs.IterableValidationError("faults", faults, list)
    return read


def _checked_object(kind: type[T]) -> Callable[[object, Any], T]:
    members = make_dict_structure_fn(kind, _converter)

    def read(value: object, kind: Any) -> T:
        if isinstance(value, Mapping):
            return members(value, kind)
        raise ValueError(f"an object is needed, not {_named(value)}")

    return read


_converter: Final = cattrs.Converter(detailed_validation=True, forbid_extra_keys=False)
_converter.register_structure_hook(str, _string)
_converter.register_structure_hook(StrEnum, _one_of)
_converter.register_structure_hook(int, _integer)
_converter.register_structure_hook(float, _number)
_converter.register_structure_hook(bool, _boolean)
_converter.register_structure_hook(Shape | str, _shape_or_string)
_converter.register_structure_hook(int | list[int], _resolution)
_converter.register_structure_hook_factory(is_sequence, _checked_list)
_converter.register_structure_hook_factory(is_mapping, _checked_mapping)
_converter.register_structure_hook_factory(attrs.has, _checked_object)
_converter.register_structure_hook_func(_is_bounded, _bounded)

# a logic's numbers are often numpy's, which JSON encoders refuse
_converter.register_unstructure_hook(float, float)
_converter.register_unstructure_hook(int, int)
_converter.register_unstructure_hook(bool, bool)  # or it would be a number, being an int to Python

_converter.register_unstructure_hook(Shape | str, _as_points)

_flat: Final = _converter.copy()
_flat.register_unstructure_hook(Shape, str)
_flat.register_unstructure_hook(Shape | str, str)

_MEMBERS_OF_MODEL_JSON: Final = frozenset(attrs.fields_dict(ModelInformation)) - {"extra", "model_root_path"}
_ALWAYS_IN_MODEL_JSON: Final = {"id", "host", "organization", "project", "version", "categories"}


def structure(kind: type[T], value: object) -> T:
    """Read `value`, as it came out of JSON, as an instance of the class `kind`.

    Raises:
        SchemaError: Something is missing or wrong; all faults, each with its path, for example
            `box_detections[2].x: a whole number is needed, not 'left'`.
    """
    try:
        return _converter.structure(value, kind)
    except (cattrs.BaseValidationError, ValueError) as error:
        raise SchemaError(sorted(_faults(error, ""))) from None


def structure_strictly(kind: type[T], value: object) -> T:
    """The same, for what people write: a field that the class does not have is a fault, and most likely a typo."""
    unknown = sorted(_unknown(value, kind, ""))
    if unknown:
        raise SchemaError([f"{path}: there is no such field" for path in unknown[:_MAX_UNKNOWN]])
    return structure(kind, value)


def _unknown(value: object, kind: Any, path: str) -> Iterator[str]:
    """The paths of fields in `value` that the attrs class `kind`, or one inside of it, does not have."""
    inner = next((one for one in (kind, *get_args(kind)) if attrs.has(one)), None)
    if inner is None:
        return
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from _unknown(member, inner, f"{path}[{index}]")
    elif isinstance(value, Mapping):
        fields = attrs.fields_dict(attrs.resolve_types(inner))
        for name, member in value.items():
            place = f"{path}.{name}".removeprefix(".")
            if name in fields:
                yield from _unknown(member, fields[name].type, place)
            else:
                yield place[:100]


def unstructure(value: Any) -> Any:
    """JSON-ready form with polygons as objects, `{"points": [{"x": 1, "y": 2}]}`: what robots read."""
    return _converter.unstructure(value)


def unstructure_flat(value: Any) -> Any:
    """JSON-ready form with polygons as `"x1,y1,x2,y2"`: what REST clients and the Learning Loop read."""
    return _flat.unstructure(value)


def read_model_information(value: object) -> ModelInformation:
    """Read a parsed `model.json`; properties we do not know are kept in `extra`.

    Raises:
        SchemaError: As `structure`.
    """
    known = {key: value[key] for key in value if key in _MEMBERS_OF_MODEL_JSON} if isinstance(value, Mapping) else value
    information = structure(ModelInformation, known)
    if isinstance(value, Mapping):
        information.extra = {key: value[key] for key in value if key not in _MEMBERS_OF_MODEL_JSON}
    return information


def model_json(information: ModelInformation) -> dict[str, Any]:
    """What `model.json` says of a model: what we know, what we only carry, and nothing of this machine."""
    members = _converter.unstructure(information)
    known = {
        key: members[key]
        for key in members
        if key in _MEMBERS_OF_MODEL_JSON and (key in _ALWAYS_IN_MODEL_JSON or members[key] is not None)
    }
    return information.extra | known


def _faults(error: BaseException, path: str) -> Iterator[str]:
    if isinstance(error, (cattrs.ClassValidationError, cattrs.IterableValidationError)):
        noted, plain = error.group_exceptions()
        for cause, note in noted:
            step = f"[{note.index}]" if isinstance(note, cattrs.IterableValidationNote) else f".{note.name}"
            yield from _faults(cause, f"{path}{step}")
        for cause in plain:
            yield from _faults(cause, path)
    else:
        said = "is missing" if isinstance(error, KeyError) else str(error)
        yield f"{path.removeprefix('.')}: {said}" if path else said
