"""Where a namespace is at a limit, uploads of its own that were left behind give way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from support.engine import (
    REGION,
    Clock,
    Place,
    make_namespace,
    manifest,
    noise,
    once,
    put,
    sha256,
    shown,
    upload,
)

from holdfast.engine import NotFound, QuotaExceeded, Repository, Store, Upload
from holdfast.engine.ledger.records import Session

SMALL, BIG = noise(200), noise(700_000)
EVERY_SIZE = pytest.mark.parametrize("data", [SMALL, BIG], ids=shown)
IDLE = 300.0


async def repository(store: Store, name: str = "app/web", quota: int | None = None) -> Repository:
    """An image of a namespace that is made where there is none."""
    try:
        space = await store.namespaces.find(REGION, name.partition("/")[0])
    except NotFound:
        space = await make_namespace(store, name.partition("/")[0])
    if quota is not None:
        await store.namespaces.update(space.id, quota=quota)
    return await store.locate(REGION, name)


async def left_behind(store: Store, where: Repository, data: bytes) -> Upload:
    """A session that has these bytes, and no client any more."""
    upload = await store.uploads.begin(where)
    return await store.uploads.append(where, upload.id, once(data))


async def is_open(store: Store, where: Repository, upload: Upload) -> bool:
    try:
        await store.uploads.get(where, upload.id)
    except NotFound:
        return False
    return True


Request = Callable[[Store, Repository, bytes], Awaitable[object]]


async def in_one_request(store: Store, where: Repository, data: bytes) -> None:
    await store.uploads.put(where, sha256(data), once(data))


async def announced_in_one_request(store: Store, where: Repository, data: bytes) -> None:
    await store.uploads.put(where, sha256(data), once(data), length=len(data))


async def with_a_size(store: Store, where: Repository, data: bytes) -> None:
    await store.uploads.begin(where, size=len(data))


async def in_a_stream(store: Store, where: Repository, data: bytes) -> None:
    upload = await store.uploads.begin(where)
    await store.uploads.append(where, upload.id, once(data[:100], data[100:]))


async def with_a_length(store: Store, where: Repository, data: bytes) -> None:
    upload = await store.uploads.begin(where)
    await store.uploads.append(where, upload.id, once(data), length=len(data))


async def at_the_end(store: Store, where: Repository, data: bytes) -> None:
    upload = await store.uploads.begin(where)
    await store.uploads.finish(where, upload.id, sha256(data), once(data))


@EVERY_SIZE
@pytest.mark.parametrize(
    "request_",
    [
        in_one_request,
        announced_in_one_request,
        with_a_size,
        in_a_stream,
        with_a_length,
        at_the_end,
    ],
)
async def test_an_upload_that_was_left_behind_gives_way(
    store: Store,
    place: Place,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    request_: Request,
) -> None:
    where = await repository(store, quota=len(data) + 99)
    old = await left_behind(store, where, data)
    for pause, gives_way in ((IDLE - 1, False), (2, True)):
        clock.advance(pause)
        if not gives_way:
            with pytest.raises(QuotaExceeded):
                await request_(store, where, noise(len(data), 1))
        else:
            with caplog.at_level(logging.WARNING):
                await request_(store, where, noise(len(data), 1))
        assert await is_open(store, where, old) is not gives_way
    await store.sweeper.run()
    assert sum(place.files()) <= len(data)
    [logged] = [one.getMessage() for one in caplog.records if str(old.id) in one.getMessage()]
    for part in (
        " ended: ",
        "no byte received for 301 s",
        "are asked for",
        "must restart the upload",
    ):
        assert part in logged


@pytest.mark.parametrize("kind", ["manifest", "mount"])
async def test_it_gives_way_to_all_that_grows(store: Store, clock: Clock, kind: str) -> None:
    """What a manifest or a mount adds has to fit as well."""
    where = await repository(store, quota=100_000)
    source = await repository(store, "other/web")
    layer = noise(500)
    await upload(store, source, layer)
    source = await repository(store, "other/web")
    await upload(store, where, b"{}", layer[:100])
    body = manifest(b"{}", [layer[:100]])
    old = await left_behind(store, where, noise(600))
    kept = (await store.namespaces.usage((await store.namespaces.find(REGION, "app")).id)).kept_size
    await repository(store, quota=kept + 10)

    async def grow() -> object:
        if kind == "manifest":
            return await put(store, "app/web", body, "v1")
        return await store.mount(await repository(store), sha256(layer), source)

    clock.advance(IDLE - 1)
    with pytest.raises(QuotaExceeded):
        await grow()
    clock.advance(2)
    assert await grow() is not None
    assert not await is_open(store, where, old)


async def test_the_oldest_go_first_and_no_more_than_is_needed(store: Store, clock: Clock) -> None:
    where = await repository(store, quota=1000)
    uploads = []
    for size in (300, 200, 400):
        uploads.append(await left_behind(store, where, noise(size)))
        clock.advance(1)
    # The first one is gone on with, so it is the newest.
    await store.uploads.append(where, uploads[0].id, once(b"x"))
    clock.advance(IDLE + 1)
    await in_one_request(store, where, noise(250))
    assert [await is_open(store, where, one) for one in uploads] == [True, False, True]
    with pytest.raises(QuotaExceeded):
        await in_one_request(store, where, noise(1001))
    assert [await is_open(store, where, one) for one in uploads] == [True, False, True]


async def test_others_are_left_alone(store: Store, clock: Clock) -> None:
    """Those of another namespace, those that are fresh, and those that a request is at."""
    where = await repository(store, quota=1000)
    elsewhere = await left_behind(store, await repository(store, "other/web"), SMALL)
    used = await left_behind(store, where, noise(800))
    clock.advance(IDLE * 2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        begun.set()
        clock.advance(IDLE * 2)
        await go_on.wait()

    running = asyncio.ensure_future(store.uploads.append(where, used.id, slow()))
    await begun.wait()
    with pytest.raises(QuotaExceeded):
        await in_one_request(store, where, noise(300))
    go_on.set()
    assert (await running).offset == 801
    assert await is_open(store, await repository(store, "other/web"), elsewhere)


@EVERY_SIZE
async def test_what_another_process_is_at_is_left_alone(
    place: Place, clock: Clock, data: bytes
) -> None:
    async with place.store() as one, place.store() as other:
        where = await repository(one, quota=len(data) + 100)
        used = await left_behind(one, where, data)
        clock.advance(IDLE * 2)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            clock.advance(IDLE / 2)
            begun.set()
            await go_on.wait()

        running = asyncio.ensure_future(one.uploads.append(where, used.id, slow()))
        await begun.wait()
        with pytest.raises(QuotaExceeded):
            await in_one_request(other, where, noise(150))
        go_on.set()
        assert (await running).offset == len(data) + 1


async def test_the_number_of_sessions_is_such_a_limit(place: Place, clock: Clock) -> None:
    async with place.store(uploads_per_namespace_max=3) as store:
        where = await repository(store)
        uploads = [await store.uploads.begin(where)]
        clock.advance(1)
        uploads.append(await left_behind(store, where, SMALL))
        uploads.append(await store.uploads.begin(where))
        clock.advance(IDLE - 1)
        await store.uploads.begin(where)
        with pytest.raises(QuotaExceeded) as many:
            await store.uploads.begin(where)
        assert str(many.value) == "uploads: 1 more are asked for, and 3 of 3 are used"
        assert [await is_open(store, where, one) for one in uploads] == [False, True, True]


async def test_many_at_once_end_no_more_than_they_need(store: Store, clock: Clock) -> None:
    where = await repository(store, quota=1000)
    uploads = [await left_behind(store, where, noise(100)) for _ in range(10)]
    clock.advance(IDLE + 1)
    requests = [in_a_stream(store, where, noise(150, seed)) for seed in range(4)]
    await asyncio.gather(*requests)
    still = [await is_open(store, where, one) for one in uploads]
    assert still.count(True) >= 3


async def test_a_row_of_an_older_version_never_gives_way(store: Store, clock: Clock) -> None:
    """It does not tell when its last byte came."""
    where = await repository(store, quota=1000)
    old = await left_behind(store, where, noise(900))

    async def forget(txn, session_id: bytes) -> None:  # type: ignore[no-untyped-def]
        from holdfast.engine.ledger import layout
        from holdfast.engine.ledger.records import load, save

        row = await load(txn, Session, layout.SESSION + session_id)
        kept = Session.__struct_fields__[: Session.__struct_fields__.index("touched")]
        fields = [getattr(row, name) for name in kept]
        await save(txn, layout.SESSION + session_id, Session(*fields))

    await store.core.scratch.transact(forget, old.id.bytes)
    clock.advance(IDLE * 3)
    with pytest.raises(QuotaExceeded):
        await in_one_request(store, where, SMALL)
    await store.uploads.append(where, old.id, once(b"x"))
    clock.advance(IDLE * 3)
    await in_one_request(store, where, SMALL)
