"""The engine in process: what one call costs with 100, 10,000 and 1,000,000 things in the store.

A process of its own (``python -m holdfast.bench.suites.embedded`` with a Task on standard input)
fills a store of every size, and then measures all of them in turns, batch by batch, so that a slow
moment of the machine hits all sizes alike. It prints one Step or Measured a line, as
soon as it has it.

A store that an earlier process filled (``fill_only``) in the same directory is taken as it is, and
measured once: so a store that takes long may be filled in memory, at any time, and copied.
"""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import uvloop

from holdfast.bench.load.content import Content
from holdfast.bench.report.results import Limit
from holdfast.engine import OCI_MANIFEST, Digest, NotFound, Repository, Store, StoreConfig

from .sqlite_baseline import SqliteBlobs

CALLERS: Final = 64
FILLERS: Final = 512
"""Calls at once while a store is filled: they commit together."""

BATCHES: Final = 5
PUTS: Final = 1000
"""1 KiB puts of one batch."""

CALLS: Final = 300
"""Calls one after the other of one batch."""

VALUE_BYTES: Final = 1024
NAMESPACES_MAX: Final = 100_000
NAMESPACE: Final = "bench"
"""The namespace that has all the images."""

TAGGED: Final = "bench-tagged"
IMAGE: Final = "image"
"""The image that has all the tags, and its namespace: an image shows tags of its own, and so would
make the list of images longer."""

REGION: Final = "fr-par"
PROJECT: Final = uuid.UUID("0c1d7d9c-0f0a-4a53-8f3b-5d6a2f7e9b11")

TAGS_AT_ONCE: Final = 100
"""Tags that one put of the manifest sets, while a store is filled."""

SWEEP_STEP: Final = 200
"""Entries that one transaction of the sweep takes: so many share one commit."""


class Kind(msgspec.Struct, frozen=True):
    """What is known of a row beforehand."""

    title: str
    limit: Limit
    unit: str = "µs"
    higher: bool = False


ROWS: Final = {
    "put": Kind(
        f"put 1 KiB, {CALLERS} callers, each durable",
        Limit("commit", times=1 / CALLERS),
        "puts/s",
        True,
    ),
    "get": Kind("get 1 KiB", Limit("pread")),
    "stat": Kind("stat", Limit("pread")),
    "usage": Kind("usage of a namespace", Limit("pread")),
    "tag": Kind("manifest by tag", Limit("pread")),
    "tags": Kind("first page of tags", Limit("pread")),
    "images": Kind("first page of images", Limit("pread")),
    "delete": Kind("delete, one after the other, each durable", Limit("commit µs")),
    "sweep": Kind("sweep, for each entry", Limit("commit µs", times=SWEEP_STEP)),
    "open": Kind("open a store", Limit("commit µs")),
}


_T = TypeVar("_T")


class EmbeddedFailed(Exception):
    """The measuring process ended without a result. The text is one line."""


class Task(msgspec.Struct, frozen=True):
    """What the process is to do. Stores are made in ``directory``, each named by its size."""

    directory: str
    seed: str
    sizes: tuple[int, ...]
    puts: int = PUTS
    calls: int = CALLS
    fill_only: bool = False


class Step(msgspec.Struct, frozen=True, tag=True):
    """What it does now."""

    text: str


class Measured(msgspec.Struct, frozen=True, tag=True):
    """Values of one row: one a batch."""

    name: str
    size: int
    target: str
    values: list[float]


def measure(task: Task, timeout: float) -> Iterator[Step | Measured]:
    """Run the process, and give what it says when it says it. Raises EmbeddedFailed."""
    command = (sys.executable, "-m", "holdfast.bench.suites.embedded")
    deadline = time.monotonic() + timeout
    decoder = msgspec.json.Decoder(Step | Measured)
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # a line that is here is a line that is selected
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(msgspec.json.encode(task))
            process.stdin.close()
            with selectors.DefaultSelector() as ready:
                ready.register(process.stdout, selectors.EVENT_READ)
                while ready.select(max(0.0, deadline - time.monotonic())):
                    line = process.stdout.readline()
                    if not line:
                        break
                    yield decoder.decode(line)
                else:
                    raise EmbeddedFailed(f"not done after {timeout:.0f} s")
            if process.wait() != 0:
                lines = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
                raise EmbeddedFailed(
                    lines[-1][:300] if lines else f"exit code {process.returncode}"
                )
        finally:
            process.kill()


def path_of(directory: Path, size: int) -> Path:
    """Where the store of a size is."""
    return directory / str(size)


async def _each(
    items: Iterable[_T], call: Callable[[_T], Awaitable[object]], callers: int = CALLERS
) -> None:
    """Call with every item, so many at once."""
    pending = iter(items)

    async def caller() -> None:
        for item in pending:
            await call(item)

    await asyncio.gather(*(caller() for _ in range(callers)))


