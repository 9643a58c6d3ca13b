"""A worker that hangs is ended and replaced: while it serves, at the start, at a reload."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.operating import call, eventually, operated
from support.rows import Row
from support.server import HOLDFAST, WAIT_SECONDS, ServerProcess

from holdfast.api.server import worker
from holdfast.engine import StorageFailed, Store, StoreConfig

pytestmark = pytest.mark.slow

SILENT = "--watchdog=6"
"""Longer than a worker takes to start on a busy machine."""


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def stop_first(pid: int, known: list[int]) -> int:
    """Stop the next worker that this process makes, before it serves."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        for child in children(pid):
            if child not in known:
                os.kill(child, signal.SIGSTOP)
                return child
        assert time.monotonic() < deadline


def answers(server: ServerProcess) -> bool:
    return call(server, "GET", "/readyz").status == 200


@pytest.mark.row("limits.md", "silence of a worker")
def test_a_worker_that_hangs_is_replaced(row: Row, tmp_path: Path) -> None:
    """Its connections end; those of the other one go on, and new ones are served."""
    with operated(tmp_path / "data", SILENT, workers=2) as server:
        victim, survivor = server.workers()
        host, port = server.address.split(":")
        # One of so many is the victim's.
        sockets = [
            socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) for _ in range(40)
        ]
        for sock in sockets:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        os.kill(victim, signal.SIGSTOP)
        eventually(lambda: victim not in server.workers() and len(server.workers()) == 2)
        assert survivor in server.workers()
        alive = 0
        for sock in sockets:
            try:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                alive += sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            except ConnectionError:
                pass
            sock.close()
        assert 0 < alive < len(sockets)
        assert all(answers(server) for _ in range(20))
        server.stop()
        assert server.errors().splitlines() == [
            "worker 0 had no heartbeat for 6 s; killing it",
            "worker 0 ended: SIGKILL; restarting it",
        ]
    assert SILENT.startswith(f"--{row.source}=")
    row.says(beyond_it="the supervisor kills it and starts another one")


async def test_one_whose_ledger_refuses_itself_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LMDB does after a failed write of its first page, until it is opened anew."""
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.0)
    asked = 0

    def refuse() -> int:
        nonlocal asked
        asked += 1
        if asked == worker.LEDGER_FAILURES_MAX:
            return 1
        raise StorageFailed("ledger", "MDB_PANIC")

    async with Store.open(tmp_path / "data", StoreConfig(background=False)) as store:
        stop = asyncio.Event()
        watch = asyncio.create_task(worker.watch_ledger(store, stop))
        monkeypatch.setattr(store.core.ledger, "last_txn", refuse)
        await stop.wait()
        await watch
    assert asked == 2 * worker.LEDGER_FAILURES_MAX


def test_one_that_hangs_at_the_start_ends_the_start(tmp_path: Path) -> None:
    """In time, and with a reason, instead of never."""
    arguments = [*HOLDFAST, "serve", f"--data={tmp_path / 'data'}", "--listen=127.0.0.1:0"]
    with subprocess.Popen(
        [*arguments, "--workers=1", "--watchdog=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        stop_first(process.pid, [])
        out, said = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (1, "")
    assert said.splitlines() == [
        "worker 0 did not start: no heartbeat for 1 s; killing it",
        "holdfast: worker 0 could not start (SIGKILL)",
    ]


def test_one_that_hangs_at_a_reload_leaves_the_old_one(tmp_path: Path) -> None:
    with operated(tmp_path / "data", SILENT) as server:
        before = server.workers()
        stopped: list[int] = []
        stopper = threading.Thread(
            target=lambda: stopped.append(stop_first(server.process.pid, before))
        )
        stopper.start()
        server.process.send_signal(signal.SIGHUP)
        stopper.join()
        assert answers(server)
        eventually(lambda: any("the old worker keeps running" in line for line in server.said))
        eventually(lambda: server.workers() == before)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.workers()) == 1 and server.workers() != before)
        assert answers(server)


def test_a_busy_worker_is_left_alone(tmp_path: Path) -> None:
    """One that is stopped for less than its time."""
    with operated(tmp_path / "data", SILENT) as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1)
        os.kill(worker, signal.SIGCONT)
        assert answers(server)
        assert server.workers() == [worker]
        server.stop()
        assert server.errors() == ""
