"""The rows of the ledger as typed records, and their stored form.

A value is: version (1 byte), the payload, crc32 over key and payload; of all rows, also those
that say everything by their key. The payload is a record as msgpack, or bytes. So a row that
was damaged, or that ended up under another key, is found the moment it is read. Fields are only
ever added at the end, with a default. Times are microseconds since 1970, sizes bytes, ids the
16 bytes of a UUID.
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
"""One part of a long value: under 64 KiB, and a whole number of needs (33 bytes each)."""


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all records."""


class Blob(Record, frozen=True):
    """Where the bytes of a sha256 lie."""

    size: int
    checksum: bytes
    place: int
    file_id: int
    stored: int
    created: int
    queued: int = 0
    """Time of its row in the garbage queue, or 0."""
    aliases: tuple[bytes, ...] = ()
    damaged: int = 0
    """When it was quarantined, or 0."""
    probed: int = 0
    """When it was found not worth compressing, or 0."""


INLINE, PLAIN, FRAMES = 0, 1, 2
"""Places of a blob: in the ledger, in a file as it is, in a file of zstd frames."""


class File(Record, frozen=True):
    """The blob that a file is of, and its bytes: in case that the blob's row cannot be read."""

    sha: bytes
    stored: int


class Claim(Record, frozen=True):
    """An owner's right to a blob: how often its manifests need it, and until when it is held."""

    size: int
    content: int = 0
    """Manifests that list it as config or layer: counted in ``size``."""
    bodies: int = 0
    """1 where it is the body of a manifest of this image (or is kept by a root)."""
    children: int = 0
    """Indexes that list it as a manifest."""
    hold: int = 0
    """Held until then, or 0."""
    aliases: tuple[bytes, ...] = ()
    """Digest keys in other algorithms that the owner itself has named the blob by."""

    @property
    def needed(self) -> bool:
        """Whether anything of the owner needs the blob."""
        return bool(self.content or self.bodies or self.children)


class Limits(Record, frozen=True):
    """What bounds a namespace beside its own settings; it is of the name, and outlives it."""

    quota: int = -1
    """Bytes of its kept size; -1 for none."""
    immutable: tuple[str, ...] = ()
    locked: bool = False


class ProjectLimits(Record, frozen=True):
    """What bounds a project."""

    quota: int = -1
    """Bytes of the kept sizes of its namespaces; -1 for none."""
    defaults: Limits = Limits()
    """What a namespace gets whose name has no limits yet."""


class Namespace(Record, frozen=True):
    """A namespace; its numbers are counters beside it."""

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
    """Whether its indexes may lack children; None is as the store has it."""
    limits: Limits = Limits()
    """A copy of those of its name: each push reads this row anyhow, and no other."""


class Image(Record, frozen=True):
    """An image. It is a draft, seen by nobody, until its first manifest gives it an id."""

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
        """Whether it has an id, and is one of the namespace's images."""
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
    """The list (``trash_rows.list_of``) that a restore which is not at its end yet brought it back
    from; means nothing once that entry is gone. A push of the manifest clears it."""
    renewed: int = 0
    """When whoever may push was last told that it is here, if that was after it came."""

    @property
    def fresh(self) -> int:
        """The time that its age counts from."""
        return max(self.created, self.renewed)


class Referrer(Record, frozen=True):
    """A manifest that names another as its subject."""

    media_type: str
    size: int
    artifact_type: str


class Session(Record, frozen=True):
    """An open upload."""

    namespace: bytes
    name: str
    """Of its image, without the namespace."""
    algorithm: str
    declared: int
    """Bytes that it will have at most, or -1 where nobody said."""
    counted: int
    """Bytes that it counts for in its namespace: those that came, or a step more while some do."""
    file_id: int
    """The file that has its bytes, all of them; 0 while they are few."""
    created: int
    expires: int
    touched: int = 0
    """When a byte came last, or it was begun; 0 where that is not known. While bytes come it is
    up to a fifth of ``StoreConfig.upload_idle_seconds`` behind."""
    base: int = -1
    """What lies in the file behind so many bytes came with a request that had to come whole. Such
    a one is under way or broke off: who goes on with the session cuts it off. -1: all is good."""
    project: bytes = b""
    """Of its namespace: empty for one that an older version began."""


