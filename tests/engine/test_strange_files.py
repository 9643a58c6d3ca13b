"""Links, pipes, sockets, devices and directories where files have to be: nothing waits for them,
nothing is read by way of them, and each is named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import engine_fixtures
from support.copies import BIG, LAYER, QUIET, file_of, finish, names, verify
from support.engine import REGION, read, sha256

from holdfast.engine import Busy, Corrupt, EngineError, NotFound, Store, export_layout

place = engine_fixtures.disk_place


def _link(path: Path) -> None:
    """To another file with the very same content."""
    elsewhere = path.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _gone(path: Path) -> None:
    path.unlink()


def _pipe(path: Path) -> None:
    _gone(path)
    os.mkfifo(path)


def _socket(path: Path) -> None:
    _gone(path)
    here_now = os.open(".", os.O_RDONLY)
    try:
        # The path of a socket is short.
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.fchdir(here_now)
        os.close(here_now)


def _directory(path: Path) -> None:
    _gone(path)
    path.mkdir()


def _endless_device(path: Path) -> None:
    _gone(path)
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no right to make a device")


def _dangling(path: Path) -> None:
    _gone(path)
    path.symlink_to("/nowhere/at/all")


KINDS = {
    "a symbolic link": _link,
    "a pipe": _pipe,
    "a socket": _socket,
    "a directory": _directory,
    "a device": _endless_device,
    "a symbolic link ": _dangling,
}
STRANGE = pytest.mark.parametrize("kind", KINDS, ids=[make.__name__ for make in KINDS.values()])


async def refused(snapshot: Path, target: Path, name: Path, reason: str, *, copy: bool) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(Corrupt) as error:
            await finish(Store.restore(snapshot, target, copy=copy))
    assert error.value.name == str(name)
    assert reason.strip() in error.value.reason
    assert names(target.parent) == ["copy", "data"]


@pytest.mark.slow
@STRANGE
@pytest.mark.parametrize("copy", [True, False], ids=["copy", "link"])
@pytest.mark.usefixtures("at_home")
async def test_in_the_place_of_a_blob(
    snapshot: Path, tmp_path: Path, kind: str, copy: bool
) -> None:
    file = file_of(snapshot, len(BIG))
    KINDS[kind](file)
    await refused(snapshot, tmp_path / "restored", file, kind, copy=copy)
    async with asyncio.timeout(20):
        steps = Store.restore(snapshot, tmp_path / "restored", copy=copy, salvage=True)
        done = await finish(steps)
    assert done.damaged == 1
    async with Store.open(tmp_path / "restored", QUIET) as store:
        assert await read(store, sha256(LAYER)) == LAYER
        with pytest.raises((Corrupt, NotFound)):
            await read(store, sha256(BIG))
        await store.put(BIG)
    assert await verify(tmp_path / "restored") == []


@pytest.mark.parametrize("above", [0, 1], ids=["block", "group"])
@pytest.mark.parametrize("copy", [True, False], ids=["copy", "link"])
@pytest.mark.usefixtures("at_home")
async def test_a_link_on_the_way_to_a_blob(
    snapshot: Path, tmp_path: Path, above: int, copy: bool
) -> None:
    file = file_of(snapshot, len(BIG))
    _link(file.parents[above])
    target = tmp_path / "restored"
    async with asyncio.timeout(20):
        with pytest.raises(
            Corrupt, match="a symbolic link is in the place of a directory"
        ) as error:
            await finish(Store.restore(snapshot, target, copy=copy))
    assert error.value.name.startswith(str(snapshot / "files"))
    assert not target.exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["FORMAT", "ledger", "ledger/data.mdb", "files", "run"])
@pytest.mark.parametrize("make", [_link, _dangling, _pipe], ids=["link", "dangling", "pipe"])
@pytest.mark.usefixtures("at_home")
async def test_in_the_place_of_another_part(
    snapshot: Path, tmp_path: Path, part: str, make: Callable[[Path], None]
) -> None:
    path = snapshot / part
    if make is not _link and path.is_dir():
        # What is in it is of no matter here.
        path.rename(tmp_path / "away")
        path.touch()
    make(path)
    for salvage in (False, True):
        async with asyncio.timeout(20):
            with pytest.raises(Corrupt) as error:
                await finish(Store.restore(snapshot, tmp_path / "restored", salvage=salvage))
        assert error.value.name == str(path)
        assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("make", [_pipe, _link, _dangling, _socket, _directory])
@pytest.mark.usefixtures("at_home")
async def test_locks_that_are_no_files_are_of_no_process(
    snapshot: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    lock = snapshot / "run" / "0011223344556677.lock"
    lock.touch()
    make(lock)
    async with asyncio.timeout(20):
        await finish(Store.restore(snapshot, tmp_path / "restored"))


_SLOW = """
import os, sys, time
if "fill" in sys.argv:
    def wait(*_):
        os.write(2, b"stuck\\n")
        time.sleep(3600)
    os.copy_file_range = wait
