"""Upload sessions: how many, how large, how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from uuid import UUID

import pytest
from support import engine_fixtures
from support.engine import (
    PROJECT,
    REGION,
    Clock,
    Function,
    Place,
    begin_upload,
    make_namespace,
    noise,
    once,
    problems_after_sweep,
    push,
    raised,
    read,
    sha256,
    shown,
    vanishing,
)

from holdfast.engine import (
    Invalid,
    InvalidDigest,
    Locked,
    NotFound,
    QuotaExceeded,
    Repository,
    SizeMismatch,
    StorageFull,
    Store,
    TooLarge,
)
from holdfast.engine.core import SECOND
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.namespaces import namespaces, quota
from holdfast.engine.namespaces.open_uploads import UploadTotals
from holdfast.engine.uploads import session_rows

store = engine_fixtures.namespace_store

SMALL, MIDDLE, BIG = noise(100), noise(200_000), noise(2_000_000)
DAY = 24 * 3600.0
EVERY_SIZE = pytest.mark.parametrize("data", [SMALL, MIDDLE, BIG], ids=shown)


async def gone(store: Store, where: Repository, upload_id: UUID) -> None:
    """A session was ended."""
    for call in (
        store.uploads.get(where, upload_id),
        store.uploads.append(where, upload_id, once(SMALL)),
        store.uploads.finish(where, upload_id, sha256(SMALL), once(SMALL)),
    ):
        with pytest.raises(NotFound):
            await call


async def test_limits(place: Place) -> None:
    async with place.store(uploads_per_namespace_max=2, blob_bytes_max=1000) as store:
        space = await make_namespace(store)
        where, upload = await begin_upload(store)
        with raised(TooLarge, limit=1000):
            await store.uploads.begin(where, size=1001)
        await store.uploads.begin(where, size=1000)
        with raised(QuotaExceeded, resource="uploads", quota=2):
            await store.uploads.begin(where)
        await store.uploads.append(where, upload.id, once(noise(900)))
        with pytest.raises(TooLarge):
            await store.uploads.append(where, upload.id, once(SMALL, SMALL))
        await gone(store, where, upload.id)
        announced = await store.uploads.begin(where)
        with pytest.raises(TooLarge):
            await store.uploads.append(where, announced.id, vanishing(), length=1001)
        await gone(store, where, announced.id)
        await store.uploads.begin(where)
        await store.namespaces.update(space.id, locked=True)
        for call in (store.uploads.begin(where), store.uploads.put(where, sha256(b""), once(b""))):
            with pytest.raises(Locked):
                await call
        with pytest.raises(InvalidDigest):
            await store.uploads.begin(where, algorithm="md5")


async def test_the_reserve_of_the_disk_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that saw much room spares small uploads the next one; no other look does."""
    reserve, spare = 1 << 20, 0
    for kind in (DiskDepot, MemoryDepot):
        monkeypatch.setattr(kind, "free_bytes", lambda _: reserve + spare)
    async with place.store(disk_reserve_bytes=reserve) as store:
        await make_namespace(store)

        async def put(data: bytes) -> None:
            where = await store.locate(REGION, "app/web")
            await store.uploads.put(where, sha256(data), once(data), length=len(data))

        spare = len(BIG)
        await put(SMALL)
        spare = 0
        with pytest.raises(StorageFull):
            await put(noise(101))
        spare = 9 << 30
        await put(noise(102))
        spare = 0
        await put(noise(103))
        with pytest.raises(StorageFull):
            await put(BIG)
        with pytest.raises(StorageFull):
            await put(noise(104))


async def test_a_quota_counts_open_uploads(store: Store) -> None:
    """Those bytes of theirs that came: what they announce is compared with the room once."""
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, quota=1000)
    where, first = await begin_upload(store, size=600)
    with pytest.raises(QuotaExceeded) as over:
        await store.uploads.begin(where, size=1001)
    numbers = (over.value.resource, over.value.quota, over.value.current, over.value.asked)
    assert numbers == ("kept_size", 1000, 0, 1001)
    told = "kept_size: 1001 more are asked for, and 0 of 1000 are used (0 in images)"
    assert str(over.value) == told
    await store.uploads.append(where, first.id, once(noise(600)))
    with raised(QuotaExceeded, current=600, asked=401, missing=1):
        await store.uploads.begin(where, size=401)
    _, second = await begin_upload(store)
    with pytest.raises(QuotaExceeded):
        await store.uploads.append(where, second.id, once(noise(401)))
    await gone(store, where, second.id)
    await store.uploads.abort(where, first.id)
    _, third = await begin_upload(store)
    await store.uploads.append(where, third.id, once(noise(400)))
    for length in (601, None):
        with pytest.raises(QuotaExceeded):
            await store.uploads.put(where, sha256(noise(601)), once(noise(601)), length=length)


