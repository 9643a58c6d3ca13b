"""kill -9 of a worker, of the supervisor, of all, at random moments under mixed load.

``make soak`` does it a hundred times, and again and again until its time is over.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from support.api import digest_of
from support.crash import kill_all
from support.images import noise
from support.load import (
    TEAM,
    Load,
    Memory,
    Picture,
    Wire,
    eventually,
    gone,
    kill,
    loaded,
    make_namespace,
    owners,
    problems,
    push_blob,
    read_reply,
    wired,
)
from support.server import ServerProcess, command

KINDS: Final = ("worker", "supervisor", "all")
ROUNDS: Final = 6
SOAK_ROUNDS: Final = 100
ACKNOWLEDGED_MIN: Final = 5
"""What a round has done, at least, before it is disturbed."""


async def kill_worker(server: ServerProcess, load: Load, chance: random.Random) -> None:
    """End one; those who talk to the other ones do not notice."""
    before = server.workers()
    victim = chance.choice(before)
    whose = owners(server, {wire.port for wire in load.wires if wire.port})
    others = [
        (wire, wire.port, wire.lost)
        for wire in load.wires
        if wire.port and whose.get(wire.port, victim) != victim
    ]
    kill(victim)
    await eventually(lambda: victim not in server.workers() and len(server.workers()) == 2)
    await asyncio.sleep(chance.uniform(0.0, 0.3))
    await load.stop()
    assert [(wire, wire.lost) for wire, _, _ in others] == [(w, lost) for w, _, lost in others]
    assert set(before) - {victim} < set(server.workers())


async def disturbed(server: ServerProcess, memory: Memory, kind: str, seed: int) -> None:
    """Load for a moment, and a kill in the middle of it."""
    chance = random.Random(seed)
    load = Load(server.address, memory, seed)
    done = memory.acknowledged + ACKNOWLEDGED_MIN
    load.start()
    await eventually(lambda: memory.acknowledged >= done)
    await asyncio.sleep(chance.uniform(0.0, 0.5))
    if kind == "worker":
        await kill_worker(server, load, chance)
        return
    workers = server.workers()
    if kind == "supervisor":
        server.kill()
    else:
        kill_all(server)
    await eventually(lambda: all(map(gone, workers)))
    await load.stop()


async def rounds(data: Path, count: int, seed: int) -> None:
    memory = Memory()
    order = [KINDS[number % len(KINDS)] for number in range(count)]
    random.Random(seed).shuffle(order)
    with ExitStack() as stack:
        server = None
        for number, kind in enumerate(order, seed):
            if server is None:
                server = stack.enter_context(loaded(data))
                if number == seed:
                    await make_namespace(server.address)
                # What was acknowledged before the kill, and by the server before this one.
                await memory.verify(server.address)
            await disturbed(server, memory, kind, number)
            assert await problems(data) == []
            if kind == "worker":
                await memory.verify(server.address)
            else:
                stack.pop_all().close()
                server = None
    with loaded(data) as last:
        assert await memory.verify(last.address) > 0
    assert await problems(data) == []


async def test_what_was_acknowledged_survives_any_kill(tmp_path: Path) -> None:
    await rounds(tmp_path / "data", ROUNDS, 1)


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_what_was_acknowledged_survives_a_hundred_kills(tmp_path: Path) -> None:
    """And another hundred with other seeds, while HOLDFAST_SOAK_SECONDS are not over."""
    end = time.monotonic() + float(os.environ.get("HOLDFAST_SOAK_SECONDS", "0"))
    for turn in itertools.count(1):
        await rounds(tmp_path / "data", SOAK_ROUNDS, 1000 * turn)
        if time.monotonic() >= end:
            break
        shutil.rmtree(tmp_path / "data")


async def test_requests_in_the_middle_of_a_worker_that_lives_end_well(tmp_path: Path) -> None:
    """An upload and a download that are half done go on while the other worker dies."""
    content = noise("half", 8_000_000)
    path = f"/v2/{TEAM}/half/blobs"
    with loaded(tmp_path / "data") as server:
        await make_namespace(server.address)
        async with wired(server.address) as wire:
            await push_blob(wire, f"{TEAM}/half", content)
        wires = [Wire(server.address) for _ in range(16)]
        streams = [await wire.open() for wire in wires]
        for wire in wires:
            assert (await wire.ask("GET", "/v2/")).status == 200
        whose = owners(server, {wire.port for wire in wires})
        assert set(whose.values()) == set(server.workers())
        victim = server.workers()[0]
        living = [at for at, wire in enumerate(wires) if whose[wire.port] != victim]
        pulling, pushing = living[0], living[1]
        other = noise("other half", 1_000_000)
        head = wires[pushing].head("POST", f"{path}/uploads/?digest={digest_of(other)}", len(other))
        streams[pushing][1].write(head + other[:500_000])
        await streams[pushing][1].drain()
        streams[pulling][1].write(wires[pulling].head("GET", f"{path}/{digest_of(content)}", 0))
        first = await streams[pulling][0].readexactly(100)
        kill(victim)
        await eventually(lambda: victim not in server.workers() and len(server.workers()) == 2)
        streams[pushing][1].write(other[500_000:])
        assert (await read_reply(streams[pushing][0])).status == 201
        rest = await streams[pulling][0].readexactly(len(content))
        body = (first + rest).partition(b"\r\n\r\n")[2]
        body += await streams[pulling][0].readexactly(len(content) - len(body))
        assert body == content
        for wire in wires:
            await wire.close()
        async with wired(server.address) as wire:
            got = await wire.ask("GET", f"{path}/{digest_of(other)}")
            assert (got.status, got.body) == (200, other)
    assert await problems(tmp_path / "data") == []


async def test_a_snapshot_while_clients_push_and_delete(tmp_path: Path) -> None:
    """Made by the command line beside the server. It has all that was acknowledged before it
    began and not touched since, and serves."""
    memory = Memory()
    kept = Picture(f"{TEAM}/kept", 3)
    with loaded(tmp_path / "data") as server:
        await make_namespace(server.address)
        async with wired(server.address) as wire:
            await memory.push(wire, kept, "v1")
        load = Load(server.address, Memory(), 7)
        load.start()
        await eventually(lambda: load.memory.acknowledged >= ACKNOWLEDGED_MIN)
        before = load.memory.acknowledged
        options = ("snapshot", f"--data={server.data}", str(tmp_path / "copy"))
        done = await asyncio.to_thread(command, *options)
        assert done.returncode == 0, done.stderr
        await eventually(lambda: load.memory.acknowledged > before)
        await load.stop()
    assert await problems(tmp_path / "copy") == []
    with loaded(tmp_path / "copy") as copy:
        assert await memory.verify(copy.address) == 1
        async with wired(copy.address) as wire:
            await memory.push(wire, Picture(f"{TEAM}/kept", 4), "v2")
        assert await memory.verify(copy.address) == 2
    assert await problems(tmp_path / "copy") == []
