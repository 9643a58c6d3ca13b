"""A second process on Holdfast's data directory: garbage and scrubbing, or recompressing.

``python -m holdfast.bench.background busy DIRECTORY SECONDS`` makes garbage, says ``ready``, waits
for a line, drops the garbage (the server's own sweep takes it then, at its rate), and scrubs
until it is ended, at the rate that the server's own scrub has. ``recompress DIRECTORY`` does what
the server would do in its own time, at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from holdfast.engine import Store, StoreConfig

from .measure import MeasureFailed

GARBAGE_PER_SECOND: Final = 2000
"""Blobs dropped for each second of a measurement: what the sweep takes a second."""

GARBAGE_BYTES: Final = 1024
SCRUB_BYTES: Final = 4 << 20
SCRUB_EVERY: Final = 0.25
"""So many bytes are scrubbed so often, in seconds: 16 MiB a second."""

RECOMPRESS_SECONDS: Final = 600.0
_ROOT: Final = "bench-garbage"


@contextmanager
def upkeep(data: Path, seconds: float) -> Iterator[None]:
    """Background work on a data directory, from entering to leaving. Raises MeasureFailed."""
    command = (sys.executable, "-m", "holdfast.bench.background", "busy", str(data), str(seconds))
    process = subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise MeasureFailed("the background work did not start")
        process.stdin.write(b"go\n")
        process.stdin.flush()
        yield
        if process.poll() is not None:
            raise MeasureFailed("the background work ended early")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def recompress(data: Path) -> tuple[int, int]:
    """Recompress all there is to be: bytes read, and bytes saved. Raises MeasureFailed."""
    command = (sys.executable, "-m", "holdfast.bench.background", "recompress", str(data))
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, timeout=RECOMPRESS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise MeasureFailed("recompressing took too long") from None
    numbers = done.stdout.split()
    if done.returncode != 0 or len(numbers) != 2:
        raise MeasureFailed(f"recompressing failed: {done.stderr.strip()[-200:]}")
    return int(numbers[0]), int(numbers[1])


async def _recompress(data: Path) -> None:
    async with Store.open(data, StoreConfig(background=False), create=False) as store:
        done = await store.recompressor.run()
        sys.stdout.write(f"{done.read_bytes} {done.saved_bytes}\n")


async def _busy(data: Path, seconds: float) -> None:
    async with Store.open(data, StoreConfig(background=False), create=False) as store:
        count = int(GARBAGE_PER_SECOND * seconds)
        mark = time.time_ns().to_bytes(16, "big")
        digests = await asyncio.gather(*(_garbage(store, mark, number) for number in range(count)))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(store.delete(digest, root=_ROOT) for digest in digests))
        while True:
            await store.scrubber.run(SCRUB_BYTES)
            await asyncio.sleep(SCRUB_EVERY)


async def _garbage(store: Store, mark: bytes, number: int) -> str:
    content = (mark + number.to_bytes(8, "big")).ljust(GARBAGE_BYTES, b"\0")
    return str((await store.put(content, root=_ROOT)).digest)


def _main(what: str, data: str, *rest: str) -> None:
    if what == "recompress":
        asyncio.run(_recompress(Path(data)))
    else:
        asyncio.run(_busy(Path(data), float(rest[0])))


if __name__ == "__main__":
    _main(*sys.argv[1:])