async def test_what_many_announce_keeps_nobody_out(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, quota=3_000_000)
    where = await store.locate(REGION, "app/web")
    for _ in range(3):
        await store.uploads.begin(where, size=2_500_000)
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield SMALL
        waits.set()
        await go_on.wait()

    slowly = store.uploads.put(where, sha256(BIG), slow(), length=2_500_000)
    running = asyncio.ensure_future(slowly)
    await waits.wait()
    await store.uploads.put(where, sha256(BIG), once(BIG), length=len(BIG))
    go_on.set()
    with pytest.raises(SizeMismatch):
        await running


async def used(store: Store) -> int:
    """Bytes of the quota that are used: what a session of one more byte is refused with."""
    space = await store.namespaces.find(REGION, "app")
    where = await store.locate(REGION, "app/other")
    with pytest.raises(QuotaExceeded) as over:
        await store.uploads.begin(where, size=(space.quota or 0) + 1)
    return over.value.current


@EVERY_SIZE
async def test_bytes_of_unknown_number_count_as_they_arrive(
    store: Store, place: Place, data: bytes
) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, quota=len(data) + 50)
    where, one = await begin_upload(store, data)
    assert await used(store) == len(data)
    for first in (b"", noise(30)):
        _, other = await begin_upload(store)
        await store.uploads.append(where, other.id, once(first))
        with raised(QuotaExceeded, resource="kept_size", quota=len(data) + 50):
            await store.uploads.append(where, other.id, once(noise(20), noise(31)))
        await gone(store, where, other.id)
        assert await used(store) == len(data)
    _, other = await begin_upload(store)
    await store.uploads.append(where, other.id, once(noise(50)))
    assert await used(store) == len(data) + 50
    await store.uploads.abort(where, other.id)
    await store.uploads.append(where, one.id, once(noise(50)))
    await store.uploads.finish(where, one.id, sha256(data + noise(50)))
    assert await used(store) == len(data) + 50, "it is held now"
    assert len(place.files()) == (len(data) > 40_000)


@pytest.mark.parametrize("session", [True, False], ids=["session", "one request"])
@pytest.mark.parametrize("announced", [True, False])
async def test_much_more_than_the_quota_is_not_even_received(
    store: Store, place: Place, session: bool, announced: bool
) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, quota=3_000_000)
    where, upload = await begin_upload(store, SMALL)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += len(MIDDLE)
            yield MIDDLE

    length = 10_000_000 if announced else None
    call: Callable[..., Awaitable[object]] = partial(store.uploads.put, where, sha256(BIG))
    if session:
        call = partial(store.uploads.append, where, upload.id)
    with pytest.raises(QuotaExceeded):
        await call(endless(), length=length)
    assert taken == 0 if announced else taken <= 3_200_000
    if session:
        await gone(store, where, upload.id)
    kept = 0 if session else len(SMALL)
    assert await used(store) == kept
    assert sum(place.files()) <= kept


async def test_uploads_in_one_request_count_while_they_run(place: Place) -> None:
    async with place.store(uploads_per_namespace_max=2) as store:
        space = await make_namespace(store)
        await store.namespaces.update(space.id, quota=1_000_000)
        where, session = await begin_upload(store)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield noise(600_000)
            begun.set()
            await go_on.wait()

        running = asyncio.ensure_future(
            store.uploads.put(where, sha256(noise(600_000)), slow(), length=600_000)
        )
        await begun.wait()
        with raised(QuotaExceeded, resource="uploads", current=2):
            await store.uploads.begin(where)
        with raised(QuotaExceeded, resource="uploads"):
            await store.uploads.put(where, sha256(SMALL), once(SMALL), length=len(SMALL))
        with raised(QuotaExceeded, resource="kept_size", current=600_000):
            await store.uploads.append(where, session.id, once(MIDDLE, MIDDLE, MIDDLE))
        go_on.set()
        await running
        # It is held now, and counts as that.
        await store.namespaces.update(space.id, quota=1_600_000)
        _, session = await begin_upload(store)
        await store.uploads.append(where, session.id, once(MIDDLE, MIDDLE, MIDDLE))
        await store.uploads.put(where, sha256(SMALL), once(SMALL))


