"""Read the rows of a data directory in a form for people: for debugging, never for programs.

A row is shown with the kind that docs/data-format.md lists, what its key is about, and the fields
of its value. Hidden are secrets and their hashes, settings (the keys that sign tokens are among
them) and the content of small blobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import KEY_BYTES_MAX, Transaction, unpack_counter
from holdfast.engine.ledger.records import Record, decode, unseal
from holdfast.engine.model.config import StoreConfig
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Invalid
from holdfast.engine.trash.future_times import TIME_FIELDS

from . import child_process
from .rows import SHAPES, fault

Value = str | int | bool | list[Any] | dict[str, Any] | None


class StoredRow(msgspec.Struct, frozen=True):
    """A row of the ledger as people read it. The form may change with any version."""

    kind: str
    """One of KINDS, or ``unknown``."""
    about: str
    """Digests, ids and names that the key is made of."""
    key: str
    """The key in hexadecimal digits; empty where it would show a secret's hash."""
    value: Value
    """Fields of a record by name, a counter's number, bytes as text; None for no value."""
    damage: str = ""
    """Why the row cannot be decoded; empty where it can."""


KINDS: Final = {shape.name: mark for mark, shape in SHAPES.items()}
"""Name of each kind of row to the byte that marks it."""

ROWS_MAX: Final = 1_000_000
_HIDDEN: Final = "(hidden)"
_UNSHOWN: Final = (layout.SETTING, layout.KEY_SECRET, layout.INLINE)
_IN_PARTS: Final = (layout.AUDIENCE, layout.CATALOG, layout.LIMITS, layout.ROOT)
_TEXT: Final = re.compile(rb"([ -~]+)(?:\0|$)")
_TIMES: Final = frozenset({
    *(name for _, names in TIME_FIELDS.values() for name in names),
    *("damaged", "expires", "hold", "probed", "queued", "when"),
})  # fmt: skip
"""Fields that hold microseconds since 1970."""


async def rows(
    txn: Transaction, mark: bytes, start: bytes, limit: int
) -> tuple[list[StoredRow], bytes | None]:
    """Return rows from key ``start`` on, and the key to continue from; None at the end.

    Reads no more than ``limit`` rows; returns those of the kind ``mark`` (empty: all kinds).
    """
    # Rows of a blob's group have their mark behind the blob's own key.
    prefix = layout.BLOB if mark in (layout.CLAIM, layout.REFERENCE) else mark
    start = max(start, prefix)
    stop = bytes((prefix[0] + 1,)) if prefix else b"\xff" * 64
    found = await txn.scan(start, stop, limit=limit)
    shown = [read(key, value) for key, value in found if not mark or layout.kind(key) == mark]
    return shown, found[-1][0] + b"\0" if len(found) == limit else None


def read(key: bytes, value: bytes) -> StoredRow:
    """Return a row as people read it; ``damage`` says why where it cannot be decoded."""
    mark = layout.kind(key)
    kind = SHAPES[mark].name if mark in SHAPES else "unknown"
    about = _HIDDEN if mark == layout.KEY_SECRET else _about(mark, key)
    shown = "" if mark == layout.KEY_SECRET else key.hex()
    damage = fault(key, value)
    if damage is not None:
        return StoredRow(kind, about, shown, None, damage)
    return StoredRow(kind, about, shown, _value(mark, key, value), "")


def _about(mark: bytes, key: bytes) -> str:
    if mark == layout.COUNTER:
        return f"{key[1:3].decode('ascii', 'replace')} {_parts(key[3:])}".rstrip()
    if mark == layout.LISTING:
        return f"{_parts(key[1 : -layout.ID_BYTES])} {_parts(key[-layout.ID_BYTES :])}"
    if mark in _IN_PARTS:
        return _parts(key[1:])
    return layout.about(key)[1]


def _parts(rest: bytes) -> str:
    """Return the parts of a key as words: text that a zero byte ends, ids, other bytes.

    The parts are guessed from the bytes: an id whose first bytes are text and a zero byte is
    taken for text.
    """
    found: list[str] = []
    while rest:
        text = _TEXT.match(rest)
        if text is not None:
            found.append(text[1].decode("ascii"))
            rest = rest[text.end() :]
            continue
        part, rest = rest[: layout.ID_BYTES], rest[layout.ID_BYTES :]
        found.append(str(UUID(bytes=part)) if len(part) == layout.ID_BYTES else part.hex())
    return " ".join(found)


def _value(mark: bytes, key: bytes, value: bytes) -> Value:
    shape = SHAPES[mark]
    if shape.value == "counter":
        return unpack_counter(key, value)
    if isinstance(shape.value, tuple):
        payload = unseal(key, value)
        if mark in _UNSHOWN:
            return f"({len(payload)} bytes, not shown)" if payload else None
        if mark == layout.ROOT:
            return payload.decode("utf-8", "backslashreplace")
        return _bytes(payload) if payload else None
    return _fields(decode(shape.value, key, value))


def _fields(record: Record) -> dict[str, Value]:
    return {
        name: _HIDDEN if name == "secret" else _field(name, getattr(record, name))
        for name in record.__struct_fields__
    }


def _field(name: str, value: object) -> Value:
    match value:
        case bytes():
            return _bytes(value)
        case tuple() | list():
            return [_field(name, each) for each in value]
        case Record():
            return _fields(value)
        case bool() | None | str():
            return value
        case int():
            return _time(value) if name in _TIMES and value > 0 else value
        case _:
            return str(value)


def _bytes(value: bytes) -> str:
    """Return an id as a UUID, a digest key as a digest, all else as hexadecimal digits."""
    if len(value) == layout.ID_BYTES:
        return str(UUID(bytes=value))
    try:
        return str(Digest.from_key(value))
    except ValueError:
        return value.hex()


def _time(value: int) -> str:
    """Return microseconds since 1970 as RFC 3339; the number itself where no year has it."""
    try:
        return datetime.fromtimestamp(value / 1e6, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(value)


async def read_rows(
    path: str | os.PathLike[str],
    *,
    kind: str = "",
    after: str = "",
    limit: int = 100,
    config: StoreConfig | None = None,
) -> AsyncGenerator[StoredRow, None]:
    """Yield up to ``limit`` rows of a data directory's main ledger, which may be in use.

    ``kind`` is one of KINDS, empty for all; ``after`` is the ``key`` of the last row of an earlier
    call. Reads in a child process, since damage may kill the reader. Raises Invalid for an unknown
    kind, an ``after`` that is not the key of a row, or a limit outside of 1 to ROWS_MAX; NotAStore,
    Corrupt, StorageFailed.
    """
    if kind and kind not in KINDS:
        raise Invalid("kind", f"{kind!r} is not a kind of row: {', '.join(KINDS)}")
    if not 1 <= limit <= ROWS_MAX:
        raise Invalid("limit", f"must be 1 to {ROWS_MAX}")
    try:
        start = bytes.fromhex(after)
    except ValueError:
        raise Invalid("after", "must be the key of a row, in hexadecimal digits") from None
    if len(start) > KEY_BYTES_MAX:
        raise Invalid("after", f"must be the key of a row: at most {KEY_BYTES_MAX} bytes")
    mark = KINDS[kind].hex() if kind else ""
    size = (config or StoreConfig()).map_bytes
    arguments = (str(Path(path)), str(size), mark, start.hex(), str(limit))
    async with aclosing(child_process.messages("check.dump_worker", *arguments)) as found:
        async for message in found:
            if isinstance(message, child_process.Row):
                yield msgspec.convert(message.row, StoredRow)
