"""What the tables of the contract's endpoints share."""

from collections.abc import Callable
from typing import Any, Final

from loop_node.serving.openapi import Endpoint, Parameter

__all__ = ["FILES_FORM", "OBJECT", "PROJECT", "get"]

PROJECT: Final = "/api/<organization>/projects/<project>"
OBJECT: Final = {"type": "object"}
FILES_FORM: Final = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["files"],
}


def get(path: str, handle: Callable[..., Any], summary: str, *parameters: Parameter) -> Endpoint:
    """An endpoint that answers with JSON to whoever has logged in."""
    return Endpoint(
        method="GET",
        path=path,
        handle=handle,
        summary=summary,
        answer=OBJECT,
        parameters=parameters,
        faults=(404, 422) if parameters else (404,),
        has_login=True,
    )
