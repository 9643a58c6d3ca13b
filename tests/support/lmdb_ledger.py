"""What the tests of the ledger in LMDB share: its fixtures, transactions, and child processes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger

MAP_BYTES = 1 << 30
PAGE = os.sysconf("SC_PAGE_SIZE")

CHILD = """
import asyncio, os, resource, sys, time
from pathlib import Path
from holdfast.engine.model.errors import StorageFailed
from holdfast.engine.ledger.lmdb import LmdbLedger

path = Path(sys.argv[1])

async def add(txn, key, delta=1):
    await txn.add(key, delta)

async def put(txn, key, value):
    await txn.put(key, value)

async def get(txn, key):
    return await txn.get(key)

async def reads_until_told(txn):
    print("reading", flush=True)
    sys.stdin.readline()
    return [key for key, _ in await txn.scan(b"a", b"z", limit=100)]

def opened(create=False):
    return LmdbLedger.open(path, map_bytes=1 << 30, create=create)
"""


def spawn(script: str, path: Path) -> subprocess.Popen[str]:
    """A process of its own, with ``CHILD`` before its script."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def child(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A child that is gone after the block, however it ends."""
    process = spawn(script, path)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def appears(file: Path) -> None:
    while not file.exists():
        os.sched_yield()


def ends(writer: threading.Thread) -> None:
    """Collect until it does: its last step, and this task's, may still hold an error's frames."""
    while writer.is_alive():
        gc.collect()
        os.sched_yield()


def opened(path: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> LmdbLedger:
    return LmdbLedger.open(path, map_bytes=map_bytes, create=create)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[LmdbLedger]:
    made = opened(path, create=True)
    yield made
    await made.close()


class Oops(Exception):
    """What a body raises on purpose."""


async def put(txn: Transaction, key: bytes, value: bytes = b"") -> None:
    await txn.put(key, value)


async def get(txn: Transaction, key: bytes) -> bytes | None:
    return await txn.get(key)


async def add(txn: Transaction, key: bytes, delta: int = 1) -> None:
    await txn.add(key, delta)


async def total(txn: Transaction, key: bytes) -> int:
    return await txn.counter(key)


async def keys(txn: Transaction) -> list[bytes]:
    return [key for key, _ in await txn.scan(b"", b"\xff", limit=1_000_000)]


async def fill(txn: Transaction, first: int, rows: int, row_bytes: int) -> None:
    for number in range(first, first + rows):
        await txn.put(b"%08d" % number, b"x" * row_bytes)


async def clear(txn: Transaction, rows: int) -> int:
    found = await txn.scan(b"", b"\xff", limit=rows)
    for key, _ in found:
        await txn.delete(key)
    return len(found)


async def put_and_fail(txn: Transaction, key: bytes) -> None:
    await txn.put(key, b"")
    await txn.add(b"n", 1)
    raise Oops(key)


class Gate:
    """A body that holds the writer until it is told to go on, so that others queue up."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    async def body(self, txn: Transaction) -> None:
        await txn.put(b"gate", b"")
        self.entered.set()
        assert self.go_on.wait(60)

    async def shut(self, ledger: LmdbLedger) -> asyncio.Task[None]:
        task = asyncio.create_task(ledger.transact(self.body))
        assert await asyncio.to_thread(self.entered.wait, 60)
        return task

    @classmethod
    async def shut_on(cls, ledger: LmdbLedger) -> tuple[Gate, asyncio.Task[None]]:
        """Return a new gate that holds the writer of a ledger, and the task that passes it."""
        gate = cls()
        return gate, await gate.shut(ledger)


async def submitted(*calls: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Tasks that have run as far as they can."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks
