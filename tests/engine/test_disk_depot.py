"""What only the depot on disk does: directories, names, locks between processes."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.depot import descriptors, descriptors_before, python, read, write

from holdfast.engine.depot import disk_file
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.model.errors import Busy, NotFound, StorageFailed, StorageFull

BIG_ID = (4096 * 5 + 0xABC) * 256 + 0x0F
BIG_PATH = "0005/abc/0f"


def test_paths_and_modes(root: Path, depot: DiskDepot) -> None:
    write(depot, BIG_ID, b"x")
    write(depot, 0, b"y")
    assert (root / BIG_PATH).read_bytes() == b"x"
    assert (root / "0000/000/00").read_bytes() == b"y"
    for folder in (root, root / "0005", root / "0005/abc"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (root / BIG_PATH).stat().st_mode & 0o777 == 0o600


def test_a_root_is_found_again(root: Path, depot: DiskDepot) -> None:
    write(depot, BIG_ID, b"x")
    again = DiskDepot(root)
    reader = again.open(BIG_ID)
    assert reader.read(0, 1) == b"x"
    reader.close()


def test_a_relative_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    write(DiskDepot(Path("files")), 1, b"x")
    assert (root / "0000/000/01").read_bytes() == b"x"


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "files", tmp_path / "missing" / "files"):
        with pytest.raises(StorageFailed) as caught:
            DiskDepot(path)
        assert caught.value.what == str(path)


def test_a_root_that_vanished_is_not_made_anew(root: Path, depot: DiskDepot) -> None:
    root.rmdir()
    with pytest.raises(StorageFailed):
        depot.create(1)
    with pytest.raises(StorageFailed):
        list(depot.blocks())
    with pytest.raises(StorageFailed):
        depot.free_bytes()
    assert not root.exists()


def test_names_that_are_not_ours_are_passed_over(root: Path, depot: DiskDepot) -> None:
    write(depot, BIG_ID, b"x")
    block = root / "0005/abc"
    for name in ("0F", "1", "001", "100", "-1", "+1", "0x1", "1_0", "zz", ".tmp", "\u0661\u0661"):
        (block / name).write_bytes(b"")
        (root / "0005" / f"{name}-").mkdir()
        (root / name).mkdir()
    for name in ("0001", "0005/001"):
        (root / name).write_bytes(b"")
    (block / "10").mkdir()
    (block / "11").symlink_to(block / "0f")
    for name in ("00005", "0005/1000", "0005/0abc", "0005/ABC"):
        (root / name).mkdir()
    assert list(depot.files(BIG_ID // 256)) == [BIG_ID]
    assert list(depot.blocks()) == [BIG_ID // 256]


def test_the_descriptor_is_for_sendfile(depot: DiskDepot) -> None:
    write(depot, 1, b"0123456789")
    reader = depot.open(1)
    number = reader.fileno()
    assert number is not None
    assert os.pread(number, 4, 3) == b"3456"
    assert not os.get_inheritable(number)
    reader.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


HOLD = """
import sys
from pathlib import Path
from holdfast.engine.depot.disk import DiskDepot
writer = DiskDepot(Path(sys.argv[1])).create(1)
writer.append(b"unsynced")
print("held", flush=True)
sys.stdin.read()
"""

CONTEND = """
import sys
from pathlib import Path
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.model.errors import Busy
try:
    DiskDepot(Path(sys.argv[1])).reopen(1).close()
except Busy:
    print("busy")
"""


@pytest.mark.slow
def test_one_writer_among_processes(root: Path, depot: DiskDepot) -> None:
    writer = depot.create(1)
    assert python(CONTEND, str(root)) == "busy\n"
    writer.close()
    assert python(CONTEND, str(root)) == ""


def test_a_killed_process_leaves_its_bytes_and_no_lock(root: Path, depot: DiskDepot) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy):
            depot.reopen(1)
        holder.kill()
    writer = depot.reopen(1)
    assert writer.read(0, 100) == b"unsynced"
    writer.append(b" no more")
    writer.sync()
    writer.close()
    assert (root / "0000/000/01").read_bytes() == b"unsynced no more"


def test_what_came_before_the_lock_counts(
    root: Path, depot: DiskDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(depot, 1, b"first")
    lock = fcntl.flock

    def meddle(fd: int, operation: int) -> None:
        with (root / "0000/000/01").open("ab") as file:
            file.write(b" second")
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", meddle)
    writer = depot.reopen(1)
    assert writer.size == 12
    writer.append(b" third")
    writer.close()
    assert read(depot, 1) == b"first second third"


@pytest.mark.parametrize("remade", [False, True])
def test_a_file_replaced_before_the_lock_is_not_written(
    root: Path, depot: DiskDepot, monkeypatch: pytest.MonkeyPatch, remade: bool
) -> None:
    write(depot, 1, b"x")
    path = root / "0000/000/01"
    lock = fcntl.flock

    def meddle(fd: int, operation: int) -> None:
        path.unlink()
        if remade:
            path.write_bytes(b"somebody else's")
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", meddle)
    before = descriptors_before()
    with pytest.raises(NotFound):
        depot.reopen(1)
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["create", "reopen", "open"])
def test_what_is_forgotten_is_closed_and_told(depot: DiskDepot, how: str) -> None:
    write(depot, 1, b"x")
    before = descriptors_before()
    with pytest.warns(ResourceWarning, match="was not closed"):
        forget(depot, how)
    assert descriptors() == before


def forget(depot: DiskDepot, how: str) -> None:
    if how == "create":
        depot.create(2)
    elif how == "reopen":
        depot.reopen(1)
    else:
        depot.open(1)
    gc.collect()


def test_no_descriptor_is_left_open(depot: DiskDepot) -> None:
    before = descriptors_before()
    for file_id in range(20):
        write(depot, file_id, b"x")
    list(depot.files(0))
    list(depot.blocks())
    reader = depot.open(1)
    reader.close()
    assert descriptors() == before


@pytest.mark.parametrize("full", [False, True])
def test_a_sync_that_fails_beside_an_append_leaves_nothing(
    root: Path, depot: DiskDepot, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Also of what was on its way into the file in that moment."""
    writer = depot.create(BIG_ID)
    writer.append(b"before")
    pwrite = os.pwrite

    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def beside(fd: int, data: memoryview, offset: int) -> int:
        with pytest.raises(StorageFailed):
            writer.sync()
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(disk_file, "_sync_data", refuse)
    monkeypatch.setattr(os, "pwrite", beside)
    with pytest.raises(StorageFull if full else StorageFailed):
        writer.append(b"on its way")
    assert writer.size == (root / BIG_PATH).stat().st_size == 0
    writer.close()
