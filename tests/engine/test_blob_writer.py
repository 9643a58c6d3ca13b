"""Streams on their way in: buffers that are used again, and where one stands after a failure."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, cast

import pytest
from support.engine import (
    Clock,
    Place,
    begin_upload,
    make_namespace,
    noise,
    once,
    read,
    sha256,
)
from support.threads import Told, turns

from holdfast.engine import BUFFERS_IN_FLIGHT, WAITS, StorageFailed, StorageFull, Store
from holdfast.engine.blobs.writer import BATCH_BYTES, VIEW_BYTES, BlobWriter
from holdfast.engine.depot import disk_file
from holdfast.engine.depot.interface import Writer
from holdfast.engine.model.digest import Hasher

VIEW: Final = VIEW_BYTES + 1
STREAMS: Final = {
    "long": (VIEW,) * (3 * BUFFERS_IN_FLIGHT),
    "a short one": (*(VIEW,) * BUFFERS_IN_FLIGHT, VIEW, 10, VIEW, VIEW),
    "short ones between": (VIEW, VIEW, 10, VIEW, 0, VIEW, 0, 0, VIEW, 10, 10, 10, VIEW),
    "none": (VIEW, VIEW, *(0,) * BUFFERS_IN_FLIGHT, VIEW),
    "batches of short ones": (VIEW, VIEW, *(VIEW_BYTES // 2,) * 20, VIEW, VIEW, 0),
}
"""Sizes of pieces."""


async def used_again(content: bytes, sizes: Sequence[int]) -> AsyncIterator[memoryview]:
    """Pieces in no more buffers than the contract of streams asks for, refilled when it may be."""
    buffers = [bytearray(VIEW) for _ in range(BUFFERS_IN_FLIGHT)]
    at = 0
    for number, size in enumerate(sizes):
        buffer = buffers[number % BUFFERS_IN_FLIGHT]
        buffer[:] = b"\0" * VIEW
        buffer[:size] = content[at : at + size]
        at += size
        yield memoryview(buffer)[:size]
    buffers[len(sizes) % BUFFERS_IN_FLIGHT][:] = b"\0" * VIEW


@pytest.fixture
def place(tmp_path: Path, clock: Clock) -> Place:
    """In memory, for what has nothing to do with disks."""
    return Place("memory", tmp_path, clock)


def later(call: Callable[..., None]) -> Callable[..., None]:
    """A call of a thread that begins only when the loop has had nothing else to do for a while."""
    loop = asyncio.get_running_loop()

    def called(*given: object) -> None:
        asyncio.run_coroutine_threadsafe(turns(), loop).result(10)
        call(*given)

    return called


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("way", ["root", "append"])
@pytest.mark.parametrize(
    "slow", [(BlobWriter, "_append"), (Hasher, "update")], ids=["write", "hash"]
)
async def test_buffers_that_are_used_again_by_the_contract(
    store: Store, monkeypatch: pytest.MonkeyPatch, slow: tuple[type, str], way: str, stream: str
) -> None:
    monkeypatch.setattr(*slow, later(getattr(*slow)))
    sizes = STREAMS[stream]
    content = noise(sum(sizes), stream)
    source = used_again(content, sizes)
    if way == "root":
        await store.put(source, digest=sha256(content))
    else:
        await make_namespace(store)
        where, upload = await begin_upload(store)
        await store.uploads.append(where, upload.id, source)
        await store.uploads.finish(where, upload.id, sha256(content))
    assert await read(store, sha256(content), verify=True) == content


@pytest.mark.parametrize(
    ("slow", "name"),
    [((BlobWriter, "_append"), "thread write_batch"), ((Hasher, "update"), "thread hash_batch")],
)
async def test_what_is_waited_for_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, slow: tuple[type, str], name: str
) -> None:
    """By the names that docs/operating.md has."""
    monkeypatch.setattr(*slow, later(getattr(*slow)))
    told = Told()
    WAITS.set(told)
    await store.put(once(noise(BATCH_BYTES)))
    assert name in told.names


async def take(intake: BlobWriter, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        await intake.write(memoryview(piece))
    await intake.drain()


class Failing:
    """A writer that fails once, at its ``number``-th batch, after ``part`` bytes of it."""

    def __init__(self, inner: Writer | None, number: int, part: int, error: Exception) -> None:
        assert inner is not None
        self._inner = inner
        self._left = number
        self._part = part
        self._error = error

    def append(self, data: bytes | memoryview) -> None:
        self._left -= 1
        if self._left == 0:
            self._inner.append(bytes(data[: self._part]))
            raise self._error
        self._inner.append(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("part", [0, 1000])
@pytest.mark.parametrize("number", [2, 4, 6])
async def test_after_a_failure_the_stream_ends_where_its_file_does(
    store: Store, number: int, part: int
) -> None:
    """Though the digests were ahead, and others had been handed over: and it can go on there."""
    pieces = [noise(VIEW, place) for place in range(6)]
    intake = BlobWriter(store.core, hasher=None)
    await take(intake, pieces[:1])
    failing = Failing(intake._writer, number - 1, part, StorageFull("depot"))
    intake._writer = cast(Writer, failing)
    with pytest.raises(StorageFull):
        await take(intake, pieces[1:])
    kept = b"".join(pieces)[: (number - 1) * VIEW + part]
    assert intake.size == len(kept)
    assert intake.held == b""
    assert intake.hasher is None
    assert (len(intake._writes._calls), len(intake._digests._calls)) == (0, 0)
    for piece in pieces:
        await intake.write(piece)
    await intake.drain()
    whole = kept + b"".join(pieces)
    assert intake.size == len(whole)
    assert (await intake.hashes("sha256")).sha256.hex() == sha256(whole)[7:]
    await intake.abandon()


async def test_a_digest_that_fails_is_computed_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was being written meanwhile is in the file."""
    content = noise(VIEW)
    intake = BlobWriter(store.core, hasher=None)
    failed = threading.Event()

    def refuse(_hasher: Hasher, _data: bytes) -> None:
        failed.set()
        raise MemoryError

    async def write_twice() -> None:
        await intake.write(memoryview(content))
        assert failed.wait(10)
        await intake.write(memoryview(content))

    with monkeypatch.context() as patched:
        patched.setattr(BlobWriter, "_append", later(BlobWriter._append))
        patched.setattr(Hasher, "update", refuse)
        with pytest.raises(MemoryError):
            await write_twice()
        assert len(intake._writes._calls) == 0
    count = intake.size // VIEW
    assert 1 <= count <= 2
    await take(intake, [content])
    assert intake.hasher is None
    assert (await intake.hashes("sha256")).sha256.hex() == sha256((count + 1) * content)[7:]
    await intake.abandon()


