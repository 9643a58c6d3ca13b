"""The rows of the ledger as typed records, and their stored form.

A value is a version (1 byte), the payload, and a crc32 over key and payload, even if the payload
is empty. So a read detects a row that was damaged or that is under another key. The payload is a
record as msgpack, or bytes. New fields are only added at the end, with a default. Times are
microseconds since 1970, sizes bytes, ids the 16 bytes of a UUID.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from holdfast.engine.model.errors import Corrupt

from . import layout
from .interface import Rows, Transaction, after

_VERSION: Final = b"\x01"
_PART_BYTES: Final = 33 * 1900
"""Bytes of one part of a long value: under 64 KiB, and a whole number of needs of 33 bytes."""


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all records."""


class Blob(Record, frozen=True):
    """A blob: where its bytes are, and their size and checksum."""

    size: int
    checksum: bytes
    place: int
    file_id: int
    stored: int
    created: int
    queued: int = 0
    """Time in the key of its row in the garbage queue, or 0."""
    aliases: tuple[bytes, ...] = ()
    damaged: int = 0
    """Time when it was quarantined, or 0."""
    probed: int = 0
    """Time when it was found not worth compressing, or 0."""


INLINE, PLAIN, FRAMES = 0, 1, 2
"""Places of a blob's bytes: the ledger, a plain file, a file of zstd frames."""


class File(Record, frozen=True):
    """A file of a blob, for the case that the blob's row cannot be read."""

    sha: bytes
    stored: int


class Claim(Record, frozen=True):
    """An owner's right to a blob: the number of its manifests that need it, and its hold."""

    size: int
    content: int = 0
    """Number of manifests that list it as config or layer; these count in ``size``."""
    bodies: int = 0
    """1 if it is the body of a manifest of this image (or a root keeps it), else 0."""
    children: int = 0
    """Number of indexes that list it as a manifest."""
    hold: int = 0
    """End of the hold, or 0."""
    aliases: tuple[bytes, ...] = ()
    """Digest keys in other algorithms by which this owner has named the blob."""

    @property
    def needed(self) -> bool:
        """True if a manifest or root of the owner needs the blob."""
        return bool(self.content or self.bodies or self.children)


class Limits(Record, frozen=True):
    """The limits of a namespace's name, besides its own settings; they outlive the namespace."""

    quota: int = -1
    """Upper bound of its kept size in bytes; -1 for none."""
    immutable: tuple[str, ...] = ()
    locked: bool = False


class ProjectLimits(Record, frozen=True):
    """The limits of a project."""

    quota: int = -1
    """Upper bound of the sum of its namespaces' kept sizes in bytes; -1 for none."""
    defaults: Limits = Limits()
    """Limits for a new namespace if its name has none."""


class Namespace(Record, frozen=True):
    """A namespace; counters have its numbers."""

    id: bytes
    region: str
    name: str
    project: bytes
    organization: bytes
    description: str
    is_public: bool
    locked: bool
    created: int
    updated: int
    immutable: tuple[str, ...] = ()
    quota: int = -1
    deleted: int = 0
    sparse: bool | None = None
    """True if its indexes may lack children; None for the store's setting."""
    limits: Limits = Limits()
    """Copy of its name's limits, so that a push reads only this row."""


class Image(Record, frozen=True):
    """An image; a draft, in no listing, until its first manifest gives it an id."""

    key: bytes
    id: bytes
    namespace: bytes
    name: str
    visibility: str
    created: int
    updated: int
    deleted: int = 0
    pulled: int = 0
    pulls: int = 0

    @property
    def listed(self) -> bool:
        """True if it has an id, and so is in the listings of its namespace."""
        return bool(self.id)


class Tag(Record, frozen=True):
    """A tag. ``digest`` is a digest key in the algorithm it was pushed with."""

    id: bytes
    name: str
    digest: bytes
    sha: bytes
    created: int
    updated: int
    pulled: int = 0
    pulls: int = 0


class Manifest(Record, frozen=True):
    """A manifest of an image; its body is the blob of the same sha256."""

    media_type: str
    size: int
    subject: bytes
    artifact_type: str
    created: int
    unfinished: bytes = b""
    """List (``trash_rows.list_of``) from which an unfinished restore brought it back.

    Without meaning once that entry is gone. A push of the manifest clears it."""
    renewed: int = 0
    """Time of the last answer to a pusher that it exists, if after ``created``; else 0."""

    @property
    def fresh(self) -> int:
        """Time from which its age counts."""
        return max(self.created, self.renewed)


class Referrer(Record, frozen=True):
    """A manifest that names another one as its subject."""

    media_type: str
    size: int
    artifact_type: str


class Session(Record, frozen=True):
    """An open upload."""

    namespace: bytes
    name: str
    """Name of its image, without the namespace."""
    algorithm: str
    declared: int
    """Upper bound of its size in bytes; -1 if the client announced none."""
    counted: int
    """Bytes counted in its namespace: those received, and up to a step more while some arrive."""
    file_id: int
    """File with all of its bytes; 0 while they are few and in the ledger."""
    created: int
    expires: int
    touched: int = 0
    """Time of the last byte, or of its start; 0 if unknown. Up to a fifth of
    ``StoreConfig.upload_idle_seconds`` behind while bytes arrive."""
    base: int = -1
    """Offset in the file to which the next request truncates it; -1 for none.

    The bytes behind it belong to a request that takes effect completely or not at all, and that
    is running or was interrupted."""
    project: bytes = b""
    """Project of its namespace; empty for a session that an older version began."""