"""

_RESTORE = """
import asyncio, sys
from pathlib import Path
from holdfast.engine import Store
async def main():
    async for _ in Store.restore(Path(sys.argv[1]), Path(sys.argv[2])):
        pass
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_its_process_ends_with_who_restores(
    snapshot: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """Whatever it waits for; and its lock goes with it."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(_SLOW)
    target = tmp_path / "restored"
    with subprocess.Popen(  # noqa: ASYNC220 - it is killed, and a loop of its own is in the way
        [sys.executable, "-c", _RESTORE, snapshot, target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(slow), *filter(None, sys.path)))},
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"stuck\n"
        with pytest.raises(Busy):
            await finish(Store.restore(snapshot, target))
        process.send_signal(how)
        process.wait(10)
        # Its stderr is the worker's too: this is the end of both.
        assert await asyncio.wait_for(asyncio.to_thread(process.stderr.read), 10) == b""
    await finish(Store.restore(snapshot, target))
    assert await verify(target) == []


@pytest.mark.slow
@STRANGE
@pytest.mark.parametrize("finder", ["reader", "scrub", "snapshot"])
async def test_in_a_store_that_is_in_use(
    filled: Store, tmp_path: Path, kind: str, finder: str
) -> None:
    """It is damage: found by readers, by the check and by the scrub, and healed by a push."""
    file = file_of(tmp_path / "data", len(BIG))
    KINDS[kind](file)
    where = await filled.locate(REGION, "app/web")
    async with asyncio.timeout(30):
        reasons = [problem.reason async for problem in filled.check()]
        assert any(kind.strip() in reason for reason in reasons)
        if finder == "reader":
            with pytest.raises(Corrupt, match="is in the place of a file"):
                await read(filled, sha256(BIG), repository=where)
        elif finder == "scrub":
            assert (await filled.scrubber.run()).damaged == [sha256(BIG)]
        else:
            assert (await finish(filled.snapshot(tmp_path / "copy"))).damaged == 1
        with pytest.raises(Corrupt, match="quarantine"):
            await read(filled, sha256(BIG), repository=where)
        await filled.put(BIG)
        assert await read(filled, sha256(BIG), repository=where) == BIG
        await filled.sweeper.run()


@pytest.mark.slow
@pytest.mark.parametrize("make", [_pipe, _link, _dangling, _socket])
@pytest.mark.parametrize("which", ["index.json", "oci-layout", "blob", "draft"])
async def test_in_a_layout_that_is_exported_to(
    filled: Store, tmp_path: Path, which: str, make: Callable[[Path], None]
) -> None:
    where = await filled.locate(REGION, "app/web")
    layout = tmp_path / "layout"
    await finish(export_layout(filled, where, layout))
    path = layout / "blobs" / "sha256" / sha256(BIG).removeprefix("sha256:")
    if which == "draft":
        path.unlink()
        path = path.with_name(path.name + ".partial")
        path.touch()
    elif which != "blob":
        path = layout / which
    make(path)
    async with asyncio.timeout(20):
        with pytest.raises(EngineError, match=path.name):
            await finish(export_layout(filled, where, layout))
