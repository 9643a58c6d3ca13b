"""The clock was ahead for a while: once it is right again, times are, and things end in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.engine import (
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    once,
    problems,
    problems_after_sweep,
    push,
    put,
    read,
    sha256,
    upload,
)

from holdfast.engine import Busy, NotFound, OffsetMismatch, RetentionRule, Store
from holdfast.engine.core import SECOND
from holdfast.engine.depot import files
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import put_payload
from holdfast.engine.maintenance import scrub
from holdfast.engine.namespaces import identity
from holdfast.engine.upgrade import clock as upgrade_clock

HOUR = 3600.0
DAY = 24 * HOUR
AHEAD = pytest.mark.parametrize("ahead", [2 * HOUR, 22 * 365 * DAY], ids=["hours", "years"])
LAYER, HELD, GARBAGE = noise(50_000, "layer"), noise(40_000, "held"), noise(45_000, "garbage")


def at(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now, UTC)


async def complain(store: Store) -> set[str]:
    return {problem.name for problem in await problems(store) if problem.kind == "clock"}


@AHEAD
async def test_later_times_are_right_at_once(store: Store, clock: Clock, ahead: float) -> None:
    await make_namespace(store)
    await push(store, "app/before", "v1", [LAYER])
    clock.advance(ahead)
    await push(store, "app/ahead", "v1", [LAYER])
    clock.advance(-ahead)
    later = []
    for number in range(5):
        clock.advance(1)
        done = await push(store, f"app/later{number}", "v1", [LAYER])
        image = await store.images.get(done.image_id)
        (tag,) = (await store.tags.list(done.image_id)).items
        near = at(clock)
        for time in (image.created_at, image.updated_at, tag.created_at, tag.updated_at):
            assert abs((time - near).total_seconds()) < 1
        later.append(image.name)
    # Listings by creation go by ids: in the order in which things were made.
    names = ["before", "ahead", *later]
    listed = await store.images.list(REGION, order="created_at_asc")
    assert [image.name for image in listed.items] == names
    listed = await store.images.list(REGION, order="created_at_desc")
    assert [image.name for image in listed.items] == names[::-1]
    assert sorted(image.id for image in listed.items) == [i.id for i in listed.items][::-1]
    assert await complain(store) == {"images", "manifests", "tags"}
    await store.sweeper.run()


@AHEAD
async def test_all_times_of_then_are_cut(store: Store, clock: Clock, ahead: float) -> None:
    await make_namespace(store)
    clock.advance(ahead)
    await make_namespace(store, "other", project=OTHER_PROJECT)
    done = await push(store, "other/web", "v1", [LAYER])
    where = await store.locate(REGION, "other/web")
    store.pulls.count(where, "v1")
    await store.pulls.flush()
    await store.manifests.get(where, "v1")
    clock.advance(-ahead)
    assert await problems_after_sweep(store) == []
    limit = at(clock)
    image = await store.images.get(done.image_id)
    (tag,) = (await store.tags.list(done.image_id)).items
    space = await store.namespaces.find(REGION, "other")
    assert tag.pulled_at is not None
    for each in (image, tag, space):
        assert each.created_at <= limit
        assert each.updated_at is not None
        assert each.updated_at <= limit
    assert tag.pulled_at <= limit
    # From now on they age.
    rule = RetentionRule(keep_last=0, older_than_days=1, not_pulled_for_days=1)
    await store.retention.set(space.id, [rule])
    assert (await store.retention.apply(space.id)).expired == ()
    clock.advance(DAY + 1)
    assert len((await store.retention.apply(space.id)).expired) == 1


@AHEAD
async def test_what_ends_ends_within_its_period(store: Store, clock: Clock, ahead: float) -> None:
    space = await make_namespace(store)
    kept = await push(store, "app/web", "v1", [LAYER])
    await push(store, "app/gone", "v1", [noise(30_000, "gone")])
    where = await store.locate(REGION, "app/web")
    (tag,) = (await store.tags.list(kept.image_id)).items
    gone = await store.locate(REGION, "app/gone")
    assert gone.image_id is not None
    clock.advance(ahead)
    await upload(store, where, HELD, GARBAGE)
    await store.remove_blob(where, sha256(GARBAGE))
    session = await store.uploads.begin(where)
    await store.uploads.append(where, session.id, once(b"some"))
    await store.tags.delete(tag.id)
    await store.images.delete(gone.image_id)
    clock.advance(-ahead)
    if ahead > DAY:
        assert await complain(store) >= {"holds", "garbage", "trash", "images"}
    assert await problems_after_sweep(store) == []
    items = (await store.trash.list(project_id=PROJECT)).items
    assert {item.kind for item in items} == {"tag", "image"}
    for item in items:
        assert item.purge_at.timestamp() <= clock.now + DAY + 1
        assert await store.trash.get(item.id) == item
    assert await read(store, sha256(HELD), repository=where) == HELD
    assert (await store.stats()).garbage == 0
    with pytest.raises(NotFound):
        await store.stat(sha256(GARBAGE))
    assert (await store.uploads.get(where, session.id)).offset == 4
    clock.advance(DAY - 2)
    await store.sweeper.run()
    # Until then it can be brought back.
    await store.trash.restore(tag.id)
    assert await read(store, sha256(LAYER), repository=where) == LAYER
    clock.advance(4)
    await store.sweeper.run()
    assert (await store.trash.list()).items == []
    with pytest.raises(NotFound):
        await store.uploads.get(where, session.id)
    with pytest.raises(NotFound):
        await store.stat(sha256(HELD), repository=where)
    assert (await store.stats()).holds == 0
    assert await problems(store) == []
    assert (await store.namespaces.get(space.id)).size == len(LAYER) + 2


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 2 * DAY, -2 * DAY, 22 * 365 * DAY])
async def test_a_jump_in_the_middle_of_an_upload(store: Store, clock: Clock, ahead: float) -> None:
    """It goes on, or it is gone: the errors are those that the call names."""
    await make_namespace(store)
    where = await store.locate(REGION, "app/web")
    for back in (False, True):
        session = await store.uploads.begin(where)
        where = await store.locate(REGION, "app/web")
        await store.uploads.append(where, session.id, once(HELD[:20_000]))
        clock.advance(ahead)
        try:
            await store.uploads.append(where, session.id, once(HELD[20_000:]))
            if back:
                clock.advance(-ahead)
            await store.sweeper.run()
            await store.uploads.finish(where, session.id, sha256(HELD))
            body = manifest(b"{}", [HELD])
            await upload(store, where, b"{}")
            await put(store, "app/web", body, "v1")
            assert await read(store, sha256(HELD), repository=where) == HELD
        except (NotFound, Busy, OffsetMismatch):
            assert abs(ahead) > DAY
        clock.advance(0 if back else -ahead)
        assert await problems_after_sweep(store) == []


async def test_a_second_time_ahead_and_in_the_midst_of_a_walk(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.maintenance.sweep.TIMES_PER_TXN", 1)
    await make_namespace(store)
    for ahead in (10 * DAY, 3 * DAY, 5 * DAY):
        clock.advance(ahead)
        await push(store, f"app/of{ahead:.0f}", "v1", [LAYER])
        clock.advance(-ahead)
        await store.sweeper.step()
        await store.sweeper.step()
    assert await complain(store)
    assert await problems_after_sweep(store) == []
    images = (await store.images.list(REGION)).items
    assert all(image.created_at <= at(clock) for image in images)


async def test_a_clock_that_is_behind_for_a_moment_changes_nothing(
    place: Place, clock: Clock
) -> None:
    """The background waits, and a clock that was never set is not believed at all."""
    async with place.store(background=True) as store:
        await make_namespace(store)
        done = await push(store, "app/web", "v1", [LAYER])
        (tag,) = (await store.tags.list(done.image_id)).items
        await store.tags.delete(tag.id)
        item = await store.trash.get(tag.id)
        image = await store.images.get(done.image_id)
        right = clock.now
        clock.now = right - 30 * DAY
        await asyncio.sleep(0.2)
        clock.now = 0.0
        await store.sweeper.run()
        clock.now = right
        assert await store.trash.get(tag.id) == item
        assert await store.images.get(done.image_id) == image


async def test_the_background_cuts_when_it_is_sure(store: Store, clock: Clock) -> None:
    sweeper = type(store.sweeper)(store.core, clock_trust_seconds=0.0)
    await make_namespace(store)
    clock.advance(9 * DAY)
    done = await push(store, "app/web", "v1", [LAYER])
    clock.advance(-9 * DAY)
    sweeper.background.start()
    try:
        async with asyncio.timeout(20):
            while (await store.images.get(done.image_id)).created_at > at(clock):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await sweeper.background.stop()
    await store.sweeper.run()


async def test_who_has_shorter_periods_does_not_cut_those_of_others(
    tmp_path: Path, clock: Clock
) -> None:
    place = Place("disk", tmp_path, clock)  # A store in memory has no other openers.
    async with place.store(hold_seconds=9 * DAY, trash_seconds=9 * DAY) as store:
        await make_namespace(store)
        done = await push(store, "app/web", "v1", [LAYER])
        where = await store.locate(REGION, "app/web")
        await upload(store, where, HELD)
        (tag,) = (await store.tags.list(done.image_id)).items
        await store.tags.delete(tag.id)
        item = await store.trash.get(tag.id)
        async with place.store() as other:
            assert await problems_after_sweep(other) == []
        assert await store.trash.get(tag.id) == item
        clock.advance(8 * DAY)
        await store.sweeper.run()
        assert await read(store, sha256(HELD), repository=where) == HELD


async def test_a_dead_snapshot_of_then_does_not_keep_files_for_ever(
    store: Store, clock: Clock
) -> None:
    ledger = store.core.ledger
    until = store.core.now() + int(20 * DAY * SECOND)
    await ledger.transact(files.take_lease, b"a" * 8, store.core.now(), until)
    assert await ledger.read(files.leased, store.core.now())
    await store.sweeper.run()
    clock.advance(files.LEASE_SECONDS + 1)
    assert not await ledger.read(files.leased, store.core.now())


async def test_a_signing_key_that_was_retired_then_ends(store: Store, clock: Clock) -> None:
    await store.keys.signing_key()
    clock.advance(22 * 365 * DAY)
    await store.keys.renew_signing_key(overlap_seconds=1000)
    clock.advance(-22 * 365 * DAY)
    assert await complain(store) == {"signing keys"}
    before = await store.keys.signing_keys()
    assert await problems_after_sweep(store) == []
    after = await store.keys.signing_keys()
    assert [key.secret for key in after] == [key.secret for key in before]
    assert after[1].until <= store.core.now() + 101 * DAY * SECOND


async def test_a_scrub_of_then_does_not_put_the_next_one_off(store: Store, clock: Clock) -> None:
    ledger, now = store.core.ledger, store.core.now()
    far = now + int(20 * DAY * SECOND)
    await ledger.transact(scrub.take_lease, b"dead", far, far + SECOND)
    assert await ledger.transact(scrub.take_lease, b"mine", now, now + SECOND)
    assert not await ledger.transact(scrub.take_lease, b"other", now, now + SECOND)
    await ledger.transact(scrub.mark, b"", far)
    store.scrubber.background.start()
    async with asyncio.timeout(20):
        while True:
            stands = await ledger.read(scrub.position)
            assert stands is not None
            if stands.finished <= now:
                break
            await asyncio.sleep(0.02)


async def test_ids_go_on_where_their_clock_is_damaged(store: Store, clock: Clock) -> None:
    await make_namespace(store)
    clock.advance(9 * DAY)
    await push(store, "app/ahead", "v1", [LAYER])
    clock.advance(-9 * DAY)
    await store.sweeper.run()
    await store.core.ledger.transact(_damage, layout.SETTING + b"clock")
    await push(store, "app/later", "v1", [LAYER])
    images = (await store.images.list(REGION)).items
    assert [image.name for image in images] == ["ahead", "later"]
    assert images[0].id < images[1].id
    assert abs(images[1].created_at.timestamp() - clock.now) < 1
    assert await problems_after_sweep(store) == []


async def _damage(txn: Transaction, key: bytes) -> None:
    value = await txn.get(key)
    assert value is not None
    await txn.put(key, value[:-1] + bytes((value[-1] ^ 1,)))


async def test_a_store_of_format_2_that_has_times_of_the_future(store: Store, clock: Clock) -> None:
    await make_namespace(store)
    clock.advance(9 * DAY)
    body = index([])
    await put(store, "app/ahead", body, "v1")
    clock.advance(-9 * DAY)
    await store.core.ledger.transact(_as_format_2)
    await store.core.ledger.transact(upgrade_clock.advance, b"", store.core.now())
    await push(store, "app/later", "v1", [LAYER])
    images = (await store.images.list(REGION)).items
    assert [image.name for image in images] == ["ahead", "later"]
    assert abs(images[1].created_at.timestamp() - clock.now) < 1
    assert await complain(store)
    assert await problems_after_sweep(store) == []


async def _as_format_2(txn: Transaction) -> None:
    last, _ = await identity.state(txn)
    await txn.delete(layout.SETTING + b"clock")
    await txn.add(layout.counter(b"ck"), last)


async def test_its_setting_is_a_problem_where_it_is_damaged(store: Store) -> None:
    await make_namespace(store)
    await store.core.ledger.transact(_damage, layout.SETTING + b"periods")
    await store.sweeper.run()
    assert {problem.kind for problem in await problems(store)} == {"record"}
    await store.core.ledger.transact(put_payload, layout.SETTING + b"periods", bytes(24))
