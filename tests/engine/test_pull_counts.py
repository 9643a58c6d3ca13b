"""Pull counts: gathered without writing, written in batches."""

from __future__ import annotations

from support.engine import REGION, Clock, Place, make_namespace, noise, push

from holdfast.engine import Image, Repository, Store, Tag


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
