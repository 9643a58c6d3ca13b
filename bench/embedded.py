"""The engine in process: what one call costs with 100, 10,000 and 1,000,000 things in the store.

A process of its own (``python -m holdfast.bench.embedded DIRECTORY SEED SIZE PUTS CALLS``) that
prints one list of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import uvloop

from holdfast.engine import OCI_MANIFEST, NotFound, Repository, Store, StoreConfig

from .content import Content, Image, LayerSizes
from .rival import SqliteBlobs

CALLERS: Final = 64
BATCHES: Final = 5
PUTS: Final = 2000
"""1 KiB puts of one batch."""

CALLS: Final = 300
"""Calls one after the other of one batch."""

VALUE_BYTES: Final = 1024

ROWS: Final = {
    "put": ("put 1 KiB, 64 callers, each durable", "puts/s", True),
    "get": ("get 1 KiB", "µs", False),
    "stat": ("stat", "µs", False),
    "delete": ("delete, one after the other, each durable", "µs", False),
    "usage": ("usage of a namespace", "µs", False),
    "tag": ("manifest by tag", "µs", False),
    "tags": ("first page of 20 tags", "µs", False),
    "open": ("open a store", "µs", False),
    "sweep": ("sweep, for each entry", "µs", False),
}
"""Name to title, unit, and whether more is better."""


_T = TypeVar("_T")


class EmbeddedFailed(Exception):
    """The measuring process ended without a result. The text is one line."""


class Measured(msgspec.Struct):
    """Values of one row: one a batch."""

    name: str
    target: str
    values: list[float]


def measure(
    directory: Path, size: int, seed: str, timeout: float, *, puts: int = PUTS, calls: int = CALLS
) -> list[Measured]:
    """Run the process. Raises EmbeddedFailed."""
    numbers = (str(size), str(puts), str(calls))
    command = (sys.executable, "-m", "holdfast.bench.embedded", str(directory), seed, *numbers)
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedFailed(f"not done after {timeout:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EmbeddedFailed(lines[-1][:300] if lines else f"exit code {done.returncode}")
    return msgspec.json.decode(done.stdout, type=list[Measured])


async def _each(items: Iterable[_T], call: Callable[[_T], Awaitable[object]]) -> None:
    """Call with every item, CALLERS at once."""
    pending = iter(items)

    async def caller() -> None:
        for item in pending:
            await call(item)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


class Trial:
    """One store that is filled to ``size`` blobs and tags, then measured."""

    def __init__(self, directory: Path, seed: str, size: int, puts: int, calls: int) -> None:
        self._directory = directory
        self._size = size
        self._batch = puts
        self._calls = calls
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._serial = 0
        self._found: list[Measured] = []
        self._digests: list[str] = []

    def _value(self) -> bytes:
        """1 KiB that was never there."""
        self._serial += 1
        stamp = f"{self._seed}/{self._serial}/".encode()
        return stamp + self._chance.randbytes(VALUE_BYTES - len(stamp))

    def _add(self, name: str, values: list[float], target: str = "holdfast") -> None:
        self._found.append(Measured(name, target, values))

    async def run(self) -> list[Measured]:
        """All rows."""
        config = StoreConfig(background=False, trash_seconds=0, hold_seconds=1)
        path = self._directory / "store"
        async with Store.open(path, config) as store:
            repository, namespace = await self._fill(store)
            await self._puts(store)
            await self._timed("get", lambda: self._get(store))
            await self._timed("stat", lambda: store.stat(self._chance.choice(self._digests)))
            await self._timed("usage", lambda: store.namespaces.usage(namespace))
            tags = [f"tag-{number:07d}" for number in range(self._size)]
            await self._timed(
                "tag", lambda: store.manifests.get(repository, self._chance.choice(tags))
            )
            assert repository.image_id is not None
            image_id = repository.image_id
            await self._timed("tags", lambda: store.tags.list(image_id))
            await self._deletes_and_sweeps(store)
        await self._opens(path, config)
        return self._found

    async def _fill(self, store: Store) -> tuple[Repository, uuid.UUID]:
        """``size`` blobs under a root, and ``size`` tags on one manifest of an image."""
        fresh = (self._value() for _ in range(self._size))
        await _each(fresh, partial(self._put, store))
        project = uuid.uuid4()
        namespace = await store.namespaces.create(
            "fr-par", "bench", project_id=project, organization_id=project
        )
        repository = await store.locate("fr-par", "bench/image")
        made: Image = Content(self._seed).image("embedded", 1, LayerSizes(0.001, 4096))
        for blob in made.blobs:
            await store.uploads.put(repository, blob.digest, _pieces(blob.pieces))
            repository = await store.locate("fr-par", "bench/image")

        async def tag(number: int) -> None:
            await store.manifests.put(
                repository, made.manifest, media_type=OCI_MANIFEST, reference=f"tag-{number:07d}"
            )

        await tag(0)
        await _each(range(1, self._size), tag)
        return await store.locate("fr-par", "bench/image"), namespace.id

    async def _put(self, store: Store, value: bytes) -> None:
        self._digests.append(str((await store.put(value)).digest))

    async def _puts(self, store: Store) -> None:
        """Holdfast and SQLite in turns, batch by batch."""
        ours, theirs = [], []
        async with SqliteBlobs(self._directory / "rival.db") as rival:
            for _ in range(BATCHES):
                values = [self._value() for _ in range(self._batch)]
                ours.append(self._batch / await _seconds(values, partial(self._put, store)))
                theirs.append(self._batch / await _seconds(values, rival.put))
            count = await rival.count()
        if count != self._batch * BATCHES:
            raise AssertionError(f"SQLite has {count} rows")
        self._add("put", ours)
        self._add("put", theirs, "sqlite")

    async def _get(self, store: Store) -> None:
        async with store.get(self._chance.choice(self._digests)) as reader:
            size = 0
            async for chunk in reader:
                size += len(chunk)
        if size != VALUE_BYTES:
            raise AssertionError(f"a blob of {size} bytes")

    async def _timed(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Microseconds of one call, in batches of calls one after the other."""
        await call()
        values = []
        for _ in range(BATCHES):
            begun = time.perf_counter()
            for _ in range(self._calls):
                await call()
            values.append((time.perf_counter() - begun) / self._calls * 1e6)
        self._add(name, values)

    async def _deletes_and_sweeps(self, store: Store) -> None:
        deletes, sweeps = [], []
        for _ in range(BATCHES):
            fresh = [self._value() for _ in range(self._calls)]
            mark = len(self._digests)
            await _each(fresh, partial(self._put, store))
            victims = self._digests[mark:]
            del self._digests[mark:]
            begun = time.perf_counter()
            for digest in victims:
                await store.delete(digest)
            deletes.append((time.perf_counter() - begun) / len(victims) * 1e6)
            begun = time.perf_counter()
            swept = 0
            while (done := await store.sweeper.step()).entries:
                swept += done.entries
            sweeps.append((time.perf_counter() - begun) / max(1, swept) * 1e6)
            if swept < len(victims):
                raise AssertionError(f"{swept} of {len(victims)} were swept")
            try:
                await store.stat(victims[0])
            except NotFound:
                continue
            raise AssertionError("a swept blob is still there")
        self._add("delete", deletes)
        self._add("sweep", sweeps)

    async def _opens(self, path: Path, config: StoreConfig) -> None:
        values = []
        for _ in range(BATCHES):
            store = Store.open(path, config, create=False)
            begun = time.perf_counter()
            await store.start()
            values.append((time.perf_counter() - begun) * 1e6)
            await store.close()
        self._add("open", values)


async def _seconds(values: list[bytes], put: Callable[[bytes], Awaitable[None]]) -> float:
    """How long CALLERS take to put all values."""
    begun = time.perf_counter()
    await _each(values, put)
    return time.perf_counter() - begun


async def _pieces(pieces: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


if __name__ == "__main__":
    gc.freeze()
    trial = Trial(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(trial.run())))
