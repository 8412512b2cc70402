"""The description of a node's HTTP side for machines (`/openapi.json`) and for people (`/docs`), both offline.

OpenAPI 3.0, because the page that comes with the package reads no later version.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, Literal

import msgspec
import trio
from attrs import frozen
from quart import Response
from swagger_ui_bundle import swagger_ui_path

__all__ = ["SESSION_COOKIE", "Endpoint", "Handle", "Parameter", "pages"]

SESSION_COOKIE: Final = "loop_session"

Handle = Callable[..., Awaitable[Response]]
"""Called with the parts of the path that `Endpoint.path` names, as keyword arguments."""

_PATH_PART: Final = re.compile(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>")

_FAULTS: Final = {
    400: "Not one of the accepted values, or a broken body.",
    401: "A login is needed.",
    404: "There is nothing of this name.",
    409: "Not as things stand; `detail` says why.",
    413: "The body is too large.",
    422: "Something in the request cannot be used; `detail` names it.",
    429: "Too often; try again after the seconds in `Retry-After`.",
    503: "Not now; try again after the seconds in `Retry-After`.",
    507: "The disk is full; nothing was kept.",
}

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="docs/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>"""

_START: Final = "SwaggerUIBundle({url: 'openapi.json', dom_id: '#swagger-ui', validatorUrl: null});"

_FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


@frozen(kw_only=True)
class Parameter:
    """A header or query parameter; `schema` is its JSON schema."""

    name: str
    where: Literal["header", "query"]
    description: str
    schema: Mapping[str, Any] = {"type": "string"}


@frozen(kw_only=True)
class Endpoint:
    """One method on one path: what serves it and what is said about it.

    Attributes:
        path: Parts in angle brackets, `<name>`, are handed to `handle`.
        answer: The JSON answer to a good request: an attrs class, or a JSON schema.
        text_answer: The words of a plain text answer, instead.
        text_body: The words of a plain text request body.
        text_pattern: A regular expression for a plain text request body, where there is no list of words.
        image_field: The multipart field of the image in the request body.
        json_body: The JSON request body: an attrs class, or a JSON schema.
        form_body: JSON schema of a multipart request body.
        faults: The error statuses of this endpoint.
        max_body_bytes: Of a body that `handle` takes as a stream; None where it is read whole, bounded by the app.
        has_login: Whether it needs the session cookie of a login.
        is_page: Whether it is a page for people or for Prometheus; the description of the API leaves it out.
    """

    method: str
    path: str
    handle: Handle
    summary: str
    answer: type | Mapping[str, Any] | None = None
    text_answer: Sequence[str] = ()
    text_body: Sequence[str] = ()
    text_pattern: str = ""
    image_field: str | None = None
    json_body: type | Mapping[str, Any] | None = None
    form_body: Mapping[str, Any] | None = None
    parameters: Sequence[Parameter] = ()
    faults: Sequence[int] = ()
    max_body_bytes: int | None = None
    has_login: bool = False
    is_page: bool = False


def pages(title: str, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The endpoints that describe the others."""
    document = msgspec.json.encode(_document(title, [one for one in endpoints if not one.is_page]))
    page = (_PAGE % title).encode()

    async def openapi_json() -> Response:
        return Response(document, content_type="application/json")

    async def docs() -> Response:
        return Response(page, content_type="text/html; charset=utf-8")

    async def start_js() -> Response:
        return Response(_START, content_type="text/javascript")

    def part(name: str, content_type: str) -> Handle:
        async def send() -> Response:
            return Response(await trio.Path(swagger_ui_path / name).read_bytes(), content_type=content_type)

        return send

    return [
        Endpoint(method="GET", path="/openapi.json", handle=openapi_json, summary="This description."),
        Endpoint(method="GET", path="/docs", handle=docs, summary="This description as a page."),
        Endpoint(method="GET", path="/docs/start.js", handle=start_js, summary="A part of the page."),
        *(
            Endpoint(method="GET", path=f"/docs/{name}", handle=part(name, kind), summary="A part of the page.")
            for name, kind in _FILES.items()
        ),
    ]


def _document(title: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    said = [kind for endpoint in endpoints for kind in (endpoint.answer, endpoint.json_body) if isinstance(kind, type)]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(said)), ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(_PATH_PART.sub(r"{\1}", endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.0.3",
        "info": {"title": title, "version": version("loop-node")},
        "paths": paths,
        "components": {
            "schemas": _FAULT_SCHEMA | {name: _as_3_0(schema) for name, schema in schemas.items()},
            "securitySchemes": {"session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE}},
        },
    }


_FAULT_SCHEMA: Final = {
    "Fault": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {"200": {"description": "Done.", "content": _answer(endpoint)}}
        | {str(status): _fault(status) for status in endpoint.faults},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PART.findall(endpoint.path)
    ] + [
        {"name": one.name, "in": one.where, "description": one.description, "schema": one.schema}
        for one in endpoint.parameters
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.has_login:
        operation["security"] = [{"session": []}]
    if endpoint.image_field is not None:
        operation["requestBody"] = _image_body(endpoint.image_field)
    elif endpoint.text_body:
        operation["requestBody"] = {"required": True, "content": _text(endpoint.text_body)}
    elif endpoint.text_pattern:
        schema = {"type": "string", "pattern": endpoint.text_pattern}
        operation["requestBody"] = {"required": True, "content": {"text/plain": {"schema": schema}}}
    elif endpoint.json_body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(endpoint.json_body)}},
        }
    elif endpoint.form_body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data": {"schema": endpoint.form_body}},
        }
    return operation


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.text_answer:
        return _text(endpoint.text_answer)
    return {"application/json": {"schema": _schema(endpoint.answer or {})}}


def _schema(kind: type | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"} if isinstance(kind, type) else kind


def _fault(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Fault"}
    return {"description": _FAULTS[status], "content": {"application/json": {"schema": schema}}}


def _text(words: Sequence[str]) -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string", "enum": list(words)}}}


def _image_body(field: str) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {field: binary}, "required": [field]}
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": form}}
        | {kind: {"schema": binary} for kind in ("image/jpeg", "image/png")},
    }


def _as_3_0(schema: Any) -> Any:
    """A JSON schema as OpenAPI 3.0 wants it: null is a property beside a type, and a list of `required` has members."""
    if isinstance(schema, list):
        return [_as_3_0(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _as_3_0(value) for key, value in schema.items() if key != "anyOf" and (key, value) != ("required", [])}
    choices = schema.get("anyOf", [])
    others = [_as_3_0(one) for one in choices if one != {"type": "null"}]
    if len(others) == len(choices):
        return kept | ({"anyOf": others} if others else {})
    if len(others) > 1:
        return kept | {"nullable": True, "anyOf": others}
    return kept | {"nullable": True} | ({"allOf": others} if "$ref" in others[0] else others[0])
