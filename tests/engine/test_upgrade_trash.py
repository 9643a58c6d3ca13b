"""The trash of a store of format 2: its entries are listed by project, and come back whole."""

from __future__ import annotations

import msgspec
import pytest
from support.check import found, furnish, told
from support.engine import (
    OTHER_PROJECT,
    REGION,
    Place,
    index,
    make_namespace,
    manifest,
    problems,
    push,
    put,
    sha256,
    upload,
)

from holdfast.engine import Store
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Trash, decode, save, unseal
from holdfast.engine.maintenance import dead_letters
from holdfast.engine.upgrade import trash

CONFIG = b"{}"


async def _as_format_2(txn: Transaction) -> int:
    """Write the trash as format 2 has it; says how many entries there are."""
    rows = await txn.scan(layout.TRASH, after(layout.TRASH), limit=1000)
    for key, value in rows:
        entry = decode(Trash, key, value)
        prefix = layout.TRASH_MANIFEST + entry.id
        went = await txn.scan(prefix, after(prefix), limit=1000)
        payloads = [unseal(*row) for row in went]
        digests = tuple((payload[:32], payload[32:].decode()) for payload in payloads)
        await save(txn, key, msgspec.structs.replace(entry, digests=digests, manifests=b""))
        for row, _ in went:
            await txn.delete(row)
    for key, _ in await txn.scan(layout.TRASH_PROJECT, after(layout.TRASH_PROJECT), limit=1000):
        await txn.delete(key)
    return len(rows)


async def _upgrade(store: Store) -> int:
    """Says how many transactions that took."""
    cursor: bytes | None = b""
    count = 0
    while cursor is not None:
        cursor = await store.core.ledger.transact(trash.advance, cursor, store.core.now())
        count += 1
    return count


async def test_everything_is_listed_and_comes_back(store: Store) -> None:
    await furnish(store)
    before = (await store.trash.list()).items
    assert {item.kind for item in before} == {"tag", "image", "namespace"}
    await store.core.ledger.transact(_as_format_2)
    assert "trash: " in "\n".join(told(await found(store)))
    await _upgrade(store)
    assert told(await found(store)) == []
    for item in before:
        listed = await store.trash.list(project_id=item.project_id)
        assert item in listed.items
    for item in before:
        # A signature comes back with the tag that it belongs to.
        if item in (await store.trash.list()).items:
            await store.trash.restore(item.id)
    assert (await store.trash.list()).items == []
    assert told(await found(store)) == []


async def test_many_entries_take_many_steps(store: Store) -> None:
    await make_namespace(store)
    await make_namespace(store, "theirs", project=OTHER_PROJECT)
    where = await store.locate(REGION, "app/web")
    await upload(store, where, CONFIG)
    children = [manifest(CONFIG, annotations={"n": str(n)}) for n in range(90)]
    for n, child in enumerate(children):
        await put(store, "app/web", child, f"v{n}")
    pushed = await push(store, "theirs/web", "v1", [])
    for tag in (await store.tags.list(pushed.image_id)).items:
        await store.tags.delete(tag.id)
    where = await store.locate(REGION, "app/web")
    assert where.image_id is not None
    tags = (await store.tags.list(where.image_id, page_size=100)).items
    for tag in tags:
        await store.tags.delete(tag.id)
    assert await store.core.ledger.transact(_as_format_2) == 91
    assert await _upgrade(store) > 4
    assert await problems(store) == []
    assert (await store.trash.list(project_id=OTHER_PROJECT)).total == 1
    for tag in tags:
        await store.trash.restore(tag.id)
    for child in children:
        assert (await store.manifests.get(where, sha256(child))).body == child


@pytest.mark.parametrize("broken", [False, True])
async def test_an_entry_that_was_set_aside(place: Place, broken: bool) -> None:
    async with place.store() as store:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), CONFIG)
        child = manifest(CONFIG)
        await put(store, "app/web", child)
        await put(store, "app/web", index([child]), "all")
        where = await store.locate(REGION, "app/web")
        assert where.image_id is not None
        (tag,) = (await store.tags.list(where.image_id)).items
        await store.tags.delete(tag.id)
        await store.core.ledger.transact(_as_format_2)
        await store.core.ledger.transact(_set_aside, broken)
        await _upgrade(store)
        await store.core.ledger.transact(dead_letters.requeue, b"", 100)
        if broken:
            assert {problem.kind for problem in await problems(store)} == {"record"}
            return
        assert await problems(store) == []
        await store.trash.restore(tag.id)
        assert (await store.manifests.get(where, sha256(child))).body == child


async def _set_aside(txn: Transaction, broken: bool) -> None:
    ((key, value),) = await txn.scan(layout.TRASH, after(layout.TRASH), limit=2)
    if broken:
        await txn.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    await dead_letters.park(txn, key, "its image cannot be read", 1)
