"""A look: one consistent state of the ledger, walked row by row, and where problems are told.

Rows that do not decode are told once, by ``check.rows``, and are passed over by everything
after it: what depends on them is neither confirmed nor called wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
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

STEP: Final = 100
"""Rows read at a time: at most 6.4 MiB, since a value has at most 64 KiB."""

SPOILED_MAX: Final = 10_000
"""Bad rows that are remembered; with more of them the ledger is given up."""


class CheckContext:
    """What the areas of a check share: the transaction, the report, and what was found so far."""

    def __init__(self, txn: Transaction, report: Report, *, now: int | None = None) -> None:
        self.txn = txn
        self.now = now
        """Microseconds since 1970; None where no clock is asked."""
        self.purging: set[bytes] = set()
        """Keys of images that are being taken apart: their rows go in no particular order."""
        self.totals: Counter[bytes] = Counter()
        """Counter key -> recount, for the numbers of namespaces and of the whole store."""
        self._report = report
        self._spoiled: set[bytes] = set()
        self._owners: dict[bytes, Owner | None] = {}

    def say(self, kind: str, name: str, reason: str) -> None:
        """Tell a problem."""
        self._report(problem(kind, name, reason))

    def spoil(self, key: bytes) -> None:
        """Remember that a row cannot be read. Raises Corrupt where that is most of them."""
        self._spoiled.add(key)
        if len(self._spoiled) > SPOILED_MAX:
            raise lmdb_file.damaged(f"over {SPOILED_MAX} rows cannot be read")

    def spoiled(self, prefix: bytes) -> bool:
        """Whether a row under that prefix cannot be read."""
        return any(key.startswith(prefix) for key in self._spoiled)

    def spoiled_kind(self, kind: bytes, end: bytes = b"") -> bool:
        """Whether a row of that kind, with that end, cannot be read."""
        return any(layout.kind(key) == kind and key.endswith(end) for key in self._spoiled)

    async def rows(self, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """All readable rows under a prefix, in key order, each with what is in its value."""
        async for key, value in self.stored(prefix):
            yield key, unseal(key, value)

    async def of_blobs(self, kind: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """As ``rows``, those of one kind in the groups of all blobs."""
        async for key, value in self.stored(layout.BLOB):
            if layout.kind(key) == kind:
                yield key, unseal(key, value)

    async def stored(self, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """As ``rows`` (all of the ledger for an empty prefix), with values as they are stored.

        Raises Corrupt where keys do not ascend: then a page of the ledger is damaged.
        """
        start, stop = prefix or b"\0", after(prefix) if prefix else b"\xff" * 8
        last = b""
        while rows := await self.txn.scan(start, stop, limit=STEP):
            for key, value in rows:
                if not last < key:
                    raise lmdb_file.damaged("its keys are not in order")
                last = key
                if key not in self._spoiled:
                    yield key, value
            start = last + b"\0"

    async def records(self, kind: type[R], prefix: bytes) -> AsyncIterator[tuple[bytes, R]]:
        """As ``rows``, decoded; of a blob's group its own row only."""
        async for key, value in self.stored(prefix):
            if layout.kind(key) == prefix[:1]:
                yield key, decode(kind, key, value)

    async def claims(self) -> AsyncIterator[tuple[bytes, bytes, Claim]]:
        """All claims that can be read: the owner's key, the sha256, and the claim."""
        async for key, value in self.stored(layout.BLOB):
            if layout.kind(key) == layout.CLAIM:
                sha, owner = key[1 : layout.BLOB_KEY_BYTES], key[-ID_BYTES:]
                yield owner, sha, decode(Claim, key, value)

    async def load(self, kind: type[R], key: bytes) -> R | None:
        """The record under a key; None where it is absent, or cannot be read."""
        value = None if key in self._spoiled else await self.txn.get(key)
        return None if value is None else decode(kind, key, value)

    async def value(self, key: bytes) -> bytes | None:
        """What is in the value under a key; None where it is absent, or cannot be read."""
        return None if key in self._spoiled else await get_payload(self.txn, key)

    def unreadable(self, key: bytes) -> bool:
        """Whether there is such a row, and nothing can be said of it."""
        return key in self._spoiled

    async def lacks(self, key: bytes) -> bool:
        """Whether there is no such row, readable or not."""
        return key not in self._spoiled and await self.txn.get(key) is None

    async def any(self, prefix: bytes) -> bool:
        """Whether there is a row under that prefix, readable or not."""
        return bool(await self.txn.scan(prefix, after(prefix), limit=1))

    async def expect(self, key: bytes, value: bytes, kind: str, name: str, what: str) -> None:
        """Tell a problem unless the row is there with exactly that in its value."""
        if key in self._spoiled:
            return
        found = await get_payload(self.txn, key)
        if found is None:
            self.say(kind, name, f"{what} is missing")
        elif found != value:
            self.say(kind, name, f"{what} leads elsewhere")

    async def counted(self, key: bytes, expected: int, name: str) -> None:
        """Tell a problem unless a counter has that value."""
        if key not in self._spoiled and (actual := await self.txn.counter(key)) != expected:
            self.say("counter", name, f"it says {actual}, a recount {expected}")

    async def owner(self, key: bytes) -> Owner | None:
        """The image or root with that key as an owner; None where neither can be read."""
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

    def lost(self, owner: bytes) -> bool:
        """Whether the rows that would tell who an owner is cannot be read."""
        return self.spoiled(layout.IMAGE + owner) or any(
            self.spoiled(kind)
            for kind in (layout.ROOT, layout.NAMESPACE, layout.TRASH, layout.TRASH_ID)
        )


async def find_purging(look: CheckContext) -> None:
    """Fill ``look.purging``: see ``purge``."""
    namespaces = set()
    async for _, entry in look.records(Trash, layout.TRASH):
        if not entry.purging:
            continue
        if entry.kind == "image":
            look.purging.add(entry.image)
        elif entry.kind == "namespace":
            namespaces.add(entry.id)
    if namespaces:
        async for _, image in look.records(Image, layout.IMAGE):
            if image.deleted and image.namespace in namespaces:
                look.purging.add(image.key)


def blob_name(sha: bytes) -> str:
    """A blob as clients name it."""
    return str(Digest.sha256(sha))


def digest_name(key: bytes) -> str:
    """A digest key as clients see it; hex for what is none."""
    try:
        return str(Digest.from_key(key))
    except ValueError:
        return key.hex()


def id_name(value: bytes) -> str:
    """An id as clients see it; hex for what is none."""
    return str(UUID(bytes=value)) if len(value) == ID_BYTES else value.hex()


def image_name(row: Image) -> str:
    """An image in a report: its id and its name in the namespace."""
    return f"{id_name(row.id or row.key)} ({row.name})"
