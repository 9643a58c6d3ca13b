"""Parses and checks the path, query and body of a request.

A query or a body is declared once, as a ``msgspec.Struct`` whose fields have types, defaults,
bounds and descriptions; the OpenAPI document is generated from the same struct. Rules:

- unknown query parameters and unknown body fields are ignored;
- an empty query parameter, an empty id and a null in a body count as absent (but null is a value
  where the field's default is ``UNSET``);
- booleans may be ``True``, ``true`` or ``1``, in a body as strings too;
- everything else that does not fit is a 400 ``invalid_arguments`` that names each argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec

from holdfast import engine

from .errors import ArgumentDetail, Reason, invalid, raise_invalid

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NOT_UTF8: Final = "\N{REPLACEMENT CHARACTER}"
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")


def parse_uuid(name: str, text: str) -> UUID:
    """Parse an id of the path. Raises 400 ``invalid_arguments`` unless it is a UUID."""
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        raise invalid(name, "format", "must be a UUID") from None


def parse_query(declared: type[T], query: Mapping[str, str]) -> T:
    """Parse the declared parameters of a query; of a repeated one, use the first value."""
    values: dict[str, object] = {}
    for field in _fields(declared):
        text = query.get(field.name)
        if text and _NOT_UTF8 in text:
            raise invalid(field.name, "format", "must be UTF-8")
        if text:
            values[field.name] = field.typed(text)
    return _convert(declared, values)


def parse_body(declared: type[T], body: bytes) -> T:
    """Parse the declared fields of a JSON object. An empty body counts as ``{}``."""
    raw = _decode(body) if body else {}
    values: dict[str, object] = {}
    for field in _fields(declared):
        if field.name not in raw:
            continue
        value = raw[field.name]
        if (value is None and not field.nullable) or (value == "" and UUID in field.bases):
            continue
        lenient = bool in field.bases and isinstance(value, str | int)
        values[field.name] = field.typed(str(value)) if lenient else value
    return _convert(declared, values)


def change_of(given: V | msgspec.UnsetType) -> V | engine.Unset:
    """Return the value of a field as the engine takes it, where null is a value too."""
    return engine.UNSET if isinstance(given, msgspec.UnsetType) else given


def _decode(body: bytes) -> dict[str, object]:
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise_invalid(_not_utf8(body))
    except RecursionError:
        raise invalid("body", "format", "nested too deeply") from None
    except msgspec.DecodeError as error:
        raise invalid("body", "format", f"must be JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid("body", "format", "must be a JSON object")
    return value


def _not_utf8(body: bytes) -> list[ArgumentDetail]:
    """Return a detail for each field that is not UTF-8, or one for the body if it is not JSON."""
    names = ["body"]
    try:
        value = msgspec.json.decode(body.decode(errors="replace"))
    except (msgspec.DecodeError, RecursionError):
        value = None
    if isinstance(value, dict):
        broken = [key for key, item in value.items() if isinstance(item, str) and _NOT_UTF8 in item]
        names = [key for key in broken if _NOT_UTF8 not in key] or names
    return [ArgumentDetail(name, "format", "must be UTF-8") for name in names]


@dataclass(frozen=True, slots=True)
class _Field:
    """The properties of a declared field that parsing needs."""

    name: str
    type: Any
    bases: frozenset[object]
    """Types that the field allows, without annotations."""
    required: bool
    nullable: bool
    """True if null is a value; else null means absent."""

    def typed(self, text: str) -> object:
        """Convert a text to a boolean or integer; return it unchanged if that fails.

        The conversion to the struct then refuses it.
        """
        if bool in self.bases:
            return _TRUTH.get(text.lower(), text)
        if int in self.bases and _INTEGER.fullmatch(text):
            return int(text)
        return text


@cache
def _fields(declared: type[msgspec.Struct]) -> tuple[_Field, ...]:
    return tuple(
        _Field(
            field.encode_name,
            field.type,
            _bases(field.type),
            field.required,
            field.default is msgspec.UNSET,
        )
        for field in msgspec.structs.fields(declared)
    )


def _bases(declared: Any) -> frozenset[object]:
    origin = get_origin(declared)
    if origin is Annotated:
        return _bases(get_args(declared)[0])
    if origin in (Union, UnionType):
        return frozenset[object]().union(*(_bases(part) for part in get_args(declared)))
    return frozenset([declared])


def _convert(declared: type[T], values: dict[str, object]) -> T:
    """Convert the values to the struct. Raises a 400 that names all invalid ones."""
    try:
        return msgspec.convert(values, declared)
    except msgspec.ValidationError as error:
        # The error names only the first invalid value: check each field by itself.
        wrong = [detail for field in _fields(declared) for detail in _wrong(field, values)]
        raise_invalid(wrong or [ArgumentDetail("body", "format", str(error))])


def _wrong(field: _Field, values: dict[str, object]) -> Iterator[ArgumentDetail]:
    if field.name not in values:
        if field.required:
            yield ArgumentDetail(field.name, "required", "is missing")
        return
    try:
        msgspec.convert(values[field.name], field.type)
    except msgspec.ValidationError as error:
        yield ArgumentDetail(field.name, _reason(str(error)), _help(str(error)))


def _reason(message: str) -> Reason:
    """Return ``format`` for a wrong type or bad UUID, ``constraint`` for a value out of bounds."""
    return "format" if ", got `" in message or message.startswith("Invalid UUID") else "constraint"


def _help(message: str) -> str:
    return message.replace("`", "").replace("Expected", "must be", 1)
