"""A process that works on a data directory until it is killed: ``kill_child.py DIR KIND SEED``.

It says on stdout, one JSON array a line, what it is about to do and what was acknowledged:

    ["try", fact, value]     from now on the fact may have this value too
    ["done", fact, value]    from now on it has this value
    ["ready"]                all loads are running

A fact is a list of strings and numbers; only one task at a time changes it. None: it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from holdfast.engine import OCI_MANIFEST, AlreadyExists, Store, StoreConfig
from support.engine import REGION, make_namespace, manifest, noise, once, sha256, upload
from support.seams import MAP_BYTES, recompress

CONFIG = StoreConfig(background=False, map_bytes=MAP_BYTES, threads=4)
SIZES = (500, 40_000, 40_000, 100_000, 700_000)


def content(key: str, size: int) -> bytes:
    """The bytes that a key stands for: noise, or text that compresses."""
    if key.startswith("text"):
        return (key.encode() + b" again, ").ljust(60, b".") * (size // 60)
    return noise(size, key)


def layers(image: int, version: int) -> tuple[bytes, ...]:
    """What an image is made of: something of its own, and something that others have."""
    return (
        noise(900, f"{image}-{version}"),
        noise(36_000, f"{image}-{version}"),
        noise(50_000, f"shared-{version % 7}"),
    )


def image_manifest(image: int, version: int) -> bytes:
    return manifest(b"{}", layers(image, version), annotations={"version": str(version)})


def say(*words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


@contextlib.asynccontextmanager
async def fact(value: Any, *name: Any) -> AsyncIterator[None]:
    say("try", name, value)
    yield
    say("done", name, value)


async def roots(store: Store, chance: random.Random, seed: int, task: int) -> None:
    kept: list[tuple[str, int]] = []
    root = f"r{seed}-{task}"
    for number in range(1 << 20):
        kind = chance.choice(("text", "own", "shared"))
        key = f"{kind}-{number % 5}" if kind == "shared" else f"{kind}-{seed}-{task}-{number}"
        size = 45_000 if kind == "shared" else chance.choice(SIZES)
        async with fact(size, "root", root, key, size):
            await store.put(content(key, size), root=root)
        if (key, size) not in kept:
            kept.append((key, size))
        if len(kept) > 4:
            key, size = kept.pop(chance.randrange(len(kept)))
            async with fact(None, "root", root, key, size):
                await store.delete(sha256(content(key, size)), root=root)


async def images(store: Store, chance: random.Random, seed: int, task: int) -> None:
    name = f"app/i{task}"
    for number in range(1 << 20):
        version = seed * 1000 + number
        where = await store.locate(REGION, name)
        await upload(store, where, b"{}", *layers(task, version))
        tag = chance.choice(("latest", f"v{chance.randrange(6)}"))
        body = image_manifest(task, version)
        async with fact(version, "tag", task, tag):
            await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=tag)
        where = await store.locate(REGION, name)
        assert where.image_id is not None
        tags = (await store.tags.list(where.image_id)).items
        if len(tags) > 3:
            old = chance.choice(tags)
            async with fact(None, "tag", task, old.name):
                await store.tags.delete(old.id)


async def sessions(store: Store, chance: random.Random, seed: int, task: int) -> None:
    for number in range(1 << 20):
        where = await store.locate(REGION, f"app/s{task}")
        key, size = f"session-{seed}-{task}-{number}", chance.choice(SIZES)
        session = await store.uploads.begin(where)
        where = await store.locate(REGION, f"app/s{task}")
        name = ("session", task, str(session.id), key, size)
        say("done", name, 0)
        offset = 0
        whole = content(key, size)
        while offset < size - size // 4:
            step = chance.randrange(1, size)
            async with fact(min(offset + step, size), *name):
                done = await store.uploads.append(where, session.id, once(whole[offset:][:step]))
            offset = done.offset
        async with fact("finished", *name):
            rest = once(whole[offset:])
            await store.uploads.finish(where, session.id, sha256(whole), rest, offset=offset)


async def sweep(store: Store) -> None:
    while True:
        await store.sweeper.run(early=True)
        await recompress(store)
        await asyncio.sleep(0)


async def snapshots(store: Store, path: Path, seed: int) -> None:
    for number in range(1 << 20):
        name = f"{seed}-{number}"
        async with fact(name, "snapshot", name):
            async for _ in store.snapshot(path.with_name("snapshots") / name):
                pass


async def main(path: Path, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    async with Store.open(path, CONFIG) as store, asyncio.TaskGroup() as group:
        with contextlib.suppress(AlreadyExists):
            await make_namespace(store)
        for task in range(2):
            group.create_task(roots(store, chance, seed, task))
            group.create_task(images(store, chance, seed, task))
            group.create_task(sessions(store, chance, seed, task))
        if kind != "push":
            group.create_task(sweep(store))
        if kind == "snapshot":
            group.create_task(snapshots(store, path, seed))
        say("ready")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
