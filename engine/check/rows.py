"""Check each row by itself: the form of its key, and version, checksum and fields of its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import KEY_BYTES_MAX, VALUE_BYTES_MAX, unpack_counter
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import (
    FRAMES,
    Blob,
    Claim,
    DeadLetter,
    File,
    Image,
    Key,
    Limits,
    Manifest,
    Namespace,
    ProjectLimits,
    Record,
    Referrer,
    Retention,
    Tag,
    Trash,
    decode,
    unseal,
)
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import MEDIA_TYPE_CHARS_MAX
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.references.manifest_rows import BODY, CHILD, CONTENT

from .context import CheckContext

NEED_BYTES: Final = 1 + SHA_BYTES
_ANY_LENGTH: Final = KEY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Shape:
    """Form of the rows of one kind: the length of the key in bytes, and the content of the value.

    The value is a record, a counter, or bytes of a length between the two given.
    """

    name: str
    """Name of the kind, as docs/data-format.md has it."""
    shortest: int
    longest: int
    value: type[Record] | Literal["counter"] | tuple[int, int]


def _fixed(name: str, length: int, value: type[Record] | tuple[int, int]) -> Shape:
    return Shape(name, length, length, value)


_NOTHING: Final = (0, 0)
_ID: Final = (ID_BYTES, ID_BYTES)
_SHA: Final = (SHA_BYTES, SHA_BYTES)
_BYTES: Final = (0, VALUE_BYTES_MAX)

SHAPES: Final[dict[bytes, Shape]] = {
    layout.BLOB: _fixed("blob", 33, Blob),
    layout.INLINE: _fixed("inline", 41, _BYTES),
    layout.ALIAS: _fixed("alias", 66, _SHA),
    layout.FILE: _fixed("file", 9, File),
    layout.PENDING_UNLINK: _fixed("pending unlink", 9, _NOTHING),
    layout.BLOCK: _fixed("block", 17, _NOTHING),
    layout.GARBAGE: _fixed("garbage", 41, _NOTHING),
    layout.DAMAGED: _fixed("damaged", 33, _NOTHING),
    layout.CLAIM: _fixed("claim", 50, Claim),
    layout.REFERENCE: _fixed("reference", 83, _NOTHING),
    layout.CLAIMED: _fixed("claimed", 49, _NOTHING),
    layout.EXPIRY: _fixed("expiry", 57, (2 * ID_BYTES, 2 * ID_BYTES)),
    layout.ROOT: _fixed("root", 17, _BYTES),
    layout.NAMESPACE: _fixed("namespace", 17, Namespace),
    layout.NAMESPACE_NAME: Shape("namespace name", 4, _ANY_LENGTH, _ID),
    layout.IMAGE: _fixed("image", 17, Image),
    layout.IMAGE_NAME: Shape("image name", 18, _ANY_LENGTH, _ID),
    layout.IMAGE_ID: _fixed("image id", 17, _ID),
    layout.CATALOG: Shape("catalog", 19, _ANY_LENGTH, _ID),
    layout.AUDIENCE: Shape("audience", 6, _ANY_LENGTH, _ID),
    layout.TAG: Shape("tag", 18, _ANY_LENGTH, Tag),
    layout.TAG_ID: _fixed("tag id", 17, (17, _ANY_LENGTH)),
    layout.TAGGED: Shape("tagged", 50, _ANY_LENGTH, _NOTHING),
    layout.LISTING: Shape("listing", 20, _ANY_LENGTH, (0, ID_BYTES)),
    layout.MANIFEST: _fixed("manifest", 49, Manifest),
    layout.NEEDS: _fixed("needs", 51, _BYTES),
    layout.REFERRER: Shape("referrer", 83, 115, Referrer),
    layout.TRASH: _fixed("trash", 25, Trash),
    layout.TRASH_ID: _fixed("trash id", 17, (8, 8)),
    layout.TRASH_PROJECT: _fixed("trash project", 41, _NOTHING),
    layout.TRASH_MANIFEST: _fixed(
        "trash manifest", 33, (SHA_BYTES, SHA_BYTES + MEDIA_TYPE_CHARS_MAX)
    ),
    layout.TRASH_ATTACHED: _fixed("trash attached", 41, _NOTHING),
    layout.DEAD: _fixed("dead", 17, (1, _ANY_LENGTH)),
    layout.RETENTION: _fixed("retention", 17, Retention),
    layout.PROJECT_LIMITS: _fixed("project limits", 17, ProjectLimits),
    layout.LIMITS: Shape("limits", 21, _ANY_LENGTH, Limits),
    layout.DEAD_LETTER: Shape("dead letter", 2, _ANY_LENGTH, DeadLetter),
    layout.KEY: Shape("key", 2, _ANY_LENGTH, Key),
    layout.KEY_SECRET: _fixed("key secret", 33, _BYTES),
    layout.COUNTER: Shape("counter", 3, _ANY_LENGTH, "counter"),
    layout.SETTING: Shape("setting", 2, _ANY_LENGTH, _BYTES),
}


async def rows(context: CheckContext) -> None:
    """Read every row of the ledger and mark those that cannot be read."""
    async for key, value in context.stored_rows(b""):
        reason = fault(key, value)
        if reason is not None:
            context.report("record", key.hex(), reason)
            context.mark_unreadable(key)
        elif key[:1] == layout.DEAD_LETTER:
            kind, name = layout.about(key)
            context.report("aside", f"{kind} {name}", decode(DeadLetter, key, value).reason)
            # The entry is missing from its queue on purpose: no other area reports that.
            context.mark_unreadable(key[1:])
            context.totals[layout.counter(layout.DEAD_LETTERS)] += 1


def fault(key: bytes, value: bytes) -> str | None:
    """Return the reason why a row is not valid, or None."""
    shape = SHAPES.get(layout.kind(key))
    if shape is None:
        return "its key has no known kind"
    if not shape.shortest <= len(key) <= shape.longest:
        return f"a key of {len(key)} bytes"
    try:
        if shape.value == "counter":
            unpack_counter(key, value)
            return None
        if isinstance(shape.value, tuple):
            shortest, longest = shape.value
            payload = unseal(key, value)
            if not shortest <= len(payload) <= longest:
                return f"a value of {len(payload)} bytes"
            return _payload_fault(key, payload)
        return _record_fault(key, decode(shape.value, key, value))
    except Corrupt as error:
        return error.reason


def _payload_fault(key: bytes, payload: bytes) -> str | None:
    if key[:1] == layout.NEEDS:
        kinds = {payload[start : start + 1] for start in range(0, len(payload), NEED_BYTES)}
        if len(payload) % NEED_BYTES or not kinds <= {CONTENT, CHILD, BODY}:
            return "it is not a list of needs"
    return None


def _record_fault(key: bytes, record: Record) -> str | None:
    """Return the reason why a decoded record does not fit its key or itself, or None."""
    match record:
        case Namespace():
            good = record.id == key[1:] and len(record.project) == ID_BYTES
        case Image():
            good = record.key == key[1:] and len(record.namespace) == ID_BYTES
            good = good and len(record.id) in (0, ID_BYTES)
        case Tag():
            good = key[1 + ID_BYTES :] == record.name.encode() and len(record.id) == ID_BYTES
            good = good and len(record.sha) == SHA_BYTES and _is_digest(record.digest)
        case Manifest():
            good = not record.subject or _is_digest(record.subject)
        case Trash():
            good = key[9:] == record.id and record.kind in ("namespace", "image", "tag")
        case Key():
            good = key[1:] == record.access_key.encode() and len(record.secret) == SHA_BYTES
        case Blob():
            good = 0 <= record.place <= FRAMES and record.size >= 0
        case Claim():
            good = min(record.size, record.content, record.children, record.hold) >= 0
            good = good and 0 <= record.bodies <= 1
        case File():
            good = len(record.sha) == SHA_BYTES and record.stored >= 0
        case _:
            good = True
    return None if good else "its fields do not match its key, or each other"


def _is_digest(key: bytes) -> bool:
    try:
        Digest.from_key(key)
    except ValueError:
        return False
    return True
