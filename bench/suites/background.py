"""What is made ready or done at once, past the server: garbage, scrubbing, zstd, a million tags.

``python -m holdfast.bench.suites.background fill DIRECTORY COUNT BYTES WORK`` makes a store with
COUNT small blobs and BYTES of large ones. With WORK 1 the small ones are garbage and a scrub has
begun: a server that is started on this directory sweeps and scrubs at once, at its own rates.
With WORK 0 it has neither to do. ``recompress DIRECTORY`` does at once what a server would in its
own time. ``tag DIRECTORY REPOSITORY COUNT`` gives the manifest of the first tag COUNT tags,
beside a server.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.bench.load.content import Content
from holdfast.bench.load.tagging import tag
from holdfast.bench.targets.servers import REGION
from holdfast.engine import Store, StoreConfig

from .measure import MeasureFailed

SECONDS_MAX: Final = 3600.0
METRICS_BYTES_MAX: Final = 1 << 20
_ROOT: Final = "bench-garbage"
_CALLERS: Final = 64
_TAGGERS: Final = 100
_SMALL_BYTES: Final = 1024
_FILE_BYTES: Final = 40 * 1024
_FILE_EVERY: Final = 10
"""Every tenth small blob is a file, which the sweep has to unlink; the others lie in the ledger."""

_LARGE_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Recompressed:
    """What recompressing took and gave. Sizes are bytes, times are seconds."""

    read: int
    kept: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a server has done in the background so far."""

    swept: int
    scrubbed: int
    """In bytes."""

    garbage: int
    """Entries that are still to be swept."""


def fill(directory: Path, small: int, large_bytes: int, *, work: bool) -> None:
    """Make a store, with or without work to do in the background. Raises MeasureFailed."""
    _run("fill", str(directory), str(small), str(large_bytes), str(int(work)))


def recompress(directory: Path) -> Recompressed:
    """Recompress all there is to be. Raises MeasureFailed."""
    read, kept, cpu = _run("recompress", str(directory)).split()
    return Recompressed(int(read), int(kept), float(cpu))


def set_tags(directory: Path, repository: str, count: int) -> None:
    """Give the manifest of ``tag(0)`` so many tags: through HTTP a million take most of an hour.

    Raises MeasureFailed.
    """
    _run("tag", str(directory), repository, str(count))


def progress(metrics: str) -> Work:
    """What the server with these metrics says. Raises MeasureFailed."""
    try:
        with urllib.request.urlopen(metrics, timeout=10) as answer:  # nosec B310 # noqa: S310 - ours
            lines = answer.read(METRICS_BYTES_MAX).decode().splitlines()
        values = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
        return Work(
            swept=int(values["holdfast_sweep_entries_total"]),
            scrubbed=int(values["holdfast_scrub_bytes_total"]),
            garbage=int(values["holdfast_garbage_entries"]),
        )
    except (OSError, KeyError, ValueError) as error:
        raise MeasureFailed(f"the metrics cannot be read: {error!r}") from error


def _run(*arguments: str) -> str:
    command = (sys.executable, "-m", "holdfast.bench.suites.background", *arguments)
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise MeasureFailed(f"{arguments[0]} took over {SECONDS_MAX:.0f} s") from None
    if done.returncode != 0:
        raise MeasureFailed(f"{arguments[0]} failed: {done.stderr.strip()[-200:]}")
    return done.stdout


async def _fill(directory: Path, small: int, large_bytes: int, work: bool) -> None:
    content = Content("background")
    async with Store.open(directory, StoreConfig(background=False)) as store:
        for number in range(large_bytes // _LARGE_BYTES):
            await store.put(b"".join(content.blob(f"large/{number}", _LARGE_BYTES).pieces))
        numbers = iter(range(small))

        async def caller() -> None:
            for number in numbers:
                size = _SMALL_BYTES if number % _FILE_EVERY else _FILE_BYTES
                value = number.to_bytes(8, "big").ljust(size, b"\0")
                digest = (await store.put(value, root=_ROOT)).digest
                if work:
                    await store.delete(digest, root=_ROOT)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        if work:
            await store.scrubber.run(1)  # a walk that has begun is gone on with


async def _recompress(directory: Path) -> None:
    config = StoreConfig(background=False)
    async with Store.open(directory, config, create=False) as store:
        before = time.process_time()
        done = await store.recompressor.run()
        cpu = time.process_time() - before
        sys.stdout.write(f"{done.read_bytes} {done.read_bytes - done.saved_bytes} {cpu:.3f}\n")


async def _set_tags(directory: Path, full_name: str, count: int) -> None:
    config = StoreConfig(background=False)
    async with Store.open(directory, config, create=False) as store:
        repository = await store.locate(REGION, full_name)
        manifest = await store.manifests.get(repository, tag(0))
        names = iter([tag(number) for number in range(1, count)])

        async def caller() -> None:
            for name in names:
                await store.manifests.put(
                    repository, manifest.body, media_type=manifest.media_type, reference=name
                )

        await asyncio.gather(*(caller() for _ in range(_TAGGERS)))


def _main(what: str, directory: str, *rest: str) -> None:
    if what == "recompress":
        asyncio.run(_recompress(Path(directory)))
    elif what == "tag":
        asyncio.run(_set_tags(Path(directory), rest[0], int(rest[1])))
    else:
        small, large_bytes, work = map(int, rest)
        asyncio.run(_fill(Path(directory), small, large_bytes, bool(work)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
