"""The context of a check: one consistent state of the ledger, and the report of problems.

All areas of a check read the same transaction, row by row. ``check.rows`` reports each row that
does not decode, once. The areas after it skip such rows: they neither confirm what depends on
them nor report it as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from holdfast.engine.blobs.claims import Owner
from holdfast.engine.ledger import layout, lmdb_file
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import (
    Claim,
    Image,
    Namespace,
    Record,
    Trash,
    decode,
    get_payload,
    unseal,
)
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.problem import Problem, problem
from holdfast.engine.references import trash_rows
from holdfast.engine.repositories import images

R = TypeVar("R", bound=Record)

Report = Callable[[Problem], None]

ROWS_PER_READ: Final = 100
"""Rows read at a time: at most 6.4 MiB, since a value has at most 64 KiB."""

UNREADABLE_ROWS_MAX: Final = 10_000
"""Unreadable rows kept in memory; with more, the check reports the ledger as damaged and ends."""


class CheckContext:
    """State that the areas of a check share: the transaction, the report and what they found."""

    def __init__(self, txn: Transaction, report: Report, *, now: int | None = None) -> None:
        self.txn = txn
        self.now = now
        """Time of the check in microseconds since 1970; None if times are not compared."""
        self.purging: set[bytes] = set()
        """Keys of images that a purge removes now: their rows go in no particular order."""
        self.totals: Counter[bytes] = Counter()
        """Counter key -> recount, for the counters of namespaces and of the whole store."""
        self._report = report
        self._unreadable: set[bytes] = set()
        self._owners: dict[bytes, Owner | None] = {}

    def item(self, kind: str, name: str) -> Item:
        """Return the object that reports show with this kind and name."""
        return Item(self, kind, name)

    def report(self, kind: str, name: str, reason: str) -> None:
        """Report a problem."""
        self._report(problem(kind, name, reason))

    def mark_unreadable(self, key: bytes) -> None:
        """Mark a row as unreadable.

        Raises Corrupt after more than ``UNREADABLE_ROWS_MAX`` of them.
        """
        self._unreadable.add(key)
        if len(self._unreadable) > UNREADABLE_ROWS_MAX:
            raise lmdb_file.damaged(f"over {UNREADABLE_ROWS_MAX} rows cannot be read")

    def has_unreadable(self, prefix: bytes) -> bool:
        """Return True if a row under a prefix cannot be read."""
        return any(key.startswith(prefix) for key in self._unreadable)

    def has_unreadable_kind(self, kind: bytes, end: bytes = b"") -> bool:
        """Return True if a row of a kind whose key has that end cannot be read."""
        return any(layout.kind(key) == kind and key.endswith(end) for key in self._unreadable)

    async def rows(self, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield all readable rows under a prefix in key order: key and payload of the value."""
        async for key, value in self.stored_rows(prefix):
            yield key, unseal(key, value)

    async def blob_rows(self, kind: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield the readable rows of one kind in the groups of all blobs, as ``rows`` does."""
        async for key, value in self.stored_rows(layout.BLOB):
            if layout.kind(key) == kind:
                yield key, unseal(key, value)

    async def stored_rows(self, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield the readable rows under a prefix (empty: all rows), with values as they are stored.

        Raises Corrupt if keys do not ascend: then a page of the ledger is damaged.
        """
        start, stop = prefix or b"\0", after(prefix) if prefix else b"\xff" * 8
        last = b""
        while rows := await self.txn.scan(start, stop, limit=ROWS_PER_READ):
            for key, value in rows:
                if not last < key:
                    raise lmdb_file.damaged("its keys are not in order")
                last = key
                if key not in self._unreadable:
                    yield key, value
            # The smallest key behind the last one.
            start = last + b"\0"

    async def records(self, kind: type[R], prefix: bytes) -> AsyncIterator[tuple[bytes, R]]:
        """Yield the readable records under a prefix; of a blob's group only its own row."""
        async for key, value in self.stored_rows(prefix):
            if layout.kind(key) == prefix[:1]:
                yield key, decode(kind, key, value)

    async def claims(self) -> AsyncIterator[tuple[bytes, bytes, Claim]]:
        """Yield all readable claims: the owner's key, the sha256 and the claim."""
        async for key, value in self.stored_rows(layout.BLOB):
            if layout.kind(key) == layout.CLAIM:
                sha, owner = key[1 : layout.BLOB_KEY_BYTES], key[-ID_BYTES:]
                yield owner, sha, decode(Claim, key, value)

    async def images(self) -> AsyncIterator[Image]:
        """Yield all readable images, except those that a purge removes now."""
        async for key, image in self.records(Image, layout.IMAGE):
            if key[1:] not in self.purging:
                yield image

    async def targets(
        self, prefix: bytes, kind: type[R], locate: Callable[[bytes, bytes], bytes]
    ) -> AsyncIterator[tuple[bytes, bytes, R | None]]:
        """Yield the readable rows under a prefix, each with the record that it points to, or None.

        ``locate`` returns the key of that record for the key and payload of a row. A row that
        points to an unreadable record is left out.
        """
        async for key, value in self.rows(prefix):
            target = locate(key, value)
            if target not in self._unreadable:
                yield key, value, await self.load(kind, target)

    async def load(self, kind: type[R], key: bytes) -> R | None:
        """Return the record under a key; None if it is absent or cannot be read."""
        value = None if key in self._unreadable else await self.txn.get(key)
        return None if value is None else decode(kind, key, value)

    async def value(self, key: bytes) -> bytes | None:
        """Return the payload under a key; None if it is absent or cannot be read."""
        return None if key in self._unreadable else await get_payload(self.txn, key)

    def is_unreadable(self, key: bytes) -> bool:
        """Return True if the row exists, but cannot be read."""
        return key in self._unreadable

    async def is_absent(self, key: bytes) -> bool:
        """Return True if there is no such row, readable or not."""
        return key not in self._unreadable and await self.txn.get(key) is None

    async def has_rows(self, prefix: bytes) -> bool:
        """Return True if there is a row under a prefix, readable or not."""
        return bool(await self.txn.scan(prefix, after(prefix), limit=1))

    async def expect_counter(self, key: bytes, expected: int, name: str) -> None:
        """Report a problem unless a counter has that value, or cannot be read."""
        if key not in self._unreadable and (actual := await self.txn.counter(key)) != expected:
            self.report("counter", name, f"it is {actual}, a recount gives {expected}")

    async def owner(self, key: bytes) -> Owner | None:
        """Return the image or root under a key as an owner; None if neither can be read."""
        if key not in self._owners:
            self._owners[key] = await self._find_owner(key)
        return self._owners[key]

    async def _find_owner(self, key: bytes) -> Owner | None:
        if await self.value(layout.ROOT + key) is not None:
            return Owner(key)
        image = await self.load(Image, layout.IMAGE + key)
        if image is None:
            return None
        namespace = await self.load(Namespace, layout.NAMESPACE + image.namespace)
        if namespace is not None:
            return images.owner_of(image, namespace)
        when = await self.value(layout.TRASH_ID + image.id) if image.id else None
        entry = None if when is None else await self.load(Trash, layout.TRASH + when + image.id)
        if entry is None:
            return None
        return Owner(key, entry.project, image.namespace, False, trash_rows.place(entry))

    def is_owner_unreadable(self, owner: bytes) -> bool:
        """Return True if rows that would identify an owner cannot be read."""
        return self.has_unreadable(layout.IMAGE + owner) or any(
            self.has_unreadable(kind)
            for kind in (layout.ROOT, layout.NAMESPACE, layout.TRASH, layout.TRASH_ID)
        )


@dataclass(frozen=True, slots=True)
class Item:
    """An object that an area checks, with the kind and name that reports show."""

    context: CheckContext
    kind: str
    name: str

    def report(self, reason: str) -> None:
        """Report a problem of the object."""
        self.context.report(self.kind, self.name, reason)

    async def expect_present(self, key: bytes, reason: str) -> None:
        """Report a problem for that reason unless there is such a row, readable or not."""
        if await self.context.is_absent(key):
            self.report(reason)

    async def expect_absent(self, key: bytes, reason: str) -> None:
        """Report a problem for that reason if there is such a row, readable or not."""
        if not await self.context.is_absent(key):
            self.report(reason)

    async def expect_row(self, key: bytes, value: bytes, what: str) -> None:
        """Report a problem unless the row exists with exactly that payload, or cannot be read."""
        if self.context.is_unreadable(key):
            return
        found = await get_payload(self.context.txn, key)
        if found is None:
            self.report(f"{what} is missing")
        elif found != value:
            self.report(f"{what} points elsewhere")


def pointed(kind: bytes) -> Callable[[bytes, bytes], bytes]:
    """Return a ``locate`` for ``CheckContext.targets``: the payload is the key behind its kind."""
    return lambda _, payload: kind + payload


async def find_purging(context: CheckContext) -> None:
    """Add the images that a purge removes now to ``context.purging`` (see ``trash.purge``)."""
    namespaces = set()
    async for _, entry in context.records(Trash, layout.TRASH):
        if not entry.purging:
            continue
        if entry.kind == "image":
            context.purging.add(entry.image)
        elif entry.kind == "namespace":
            namespaces.add(entry.id)
    if namespaces:
        async for _, image in context.records(Image, layout.IMAGE):
            if image.deleted and image.namespace in namespaces:
                context.purging.add(image.key)


def blob_name(sha: bytes) -> str:
    """Return a blob's digest as clients write it."""
    return str(Digest.sha256(sha))


def digest_name(key: bytes) -> str:
    """Return a digest key as clients write it; hex if it is not one."""
    try:
        return str(Digest.from_key(key))
    except ValueError:
        return key.hex()


def id_name(value: bytes) -> str:
    """Return an id as clients write it; hex if it is not one."""
    return str(UUID(bytes=value)) if len(value) == ID_BYTES else value.hex()


def image_name(row: Image) -> str:
    """Return an image for a report: its id and its name in the namespace."""
    return f"{id_name(row.id or row.key)} ({row.name})"