class Trash(Record, frozen=True):
    """A deleted object that can be restored."""

    kind: str
    id: bytes
    name: str
    image: bytes = b""
    """Key of the image, or of the tag's image."""
    digest: bytes = b""
    """Digest key of a tag, in the algorithm it was pushed with."""
    digests: tuple[tuple[bytes, str], ...] = ()
    """Manifests that went with a tag, in directories of format 2; now in rows of their own."""
    created: int = 0
    purging: bool = False
    sha: bytes = b""
    """sha256 of a tag's manifest."""
    region: str = ""
    project: bytes = b""
    namespace: bytes = b""
    """Id of the namespace, or of the object's namespace."""
    namespace_name: str = ""
    image_name: str = ""
    """Name of the image, or of the tag's image."""
    manifests: bytes = b""
    """Id, eight bytes, of the list of manifests that went with a tag."""
    restoring: bytes = b""
    """Token of the restore that brings it back in several transactions, or died doing so."""
    adopting: bytes = b""
    """Id of the entry whose list is being copied to that of this tag (``adoption``)."""


class DeadLetter(Record, frozen=True):
    """A queue's entry that was set aside, since the object it names cannot be read."""

    value: bytes
    """Stored value of the entry's row."""
    reason: str
    when: int


class Key(Record, frozen=True):
    """A credential, with the hash of its secret."""

    access_key: str
    secret: bytes
    project: bytes
    default_project: bytes
    organization: bytes
    permission: str
    description: str
    created: int
    expires: int = 0


class RetentionRule(Record, frozen=True):
    """A retention rule; -1 for no condition. Ages are in days."""

    images: tuple[str, ...]
    tags: tuple[str, ...]
    keep_last: int
    older_days: int
    unused_days: int
    untagged_days: int

    @property
    def removes_tags(self) -> bool:
        """True if the rule removes tags."""
        return max(self.keep_last, self.older_days, self.unused_days) >= 0


class Retention(Record, frozen=True):
    """The retention rules of a namespace."""

    rules: tuple[RetentionRule, ...]


R = TypeVar("R", bound=Record)

_encode: Final = msgspec.msgpack.Encoder().encode
_decoders: Final[dict[type[Record], msgspec.msgpack.Decoder[Record]]] = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (
        Blob, File, Claim, Namespace, Image, Tag, Manifest, Referrer, Session, Trash, Key,
        Retention, DeadLetter, Limits, ProjectLimits,
    )
}  # fmt: skip


def seal(key: bytes, payload: bytes) -> bytes:
    """Return a payload as stored under ``key``, with version and checksum."""
    return b"".join((_VERSION, payload, zlib.crc32(payload, zlib.crc32(key)).to_bytes(4, "little")))


def unseal(key: bytes, value: bytes) -> bytes:
    """Return the payload of a stored value. Raises Corrupt if version or checksum is wrong."""
    payload = value[1:-4]
    if value[:1] != _VERSION or value[-4:] != zlib.crc32(payload, zlib.crc32(key)).to_bytes(
        4, "little"
    ):
        raise Corrupt(*layout.about(key), "its row has a wrong version or checksum")
    return payload


def decode(kind: type[R], key: bytes, value: bytes) -> R:
    """Return the record of that kind stored under ``key``. Raises Corrupt."""
    try:
        record = _decoders[kind].decode(unseal(key, value))
    except msgspec.MsgspecError as error:
        raise Corrupt(*layout.about(key), f"its row cannot be decoded: {error}") from None
    assert isinstance(record, kind)
    return record


def encode(key: bytes, record: Record) -> bytes:
    """Return the stored form of a record."""
    return seal(key, _encode(record))


async def load(txn: Transaction, kind: type[R], key: bytes) -> R | None:
    """Return the record under ``key``, or None. Raises Corrupt."""
    value = await txn.get(key)
    return None if value is None else decode(kind, key, value)


def readable(kind: type[R], rows: Rows) -> Iterator[tuple[bytes, R]]:
    """Yield the records of the rows that can be decoded, so that listings omit damaged rows.

    ``check`` reports those.
    """
    for key, value in rows:
        try:
            yield key, decode(kind, key, value)
        except Corrupt:
            continue


def payloads(rows: Rows) -> Iterator[tuple[bytes, bytes]]:
    """Yield the payloads of the undamaged rows, as ``readable`` does for records."""
    for key, value in rows:
        try:
            yield key, unseal(key, value)
        except Corrupt:
            continue


async def save(txn: Transaction, key: bytes, record: Record) -> None:
    """Store a record."""
    await txn.put(key, encode(key, record))


async def put_payload(txn: Transaction, key: bytes, payload: bytes = b"") -> None:
    """Store raw bytes with version and checksum; no bytes if the key says everything."""
    await txn.put(key, seal(key, payload))


async def get_payload(txn: Transaction, key: bytes) -> bytes | None:
    """Return the raw bytes under ``key``, or None. Raises Corrupt."""
    value = await txn.get(key)
    return None if value is None else unseal(key, value)


async def put_long(txn: Transaction, prefix: bytes, payload: bytes) -> None:
    """Store bytes of any length in parts under ``prefix``, which must have no rows before."""
    for part, start in enumerate(range(0, len(payload), _PART_BYTES)):
        await put_payload(
            txn, prefix + part.to_bytes(2, "big"), payload[start : start + _PART_BYTES]
        )


async def get_long(txn: Transaction, prefix: bytes) -> bytes:
    """Return the bytes stored by ``put_long``; empty if there are none. Raises Corrupt."""
    rows = await txn.scan(prefix, after(prefix), limit=65536)
    return b"".join(unseal(key, value) for key, value in rows)


async def delete_long(txn: Transaction, prefix: bytes) -> None:
    """Remove the parts stored by ``put_long``."""
    for key, _ in await txn.scan(prefix, after(prefix), limit=65536):
        await txn.delete(key)
