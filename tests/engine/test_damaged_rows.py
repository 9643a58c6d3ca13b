"""One damaged row: what depends on it says so, is set aside or passed over; the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from support.check import furnish, furnish_more
from support.damage import flip, put_back, sha
from support.engine import (
    PROJECT,
    REGION,
    Clock,
    Place,
    make_namespace,
    noise,
    problems,
    problems_after_sweep,
    push,
    read,
    sha256,
)

from holdfast.engine import Corrupt, NotFound, RetentionRule, Store
from holdfast.engine.check.rows import SHAPES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import put_payload
from holdfast.engine.maintenance import dead_letters
from holdfast.engine.maintenance.sweep import Sweeper

DAY: Final = 24 * 3600.0
CALM: Final = noise(45_000, "calm")
LEAVING: Final = noise(46_000, "leaving")
FIRST, LAST = 0, -1


async def every(txn: Transaction, prefix: bytes) -> list[bytes]:
    """Keys under a prefix; of a kind that lies in the groups of blobs, all of them."""
    grouped = prefix in (layout.CLAIM, layout.REFERENCE)
    start = layout.BLOB if grouped else prefix
    keys = [key for key, _ in await txn.scan(start, after(start), limit=10_000)]
    return [key for key in keys if not grouped or layout.kind(key) == prefix]


async def damage(store: Store, prefix: bytes, which: int = FIRST) -> bytes:
    """Turn a bit of one of the rows under a prefix; says of which."""
    key = (await store.core.ledger.read(every, prefix))[which]
    await store.core.ledger.transact(flip, key)
    return key


async def calm_down(store: Store) -> None:
    """Things beside the damage: something that stays, and something that is on its way out."""
    calm = await make_namespace(store, "calm")
    await push(store, "calm/web", "v1", [CALM])
    await push(store, "calm/web", "v2", [CALM], config=b'{"v":2}')
    await push(store, "calm/old", "v1", [CALM, LEAVING])
    await store.retention.set(calm.id, [RetentionRule(images=("web",), keep_last=1)])
    old = await store.locate(REGION, "calm/old")
    assert old.image_id is not None
    await store.images.delete(old.image_id)
    gone = await make_namespace(store, "gone")
    await push(store, "gone/web", "v1", [CALM, LEAVING])
    await store.namespaces.delete(gone.id)


async def accept(*asked: Awaitable[Any]) -> None:
    """Answers, or refusals that say what is damaged."""
    for question in asked:
        with suppress(Corrupt, NotFound):
            await question


@pytest.mark.slow
@pytest.mark.parametrize("which", [FIRST, LAST], ids=["first", "last"])
@pytest.mark.parametrize("kind", sorted(SHAPES))
async def test_beside_a_damaged_row_of_any_kind_the_rest_goes_on(
    kind: bytes, which: int, tmp_path: Path
) -> None:
    clock = Clock()
    async with Place("disk", tmp_path, clock).store() as store:
        await furnish(store)
        await furnish_more(store)
        if kind == layout.DEAD_LETTER:
            (garbage,) = await store.core.ledger.read(every, layout.GARBAGE)
            await store.core.ledger.transact(dead_letters.park, garbage, "a test", 1)
        keys = await store.core.ledger.read(every, kind)
        await calm_down(store)
        await store.core.ledger.transact(flip, keys[which])
        clock.advance(3 * DAY)
        for early in (False, True):
            await store.sweeper.run(early=early)
        await lists(store)
        where = await store.locate(REGION, "calm/web")
        store.pulls.count(where, "v2")
        await store.pulls.flush()
        assert where.image_id is not None
        shown = {tag.name: tag.pull_count for tag in (await store.tags.list(where.image_id)).items}
        assert shown == {"v1": 0, "v2": 1}
        await store.retention._turn()
        where = await store.locate(REGION, "calm/web")
        assert await store.tags.names(where) == ["v2"]
        await store.sweeper.run(early=True)
        assert sha256(LEAVING) not in {str(blob.digest) for blob in await store.blobs()}
        await copied(store, tmp_path)


async def lists(store: Store) -> None:
    names = [n.name for n in (await store.namespaces.list(REGION, page_size=100)).items]
    assert "calm" in names
    assert "gone" not in names
    shown = (await store.images.list(REGION, page_size=100)).items
    assert [image.tag_count for image in shown if image.name == "web"]
    repositories = [r.full_name for r in (await store.repositories(REGION))[0]]
    assert "calm/web" in repositories
    assert "calm/old" not in repositories
    assert sha256(CALM) in {str(blob.digest) for blob in await store.blobs()}
    holders = await store.holders(REGION, sha256(CALM))
    assert [r.full_name for r in holders] == ["calm/web"]
    await store.roots()
    await store.trash.list()
    await store.keys.list()
    await store.sweeper.aside()
    # A damaged counter is told to whoever asks for it.
    await accept(store.stats())


async def copied(store: Store, path: Path) -> None:
    async for _ in store.snapshot(path / "snapshot"):
        pass
    async with Store.open(path / "snapshot", store.config) as copy:
        where = await copy.locate(REGION, "calm/web")
        assert await read(copy, sha256(CALM), repository=where) == CALM


@pytest.mark.parametrize("data", [noise(100, "few"), noise(50_000, "many")], ids=["few", "many"])
async def test_a_push_heals_a_blob_whose_row_cannot_be_read(
    store: Store, clock: Clock, data: bytes
) -> None:
    await store.put(data, root="kept")
    clock.advance(60)  # what lies in the ledger is found by when it came
    await store.core.ledger.transact(flip, layout.BLOB + sha(data))
    with pytest.raises(Corrupt):
        await read(store, sha256(data))
    await store.put(data)
    assert await read(store, sha256(data)) == data
    assert await problems_after_sweep(store) == []


async def test_an_image_whose_list_names_a_claim_too_many_goes_whole(
    store: Store, clock: Clock
) -> None:
    async def name_one_more(txn: Transaction, image_key: bytes) -> None:
        await put_payload(txn, layout.claimed(image_key, b"s" * 32))

    await make_namespace(store, "app")
    await push(store, "app/web", "v1", [CALM])
    where = await store.locate(REGION, "app/web")
    assert where.key is not None
    assert where.image_id is not None
    await store.core.ledger.transact(name_one_more, where.key)
    (problem,) = await problems(store)
    assert problem.kind == "claim"
    await store.images.delete(where.image_id)
    clock.advance(40 * DAY)
    assert await problems_after_sweep(store) == []


@pytest.mark.parametrize("project", [UUID(int=0), PROJECT], ids=["all zeros", "another"])
async def test_images_of_any_project_are_none_of_the_roots(
    store: Store, clock: Clock, project: UUID
) -> None:
    space = await make_namespace(store, "app", project=project)
    await push(store, "app/web", "v1", [CALM])
    assert await problems(store) == []
    await store.namespaces.delete(space.id)
    clock.advance(40 * DAY)
    await store.sweeper.run()
    clock.advance(40 * DAY)
    assert await problems_after_sweep(store) == []
    assert (await store.stats()).blobs == 0


async def set_aside(store: Store, data: bytes) -> bytes:
    """Let the sweep meet a blob whose row is damaged; says what the row was."""
    await store.put(data)
    whole = await store.core.ledger.transact(flip, layout.BLOB + sha(data))
    await store.delete(sha256(data))
    assert (await store.sweeper.run()).aside == 1
    return whole


async def test_an_entry_set_aside_is_told_and_taken_up_when_it_is_asked_for(
    place: Place, clock: Clock
) -> None:
    data = noise(50_000, "aside")
    async with place.store() as store:
        whole = await set_aside(store, data)
        await store.put(b"other")
        await store.delete(sha256(b"other"))
        clock.advance(60)
        # Tried again, and set aside again: it stops nobody.
        assert (await store.sweeper.run()).aside == 1
        (entry,) = await store.sweeper.aside()
        assert (entry.kind, entry.name) == ("blob", sha256(data))
        assert entry.since.timestamp() == clock.now
        assert "checksum" in entry.reason
        stats = await store.stats()
        assert (stats.aside, stats.garbage, stats.blobs) == (1, 0, 1)
        assert "aside" in {problem.kind for problem in await problems(store)}
        await store.core.ledger.transact(put_back, layout.BLOB + sha(data), whole)
        done = await store.sweeper.run()
        assert (done.aside, done.freed_bytes, place.files()) == (0, len(data), [])
        assert (await store.stats()).aside == 0
        assert await store.sweeper.aside() == []
        assert await problems(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("healed", ["before it starts", "while it runs"])
async def test_the_background_takes_up_what_was_set_aside(place: Place, healed: str) -> None:
    data = noise(50_000, "aside")
    async with place.store() as store, AsyncExitStack() as stack:
        whole = await set_aside(store, data)
        heal = store.core.ledger.transact(put_back, layout.BLOB + sha(data), whole)
        seconds = 3600.0
        if healed == "before it starts":
            await heal
        else:
            seconds = 0.02
        sweeper = Sweeper(store.core, requeue_seconds=seconds)
        sweeper.background.start()
        stack.push_async_callback(sweeper.background.stop)
        if healed == "while it runs":
            while sweeper.total.aside < 2:  # noqa: ASYNC110 - the sweep tells nobody
                await asyncio.sleep(0.01)
            await heal
        while place.files():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        assert (await store.stats()).aside == 0
        assert await problems(store) == []
