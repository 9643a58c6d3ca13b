"""Recompressing: what becomes smaller, and that nobody can tell from outside."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable

import pytest
import zstandard
from support.engine import (
    REGION,
    Function,
    Place,
    make_namespace,
    noise,
    problems,
    push,
    read,
    sha256,
)

from holdfast.engine import Corrupt, StorageFull, Store
from holdfast.engine.blobs import blob_rows
from holdfast.engine.maintenance import recompress as module
from holdfast.engine.maintenance.recompress import Recompressor


def tar_of_text() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(40):
            text = "".join(f"{number} line {line} of a file\n" for line in range(2000)).encode()
            info = tarfile.TarInfo(f"etc/{number}.conf")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


TAR = tar_of_text()
JSON = json.dumps([{"id": n, "name": f"thing {n}"} for n in range(20_000)]).encode()
TEXT = b"".join(b"%d green bottles\n" % n for n in range(60_000))
SHRINKING = (TAR, JSON, TEXT)
STUBBORN = (
    gzip.compress(TAR[:600_000], mtime=0) + noise(90_000),
    zstandard.ZstdCompressor().compress(TAR) + noise(90_000),
    noise(300_000),
)


@pytest.fixture
async def recompressor(store: Store) -> Recompressor:
    return store.recompressor


async def test_what_compresses_shrinks_and_the_rest_is_left(
    store: Store, recompressor: Recompressor, place: Place
) -> None:
    for content in (*SHRINKING, *STUBBORN):
        await store.put(content)
    before = await store.stats()
    assert before.stored_bytes == before.blob_bytes
    done = await recompressor.run()
    assert (done.looked_at, done.swapped, done.failed, done.skipped) == (6, 3, 0, 0)
    after = await store.stats()
    assert after.blob_bytes == before.blob_bytes
    assert after.stored_bytes == before.stored_bytes - done.saved_bytes == sum(place.files())
    assert done.saved_bytes > sum(map(len, SHRINKING)) * 0.7
    for content in STUBBORN:
        assert len(content) in place.files()
    for content in (*SHRINKING, *STUBBORN):
        assert await read(store, sha256(content)) == content
        assert await read(store, sha256(content), verify=True) == content
        assert (await store.stat(sha256(content))).size == len(content)


async def test_each_file_is_probed_once(store: Store, recompressor: Recompressor) -> None:
    for content in (TAR, noise(300_000)):
        await store.put(content)
    assert (await recompressor.run()).looked_at == 2
    assert (await recompressor.run()).looked_at == 0
    await store.put(JSON)
    assert (await recompressor.run()).looked_at == 1


async def test_small_blobs_stay_as_they_are(store: Store, recompressor: Recompressor) -> None:
    await store.put(bytes(module.FILE_BYTES_MIN - 1))
    await store.put(b"inline" * 100)
    assert (await recompressor.run()).looked_at == 0


async def test_any_range_is_the_same(store: Store, recompressor: Recompressor) -> None:
    await store.put(TAR)
    await recompressor.run()
    rng = random.Random(7)
    ranges = [(0, 0), (0, 1), (len(TAR), 5), (len(TAR) - 1, 5), (256 * 1024 - 1, 2)]
    ranges += [(rng.randrange(len(TAR)), rng.randrange(600_000)) for _ in range(60)]
    for offset, length in ranges:
        got = await read(store, sha256(TAR), offset=offset, length=length)
        assert got == TAR[offset : offset + length], (offset, length)


async def test_it_outlives_a_restart_and_a_push_of_the_same(place: Place) -> None:
    async with place.store() as store:
        await store.put(TAR)
        await store.recompressor.run()
        stored = (await store.stats()).stored_bytes
    async with place.store() as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [TAR])
        assert (await store.stats()).stored_bytes < stored + 2000
        assert len(place.files()) == 1
        where = await store.locate(REGION, "app/web")
        assert await read(store, sha256(TAR), repository=where) == TAR
        await store.delete(sha256(TAR))
        assert where.image_id is not None
        await store.images.delete(where.image_id)
        await store.sweeper.run(early=True)
        assert await read(store, sha256(TAR)) == TAR if place.files() else True


async def test_a_deleted_blob_takes_its_frames_along(
    store: Store, recompressor: Recompressor, place: Place
) -> None:
    await store.put(TAR)
    await recompressor.run()
    await store.delete(sha256(TAR))
    await store.sweeper.run()
    stats = await store.stats()
    assert (stats.blobs, stats.blob_bytes, stats.stored_bytes) == (0, 0, 0)
    assert place.files() == []


async def test_a_damaged_source_is_quarantined_and_not_laundered(
    store: Store, recompressor: Recompressor, place: Place
) -> None:
    await store.put(TAR)
    place.damage(len(TAR))
    done = await recompressor.run()
    assert done.swapped == 0
    with pytest.raises(Corrupt, match="quarantine"):
        await read(store, sha256(TAR))
    assert (await recompressor.run()).looked_at == 0
    await store.put(TAR)
    assert await read(store, sha256(TAR)) == TAR
    assert (await recompressor.run()).swapped == 1
    assert await read(store, sha256(TAR)) == TAR
    await store.sweeper.run()
    assert len(place.files()) == 1


async def test_a_frame_found_damaged_on_the_way_puts_the_blob_in_quarantine(
    store: Store, recompressor: Recompressor, place: Place
) -> None:
    await store.put(TAR)
    await recompressor.run()
    (stored,) = place.files()
    await store.put(JSON)
    await recompressor.run()
    place.damage(stored)
    digest = sha256(TAR)
    got = bytearray()

    async def pull() -> None:
        async with store.get(digest) as reader:
            async for piece in reader:
                got.extend(piece)

    with pytest.raises(Corrupt) as caught:
        await pull()
    assert 0 < len(got) < len(TAR)
    assert TAR.startswith(got)
    assert (caught.value.kind, caught.value.name) == ("blob", digest)
    # Nobody is given a part of it any more, not even one that is still good.
    with pytest.raises(Corrupt, match="quarantine"):
        await read(store, digest, length=1)
    with pytest.raises(Corrupt, match="quarantine"):
        await store.stat(digest)
    assert await read(store, sha256(JSON)) == JSON
    await store.put(TAR)
    assert await read(store, digest, verify=True) == TAR
    assert (await recompressor.run()).swapped == 1
    assert await read(store, digest) == TAR


@pytest.mark.parametrize("where", ["at the open", "on the way"])
async def test_damage_is_told_where_it_cannot_be_noted(place: Place, where: str) -> None:
    """As on a full disk, or one that became read-only: nobody is told to look there."""
    store, hooks = place.gated()
    async with store:
        await store.put(TAR)
        await store.recompressor.run()
        (stored,) = place.files()
        place.damage(stored)

        async def refuse(work: Function) -> None:
            if work is blob_rows.quarantine:
                raise StorageFull("ledger")

        hooks.before = refuse
        verify = where == "at the open"
        for _ in range(2):
            with pytest.raises(Corrupt, match="frame") as damage:
                await read(store, sha256(TAR), verify=verify)
            assert damage.value.name == sha256(TAR)
        hooks.before = None
        with pytest.raises(Corrupt, match="frame"):
            await read(store, sha256(TAR), verify=verify)
        with pytest.raises(Corrupt, match="quarantine"):
            await read(store, sha256(TAR))
        await store.put(TAR)
        assert await read(store, sha256(TAR)) == TAR
        assert await problems(store) == []


async def test_a_reader_goes_on_with_what_it_opened(
    store: Store, recompressor: Recompressor
) -> None:
    await store.put(TAR)
    async with store.get(sha256(TAR)) as reader:
        pieces = aiter(reader)
        got = await anext(pieces)
        assert (await recompressor.run()).swapped == 1
        await store.sweeper.run()
        got += b"".join([piece async for piece in pieces])
    assert got == TAR


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in the background, which tells nobody of itself."""
    while not condition():  # noqa: ASYNC110 - nothing could set an event
        await asyncio.sleep(0.01)


