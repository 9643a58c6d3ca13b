"""Restoring a store from a snapshot, whole or damaged."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support import engine_fixtures
from support.copies import BIG, LAYER, QUIET, file_of, finish, flip, inodes, names, verify
from support.damage import content_of, overrun, rows
from support.engine import Clock, Place, make_namespace, noise, push, read, sha256

from holdfast.engine import (
    AlreadyExists,
    Busy,
    Corrupt,
    NotAStore,
    Problem,
    Store,
    StoreConfig,
    check_directory,
)
from holdfast.engine.check.check import check_copy
from holdfast.engine.maintenance import restore

pytestmark = pytest.mark.slow

place = engine_fixtures.disk_place


@pytest.mark.parametrize("copy", [True, False])
async def test_restoring_gives_the_store_back(
    snapshot: Path, tmp_path: Path, clock: Clock, copy: bool
) -> None:
    done = await finish(Store.restore(snapshot, tmp_path / "restored", copy=copy))
    assert (done.files, done.total, done.damaged) == (3, 3, 0)
    assert bool(inodes(snapshot) & inodes(tmp_path / "restored")) is not copy
    assert await verify(tmp_path / "restored") == []
    async with Store.open(tmp_path / "restored", QUIET, create=False, clock=clock) as store:
        assert await read(store, sha256(LAYER)) == LAYER
        assert await read(store, sha256(b"kept by a root")) == b"kept by a root"
        await push(store, "app/web", "v3", [noise(90_000, "new")])
    assert await verify(tmp_path / "restored") == []


async def test_a_closed_store_can_be_restored_too(place: Place, tmp_path: Path) -> None:
    async with place.store() as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [BIG])
        with pytest.raises(Busy):
            await finish(Store.restore(tmp_path / "data", tmp_path / "restored"))
    await finish(Store.restore(tmp_path / "data", tmp_path / "restored"))
    assert await verify(tmp_path / "restored") == []


async def test_a_store_is_not_restored_over_another(snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        await finish(Store.restore(snapshot, tmp_path / "data"))
    with pytest.raises(NotAStore):
        await finish(Store.restore(tmp_path / "nowhere", tmp_path / "restored"))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "letter").write_text("mine")
    with pytest.raises(NotAStore):
        await finish(Store.restore(tmp_path / "strange", tmp_path / "restored"))
    assert not (tmp_path / "restored").exists()


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("harm", [lambda path: flip(path, 5000), Path.unlink], ids=["flip", "lose"])
async def test_a_damaged_file_is_found(
    snapshot: Path, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    path = file_of(snapshot, len(BIG))
    harm(path)
    with pytest.raises(Corrupt, match=sha256(BIG)):
        await finish(Store.restore(snapshot, tmp_path / "restored"))
    assert not (tmp_path / "restored").exists()
    assert not (tmp_path / "restored.partial").exists()
    done = await finish(Store.restore(snapshot, tmp_path / "restored", salvage=True))
    assert (done.files, done.total, done.damaged) == (2 + path.exists(), 3, 1)
    async with Store.open(tmp_path / "restored", QUIET) as store:
        with pytest.raises(Corrupt):
            await read(store, sha256(BIG))
        assert await read(store, sha256(LAYER)) == LAYER
        await store.put(BIG)
        assert await read(store, sha256(BIG)) == BIG
    assert await verify(tmp_path / "restored") == []


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("share", [0, 0.1, 0.4])
async def test_a_ledger_that_was_cut_off(snapshot: Path, tmp_path: Path, share: float) -> None:
    ledger = snapshot / "ledger" / "data.mdb"
    os.truncate(ledger, int(ledger.stat().st_size * share))
    for salvage in (False, True):
        with pytest.raises(Corrupt, match=r"data\.mdb"):
            await finish(Store.restore(snapshot, tmp_path / "restored", salvage=salvage))
    assert not (tmp_path / "restored").exists()
    assert not (tmp_path / "restored.partial").exists()


async def refused(snapshot: Path, target: Path, match: str) -> None:
    """Neither is it restored nor is anything left of it."""
    for salvage in (False, True):
        with pytest.raises(Corrupt, match=match):
            await finish(Store.restore(snapshot, target, salvage=salvage))
    assert [name for name in names(target.parent) if name.startswith(target.name)] == []


async def test_a_ledger_that_kills_its_reader_does_not_kill_who_restores(
    filled: Store, tmp_path: Path
) -> None:
    await filled.put(noise(9000, "long"))
    await finish(filled.snapshot(tmp_path / "copy", copy=True))
    key = await filled.core.ledger.read(content_of, noise(9000, "long"))
    ((_, value),) = await filled.core.ledger.read(rows, key)
    overrun(tmp_path / "copy" / "ledger" / "data.mdb", key, value)
    await refused(tmp_path / "copy", tmp_path / "restored", r"data\.mdb.*SIGBUS")


async def test_who_first_uses_the_copied_ledger_may_die_of_it(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "worker"
    program.write_text("#!/bin/sh\nkill -BUS $$\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    await refused(snapshot, tmp_path / "restored", r"data\.mdb.*SIGBUS")


@pytest.mark.usefixtures("at_home")
async def test_a_damaged_record_is_found(snapshot: Path, tmp_path: Path) -> None:
    ledger = snapshot / "ledger" / "data.mdb"
    # A page that was freed since may have the row too.
    ledger.write_bytes(ledger.read_bytes().replace(b"kept by a root", b"kept by a rook"))
    with pytest.raises(Corrupt, match="checksum"):
        await finish(Store.restore(snapshot, tmp_path / "restored"))
    await finish(Store.restore(snapshot, tmp_path / "restored", salvage=True))
    async with Store.open(tmp_path / "restored", QUIET) as store:
        with pytest.raises(Corrupt):
            await read(store, sha256(b"kept by a root"))
        assert await read(store, sha256(LAYER)) == LAYER


async def test_a_restore_that_was_given_up_leaves_nothing(snapshot: Path, tmp_path: Path) -> None:
    steps = Store.restore(snapshot, tmp_path / "restored")
    await anext(steps)
    assert not (tmp_path / "restored").exists()
    await steps.aclose()
    assert names(tmp_path) == ["copy", "data"]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("mounted", [False, True])
async def test_what_a_killed_restore_left_is_no_store(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    """Above all when all files are there, and are being verified."""
    target = tmp_path / "restored"
    half = target / ".partial" if mounted else tmp_path / "restored.partial"
    if mounted:
        target.mkdir()
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    left: list[Path] = []

    def die() -> None:
        left.append(tmp_path / f"left{len(left)}" / "again.partial")
        shutil.copytree(half, left[-1])

    async def check(path: Path, config: StoreConfig) -> AsyncIterator[Problem]:
        die()
        async for problem in check_copy(path, config):
            yield problem

    monkeypatch.setattr(restore, "check_copy", check)
    async for _ in Store.restore(snapshot, target):
        if half.exists():
            die()
    monkeypatch.setattr(restore, "check_copy", check_copy)
    assert names(target) == ["FORMAT", "files", "ledger", "run"]
    assert len(left) >= 3
    for path in left:
        for create in (False, True):
            with pytest.raises(NotAStore, match="was never verified: make it again") as unfinished:
                await Store.open(path, QUIET, create=create).start()
            assert unfinished.value.path == str(path)
    with pytest.raises(NotAStore, match="was never verified"):
        await finish(Store.restore(left[-1], tmp_path / "other"))
    if not mounted:
        with pytest.raises(NotAStore, match="was never verified"):
            await finish(check_directory(left[-1]))
        await finish(Store.restore(snapshot, left[-1].with_suffix("")))
        assert names(left[-1].parent) == ["again"]
        async with Store.open(left[-1].with_suffix(""), QUIET, create=False) as store:
            assert await read(store, sha256(LAYER)) == LAYER


@pytest.mark.usefixtures("at_home")
async def test_nothing_is_written_to_the_snapshot(snapshot: Path, tmp_path: Path) -> None:
    def listing() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in [snapshot, *snapshot.rglob("*")]
        }

    before = listing()
    await finish(Store.restore(snapshot, tmp_path / "restored"))
    assert listing() == before