@pytest.mark.parametrize("told_by", ["write", "drain"])
async def test_a_sync_on_the_way_that_fails_takes_the_stream_along(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    monkeypatch.setattr("holdfast.engine.blobs.writer.WRITE_BACK_BYTES", 0)
    may_fail = threading.Event()

    def refuse(_fd: int) -> None:
        assert may_fail.wait(10)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with Place("disk", tmp_path, clock).store() as store:
        intake = BlobWriter(store.core, hasher=None)
        await intake.write(bytes(BATCH_BYTES))
        await intake.drain()
        with monkeypatch.context() as patched:
            patched.setattr(disk_file, "_sync_data", refuse)
            await intake.write(bytes(BATCH_BYTES))
            may_fail.set()
            if told_by == "write":
                assert intake._syncing is not None
                await asyncio.wait([intake._syncing])
                with pytest.raises(StorageFailed):
                    await intake.write(bytes(BATCH_BYTES))
                assert intake.size == 0
            with pytest.raises(StorageFailed):
                await intake.drain()
        assert (intake.sync_failed, intake.size, intake.hasher) == (True, 0, None)
        await intake.abandon()


async def test_a_stream_that_is_cancelled_lets_go_of_all_buffers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bytes] = []
    append = BlobWriter._append
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def slow(self: BlobWriter, writer: Writer, data: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
        used.append(bytes(data))
        append(self, writer, data)

    monkeypatch.setattr(BlobWriter, "_append", slow)
    intake = BlobWriter(store.core, hasher=None)
    pieces = [noise(VIEW, place) for place in range(BUFFERS_IN_FLIGHT)]

    async def stream() -> None:
        for piece in pieces:
            await intake.write(memoryview(piece))

    task = asyncio.create_task(stream())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert used == pieces
    assert intake.size == BUFFERS_IN_FLIGHT * VIEW
    await intake.abandon()