class Trash(Record, frozen=True):
    """Something deleted that can be brought back."""

    kind: str
    id: bytes
    name: str
    image: bytes = b""
    """Key of the image, or of that which the tag was in."""
    digest: bytes = b""
    """Of a tag, in the algorithm it was pushed with."""
    digests: tuple[tuple[bytes, str], ...] = ()
    """In directories of format 2: manifests that went with a tag. Rows of their own now."""
    created: int = 0
    purging: bool = False
    sha: bytes = b""
    """Of a tag: its manifest."""
    region: str = ""
    project: bytes = b""
    namespace: bytes = b""
    """Id of the namespace, or of that which it was in."""
    namespace_name: str = ""
    image_name: str = ""
    """Of an image or a tag."""
    manifests: bytes = b""
    """Of a tag: which list has the manifests that went with it, eight bytes."""
    restoring: bytes = b""
    """Which restore is bringing it back in several transactions, or was when it died."""
    adopting: bytes = b""
    """Of a tag: id of the entry whose list is being copied to its own (``adoption``)."""


class DeadLetter(Record, frozen=True):
    """A row that was taken out of a queue, since what it is about cannot be read."""

    value: bytes
    """As it was stored."""
    reason: str
    when: int


class Key(Record, frozen=True):
    """A credential; the secret is kept only as a hash."""

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
    """One rule; -1 where it does not look at something. Ages are in days."""

    images: tuple[str, ...]
    tags: tuple[str, ...]
    keep_last: int
    older_days: int
    unused_days: int
    untagged_days: int

    @property
    def removes_tags(self) -> bool:
        """Whether it is about tags at all."""
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
    """A payload as stored under ``key``: with version and checksum."""
    return b"".join((_VERSION, payload, zlib.crc32(payload, zlib.crc32(key)).to_bytes(4, "little")))


def unseal(key: bytes, value: bytes) -> bytes:
    """The payload of a stored value. Raises Corrupt where version or checksum is wrong."""
    payload = value[1:-4]
    if value[:1] != _VERSION or value[-4:] != zlib.crc32(payload, zlib.crc32(key)).to_bytes(
        4, "little"
    ):
        raise Corrupt(*layout.about(key), "its row has a wrong version or checksum")
    return payload


def decode(kind: type[R], key: bytes, value: bytes) -> R:
    """The record of that kind stored under ``key``. Raises Corrupt."""
    try:
        record = _decoders[kind].decode(unseal(key, value))
    except msgspec.MsgspecError as error:
        raise Corrupt(*layout.about(key), f"its row does not read: {error}") from None
    assert isinstance(record, kind)
    return record


def encode(key: bytes, record: Record) -> bytes:
    """The stored form of a record."""
    return seal(key, _encode(record))


async def load(txn: Transaction, kind: type[R], key: bytes) -> R | None:
    """The record under ``key``, or None. Raises Corrupt."""
    value = await txn.get(key)
    return None if value is None else decode(kind, key, value)


def readable(kind: type[R], rows: Rows) -> Iterator[tuple[bytes, R]]:
    """The records of those rows that can be read: for listings, where the rest goes on.

    The check tells of the others.
    """
    for key, value in rows:
        try:
            yield key, decode(kind, key, value)
        except Corrupt:
            continue


def payloads(rows: Rows) -> Iterator[tuple[bytes, bytes]]:
    """As ``readable``, of rows of raw bytes."""
    for key, value in rows:
        try:
            yield key, unseal(key, value)
        except Corrupt:
            continue


async def save(txn: Transaction, key: bytes, record: Record) -> None:
    """Store a record."""
    await txn.put(key, encode(key, record))


async def put_payload(txn: Transaction, key: bytes, payload: bytes = b"") -> None:
    """Store raw bytes with version and checksum; nothing but these where the key says all."""
    await txn.put(key, seal(key, payload))


async def get_payload(txn: Transaction, key: bytes) -> bytes | None:
    """The raw bytes under ``key``, or None. Raises Corrupt."""
    value = await txn.get(key)
    return None if value is None else unseal(key, value)


async def put_long(txn: Transaction, prefix: bytes, payload: bytes) -> None:
    """Store bytes of any length in parts under ``prefix``; nothing must be there before."""
    for part, start in enumerate(range(0, len(payload), _PART_BYTES)):
        await put_payload(
            txn, prefix + part.to_bytes(2, "big"), payload[start : start + _PART_BYTES]
        )


async def get_long(txn: Transaction, prefix: bytes) -> bytes:
    """The bytes stored by ``put_long``; empty where there are none. Raises Corrupt."""
    rows = await txn.scan(prefix, after(prefix), limit=65536)
    return b"".join(unseal(key, value) for key, value in rows)


async def delete_long(txn: Transaction, prefix: bytes) -> None:
    """Remove the parts stored by ``put_long``."""
    for key, _ in await txn.scan(prefix, after(prefix), limit=65536):
        await txn.delete(key)