async def test_a_declared_size_is_the_most_that_comes(store: Store) -> None:
    where, upload = await begin_upload(store, size=1000)
    for length in (None, 1001):
        with raised(SizeMismatch, expected=1000, actual=1001):
            await store.uploads.append(where, upload.id, once(noise(1001)), length=length)
    await store.uploads.append(where, upload.id, once(noise(400)))
    with pytest.raises(SizeMismatch):
        await store.uploads.append(where, upload.id, once(noise(601)))
    await store.uploads.finish(where, upload.id, sha256(noise(400) + noise(600)), once(noise(600)))
    _, nothing = await begin_upload(store, size=0)
    with pytest.raises(SizeMismatch):
        await store.uploads.append(where, nothing.id, once(b"x"))
    await store.uploads.finish(where, nothing.id, sha256(b""))


async def test_sizes_below_nothing(store: Store) -> None:
    where = await store.locate(REGION, "app/web")
    with raised(Invalid, argument="size"):
        await store.uploads.begin(where, size=-(10**9))
    with raised(Invalid, argument="length"):
        await store.uploads.put(where, sha256(b""), once(b""), length=-1)
    assert (await store.stats()).uploads == 0


@EVERY_SIZE
async def test_the_end_of_a_session_looks_at_the_quota_again(store: Store, data: bytes) -> None:
    """It was lowered since, or others have filled the namespace."""
    space = await store.namespaces.find(REGION, "app")
    where, upload = await begin_upload(store, data)
    await store.namespaces.update(space.id, quota=len(data) - 1)
    with pytest.raises(QuotaExceeded):
        await store.uploads.finish(where, upload.id, sha256(data))
    await gone(store, where, upload.id)
    await store.namespaces.update(space.id, quota=len(data))
    await store.uploads.put(where, sha256(data), once(data))


@EVERY_SIZE
@pytest.mark.parametrize("with_body", [False, True])
async def test_a_locked_namespace_ends_what_would_become_a_blob(
    store: Store, place: Place, data: bytes, with_body: bool
) -> None:
    space = await store.namespaces.find(REGION, "app")
    where, upload = await begin_upload(store, data)
    await store.namespaces.update(space.id, locked=True)
    rest = SMALL if with_body else b""
    with pytest.raises(Locked):
        await store.uploads.finish(where, upload.id, sha256(data + rest), once(rest))
    await gone(store, where, upload.id)
    assert place.files() == []


@pytest.mark.parametrize("quota", [None, 10**9])
async def test_appends_to_a_file_write_few_rows(
    place: Place, monkeypatch: pytest.MonkeyPatch, quota: int | None
) -> None:
    monkeypatch.setattr("holdfast.engine.namespaces.quota.ALLOWANCE_BYTES_MAX", 4_000_000)
    store, hooks = place.gated()
    async with store:
        space = await make_namespace(store)
        await store.namespaces.update(space.id, quota=quota)
        where, upload = await begin_upload(store, MIDDLE)
        written: list[Function] = []

        async def count(work: Function) -> None:
            written.append(work)

        hooks.before = count
        for _ in range(2):
            await store.uploads.append(where, upload.id, once(*[BIG] * 5))
        hooks.before = None
        rows = [session_rows.grant, session_rows.grant, session_rows.settle]
        assert written == ([] if quota is None else rows * 2)
        if quota:
            assert await used(store) == len(MIDDLE) + 10 * len(BIG)


async def test_a_session_does_not_expire_while_bytes_come(store: Store, clock: Clock) -> None:
    where, upload = await begin_upload(store)

    async def slow() -> AsyncIterator[bytes]:
        for number in range(4):
            yield noise(300_000, number)
            clock.advance(DAY / 2)
            await store.sweeper.run()

    for turn in (1, 2):
        view = await store.uploads.append(where, upload.id, slow())
        assert view.expires_at.timestamp() > clock.now + DAY / 2
        assert view.offset == turn * 4 * 300_000
        assert (await store.uploads.get(where, upload.id)).offset == view.offset


