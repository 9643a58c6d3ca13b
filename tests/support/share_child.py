"""One of several processes on a data directory: ``share_child.py DIR ROLE [ARGUMENT...]``.

Roles: ``push NUMBER`` pushes what all others push too, and ends; ``sweep`` and ``read`` work
until stdin ends; ``append SESSION`` appends to an upload and ``put`` puts a blob, in the middle of
which they say "holding" and wait for a line. Every role says "ready" first, and what it did at
last.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from holdfast.engine import Store, StoreConfig
from support.engine import REGION, noise, push, read, sha256
from support.seams import MAP_BYTES, recompress

CONFIG = StoreConfig(background=False, map_bytes=MAP_BYTES, threads=4)
PUSHES = 12
PARTS = (noise(600_000, "first"), noise(600_000, "second"), noise(1000, "third"))
"""What the requests of one upload bring; the first makes it a file."""


def shared(number: int) -> tuple[bytes, ...]:
    """What every pusher pushes: in the ledger, in a file at the end, in a file on the way."""
    text = (f"shared {number % 3} " * 8000).encode()
    return noise(800, number), noise(40_000, number % 4), noise(600_000, number % 2), text


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def heard() -> str:
    """The next line of stdin; empty at its end."""
    return await asyncio.to_thread(sys.stdin.readline)


async def pusher(store: Store, number: int) -> int:
    root = f"root-{number}"
    for turn in range(PUSHES):
        await push(store, f"app/i{number}", f"v{turn % 4}", shared(turn))
        for fleeting in (noise(900, "fleeting"), noise(45_000, "fleeting")) * 3:
            # Kept now and then by one process, while another lets it go, and a third sweeps.
            for _ in range(2):
                await store.put(fleeting, root=root)
                assert await read(store, sha256(fleeting), verify=True) == fleeting
                await store.delete(sha256(fleeting), root=root)
    return PUSHES


async def sweeper(store: Store, ended: asyncio.Task[str]) -> int:
    entries = 0
    while not ended.done():
        entries += (await store.sweeper.run(early=True)).entries
        await recompress(store)
        await asyncio.sleep(0)
    return entries


async def reader(store: Store, ended: asyncio.Task[str]) -> int:
    """Pull all there is, over and over."""
    pulls = 0
    while not ended.done():
        for where in (await store.repositories(REGION))[0]:
            for tag in await store.tags.names(where):
                found = await store.manifests.get(where, tag)
                for layer in [each for turn in range(PUSHES) for each in shared(turn)]:
                    if sha256(layer).encode() in found.body:
                        assert await read(store, sha256(layer), repository=where) == layer
                pulls += 1
        await asyncio.sleep(0)
    return pulls


async def halting(*pieces: bytes) -> AsyncIterator[bytes]:
    """A source that waits for a line before the last piece."""
    for piece in pieces[:-1]:
        yield piece
    say("holding")
    await heard()
    yield pieces[-1]


async def appender(store: Store, session: UUID) -> int:
    half = len(PARTS[1]) // 2
    source = halting(PARTS[1][:half], PARTS[1][half:])
    where = await store.locate(REGION, "app/web")
    done = await store.uploads.append(where, session, source, offset=len(PARTS[0]))
    return done.offset


async def putter(store: Store) -> int:
    return (await store.put(halting(*PARTS))).size


async def main(path: Path, role: str, *arguments: str) -> None:
    async with Store.open(path, CONFIG, create=False) as store:
        say("ready")
        if role == "push":
            await heard()
            done = await pusher(store, int(arguments[0]))
        elif role == "append":
            done = await appender(store, UUID(arguments[0]))
        elif role == "put":
            done = await putter(store)
        else:
            ended = asyncio.create_task(heard())
            work = sweeper if role == "sweep" else reader
            done = await work(store, ended)
        say("done", done)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
