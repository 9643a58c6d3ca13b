"""Upload sessions: how many, how large, how long."""

from __future__ import annotations

import pytest
from engine_support import (
    REGION,
    Clock,
    Place,
    make_namespace,
    noise,
    once,
    sha256,
)

from holdfast.engine import (
    InvalidDigest,
    Locked,
    NotFound,
    QuotaExceeded,
    Repository,
    Store,
    TooLarge,
    Upload,
)

SMALL, MIDDLE, BIG = noise(100), noise(200_000), noise(2_000_000)
DAY = 24 * 3600.0


async def begin(store: Store, **more: object) -> tuple[Repository, Upload]:
    """A session, and the repository as it is located from then on."""
    where = await store.locate(REGION, "app/web")
    upload = await store.uploads.begin(where, **more)  # type: ignore[arg-type]  # passed on
    return await store.locate(REGION, "app/web"), upload


@pytest.fixture
async def store(store: Store) -> Store:
    """A store with a namespace to push to."""
    await make_namespace(store)
    return store


async def test_limits(place: Place) -> None:
    async with place.store(uploads_per_namespace_max=2, blob_bytes_max=1000) as store:
        space = await make_namespace(store)
        where, upload = await begin(store)
        with pytest.raises(TooLarge) as large:
            await store.uploads.begin(where, size=1001)
        assert large.value.limit == 1000
        await store.uploads.begin(where, size=1000)
        with pytest.raises(QuotaExceeded) as many:
            await store.uploads.begin(where)
        assert (many.value.resource, many.value.quota) == ("uploads", 2)
        await store.uploads.append(where, upload.id, once(noise(900)))
        with pytest.raises(TooLarge):
            await store.uploads.append(where, upload.id, once(SMALL, SMALL))
        assert (await store.uploads.get(where, upload.id)).offset == 900
        await store.uploads.abort(where, upload.id)
        await store.uploads.begin(where)
        await store.namespaces.update(space.id, locked=True)
        for call in (store.uploads.begin(where), store.uploads.put(where, sha256(b""), once(b""))):
            with pytest.raises(Locked):
                await call
        with pytest.raises(InvalidDigest):
            await store.uploads.begin(where, algorithm="md5")


async def test_a_quota_counts_open_uploads(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, quota=1000)
    where, first = await begin(store, size=600)
    with pytest.raises(QuotaExceeded) as over:
        await store.uploads.begin(where, size=401)
    assert (over.value.resource, over.value.quota, over.value.current) == ("size", 1000, 600)
    await store.uploads.begin(where, size=400)
    await store.uploads.abort(where, first.id)
    await store.uploads.begin(where, size=600)
    with pytest.raises(QuotaExceeded):
        await store.uploads.put(where, sha256(SMALL), once(SMALL))


async def test_sessions_expire_after_their_last_use(store: Store, clock: Clock) -> None:
    where, upload = await begin(store)
    _, other = await begin(store)
    assert upload.expires_at.timestamp() == pytest.approx(clock.now + DAY)
    for data in (SMALL, BIG, SMALL, SMALL):
        clock.advance(DAY * 0.7)
        await store.sweeper.run()
        view = await store.uploads.append(where, upload.id, once(data))
        assert view.expires_at.timestamp() >= clock.now + DAY * 0.75
    with pytest.raises(NotFound):
        await store.uploads.get(where, other.id)
    clock.advance(DAY + 1)
    await store.sweeper.run()
    with pytest.raises(NotFound):
        await store.uploads.get(where, upload.id)
    assert (await store.stats()).uploads == 0


async def test_files_of_expired_sessions_go(store: Store, place: Place, clock: Clock) -> None:
    where, upload = await begin(store)
    await store.uploads.append(where, upload.id, once(BIG))
    assert place.files() == [len(BIG)]
    clock.advance(DAY + 1)
    await store.sweeper.run()
    assert place.files() == []


async def test_sessions_go_with_their_namespace(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    where, upload = await begin(store)
    await store.uploads.append(where, upload.id, once(SMALL))
    await store.namespaces.delete(space.id)
    for call in (
        store.uploads.get(where, upload.id),
        store.uploads.finish(where, upload.id, sha256(SMALL)),
        store.uploads.begin(where),
        store.uploads.put(where, sha256(SMALL), once(SMALL)),
    ):
        with pytest.raises(NotFound) as missing:
            await call
        assert missing.value.kind == "namespace"
    await store.trash.restore(space.id)
    await store.uploads.finish(where, upload.id, sha256(SMALL))