async def test_a_repository_of_before_the_first_upload_will_do(store: Store) -> None:
    where = await store.locate(REGION, "app/new")
    assert where.key is None
    upload = await store.uploads.begin(where)
    other = await store.uploads.begin(await store.locate(REGION, "app/other"))
    await store.uploads.append(where, upload.id, once(SMALL))
    assert (await store.uploads.get(where, upload.id)).offset == len(SMALL)
    with pytest.raises(NotFound):
        await store.uploads.get(where, other.id)
    await store.uploads.finish(where, upload.id, sha256(SMALL + BIG), once(BIG))
    where = await store.locate(REGION, "app/new")
    assert await read(store, sha256(SMALL + BIG), repository=where) == SMALL + BIG
    upload = await store.uploads.begin(await store.locate(REGION, "app/newer"))
    await store.uploads.abort(await store.locate(REGION, "app/newer"), upload.id)


async def test_sessions_expire_after_their_last_use(store: Store, clock: Clock) -> None:
    where, upload = await begin_upload(store)
    _, other = await begin_upload(store)
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
    await begin_upload(store, BIG)
    assert place.files() == [len(BIG)]
    clock.advance(DAY + 1)
    await store.sweeper.run()
    assert place.files() == []


async def test_sessions_go_with_their_namespace(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    where, upload = await begin_upload(store, SMALL)
    await store.namespaces.delete(space.id)
    for call in (
        store.uploads.get(where, upload.id),
        store.uploads.finish(where, upload.id, sha256(SMALL)),
        store.uploads.begin(where),
        store.uploads.put(where, sha256(SMALL), once(SMALL)),
    ):
        with raised(NotFound, kind="namespace"):
            await call
    await store.trash.restore(space.id)
    with raised(NotFound, kind="upload"):
        await store.uploads.finish(where, upload.id, sha256(SMALL))


async def test_an_open_namespace_is_not_remembered_past_a_limit(store: Store) -> None:
    """An upload without any limit seldom asks the ledger, and is told of a new one at once."""
    space = await store.namespaces.find(REGION, "app")
    await push(store, "app/web", "v1", [])  # Uploads to a listed image bring content only.
    where, upload = await begin_upload(store)
    await store.uploads.append(where, upload.id, once(noise(600)))
    await store.uploads.finish(where, upload.id, sha256(noise(600)))
    where, upload = await begin_upload(store)
    await store.limits.update_namespace(space.id, quota=1000)
    with pytest.raises(QuotaExceeded):
        await store.uploads.append(where, upload.id, once(noise(601)))
    # What is known already is let through, and says nothing of the next one.
    where, upload = await begin_upload(store)
    known = sha256(noise(600))
    await store.uploads.finish(where, upload.id, known, once(noise(600)), length=600)
    where, upload = await begin_upload(store)
    with pytest.raises(QuotaExceeded):
        await store.uploads.append(where, upload.id, once(noise(601)))
    await store.limits.update_project(PROJECT, quota=10)
    await store.limits.update_namespace(space.id, quota=None)
    with pytest.raises(QuotaExceeded):
        await store.uploads.begin(where, size=1)
    await store.limits.update_project(PROJECT, quota=None)
    await begin_upload(store)
    await store.namespaces.update(space.id, locked=True)
    with pytest.raises(Locked):
        await store.uploads.begin(where)


async def test_what_a_deleted_namespace_had_open_ends_with_it(place: Place, clock: Clock) -> None:
    async with place.store() as store:
        for turn in range(4):
            space = await make_namespace(store)
            if not turn:
                await store.limits.update_namespace(space.id, quota=300_000)
            where = await store.locate(REGION, "app/web")
            upload = await store.uploads.begin(where)
            await store.uploads.append(where, upload.id, once(noise(250_000, f"{turn}")))
            await store.namespaces.delete(space.id)
            assert (await store.stats()).uploads == 0
        # A process that is killed in between leaves them to the sweep.
        space = await make_namespace(store)
        where = await store.locate(REGION, "app/web")
        await store.uploads.begin(where)
        now = int(clock.now * SECOND)
        await store.core.ledger.transact(namespaces.delete, space.id.bytes, now, now + SECOND)
        await store.sweeper.run()
        assert (await store.stats()).uploads == 0


async def test_bytes_that_come_while_a_namespace_goes_are_forgotten(place: Place) -> None:
    async with place.store() as store:
        space = await make_namespace(store)
        where = await store.locate(REGION, "app/web")
        upload = await store.uploads.begin(where)
        await store.uploads.append(where, upload.id, once(noise(250_000, "first")))

        async def source() -> AsyncIterator[bytes]:
            yield noise(100_000, "second")
            await store.namespaces.delete(space.id)
            yield noise(100_000, "third")

        with pytest.raises(NotFound):
            await store.uploads.append(where, upload.id, source())
        assert (await store.stats()).uploads == 0
        await store.trash.restore(space.id)
        assert (await store.namespaces.usage(space.id)).uploads == 0
        assert await problems_after_sweep(store) == []


async def test_sessions_of_a_namespace_that_came_back_stay(place: Place, clock: Clock) -> None:
    async with place.store() as store:
        space = await make_namespace(store)
        seen = int(clock.now * SECOND)
        _, old = await begin_upload(store)
        clock.advance(1)
        _, new = await begin_upload(store)
        await store.core.scratch.transact(session_rows.drop_namespace, space.id.bytes, seen, 10)
        listed, _, total = await store.uploads.list(space.id)
        assert ([each.id for each in listed], total) == ([new.id], 1)
        assert old.id != new.id


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "session"])
async def test_no_more_comes_under_a_known_digest_than_it_has(place: Place, whole: bool) -> None:
    """What is kept already is taken at the quota, and nothing larger in its name."""
    known = noise(300_000, "known")
    came = 0

    async def source(size: int) -> AsyncIterator[bytes]:
        nonlocal came
        for start in range(0, size, 50_000):
            yield known[start : start + 50_000] or bytes(50_000)
            came += 50_000

    async def send(store: Store, size: int) -> None:
        if whole:
            await store.uploads.put(where, sha256(known), source(size))
        else:
            upload = await store.uploads.begin(where)
            await store.uploads.finish(where, upload.id, sha256(known), source(size))

    async with place.store() as store:
        space = await make_namespace(store)
        where = await store.locate(REGION, "app/web")
        await store.uploads.put(where, sha256(known), once(known))
        await store.limits.update_namespace(space.id, quota=310_000)
        with pytest.raises(QuotaExceeded):
            await send(store, 5_000_000)
        assert came < 1_000_000
        await store.limits.update_namespace(space.id, quota=0)
        await send(store, len(known))
        assert (await store.namespaces.usage(space.id)).uploads == 0


