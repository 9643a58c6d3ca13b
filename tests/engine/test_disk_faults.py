"""The depot on disk when the system refuses: space, permission, syncs, damage."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from support.common import unavailable
from support.depot import descriptors, descriptors_before, python, read, write
from support.engine import raised

from holdfast.engine.depot import disk_file
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.model.errors import StorageFailed, StorageFull

BIG_ID = (4096 * 5 + 0xABC) * 256 + 0x0F
BIG_PATH = "0005/abc/0f"


@pytest.mark.parametrize("place", ["0005", "0005/abc"])
def test_a_file_in_the_place_of_a_directory(root: Path, depot: DiskDepot, place: str) -> None:
    path = root / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    for call in (depot.create, depot.open, depot.reopen, depot.delete):
        with pytest.raises(StorageFailed) as caught:
            call(BIG_ID)
        assert caught.value.what == BIG_PATH
        assert caught.value.reason == os.strerror(errno.ENOTDIR)
    with raised(StorageFailed, what="0005/abc"):
        list(depot.files(BIG_ID // 256))
    assert list(depot.blocks()) == []
    assert path.read_bytes() == b""


def test_a_directory_in_the_place_of_a_file(root: Path, depot: DiskDepot) -> None:
    (root / BIG_PATH).mkdir(parents=True)
    before = descriptors_before()
    assert not depot.delete(BIG_ID)
    for call in (depot.open, depot.reopen):
        with raised(StorageFailed, what=BIG_PATH):
            call(BIG_ID)
    assert descriptors() == before
    assert list(depot.files(BIG_ID // 256)) == []


NO_PERMISSION = """
import errno, os, sys
from pathlib import Path
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.model.errors import StorageFailed

os.chdir(sys.argv[1])
depot = DiskDepot(Path("files"))
writer = depot.create(1)
writer.append(b"x")
writer.close()
os.chmod(sys.argv[2], 0)
if os.geteuid() == 0:
    os.setuid(65534)
for call in (depot.create, depot.open, depot.reopen, depot.delete):
    try:
        call(1)
    except StorageFailed as error:
        assert error.what == "0000/000/01", error
        assert error.reason == os.strerror(errno.EACCES), error
    else:
        raise AssertionError(call)
for call in (depot.sync_block, lambda block: list(depot.files(block))):
    try:
        call(0)
    except StorageFailed as error:
        assert error.what == "0000/000", error
        assert error.reason == os.strerror(errno.EACCES), error
    else:
        raise AssertionError(call)
"""


@pytest.mark.parametrize("place", ["files/0000/000", "files/0000"])
def test_lost_permission(tmp_path: Path, place: str) -> None:
    python(NO_PERMISSION, str(tmp_path), place)


OVERFLOW = """
import resource, sys
from pathlib import Path
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.model.errors import StorageFull

root, limited = Path(sys.argv[1]), sys.argv[2] == "limited"
depot = DiskDepot(root)
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
else:
    assert 0 < depot.free_bytes() <= 1 << 20
writer = depot.create(1)
writer.append(b"a" * 5000)
try:
    writer.append(b"b" * (2 << 20))
except StorageFull as error:
    assert error.what == "depot"
else:
    raise AssertionError("there was room")
assert writer.size == 5000
assert (root / "0000/000/01").stat().st_size == 5000
writer.append(b"c" * 5000)
assert writer.read(4999, 100) == b"a" + b"c" * 99
writer.sync()
writer.close()
"""

FILL = (
    OVERFLOW
    + """
full = depot.create(3)
try:
    while True:
        full.append(b"d" * 4096)
except StorageFull:
    pass
kept = full.size
assert kept > 0 and kept % 4096 == 0
assert (root / "0000/000/03").stat().st_size == kept
assert depot.free_bytes() < 4096
for file_id in range(4, 5000):
    try:
        depot.create(file_id).close()
    except StorageFull:
        break
else:
    raise AssertionError("there were inodes for all")