async def test_stopped_in_the_middle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 64 * 1024)
    monkeypatch.setattr(module, "BYTES_PER_SECOND", 64 * 1024)
    async with place.store() as store:
        await store.put(TAR)
        store.recompressor.background.start()
        await until(lambda: len(place.files()) == 2)
        await store.recompressor.background.stop()
        assert place.files() == [len(TAR)]
        assert await read(store, sha256(TAR)) == TAR


async def test_a_disk_without_room_is_left_alone(place: Place) -> None:
    async with place.store() as store:
        await store.put(TAR)
    async with place.store(disk_reserve_bytes=1 << 60) as store:
        done = await store.recompressor.run()
        assert (done.looked_at, done.swapped, done.skipped) == (1, 0, 1)
    async with place.store() as store:
        assert (await store.recompressor.run()).swapped == 1


# In the background


@pytest.mark.parametrize("compression", ["auto", "never"])
async def test_it_runs_beside_an_open_store(place: Place, compression: str) -> None:
    async with place.store() as store:
        await store.put(TAR)
    async with place.store(background=True, compression=compression) as store:
        if compression == "auto":
            await until(lambda: store.recompressor.total.swapped == 1)
            assert (await store.stats()).stored_bytes < len(TAR) / 3
        else:
            await asyncio.sleep(0.3)
            assert store.recompressor.total.looked_at == 0
        assert await read(store, sha256(TAR)) == TAR


async def test_the_background_finds_what_came_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.01)
    async with place.store() as store:
        for content in (TAR, noise(200_000)):
            await store.put(content)
    async with place.store(background=True, compression="auto") as store:
        total = store.recompressor.total
        await until(lambda: total.swapped == 1)
        await store.put(JSON)
        await until(lambda: total.swapped == 2)
        await store.put(TEXT)
        await until(lambda: total.swapped == 3)
        assert store.recompressor.total.looked_at == 4
