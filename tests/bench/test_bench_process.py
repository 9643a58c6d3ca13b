"""What is seen of a server from outside: CPU, memory, disk, and how often it waits for that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.bench import TINY

from holdfast.bench.load import process
from holdfast.bench.load.client_pool import ClientPool
from holdfast.bench.suites import syncs
from holdfast.bench.suites.measure import Bench, Meter
from holdfast.bench.targets.servers import Server, start_docker_registry, start_holdfast

pytestmark = pytest.mark.slow

MIB = 1 << 20


def test_a_tree_of_processes_is_summed() -> None:
    """A parent that does nothing, and a child that computes and takes memory."""
    child = f"x = bytearray({64 * MIB}); sum(range(10**7)); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert len(process.tree(running.pid)) == 2
        assert process.cpu_seconds(running.pid) > 0.05
        peak = process.peak_bytes(running.pid)
        assert 64 * MIB < peak.largest < peak.total < 2 * peak.largest
        assert process.resident_bytes(running.pid) >= 64 * MIB
        running.communicate(b"\n")
    with pytest.raises(ProcessLookupError):
        process.cpu_seconds(running.pid)


def test_what_others_take_is_what_server_and_clients_did_not() -> None:
    before, spent = process.busy_seconds(), time.process_time()
    while time.process_time() - spent < 0.3:
        pass
    assert process.busy_seconds() - before > 0.25
    meter = Meter(cpu=1.0, seconds=2.0, busy=3.6)
    assert meter.others(client_cpu=0.6) == pytest.approx(1.0)
    assert meter.others(client_cpu=2.7) == 0.0
    assert Meter(cpu=None, seconds=2.0, busy=3.6).others(0.0) is None


def test_a_peak_is_forgotten() -> None:
    # Whatever else this process did is not what is measured here.
    process.forget_peak(os.getpid())
    before = process.peak_bytes(os.getpid()).largest
    taken = bytearray(200 * MIB)
    taken[::4096] = b"x" * len(taken[::4096])
    assert process.peak_bytes(os.getpid()).largest > before + 100 * MIB
    del taken
    process.forget_peak(os.getpid())
    assert process.peak_bytes(os.getpid()).largest < before + 100 * MIB


def test_the_page_cache_is_dropped_where_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(4 * MIB))
    assert process.cached_share(path) == 1.0
    process.drop_cached(tmp_path)
    memory = process.filesystem(tmp_path) == "tmpfs"
    assert (process.cached_share(path) > 0.9) == memory
    assert process.can_drop(tmp_path) != memory
    path.read_bytes()
    assert process.cached_share(path) == 1.0


def test_what_waits_for_the_disk_is_counted_in_a_log_of_strace() -> None:
    lines = """\
10 fsync(5) = 0
10 pwrite64(7, ""..., 4096, 0) = 4096
11 pwrite64(7, ""..., 4096, 0 <unfinished ...>
11 <... pwrite64 resumed>) = 4096
10 pwrite64(8, ""..., 4096, 0) = 4096
20 pwrite64(7, ""..., 4096, 0) = 4096
20 openat(AT_FDCWD, "x", O_RDWR|O_CREAT|O_DSYNC|O_CLOEXEC, 0644) = 9
20 write(9, ""..., 10) = 10
20 close(9) = 0
20 openat(AT_FDCWD, "y", O_RDWR) = 9
20 write(9, ""..., 10) = 10
20 openat(AT_FDCWD, "z", O_RDONLY|O_SYNC) = -1 ENOENT (No such file or directory)
20 fdatasync(9) = 0
+++ exited with 0 +++
"""
    owners = {10: 10, 11: 10, 20: 20}
    # fsync, two writes to 7 of process 10, one to 9 while that waits, fdatasync.
    assert syncs.count(lines.splitlines(), owners, {10: {7}, 20: set()}) == 5


@pytest.mark.parametrize("name", ["holdfast", "docker-registry"])
def test_a_pushed_image_waits_for_the_disk(
    tmp_path: Path, require_tool: Callable[[str], str], name: str
) -> None:
    """Seven objects are acknowledged for each image, one after the other."""
    require_tool("strace")
    start: Callable[[], Server] = partial(start_holdfast, tmp_path / "data")
    if name == "docker-registry":
        start = partial(start_docker_registry, tmp_path / "data", require_tool(name))
    server = start()
    try:
        with ClientPool(1) as crew:
            found = syncs.per_image(Bench(TINY, crew, "seed", tmp_path), server.target)
    finally:
        server.stop()
    assert found is not None
    assert 7 <= found < 200
