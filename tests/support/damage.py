"""Ways into the rows of a furnished store's ledger, to damage them."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from holdfast.engine import Digest, Store
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import (
    Blob,
    Claim,
    Image,
    Namespace,
    Record,
    decode,
    load,
    put_payload,
    save,
)
from support.check import found, furnish, matches, told
from support.engine import Clock, Place

R = TypeVar("R", bound=Record)

Damage = Callable[..., Coroutine[Any, Any, None]]
"""Takes a transaction, then images of namespace ``app`` by their names."""


class Cases(dict[str, tuple[Damage, list[str]]]):
    """Ways to damage a furnished store, and all that the check must say about each.

    Each text is ``kind: part of the reason``; the check must find as many problems as texts.
    """

    def __call__(self, *expected: str) -> Callable[[Damage], Damage]:
        """Note a damage under its name."""

        def note(damage: Damage) -> Damage:
            self[damage.__name__] = damage, list(expected)
            return damage

        return note

    def without(self, prefix: bytes, *expected: str) -> None:
        """Note the loss of the first row under a prefix, by what the check says about it."""

        async def damage(txn: Transaction) -> None:
            await cut(txn, (await rows(txn, prefix))[0][0])

        self[expected[0]] = damage, list(expected)

    def beside(self, key: bytes, value: bytes, *expected: str) -> None:
        """Note a row that should not be there, or has a wrong value."""

        async def damage(txn: Transaction) -> None:
            await put_payload(txn, key, value)

        self[expected[0]] = damage, list(expected)

    async def verify(self, name: str, path: Path) -> None:
        """Do that damage to a store in memory, and check it."""
        damage, expected = self[name]
        async with Place("memory", path, Clock()).store() as store:
            await furnish(store)
            await store.core.ledger.transact(do, damage)
            problems = await found(store)
            assert matches(problems, expected), "\n".join(told(problems))


async def do(txn: Transaction, damage: Damage) -> None:
    """Do a damage, with the images that its parameters name."""
    _, *names = inspect.signature(damage).parameters
    await damage(txn, *[await image_of(txn, name) for name in names])


def sha(data: bytes) -> bytes:
    return Digest.of(data).raw


async def rows(txn: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    found = await txn.scan(prefix, after(prefix), limit=10_000)
    assert found, f"no row under {prefix!r}"
    return found


async def records(txn: Transaction, kind: type[R], prefix: bytes) -> list[tuple[bytes, R]]:
    return [(key, decode(kind, key, value)) for key, value in await rows(txn, prefix)]


async def image_of(txn: Transaction, name: str) -> Image:
    """The living image of that name in namespace ``app``."""
    for _, image in await records(txn, Image, layout.IMAGE):
        namespace = await load(txn, Namespace, layout.NAMESPACE + image.namespace)
        if namespace and namespace.name == "app" and image.name == name and not image.deleted:
            return image
    raise AssertionError(name)


async def claim_of(txn: Transaction, name: str, data: bytes) -> tuple[bytes, Claim]:
    key = layout.claim((await image_of(txn, name)).key, sha(data))
    claim = await load(txn, Claim, key)
    assert claim is not None
    return key, claim


async def blob_of(txn: Transaction, data: bytes) -> tuple[bytes, Blob]:
    key = layout.BLOB + sha(data)
    blob = await load(txn, Blob, key)
    assert blob is not None
    return key, blob


async def content_of(txn: Transaction, data: bytes) -> bytes:
    """Key of the content of a blob in the ledger."""
    _, blob = await blob_of(txn, data)
    return layout.content(blob.created, sha(data))


async def of_kind(txn: Transaction, kind: bytes) -> list[tuple[bytes, bytes]]:
    """All rows of a kind, wherever they lie."""
    start = layout.BLOB if kind in (layout.CLAIM, layout.REFERENCE) else kind
    return [row for row in await rows(txn, start) if layout.kind(row[0]) == kind]


async def change(txn: Transaction, key: bytes, record: Record, **fields: object) -> None:
    await save(txn, key, msgspec.structs.replace(record, **fields))


async def cut(txn: Transaction, key: bytes) -> None:
    assert await txn.delete(key), "the test removes what is not there"


async def flip(txn: Transaction, key: bytes) -> bytes:
    """Turn one bit of a value; says what it was before."""
    before = await txn.get(key) or b""
    value = bytearray(before)
    value[len(value) // 2] ^= 1
    await txn.put(key, bytes(value))
    return before


async def put_back(txn: Transaction, key: bytes, value: bytes) -> None:
    """Undo a ``flip``."""
    await txn.put(key, value)


def place_of(reference: bytes) -> tuple[bytes, bytes]:
    """Kind and owner of a reference."""
    return reference[layout.PROJECT_AT - 1 : layout.PROJECT_AT], reference[layout.OWNER_AT :]


async def file_of(store: Store, data: bytes) -> int:
    """The id of the file that a blob lies in."""
    _, blob = await store.core.ledger.read(blob_of, data)
    return blob.file_id


async def vanish(store: Store, file_id: int) -> None:
    """Remove a file behind the store's back."""
    assert store.core.depot.delete(file_id)


async def flip_file(store: Store, data: bytes, at: int = -1) -> None:
    """Turn one bit of the file of a blob: in its middle, or at a byte."""
    writer = store.core.depot.reopen(await file_of(store, data))
    content = bytearray(writer.read(0, writer.size))
    content[at if at >= 0 else len(content) // 2] ^= 1
    writer.truncate(0)
    writer.append(content)
    writer.close()


async def flip_inline(store: Store, data: bytes) -> None:
    """Turn one bit of a blob's content in the ledger."""
    await store.core.ledger.transact(flip, await store.core.ledger.read(content_of, data))


async def lose_file(store: Store, data: bytes) -> None:
    """Remove the file of a blob."""
    await vanish(store, await file_of(store, data))


async def lose_inline(store: Store, data: bytes) -> None:
    """Remove a blob's content from the ledger."""
    await store.core.ledger.transact(cut, await store.core.ledger.read(content_of, data))


def overrun(ledger: Path, key: bytes, value: bytes) -> None:
    """Damage the length of a row's value: to copy it runs over the end of the file (SIGBUS)."""
    content = bytearray(ledger.read_bytes())
    at, damaged = content.find(key), 0
    while at >= 0:
        # A node: low and high half of the value's size, flags, size of the key, the key.
        low, high, flags, length = struct.unpack_from("=HHHH", content, at - 8)
        if (low | high << 16, length) == (len(value), len(key)) and flags in {0, 1}:
            struct.pack_into("=H", content, at - 6, 0x7000)
            damaged += 1
        at = content.find(key, at + 1)
    assert damaged
    ledger.write_bytes(content)
