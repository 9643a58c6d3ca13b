"""Tags with very many manifests: all of them go, and all of them come back, or none does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from support.engine import (
    REGION,
    Clock,
    Function,
    Hooks,
    Place,
    index,
    make_namespace,
    manifest,
    problems,
    problems_after_sweep,
    put,
    sha256,
    upload,
)

from holdfast.engine import AlreadyExists, Busy, Digest, EngineError, NotFound, Store
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Tag
from holdfast.engine.namespaces import namespaces
from holdfast.engine.references import pruning, trash_rows
from holdfast.engine.repositories import images, tags
from holdfast.engine.trash import trash as undelete

pytestmark = pytest.mark.slow

CONFIG = b"{}"
DAY = 24 * 3600.0
Put = Callable[[Store], Coroutine[Any, Any, list[bytes]]]


async def fan(store: Store) -> list[bytes]:
    """A manifest with 700 referrers; one of them has some of its own."""
    top = manifest(CONFIG)
    signed = manifest(CONFIG, subject=top, annotations={"n": "signed"})
    bodies = [top, signed]
    bodies += [manifest(CONFIG, subject=top, annotations={"n": str(n)}) for n in range(699)]
    bodies += [manifest(CONFIG, subject=signed, annotations={"n": str(n)}) for n in range(5)]
    await put(store, "app/web", top, "top")
    for body in bodies[1:]:
        await put(store, "app/web", body)
    return bodies


async def chain(store: Store) -> list[bytes]:
    """1,200 indexes inside each other."""
    bodies = [manifest(CONFIG)]
    await put(store, "app/web", bodies[0])
    for _ in range(1200):
        bodies.append(index([bodies[-1]]))
        await put(store, "app/web", bodies[-1])
    await put(store, "app/web", bodies[-1], "top")
    return bodies


SHAPES = pytest.mark.parametrize("shape", [fan, chain], ids=["fan", "chain"])


async def furnish(store: Store) -> None:
    await make_namespace(store)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG)


async def top_of(store: Store) -> UUID:
    where = await store.locate(REGION, "app/web")
    assert where.image_id is not None
    (tag,) = (await store.tags.list(where.image_id, name="top")).items
    return tag.id


async def present(store: Store) -> set[str]:
    """Digests of all manifests of the image."""
    where = await store.locate(REGION, "app/web")
    assert where.key is not None
    return set(await store.core.ledger.read(_present, layout.MANIFEST + where.key))


async def _present(txn: Transaction, prefix: bytes) -> list[str]:
    rows = await txn.scan(prefix, after(prefix), limit=100_000)
    return [str(Digest.sha256(key[len(prefix) :])) for key, _ in rows]


def digests(bodies: list[bytes]) -> set[str]:
    return {sha256(body) for body in bodies}


async def left_of_lists(store: Store) -> int:
    return len(await store.core.ledger.read(_rows, layout.TRASH_MANIFEST))


async def _rows(txn: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return await txn.scan(prefix, after(prefix), limit=100_000)


Large = tuple[Store, Hooks, list[bytes], UUID]


@pytest.fixture
async def large(place: Place) -> AsyncIterator[Large]:
    """Open a store with the fan under the tag ``top``; nothing may be wrong with it at the end."""
    store, hooks = place.gated()
    async with store:
        await furnish(store)
        bodies = await fan(store)
        yield store, hooks, bodies, await top_of(store)
        assert await problems(store) == []


@SHAPES
async def test_all_of_it_goes_and_comes_back(store: Store, clock: Clock, shape: Put) -> None:
    await furnish(store)
    bodies = await shape(store)
    before = await present(store)
    assert before == digests(bodies)
    for _ in range(2):
        tag = await top_of(store)
        await store.tags.delete(tag)
        assert await present(store) == set()
        clock.advance(DAY / 2)
        assert await problems_after_sweep(store) == []
        await store.trash.restore(tag)
        assert await top_of(store) == tag
        assert await present(store) == before
        assert await problems(store) == []
        assert (await store.trash.list()).total == 0
    await store.sweeper.run()
    assert await left_of_lists(store) == 0
    assert (await store.stats()).trash == 0
    where = await store.locate(REGION, "app/web")
    assert len(await store.manifests.referrers(where, sha256(bodies[0]), limit=1000)) == (
        700 if shape is fan else 0
    )
    assert await problems(store) == []


async def test_every_transaction_is_bounded(place: Place) -> None:
    """One that takes all that came would stop all other writers meanwhile."""
    store, hooks = place.gated()
    calls: list[Function] = []

    async def note(work: Function) -> None:
        calls.append(work)

    async with store:
        await furnish(store)
        bodies = await fan(store)
        hooks.before = note
        tag = await top_of(store)
        await store.tags.delete(tag)
        assert calls.count(tags.prune) >= len(bodies) * 3 // 1000
        calls.clear()
        await store.trash.restore(tag)
        assert calls.count(undelete.restore_some) == len(bodies) // 200
        assert calls.count(undelete.restore_tag) == 1


@pytest.mark.parametrize("step", [1, 2])
async def test_a_name_taken_on_the_way_leaves_all_in_the_trash(place: Place, step: int) -> None:
    store, hooks = place.gated()
    async with store:
        await furnish(store)
        await put(store, "app/web", manifest(CONFIG, annotations={"other": ""}), "other")
        others = await present(store)
        bodies = await fan(store)
        tag = await top_of(store)
        await store.tags.delete(tag)
        seen = 0

        async def before(work: Function) -> None:
            nonlocal seen
            if work is undelete.restore_some:
                seen += 1
                if seen == step + 1:
                    hooks.before = None
                    other = manifest(CONFIG, annotations={"other": ""})
                    await put(store, "app/web", other, "top")

        hooks.before = before
        with pytest.raises(AlreadyExists):
            await store.trash.restore(tag)
        assert await present(store) == others
        assert await problems(store) == []
        await store.tags.delete(await top_of(store))
        await store.trash.restore(tag)
        assert await present(store) == others | digests(bodies)
        assert await problems(store) == []


async def test_what_is_pushed_while_a_restore_fails_stays(large: Large) -> None:
    store, hooks, bodies, tag = large
    where = await store.locate(REGION, "app/web")
    await store.tags.delete(tag)
    seen: list[set[str]] = []

    async def before(work: Function) -> None:
        if work is undelete.restore_tag:
            hooks.before = None
            seen.append(await present(store))
            again = [body for body in bodies if sha256(body) in seen[0]]
            # One is pushed again, one gets a tag, one is a child: all were acknowledged.
            await put(store, "app/web", again[0])
            await put(store, "app/web", again[1], "own")
            await put(store, "app/web", index([again[2]]), "parent")
            seen.append(digests([*again[:3], index([again[2]])]))
            await store.namespaces.update(where.namespace_id, locked=True)

    hooks.before = before
    with pytest.raises(EngineError):
        await store.trash.restore(tag)
    assert len(seen[0]) >= 600
    assert await present(store) == seen[1]
    await store.namespaces.update(where.namespace_id, locked=False)
    await store.trash.restore(tag)
    assert await present(store) == digests(bodies) | seen[1]


async def unfinished(store: Store, hooks: Hooks, tag: UUID) -> None:
    """Let a restore die on its way."""

    async def before(work: Function) -> None:
        if work is undelete.restore_tag:
            hooks.before = None
            raise asyncio.CancelledError

    hooks.before = before
    with pytest.raises(asyncio.CancelledError):
        await store.trash.restore(tag)
    assert len(await present(store)) >= 600


async def test_a_restore_that_died_is_gone_on_with(large: Large) -> None:
    store, hooks, bodies, tag = large
    await store.tags.delete(tag)
    await unfinished(store, hooks, tag)
    assert await problems(store) == []
    await store.trash.restore(tag)
    assert await present(store) == digests(bodies)
    await store.tags.delete(await top_of(store))
    assert await present(store) == set()


@pytest.mark.parametrize("early", [False, True])
async def test_what_a_dead_restore_brought_back_goes_with_its_entry(
    large: Large, clock: Clock, early: bool
) -> None:
    store, hooks, _, tag = large
    await store.tags.delete(tag)
    await unfinished(store, hooks, tag)
    pushed = manifest(CONFIG, annotations={"n": "pushed"})
    await put(store, "app/web", pushed)
    clock.advance(0 if early else DAY)
    await store.sweeper.run(early=early)
    with pytest.raises(NotFound):
        await store.trash.restore(tag)
    assert await present(store) == digests([pushed])
    assert await left_of_lists(store) == 0


async def test_of_two_restores_of_a_large_tag_one_comes_to_its_end(large: Large) -> None:
    store, hooks, bodies, tag = large
    await store.tags.delete(tag)

    async def before(work: Function) -> None:
        if work is undelete.restore_tag:
            hooks.before = None
            await store.trash.restore(tag)

    hooks.before = before
    with pytest.raises(NotFound):
        await store.trash.restore(tag)
    assert await present(store) == digests(bodies)
    assert await problems(store) == []
    await store.tags.delete(tag)

    async def between(work: Function) -> None:
        if work is undelete.restore_tag:
            hooks.before = None
            batch = undelete.Batch((), 1, len(bodies))
            ledger, now = store.core.ledger, store.core.now()
            await ledger.transact(
                undelete.restore_some, tag.bytes, now, b"other", True, batch, False
            )

    hooks.before = between
    with pytest.raises(Busy):
        await store.trash.restore(tag)
    await store.trash.restore(tag)
    assert await present(store) == digests(bodies)


async def test_a_restore_while_the_delete_goes_on_loses_nothing(large: Large) -> None:
    store, hooks, bodies, tag = large

    async def before(work: Function) -> None:
        if work is tags.prune:
            hooks.before = None
            await store.trash.restore(tag)

    hooks.before = before
    await store.tags.delete(tag)
    assert await present(store) == digests(bodies)


async def test_more_that_goes_while_a_restore_reads_comes_back_too(large: Large) -> None:
    store, hooks, bodies, tag = large
    more = False

    async def stop(work: Function) -> None:
        if work is tags.prune:
            hooks.before = None
            raise asyncio.CancelledError

    hooks.before = stop
    with pytest.raises(asyncio.CancelledError):
        await store.tags.delete(tag)
    gone = digests(bodies) - await present(store)
    assert 0 < len(gone) < len(bodies)

    async def before(work: Function) -> None:
        nonlocal more
        if work in (undelete.restore_some, undelete.restore_tag) and not more:
            more = True
            await store.core.ledger.transact(_one_more, tag.bytes)

    async def _one_more(txn: Transaction, tag_id: bytes) -> None:
        found = await trash_rows.find(txn, tag_id)
        assert found is not None
        entry = found[1]
        prefix = layout.MANIFEST + entry.image
        key, _ = (await txn.scan(prefix, after(prefix), limit=1))[0]
        image = await images.by_key(txn, entry.image)
        assert image is not None
        owner = images.owner_of(image, await namespaces.require(txn, image.namespace))
        now = store.core.now()
        went = await pruning.prune_unneeded(
            txn,
            owner,
            (key[-32:],),
            now,
            store.core.hold_until(now),
            1,
            detach=_nothing,
            untagged=key[-32:],
        )
        assert went.manifests
        await trash_rows.add_manifests(txn, entry, went.manifests)

    async def _nothing(_: bytes) -> list[Tag]:
        return []

    hooks.before = before
    await store.trash.restore(tag)
    assert await present(store) == digests(bodies)
