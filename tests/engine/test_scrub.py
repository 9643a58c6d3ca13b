"""The scrub: finds what went bad at rest, keeps it from being served, and remembers its place."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from support.check import BASE, SIGNED, SMALL, TEXT, found, furnish
from support.damage import blob_of, flip_file, flip_inline, lose_file, lose_inline
from support.engine import REGION, Clock, Place, noise, once, push, read, sha256, sha512, upload

from holdfast.engine import Corrupt, Digest, NotFound, ScrubProgress, StorageFailed, Store
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import get_payload
from holdfast.engine.maintenance import scrub as scrub_module
from holdfast.engine.maintenance.recompress import Recompressor
from holdfast.engine.maintenance.scrub import Scrubber


async def flip_frame(store: Store, data: bytes) -> None:
    assert (await Recompressor(store.core).run()).swapped
    await flip_file(store, data, 30)


async def flip_table(store: Store, data: bytes) -> None:
    assert (await Recompressor(store.core).run()).swapped
    _, blob = await store.core.ledger.read(blob_of, data)
    await flip_file(store, data, blob.stored - 3)


HARMS = [
    (flip_file, BASE),
    (lose_file, BASE),
    (flip_inline, SMALL),
    (lose_inline, SMALL),
    (flip_frame, TEXT),
    (flip_table, TEXT),
    (flip_file, SIGNED),
]


async def test_a_good_store_is_read_whole(store: Store) -> None:
    assert (await Scrubber(store.core).run()).finished
    await furnish(store)
    await Recompressor(store.core).run()
    done = await Scrubber(store.core).run()
    stats = await store.stats()
    assert (done.blobs, done.bytes) == (stats.blobs, stats.stored_bytes)
    assert (done.damaged, done.damaged_count, done.finished) == ([], 0, True)
    assert await found(store, deep=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("heal", ["put", "upload", "session", "sha512"])
@pytest.mark.parametrize(("harm", "data"), HARMS)
async def test_what_went_bad_is_quarantined_and_healed_by_a_push(
    furnished: Store, harm: object, data: bytes, heal: str
) -> None:
    assert callable(harm)
    await harm(furnished, data)
    done = await Scrubber(furnished.core).run()
    assert done.damaged == [sha256(data)]
    assert done.damaged_count == 1
    with pytest.raises(Corrupt):
        await read(furnished, sha256(data))
    with pytest.raises(Corrupt):
        await furnished.stat(sha256(data))
    assert await furnished.exists([sha256(data)]) == set()
    where = await furnished.locate(REGION, "app/web")
    assert await furnished.mount(where, sha256(data), where) is None
    again = await Scrubber(furnished.core).run()
    assert again.damaged == [], "it is told once"

    if heal == "put":
        await furnished.put(data, root="healer")
    elif heal == "upload":
        await upload(furnished, where, data)
    elif heal == "sha512":
        await furnished.put(data, root="healer", digest=sha512(data))
    else:
        session = await furnished.uploads.begin(where)
        await furnished.uploads.append(where, session.id, once(data))
        await furnished.uploads.finish(where, session.id, sha256(data))
    assert await read(furnished, sha256(data)) == data
    assert (await Scrubber(furnished.core).run()).damaged == []
    assert await found(furnished, deep=True) == []


async def test_a_damaged_manifest_is_not_served_until_it_is_pushed_again(furnished: Store) -> None:
    where = await furnished.locate(REGION, "app/web")
    body = (await furnished.manifests.get(where, "v1")).body
    await flip_inline(furnished, body)
    assert (await Scrubber(furnished.core).run()).damaged == [sha256(body)]
    with pytest.raises(Corrupt):
        await furnished.manifests.get(where, "v1")
    await push(furnished, "app/web", "v1", [BASE, SMALL])
    assert (await furnished.manifests.get(where, "v1")).body == body
    assert await found(furnished, deep=True) == []


async def test_several_are_found_in_one_walk_and_a_row_that_cannot_be_read(
    furnished: Store,
) -> None:
    async def flip_blob_row(txn: Transaction, data: bytes) -> None:
        key = layout.BLOB + Digest.of(data).raw
        await txn.put(key, (await txn.get(key) or b"")[:-1] + b"?")

    await flip_file(furnished, BASE)
    await flip_inline(furnished, SMALL)
    await furnished.core.ledger.transact(flip_blob_row, SIGNED)
    done = await Scrubber(furnished.core).run()
    assert done.damaged == sorted(map(sha256, (BASE, SMALL, SIGNED)))
    assert done.finished


async def test_the_damaged_are_counted_when_there_are_too_many_to_show(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "DAMAGED_SHOWN_MAX", 2)
    async with place.store() as store:
        for number in range(4):
            await store.put(noise(100, number))
            await flip_inline(store, noise(100, number))
        done = await Scrubber(store.core).run()
        assert (len(done.damaged), done.damaged_count) == (2, 4)


async def test_a_budget_bounds_each_run_and_the_place_is_kept(place: Place) -> None:
    contents = sorted((noise(40_000, number) for number in range(6)), key=sha256)
    async with place.store() as store:
        for content in contents:
            await store.put(content)
        first = await Scrubber(store.core).run(100_000)
        assert (first.blobs, first.bytes, first.finished) == (2, 80_000, False)
    async with place.store() as store:
        await flip_file(store, contents[3])
        second = await Scrubber(store.core).run(100_000)
        assert (second.blobs, second.damaged) == (2, [sha256(contents[3])])
        third = await Scrubber(store.core).run(100_000)
        assert (third.blobs, third.finished) == (2, False)
        await store.put(contents[3])
        await flip_file(store, contents[0])
        fourth = await Scrubber(store.core).run(100_000)
        assert fourth.damaged == [sha256(contents[0])]


async def test_how_far_the_walk_is(place: Place) -> None:
    contents = sorted((noise(40_000, number) for number in range(6)), key=sha256)
    async with place.store() as store:
        for content in contents:
            await store.put(content)
        assert await store.scrubber.progress() == ScrubProgress(0.0, None)
        await Scrubber(store.core).run(100_000)
        stands = await store.scrubber.progress()
        second = int(sha256(contents[1])[7:23], 16) / 2**64
        assert stands.part == pytest.approx(second)
        assert stands.ended is not None
        place.clock.advance(60)
        await Scrubber(store.core).run(160_000)
        # Behind the last one nothing is left: that was the end of a walk.
        after = stands.ended + timedelta(seconds=60)
        assert await store.scrubber.progress() == ScrubProgress(0.0, after)


async def test_a_blob_larger_than_the_budget_is_read_all_the_same(store: Store) -> None:
    await store.put(noise(100_000))
    await store.put(noise(90_000))
    seen = [await Scrubber(store.core).run(10) for _ in range(4)]
    assert [done.blobs for done in seen] == [1, 1, 1, 1]
    assert sorted({done.bytes for done in seen}) == [90_000, 100_000]


async def test_without_a_budget_every_blob_is_read_once_from_any_place(furnished: Store) -> None:
    blobs = (await furnished.stats()).blobs
    await Scrubber(furnished.core).run(50_000)
    done = await Scrubber(furnished.core).run()
    assert (done.blobs, done.finished) == (blobs, True)


async def test_a_place_that_cannot_be_read_is_the_start(furnished: Store) -> None:
    async def ruin(txn: Transaction) -> None:
        key = layout.SETTING + b"scrub"
        assert await get_payload(txn, key)
        await txn.put(key, b"ruined")

    await Scrubber(furnished.core).run(50_000)
    await furnished.core.ledger.transact(ruin)
    assert [problem.kind for problem in await found(furnished)] == ["record"]
    assert (await Scrubber(furnished.core).run()).blobs == (await furnished.stats()).blobs
    assert await found(furnished) == []


async def test_a_file_that_cannot_be_opened_for_other_reasons_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files in this process, say."""

    def refuse(_: int) -> None:
        raise StorageFailed("0000/001/00", "too many open files")

    async with Place("memory", tmp_path, Clock()).store() as store:
        await store.put(BASE)
        with monkeypatch.context() as patch:
            patch.setattr(store.core.depot, "open", refuse)
            with pytest.raises(StorageFailed):
                await Scrubber(store.core).run()
        assert await read(store, sha256(BASE)) == BASE


@pytest.mark.parametrize("change", ["removed", "healed", "recompressed"])
async def test_a_blob_that_moves_while_it_is_read_is_not_quarantined(
    store: Store, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad file is hashed; before that is acted upon, the blob lies elsewhere."""
    await store.put(TEXT)
    if change != "recompressed":
        await flip_file(store, TEXT)
    hashed = scrub_module._hash_span
    moved = False

    def hash_badly(original: object, hasher: object, offset: int) -> int:
        nonlocal moved
        if not moved:
            moved = True
            asyncio.run_coroutine_threadsafe(move(), loop).result(30)
        read = hashed(original, hasher, offset)  # type: ignore[arg-type]  # passed on
        if change == "recompressed":
            hasher.update(b"bad memory")  # type: ignore[attr-defined]  # it is a hasher
        return read

    async def move() -> None:
        if change == "removed":
            await store.delete(sha256(TEXT))
            await store.sweeper.run()
        elif change == "healed":
            await store.put(TEXT)
        else:
            assert (await Recompressor(store.core).run()).swapped

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(scrub_module, "_hash_span", hash_badly)
        done = await Scrubber(store.core).run()
    assert moved
    assert done.damaged == []
    if change == "removed":
        with pytest.raises(NotFound):
            await read(store, sha256(TEXT))
    else:
        assert await read(store, sha256(TEXT)) == TEXT
    assert await found(store, deep=True) == []