full.close()
assert depot.delete(3)
assert depot.free_bytes() >= kept
"""
)


def test_a_file_over_the_limit_of_the_process(tmp_path: Path) -> None:
    python(OVERFLOW, str(tmp_path / "files"), "limited")


def test_a_full_disk(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=1m,nr_inodes=500,mode=700 tmpfs"
    inside = ("sh", "-c", f'{mount} "$0" && exec "$@"', str(tmp_path))
    for kind in ("-m", "-rm"):  # as root, else as one who is root in a world of its own
        private = ("unshare", kind, *inside)
        if not subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
            break
    else:
        unavailable("mounting is not permitted here")
    python(FILL, str(tmp_path / "files"), "full", wrapper=private)


def test_the_first_sync_covers_every_directory(
    root: Path, depot: DiskDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody else made these directories and may have died before syncing them.
    (root / BIG_PATH).parent.mkdir(parents=True)
    synced: list[Path] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    writer = depot.create(BIG_ID)
    writer.append(b"x")
    assert synced == []
    writer.sync()
    block = root / "0005/abc"
    assert set(synced) == {block, block.parent, root, root.parent}
    synced.clear()
    writer.append(b"y")
    writer.sync()
    writer.close()
    assert synced == []

    write(depot, BIG_ID + 1, b"second of the block")
    assert synced == [block]
    synced.clear()
    write(depot, BIG_ID - 256, b"second block of the group")
    assert set(synced) == {root / "0005/abb", root / "0005"}
    synced.clear()
    writer = depot.reopen(BIG_ID)
    writer.sync()
    writer.close()
    assert synced == [block], "the one that created it may have died before its sync"


def test_a_directory_that_could_not_be_synced_is_synced_later(
    root: Path, depot: DiskDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    failing = True
    synced: set[Path] = set()

    def refuse(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if failing and path == root:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)
        synced.add(path)

    monkeypatch.setattr(os, "fsync", refuse)
    writer = depot.create(1)
    with pytest.raises(StorageFailed):
        writer.sync()
    writer.close()
    failing = False
    synced.clear()
    write(depot, 2, b"x")
    block = root / "0000/000"
    assert synced == {block, block.parent, root, root.parent}


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EIO, StorageFailed), (errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull)],
)
@pytest.mark.parametrize("part", ["data", "entry"])
def test_after_a_failed_sync_the_file_is_lost(
    depot: DiskDepot,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[Exception],
    part: str,
) -> None:
    # The kernel reports a failed write-back once and then forgets the data.
    failing = True

    def sync(_fd: int) -> None:
        if failing:
            raise OSError(number, os.strerror(number))

    writer = depot.create(1)
    writer.append(b"x")
    if part == "data":
        monkeypatch.setattr(disk_file, "_sync_data", sync)
    else:
        monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(expected):
        writer.sync()
    failing = False
    for call in (writer.sync, lambda: writer.append(b"y"), lambda: writer.truncate(0)):
        with pytest.raises(StorageFailed, match="earlier sync"):
            call()
    writer.close()
    again = depot.reopen(1)
    assert again.size == 0, "to sync the rest of it would be no error"
    again.append(b"y")
    again.sync()
    again.close()
    assert read(depot, 1) == b"y"


def test_a_failed_read_says_so(depot: DiskDepot, monkeypatch: pytest.MonkeyPatch) -> None:
    write(depot, 1, b"x" * 10)
    reader = depot.open(1)

    def refuse(_fd: int, _length: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", refuse)
        with pytest.raises(StorageFailed) as caught:
            reader.read(0, 10)
    assert (caught.value.what, caught.value.reason) == ("0000/000/01", os.strerror(errno.EIO))
    reader.close()


def test_short_reads_and_writes_are_continued(
    depot: DiskDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 7), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:5], at))
    data = bytes(range(200))
    write(depot, 1, data)
    reader = depot.open(1)
    assert reader.read(3, 1000) == data[3:]
    reader.close()
