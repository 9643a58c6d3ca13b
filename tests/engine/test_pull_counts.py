"""Pull counts: gathered without writing, written in batches."""

from __future__ import annotations

import pytest
from support.engine import REGION, Clock, Function, Place, make_namespace, noise, push

from holdfast.engine import Image, Repository, StorageFailed, Store, Tag
from holdfast.engine.repositories import deferred_writes


async def look(store: Store, where: Repository) -> tuple[Image, dict[str, Tag]]:
    assert where.image_id is not None
    found = (await store.tags.list(where.image_id)).items
    return await store.images.get(where.image_id), {tag.name: tag for tag in found}


async def test_by_tag_counts_for_that_tag(store: Store, clock: Clock) -> None:
    await make_namespace(store)
    for name in ("v1", "v2"):
        await push(store, "app/web", name, [noise(10)])
    where = await store.locate(REGION, "app/web")
    version = store.version()
    for _ in range(3):
        store.pulls.count(where, "v1")
    assert store.version() == version, "a pull is never a write"
    clock.advance(5)
    await store.pulls.flush()
    image, tags = await look(store, where)
    assert (image.pull_count, tags["v1"].pull_count, tags["v2"].pull_count) == (0, 3, 0)
    assert tags["v1"].pulled_at is not None
    assert (clock.now - tags["v1"].pulled_at.timestamp()) == 5
    assert tags["v2"].pulled_at is None


async def test_by_digest_counts_for_the_image_and_its_tags(store: Store) -> None:
    await make_namespace(store)
    pushed = await push(store, "app/web", "v1", [noise(10)])
    await push(store, "app/web", "other", [noise(20)])
    where = await store.locate(REGION, "app/web")
    store.pulls.count(where, str(pushed.digest))
    await store.pulls.flush()
    store.pulls.count(where, str(pushed.digest))
    await store.pulls.flush()
    image, tags = await look(store, where)
    assert (image.pull_count, tags["v1"].pull_count, tags["other"].pull_count) == (2, 2, 0)


async def test_counts_of_what_went_meanwhile_are_dropped(store: Store) -> None:
    await make_namespace(store)
    await push(store, "app/web", "v1", [noise(10)])
    where = await store.locate(REGION, "app/web")
    store.pulls.count(where, "v1")
    store.pulls.count(where, "sha256:" + "0" * 64)
    await store.tags.untag(where, "v1")
    await store.pulls.flush()
    image, tags = await look(store, where)
    assert (image.pull_count, tags) == (0, {})


async def test_closing_writes_what_was_gathered(place: Place) -> None:
    async with place.store() as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [noise(10)])
        where = await store.locate(REGION, "app/web")
        store.pulls.count(where, "v1")
    async with place.store() as store:
        _, tags = await look(store, where)
        assert tags["v1"].pull_count == 1


async def test_a_failed_flush_adds_to_what_came_since(place: Place) -> None:
    store, hooks = place.gated()
    async with store:
        await make_namespace(store)
        pushed = await push(store, "app/web", "v1", [noise(10)])
        where = await store.locate(REGION, "app/web")

        async def refuse(work: Function) -> None:
            # Comes while the flush is under way.
            store.pulls.count(where, str(pushed.digest))
            raise StorageFailed("ledger", work.__name__)

        store.pulls.count(where, str(pushed.digest))
        store.pulls.count(where, "v1")
        hooks.before = refuse
        with pytest.raises(StorageFailed):
            await store.pulls.flush()
        hooks.before = None
        await store.pulls.flush()
        image, tags = await look(store, where)
        assert (image.pull_count, tags["v1"].pull_count) == (2, 3)
        await store.pulls.flush()
        assert (await look(store, where))[0].pull_count == 2, "written once"


async def test_beyond_the_bound_a_pull_is_written_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_writes, "GATHERED_NOTES_MAX", 1)
    await make_namespace(store)
    for name in ("v1", "v2"):
        await push(store, "app/web", name, [noise(10)])
    where = await store.locate(REGION, "app/web")
    assert store.pulls.count(where, "v1")
    assert not store.pulls.count(where, "v2")
    assert store.pulls.count(where, "v1"), "the bound is on rows, not on pulls"
    await store.pulls.write_pull(where, "v2")
    _, tags = await look(store, where)
    assert tags["v2"].pull_count == 1
    await store.pulls.flush()
    _, tags = await look(store, where)
    assert tags["v1"].pull_count == 2


async def test_a_failed_flush_loses_nothing_at_the_bound(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_writes, "GATHERED_NOTES_MAX", 1)
    store, hooks = place.gated()
    async with store:
        await make_namespace(store)
        for name in ("v1", "v2"):
            await push(store, "app/web", name, [noise(10)])
        where = await store.locate(REGION, "app/web")

        async def refuse(work: Function) -> None:
            assert not store.pulls.count(where, "v2"), "room is kept for what may come back"
            raise StorageFailed("ledger", work.__name__)

        assert store.pulls.count(where, "v1")
        hooks.before = refuse
        with pytest.raises(StorageFailed):
            await store.pulls.flush()
        hooks.before = None
        await store.pulls.flush()
        _, tags = await look(store, where)
        assert (tags["v1"].pull_count, tags["v2"].pull_count) == (1, 0)
        assert store.pulls.count(where, "v2"), "a flush makes room"