async def test_an_upload_that_another_one_ended_frees_nothing_twice(place: Place) -> None:
    """Its bytes are no longer among those of sessions when what it has become is compared."""
    async with place.store() as store:
        space = await make_namespace(store)
        where = await store.locate(REGION, "app/web")
        first = noise(200_000, "first")
        await store.uploads.put(where, sha256(first), once(first))
        await store.limits.update_namespace(space.id, quota=500_000)
        await store.limits.update_project(PROJECT, quota=500_000)
        row = await store.core.ledger.read(namespaces.require, space.id.bytes)

        async def grow(txn: Transaction, sessions: UploadTotals) -> None:
            quotas = await quota.of(txn, row, 10, UploadTotals())
            for bound in quotas.bounds:
                await txn.add(bound.key, 400_000)
            await quotas.check_growth(txn, sessions, 400_000)

        with raised(QuotaExceeded, current=200_000):
            await store.core.ledger.transact(grow, UploadTotals())


async def test_what_a_project_keeps_has_its_open_uploads(store: Store) -> None:
    """A refusal over the project's quota counts them: so does the number that explains it."""
    await store.limits.update_project(PROJECT, quota=1_000_000)
    where, _ = await begin_upload(store, MIDDLE)
    assert (await store.limits.project(PROJECT)).kept_size == len(MIDDLE)
    told = await store.limits.update_project(PROJECT, quota=len(MIDDLE))
    assert told.kept_size == len(MIDDLE)
    with raised(QuotaExceeded, current=told.kept_size):
        await store.uploads.begin(where, size=1)
