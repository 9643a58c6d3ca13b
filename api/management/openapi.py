"""Generates the OpenAPI 3.1 document of the management API from its table of operations.

Parameters, bodies, responses and errors come from the structs that the handlers use, so the
document has the same bounds as the checks of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from .errors import (
    STATUS,
    STORAGE_FULL,
    Body,
    DeniedAuthentication,
    InternalError,
    InvalidArguments,
    NotFoundBody,
    PermissionsDenied,
    TooManyRequests,
    Unavailable,
)
from .login import AUTH_HEADER
from .operation import SCALEWAY, AnyOperation, Nothing

Json = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"
MEDIA_TYPE: Final = "application/json"

PATH_PARAMETERS: Final[dict[str, str]] = {
    "namespace_id": "Id of the namespace",
    "image_id": "Id of the image",
    "tag_id": "Id of the tag",
    "upload_id": "Id of the upload",
    "project_id": "Id of the project",
    "item_id": "Id of the deleted object",
    "access_key": "Access key, the public part of a key",
}

REASONS: Final = {
    400: "Arguments are missing, malformed or out of bounds",
    401: "No key, an unknown key, or an expired one",
    403: "The key may not do this, or a quota is reached",
    404: "Absent, or private to another project",
    408: "The body did not arrive in time",
    409: "The name is taken, or another operation is changing the object",
    412: "The object's state does not allow the operation",
    413: "The body is too large",
    423: "An operator locked the namespace",
    429: "A key or an address sends too many requests",
    500: "The server failed",
    503: "The store is closing",
    507: "No space is left",
}


def document(operations: Sequence[AnyOperation], regions: Sequence[str], base: str = "/") -> Json:
    """Return the document for a server with these regions, mounted at ``base``."""
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, regions
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast management API",
            "version": version_of_package(),
            "description": "Scaleway's Container Registry API (`/registry/v1`), and additional "
            "operations of holdfast (`/holdfast/v1`). Unknown parameters and fields are ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base}],
        "security": [{"key": []}],
        "tags": [
            {"name": "registry", "description": "Scaleway's Container Registry API"},
            {"name": "holdfast", "description": "Additional operations"},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": AUTH_HEADER,
                    "description": "Secret of a key",
                }
            },
            "schemas": _schemas(operations),
        },
    }


def version_of_package() -> str:
    """Return the installed version of Holdfast, or 0 if it is not installed."""
    try:
        return version("holdfast")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _operation(operation: AnyOperation, regions: Sequence[str]) -> Json:
    item: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": ["registry" if operation.path.startswith(SCALEWAY) else "holdfast"],
        "parameters": [*_path(operation, regions), *_query(operation)],
        "responses": {
            "200": _content("Success", [operation.answer]),
            **_errors(operation),
        },
    }
    description = (operation.handler.__doc__ or "").strip()
    if description:
        item["description"] = _markdown(description)
    if operation.body is not Nothing:
        required = any(field.required for field in msgspec.structs.fields(operation.body))
        item["requestBody"] = {
            "required": required,
            "content": {MEDIA_TYPE: {"schema": _reference(operation.body)}},
        }
    return item


def _markdown(docstring: str) -> str:
    return docstring.replace("``", "`")


def _path(operation: AnyOperation, regions: Sequence[str]) -> Iterable[Json]:
    if "{region}" in operation.path:
        yield _parameter("region", "path", {"type": "string", "enum": list(regions)}, True)
    for name, description in PATH_PARAMETERS.items():
        if f"{{{name}}}" in operation.path:
            schema: Json = {"type": "string"}
            if name.endswith("_id"):
                schema["format"] = "uuid"
            yield {**_parameter(name, "path", schema, True), "description": description}


def _query(operation: AnyOperation) -> Iterable[Json]:
    if operation.query is Nothing:
        return
    properties = _component(operation.query)["properties"]
    for field in msgspec.structs.fields(operation.query):
        name = field.encode_name
        yield _parameter(name, "query", _without_null(properties[name]), field.required)


def _without_null(schema: Json) -> Json:
    """Remove null from a schema: an optional query parameter is absent, never null."""
    schema = {key: value for key, value in schema.items() if value is not None}
    choices = [choice for choice in schema.pop("anyOf", []) if choice.get("type") != "null"]
    if choices:
        schema |= choices[0]
    return schema


def _parameter(name: str, location: str, schema: Json, required: bool) -> Json:
    item: Json = {"name": name, "in": location, "required": required, "schema": schema}
    if "description" in schema:
        item["description"] = schema.pop("description")
    return item


def _errors(operation: AnyOperation) -> Json:
    """Return the declared errors, and those that follow from the operation's parameters."""
    bodies: dict[int, list[type[Body]]] = {}

    def add(body: type[Body], status: int | None = None) -> None:
        bodies.setdefault(status or STATUS[body], []).append(body)

    add(DeniedAuthentication)
    add(TooManyRequests)
    add(InternalError)
    add(Unavailable)
    takes_ids = any(f"{{{name}}}" in operation.path for name in PATH_PARAMETERS)
    if takes_ids or "{region}" in operation.path:
        add(NotFoundBody)
    if takes_ids or operation.writes or operation.owner:
        add(PermissionsDenied)
    if takes_ids or operation.query is not Nothing or operation.body is not Nothing:
        add(InvalidArguments)
    if operation.body is not Nothing:
        add(InvalidArguments, 408)
        add(InvalidArguments, 413)
    if operation.writes:
        add(Unavailable, STORAGE_FULL)
    for body in operation.errors:
        add(body)
    return {str(status): _content(REASONS[status], bodies[status]) for status in sorted(bodies)}


def _content(description: str, bodies: Sequence[type[msgspec.Struct]]) -> Json:
    schemas = [_reference(body) for body in bodies]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def _reference(declared: type[msgspec.Struct]) -> Json:
    return {"$ref": REFERENCE.format(name=declared.__name__)}


def _component(declared: type[msgspec.Struct]) -> Json:
    _, components = msgspec.json.schema_components([declared], ref_template=REFERENCE)
    schema: Json = components[declared.__name__]
    return schema


def _schemas(operations: Sequence[AnyOperation]) -> Json:
    """Return the schema of every struct by name. In errors, all fields are required."""
    structs: list[type[msgspec.Struct]] = list(STATUS)
    for operation in operations:
        structs.append(operation.answer)
        if operation.body is not Nothing:
            structs.append(operation.body)
    _, components = msgspec.json.schema_components(structs, ref_template=REFERENCE)
    for schema in components.values():
        schema["description"] = _markdown(schema["description"])
    for body in STATUS:
        schema = components[body.__name__]
        schema["required"] = list(schema["properties"])
    return dict(sorted(components.items()))
