"""Every single call of the system or of the ledger fails once while a copy of a store is made.

Snapshots and restores lie outside the seam of the depot: they work on directories. So here the
calls of the system fail, on a real directory, and the work of the processes that a restore
starts is done in this one. Whatever fails, and whether who makes the copy goes on or dies: there
is a whole copy or none, nothing unfinished passes for a store, and making it again succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from support.copies import finish, here, names
from support.engine import Clock, Place, make_namespace, noise, push, read, sha256
from support.faults import Countdown, Death
from support.seams import MAP_BYTES, Sight, check, see, swift

from holdfast.engine import (
    AlreadyExists,
    Corrupt,
    EngineError,
    NotAStore,
    StorageFailed,
    Store,
    StoreConfig,
)
from holdfast.engine.check import child_process
from holdfast.engine.ledger.lmdb import LmdbLedger

pytestmark = pytest.mark.slow

CALLS: Final = (
    *((os, name) for name in ("open", "mkdir", "chmod", "link", "rename", "replace")),
    *((os, name) for name in ("unlink", "rmdir", "fsync", "copy_file_range", "scandir")),
    (io, "open"),
    (fcntl, "flock"),
    (shutil, "copyfileobj"),
)
"""What fails with EIO."""

LEDGER: Final = ("transact", "read", "read_in_thread", "copy")
CONFIG: Final = StoreConfig(background=False, map_bytes=MAP_BYTES, threads=2)

Copy = Callable[[Store, Path], AsyncGenerator[Any, None]]


class Dead(BaseException):
    """A call of who is dead by then: nobody catches it."""


class Faults:
    """Calls that fail while this is entered, as ``calls`` says."""

    def __init__(self, calls: Countdown) -> None:
        self._calls = calls
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for module, name in CALLS:
            self._patch.setattr(module, name, self._failing(getattr(module, name), name))
        for name in LEDGER:
            inner = getattr(LmdbLedger, name)
            self._patch.setattr(LmdbLedger, name, self._failing(inner, name, StorageFailed))
        self._patch.setattr(child_process, "messages", here)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _failing(self, inner: Any, name: str, kind: Any = None) -> Callable[..., Any]:
        @functools.wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._calls.step(name):
                return inner(*args, **kwargs)
            if isinstance(self._calls, Death):
                raise Dead(name)
            if kind is not None:
                raise kind("ledger", "injected")
            raise OSError(errno.EIO, "injected", str(args[0]) if args else None)

        return call


class Trial:
    """A store, and a way to copy it, tried over and over."""

    def __init__(self, path: Path, copy: Copy) -> None:
        self._path = path
        self._copy = copy
        self._target = path / "target"
        self._partial = path / "target.partial"

    async def run(self, store: Store, death: bool) -> int:
        """How many calls were made to fail."""
        self._sight = await see(store)
        number = 1
        while await self._fail(store, Death(number) if death else Countdown(number)):
            number += 1
        return number - 1

    async def _fail(self, store: Store, calls: Countdown) -> bool:
        error = None
        with Faults(calls):
            try:
                await finish(self._copy(store, self._target))
            except (EngineError, Dead) as raised:
                error = raised
        what = f"{calls.log[-1]}: {error}"
        if not calls.fired:
            assert error is None
        elif isinstance(error, EngineError):
            # What cannot be read when the copy is checked counts as damage of it.
            assert isinstance(error, StorageFailed | Corrupt), what
            assert "injected" in str(error)
        if self._target.name in names(self._path):
            await self._whole(self._target)
            with pytest.raises(AlreadyExists):
                await finish(self._copy(store, self._target))
        else:
            assert error is not None, what
            await self._no_store()
            await finish(self._copy(store, self._target))
            await self._whole(self._target)
        assert not self._partial.exists()
        shutil.rmtree(self._target)
        return calls.fired

    async def _no_store(self) -> None:
        """What is unfinished is none, unless it is whole but for its name."""
        with pytest.raises(NotAStore):
            await Store.open(self._target, CONFIG, create=False).start()
        if self._partial.exists():
            with contextlib.suppress(NotAStore):
                await self._whole(self._partial)

    async def _whole(self, path: Path) -> None:
        async with Store.open(path, CONFIG, create=False) as copy:
            sight: Sight = await see(copy)
            assert sight == self._sight
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(child_process, "messages", here)
                assert await check(copy) == []


async def fill(store: Store) -> None:
    await make_namespace(store)
    await push(store, "app/web", "v1", [noise(70_000), b"small"])
    await store.put(noise(80_000), root="mine")


@pytest.mark.parametrize("death", [False, True], ids=["failure", "death"])
@pytest.mark.parametrize("how", ["snapshot", "restore"])
async def test_whatever_call_fails(how: str, death: bool, tmp_path: Path) -> None:
    with swift(tmp_path) as path:
        place = Place("disk", path, Clock(), {"map_bytes": MAP_BYTES, "threads": 2})
        async with place.store() as store:
            await fill(store)
            made = path / "made"
            await finish(store.snapshot(made, copy=True))

            def copy(store: Store, target: Path) -> AsyncGenerator[Any, None]:
                if how == "snapshot":
                    return store.snapshot(target)
                return Store.restore(made, target, config=CONFIG)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(child_process, "messages", here)
                assert await Trial(path, copy).run(store, death) > 40
            # The store goes on as if nothing had been.
            assert await check(store) == []
            assert await read(store, sha256(noise(80_000))) == noise(80_000)
            await store.delete(sha256(noise(80_000)), root="mine")
            place.clock.advance(10 * 24 * 3600.0)
            await store.sweeper.run()
            assert place.files() == [70_000]
