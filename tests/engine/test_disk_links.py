"""Files of the depot on disk under a second path: linked, else copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.common import ROOT, unavailable
from support.depot import write

from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.model.errors import NotFound, StorageFull


def test_a_link_on_one_file_system_shares_the_bytes(
    root: Path, depot: DiskDepot, tmp_path: Path
) -> None:
    write(depot, 1, b"x" * 5000)
    target = tmp_path / "linked"
    depot.link(1, str(target))
    assert target.stat().st_ino == (root / "0000/000/01").stat().st_ino


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_links_are_refused_the_bytes_are_copied(
    depot: DiskDepot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    in_kernel: bool,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse if number != errno.EMLINK else no_bytes)
    data = os.urandom(2_500_000)
    write(depot, 1, data)
    target = tmp_path / "copied"
    depot.link(1, str(target))
    assert target.read_bytes() == data
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFound):
        depot.link(2, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def no_bytes(*_arguments: object) -> int:
    return 0


def elsewhere(here: Path) -> Path:
    """A directory of another file system, that one may write to."""
    places = ("/dev/shm", "/run", "/tmp", "/var/tmp", str(ROOT))  # noqa: S108 - any will do
    found = [Path(place) for place in places if os.access(place, os.W_OK | os.X_OK)]
    found = [place for place in found if place.stat().st_dev != here.stat().st_dev]
    if not found:
        unavailable("there is no second file system to write to")
    return found[0]


def test_a_copy_to_another_file_system(depot: DiskDepot, tmp_path: Path) -> None:
    target = elsewhere(tmp_path) / f"holdfast-test-{os.getpid()}"
    data = os.urandom(1_500_000)
    write(depot, 1, data)
    try:
        depot.link(1, str(target))
        assert target.read_bytes() == data
        assert target.stat().st_mode & 0o777 == 0o600
    finally:
        target.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["linked", "copied", "written"])
def test_a_link_that_is_not_durable_is_taken_back(
    depot: DiskDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write(depot, 1, b"x" * 5000)
    memory = MemoryDepot()
    writer = memory.create(1)
    writer.append(b"x")
    writer.close()

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if kind == "copied":
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", fail)
    target = tmp_path / "target"
    with pytest.raises(StorageFull):
        (memory if kind == "written" else depot).link(1, str(target))
    assert not target.exists()
