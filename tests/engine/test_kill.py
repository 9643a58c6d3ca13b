"""Processes are killed, again and again, while they push, sweep, and make snapshots.

HOLDFAST_SOAK=n kills n times as often.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from support.common import ROOT
from support.engine import REGION, once, read, sha256
from support.kill_child import CONFIG, content, image_manifest, layers
from support.seams import Seams

from holdfast.engine import NotAStore, NotFound, Store
from holdfast.engine.depot.disk import DiskDepot

pytestmark = pytest.mark.slow

ROUNDS: Final = 3 * int(os.environ.get("HOLDFAST_SOAK", "1"))
DAYS: Final = 10 * 24 * 3600.0
Fact = tuple[Any, ...]


class Knowledge:
    """What is certain, by what a killed process said: every fact has one of some values."""

    def __init__(self) -> None:
        self._values: dict[Fact, set[Any]] = {}
        self._making: set[str] = set()
        self.snapshots: dict[str, Knowledge] = {}
        """What each snapshot holds: the state of some moment while it was made."""

    def hear(self, line: str) -> None:
        word, *rest = json.loads(line)
        if word == "ready":
            return
        fact, value = tuple(rest[0]), rest[1]
        if fact[0] == "snapshot":
            self._hear_of_snapshot(word, value)
            return
        if word == "done":
            self._values[fact] = {value}
        else:
            self._values.setdefault(fact, {None}).add(value)
        for name in self._making:
            self.snapshots[name]._values.setdefault(fact, {None}).add(value)

    def _hear_of_snapshot(self, word: str, name: str) -> None:
        if word == "done":
            self._making.discard(name)
            return
        self._making.add(name)
        copy = self.snapshots[name] = Knowledge()
        copy._values = {fact: set(values) for fact, values in self._values.items()}

    def facts(self, kind: str) -> Iterator[tuple[Fact, set[Any]]]:
        for fact, values in self._values.items():
            if fact[0] == kind:
                yield fact[1:], values

    def forget_snapshots(self) -> None:
        self.snapshots.clear()
        self._making.clear()

    def forget(self, kind: str) -> None:
        self._values = {k: values for k, values in self._values.items() if k[0] != kind}


async def killed(path: Path, kind: str, seed: int, knowledge: Knowledge) -> int:
    """Let a process work for a moment, and kill it; says how much it had done."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-W",
            "error",
            str(ROOT / "tests" / "support" / "kill_child.py"),
            str(path),
            kind,
            str(seed),
        ),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    lines = []
    try:
        first = await child.stdout.readline()
        assert first, "the child ended by itself"
        lines.append(first)
        reading = asyncio.ensure_future(child.stdout.read())
        await asyncio.sleep(random.Random(seed).uniform(0.05, 0.8))
        assert not reading.done(), "the child ended by itself"
    finally:
        child.kill()
        await child.wait()
    # What was cut off in the middle of a line was not said.
    lines += (await reading).splitlines(keepends=True)
    said = [line.decode() for line in lines if line.endswith(b"\n")]
    for line in said:
        knowledge.hear(line)
    return len(said)


async def check_roots(store: Store, knowledge: Knowledge) -> None:
    for (root, key, size), values in knowledge.facts("root"):
        whole = content(key, size)
        if None not in values:
            assert await read(store, sha256(whole), verify=True) == whole
            assert root in await store.roots()


async def check_tags(store: Store, knowledge: Knowledge) -> None:
    for (image, tag), values in knowledge.facts("tag"):
        try:
            where = await store.locate(REGION, f"app/i{image}")
            found = await store.manifests.get(where, tag)
        except NotFound:
            assert None in values
            continue
        bodies = {image_manifest(image, each): each for each in values if each is not None}
        for layer in layers(image, bodies[found.body]):
            assert await read(store, sha256(layer), repository=where) == layer


async def check_sessions(store: Store, knowledge: Knowledge) -> None:
    """Sessions stand where they were said to, or further; each can be finished."""
    for (task, session, key, size), values in knowledge.facts("session"):
        where = await store.locate(REGION, f"app/s{task}")
        whole = content(key, size)
        offsets = [each for each in values if isinstance(each, int)]
        try:
            upload = await store.uploads.get(where, UUID(session))
        except NotFound:
            assert "finished" in values
        else:
            assert offsets
            assert min(offsets) <= upload.offset <= size
            rest = once(whole[upload.offset :])
            await store.uploads.finish(where, upload.id, sha256(whole), rest, offset=upload.offset)
        assert await read(store, sha256(whole), repository=where) == whole


async def check_snapshots(path: Path, knowledge: Knowledge) -> int:
    """Those that were made are whole. How many there are.

    One that was not made is no store, unless only its name was missing: then it is whole too.
    """
    made = [each for each in (path / "snapshots").glob("*") if each.suffix != ".partial"]
    for unfinished in (path / "snapshots").glob("*.partial"):
        with contextlib.suppress(NotAStore):
            async with Store.open(unfinished, CONFIG, create=False) as store:
                assert [problem async for problem in store.check(deep=True)] == []
    for newest in [each for each in made if each.name in knowledge.snapshots]:
        async with Store.open(newest, CONFIG, create=False) as store:
            await check_roots(store, knowledge.snapshots[newest.name])
            await check_tags(store, knowledge.snapshots[newest.name])
            assert [problem async for problem in store.check(deep=True)] == []
    knowledge.forget_snapshots()
    return len(made)


async def check_leaks(path: Path) -> None:
    """Much later, only what has a name is there."""
    async with Store.open(path, CONFIG, clock=lambda: time.time() + DAYS) as store:
        await store.sweeper.run(early=True)
        assert [problem async for problem in store.check(deep=True)] == []
        assert (await store.stats()).garbage == 0
    assert await Seams(path / "ledger", DiskDepot(path / "files")).leaks() == ""
    assert list((path / "run").glob("*.lock")) == []


@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("kind", ["push", "sweep", "snapshot"])
async def test_a_killed_process_loses_nothing_that_was_acknowledged(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    knowledge = Knowledge()
    done = snapshots = 0
    for number in range(ROUNDS):
        done += await killed(path, kind, number + 1, knowledge)
        async with Store.open(path, CONFIG) as store:
            assert [problem async for problem in store.check(deep=True)] == []
            await check_roots(store, knowledge)
            await check_tags(store, knowledge)
            await check_sessions(store, knowledge)
        snapshots = await check_snapshots(tmp_path, knowledge)
        await check_leaks(path)
        # Their holds are over now, and what they pushed with them.
        knowledge.forget("session")
    assert done > 10 * ROUNDS
    assert bool(snapshots) == (kind == "snapshot")
