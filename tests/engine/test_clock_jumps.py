"""The clock jumps, far and in either direction: nothing that is needed goes, nothing stays for
ever, and the order of what was made is that in which it was made."""

from __future__ import annotations

import pytest
from support.engine import (
    REGION,
    Clock,
    make_namespace,
    noise,
    problems,
    push,
    read,
    sha256,
    upload,
)

from holdfast.engine import NotFound, Store

YEAR = 365 * 24 * 3600
DAY = 24 * 3600
LAYER = noise(50_000, "layer")
HELD = noise(40_000, "held")


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 2 * DAY, -2 * DAY])
async def test_a_jump_under_pushes_and_sweeps(store: Store, clock: Clock, jump: float) -> None:
    await make_namespace(store)
    await push(store, "app/one", "v1", [LAYER])
    where = await store.locate(REGION, "app/one")
    await upload(store, where, HELD)
    session = await store.uploads.begin(where)
    tag = (await store.tags.names(where))[0]
    clock.advance(jump)
    done = await store.sweeper.run()
    assert await problems(store) == []
    # What a manifest needs stays, whatever the time.
    assert await read(store, sha256(LAYER), repository=where) == LAYER
    if jump > 0:
        # A day is over, by the clock: the rights of a push that never ended are, too.
        with pytest.raises(NotFound):
            await store.stat(sha256(HELD), repository=where)
        with pytest.raises(NotFound):
            await store.uploads.get(where, session.id)
        assert done.files > 0
    else:
        assert (await store.stat(sha256(HELD), repository=where)).size == len(HELD)
        assert (await store.uploads.get(where, session.id)).offset == 0
    # The next push works, and comes later in every listing.
    await push(store, "app/two", "v2", [LAYER, noise(30_000, "new")])
    await push(store, "app/one", "v2", [HELD])
    assert await store.tags.names(where) == [tag, "v2"]
    images = {image.name: image for image in (await store.images.list(REGION)).items}
    assert images["one"].id < images["two"].id
    assert images["one"].created_at < images["two"].created_at
    clock.advance(-jump)
    await store.sweeper.run()
    for name, content in (("app/one", LAYER), ("app/two", LAYER), ("app/one", HELD)):
        place = await store.locate(REGION, name)
        assert await read(store, sha256(content), repository=place) == content
    assert await problems(store) == []


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
async def test_what_was_deleted_before_a_jump_goes_after_it(
    store: Store, clock: Clock, jump: float
) -> None:
    """At once, or when the clock is there again; until then it can be brought back."""
    await make_namespace(store)
    pushed = await push(store, "app/gone", "v1", [LAYER])
    await store.images.delete(pushed.image_id)
    clock.advance(jump)
    await store.sweeper.run()
    waits = (await store.stats()).trash
    assert waits == (0 if jump > 0 else 1)
    if waits:
        item = (await store.trash.list()).items[0]
        await store.trash.restore(item.id)
        place = await store.locate(REGION, "app/gone")
        assert await read(store, sha256(LAYER), repository=place) == LAYER
        await store.images.delete(pushed.image_id)
    # Whatever time it is: two days later all of it is gone.
    clock.advance(max(0, -jump))
    for _ in range(3):
        clock.advance(2 * DAY)
        await store.sweeper.run()
    stats = await store.stats()
    assert (stats.blobs, stats.stored_bytes, stats.trash, stats.garbage, stats.holds) == (0,) * 5
    assert await problems(store) == []