class Trial:
    """One store that is filled with ``size`` blobs, tags and images."""

    def __init__(self, task: Task, size: int, say: Callable[[Step], None]) -> None:
        self.size = size
        self.path = path_of(Path(task.directory), size)
        self._task = task
        self._say = say
        self._chance = random.Random(f"{task.seed}/{size}")  # nosec B311 # noqa: S311 - no secret
        self._serial = 0
        self._digests: list[str] = []
        self._rival = SqliteBlobs(self.path.with_suffix(".db"))
        self.rival_puts = 0
        self._filled = self.path.with_suffix(".filled")
        """There while everything is in the store that is to be, and nothing else."""

    def value(self) -> bytes:
        """1 KiB that was never there."""
        self._serial += 1
        stamp = f"{self._task.seed}/{self._serial}/".encode()
        return stamp + self._chance.randbytes(VALUE_BYTES - len(stamp))

    async def fill(self) -> None:
        """Blobs under a root; tags of one image; images of one namespace; and namespaces.

        What it makes is held for a day, so that nothing is due while the sweep is measured. The
        rival gets as many rows.
        """
        if self._filled.exists():
            self._digests = [str(Digest.of(self.value())) for _ in range(self.size)]
            for _ in range(self.size):
                self.value()
            return
        async with Store.open(self.path, StoreConfig(background=False)) as store:
            self._tell("blobs")
            values = (self.value() for _ in range(self.size))
            await _each(values, partial(self._put, store), FILLERS)
            self._tell("namespaces")

            async def create(name: str) -> None:
                await store.namespaces.create(
                    REGION, name, project_id=PROJECT, organization_id=PROJECT
                )

            await create(NAMESPACE)
            await create(TAGGED)
            count = min(self.size, NAMESPACES_MAX)
            await _each((f"space-{number:06d}" for number in range(2, count)), create, FILLERS)
            await self._fill_images(store)
        self._tell("rows beside it")
        async with self._rival:
            await self._rival.fill(self.value() for _ in range(self.size))
        self._filled.touch()

    async def _fill_images(self, store: Store) -> None:
        made = Content(self._task.seed).image_of("embedded", ())
        first = await store.locate(REGION, f"{TAGGED}/{IMAGE}")
        await store.uploads.put(first, made.config.digest, _pieces(made.config.pieces))
        first = await store.locate(REGION, f"{TAGGED}/{IMAGE}")

        async def put(repository: Repository, numbers: Iterable[int]) -> None:
            tags = tuple(map(tag_name, numbers))
            await store.manifests.put(repository, made.manifest, media_type=OCI_MANIFEST, tags=tags)

        self._tell("tags")
        steps = range(0, self.size, TAGS_AT_ONCE)
        numbers = (range(step, min(step + TAGS_AT_ONCE, self.size)) for step in steps)
        await _each(numbers, partial(put, first))
        self._tell("images")

        async def image(number: int) -> None:
            repository = await store.locate(REGION, f"{NAMESPACE}/{image_name(number)}")
            await store.mount(repository, made.config.digest, first)
            await put(repository, (0,))

        await _each(range(self.size), image, FILLERS)

    def _tell(self, what: str) -> None:
        self._say(Step(f"filling a store with {self.size:,} {what}"))

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open the store for measuring, and the rival. What is measured once is not the same."""
        self._filled.unlink()
        config = StoreConfig(background=False, trash_seconds=0, hold_seconds=1)
        self.store = await stack.enter_async_context(Store.open(self.path, config, create=False))
        self.repository = await self.store.locate(REGION, f"{TAGGED}/{IMAGE}")
        self.namespace = await self.store.namespaces.find(REGION, NAMESPACE)
        await stack.enter_async_context(self._rival)

    async def _put(self, store: Store, value: bytes) -> None:
        self._digests.append(str((await store.put(value)).digest))

    async def put(self, turn: int) -> tuple[float, float]:
        """Puts a second of Holdfast and of SQLite, which take turns in being first."""
        values = [self.value() for _ in range(self._task.puts)]
        ways: list[Callable[[bytes], Awaitable[None]]]
        ways = [partial(self._put, self.store), self._rival.put]
        rates = {}
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            begun = time.perf_counter()
            await _each(values, ways[index])
            rates[index] = len(values) / (time.perf_counter() - begun)
        self.rival_puts += len(values)
        return rates[0], rates[1]

    async def check_rival(self) -> None:
        """Raises AssertionError where it lost something."""
        count = await self._rival.count()
        if count != self.size + self.rival_puts:
            raise AssertionError(f"SQLite has {count} rows")

    async def get(self) -> None:
        """Read a blob whole."""
        async with self.store.get(self._chance.choice(self._digests)) as reader:
            size = 0
            async for chunk in reader:
                size += len(chunk)
        if size != VALUE_BYTES:
            raise AssertionError(f"a blob of {size} bytes")

    async def stat(self) -> None:
        """Look at a blob."""
        await self.store.stat(self._chance.choice(self._digests))

    async def usage(self) -> None:
        """Read the five numbers."""
        await self.store.namespaces.usage(self.namespace.id)

    async def tag(self) -> None:
        """Read a manifest by its tag."""
        name = tag_name(self._chance.randrange(self.size))
        await self.store.manifests.get(self.repository, name)

    async def tags(self) -> None:
        """Read the first page of the tags."""
        assert self.repository.image_id is not None
        page = await self.store.tags.list(self.repository.image_id)
        if page.total != self.size:
            raise AssertionError(f"{page.total} tags")

    async def images(self) -> None:
        """Read the first page of the images."""
        page = await self.store.images.list(REGION, namespace_id=self.namespace.id)
        if page.total != self.size:
            raise AssertionError(f"{page.total} images")

    async def timed(self, call: Callable[[], Awaitable[None]]) -> float:
        """Microseconds of one call, over some, one after the other."""
        begun = time.perf_counter()
        for _ in range(self._task.calls):
            await call()
        return (time.perf_counter() - begun) / self._task.calls * 1e6

    async def delete_and_sweep(self) -> tuple[float, float]:
        """Microseconds of a delete, and of the sweep of what was deleted, each."""
        mark = len(self._digests)
        values = (self.value() for _ in range(self._task.calls))
        await _each(values, partial(self._put, self.store))
        victims = self._digests[mark:]
        del self._digests[mark:]
        begun = time.perf_counter()
        for digest in victims:
            await self.store.delete(digest)
        delete = (time.perf_counter() - begun) / len(victims) * 1e6
        begun = time.perf_counter()
        swept = 0
        while (done := await self.store.sweeper.step()).entries:
            swept += done.entries
        sweep = (time.perf_counter() - begun) / max(1, swept) * 1e6
        if swept != len(victims):
            raise AssertionError(f"{swept} of {len(victims)} were swept")
        try:
            await self.store.stat(victims[0])
        except NotFound:
            return delete, sweep
        raise AssertionError("a swept blob is still there")

    async def open_store(self) -> float:
        """Microseconds of opening the store, which must be closed."""
        store = Store.open(self.path, StoreConfig(background=False), create=False)
        begun = time.perf_counter()
        await store.start()
        try:
            return (time.perf_counter() - begun) * 1e6
        finally:
            await store.close()


def tag_name(number: int) -> str:
    """The name of a tag."""
    return f"tag-{number:07d}"


def image_name(number: int) -> str:
    """The name of an image in NAMESPACE."""
    return f"{IMAGE}-{number:07d}"


async def _pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Trials:
    """Stores of all sizes, measured in turns."""

    def __init__(self, task: Task, say: Callable[[Step | Measured], None]) -> None:
        self._task = task
        self._say = say
        self._trials = [Trial(task, size, say) for size in task.sizes]

    async def run(self) -> None:
        """Fill and measure."""
        for trial in self._trials:
            await trial.fill()
        if self._task.fill_only:
            return
        gc.collect()
        gc.freeze()
        async with AsyncExitStack() as stack:
            for trial in self._trials:
                await trial.enter(stack)
            await self._puts()
            for name in ("get", "stat", "usage", "tag", "tags", "images"):
                await self._calls(name)
            await self._deletes()
        self._say(Step("opening stores"))
        found = await self._turns(lambda trial, _: trial.open_store())
        self._tell("open", found)

    async def _turns(
        self, once: Callable[[Trial, int], Awaitable[_T]]
    ) -> list[tuple[Trial, list[_T]]]:
        """Batches of all trials in turns, each time beginning with another one."""
        found: dict[Trial, list[_T]] = {trial: [] for trial in self._trials}
        for turn in range(BATCHES):
            shift = turn % len(self._trials)
            for trial in (*self._trials[shift:], *self._trials[:shift]):
                found[trial].append(await once(trial, turn))
        return list(found.items())

    def _tell(
        self, name: str, found: list[tuple[Trial, list[float]]], target: str = "holdfast"
    ) -> None:
        for trial, values in found:
            self._say(Measured(name, trial.size, target, values))

    async def _puts(self) -> None:
        self._say(Step("putting small blobs, beside SQLite"))
        found = await self._turns(lambda trial, turn: trial.put(turn))
        for trial in self._trials:
            await trial.check_rival()
        self._tell("put", [(trial, [pair[0] for pair in pairs]) for trial, pairs in found])
        self._tell(
            "put", [(trial, [pair[1] for pair in pairs]) for trial, pairs in found], "sqlite"
        )

    async def _calls(self, name: str) -> None:
        self._say(Step(f"engine: {ROWS[name].title}"))
        for trial in self._trials:
            await getattr(trial, name)()
        found = await self._turns(lambda trial, _: trial.timed(getattr(trial, name)))
        self._tell(name, found)

    async def _deletes(self) -> None:
        self._say(Step("engine: deletes and sweeps"))
        found = await self._turns(lambda trial, _: trial.delete_and_sweep())
        for index, name in enumerate(("delete", "sweep")):
            self._tell(name, [(trial, [pair[index] for pair in pairs]) for trial, pairs in found])


def _say(what: Step | Measured) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    uvloop.run(Trials(wanted, _say).run())
