"""A directory of format 2 is upgraded in place, whenever the process is killed on the way."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.engine import (
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    Place,
    make_namespace,
    noise,
    push,
    sha256,
)

from holdfast.engine import (
    AlreadyExists,
    NotAStore,
    QuotaExceeded,
    StorageFull,
    Store,
    StoreConfig,
    check_directory,
    datadir,
)
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.upgrade import limits as upgrade_limits
from holdfast.engine.upgrade import upgrade

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).with_name("format_2.tar.xz")
"""What ``make_format_2.py`` made."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory of format 2, with its open uploads."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    data = tmp_path / "data"
    (data / "scratch" / "boot").rename(data / "scratch" / datadir.boot_id())
    return data


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each transaction of an upgrade do little, so that there are many."""
    monkeypatch.setattr("holdfast.engine.upgrade.kept._ROWS_PER_TXN", 7)


MADE = 1_800_000_000.0
"""When the archive was made, by its clock."""


def clock() -> Clock:
    now = Clock()
    now.now = MADE
    return now


def opened(data: Path) -> Store:
    return Store.open(data, StoreConfig(background=False), clock=clock())


async def wrong(data: Path) -> list[str]:
    found = check_directory(data, deep=True, now=int(MADE * 1e6))
    return [str(problem) async for problem in found]


async def test_it_is_whole_and_its_counters_are_right(old: Path) -> None:
    with pytest.raises(NotAStore, match="holdfast upgrade"):
        await wrong(old)
    async with opened(old) as store:
        assert (old / "FORMAT").read_text() == "holdfast 3\n"
        names = [each.name for each in (await store.namespaces.list(REGION)).items]
        assert names == ["app", "other", "again", "frozen"]
    assert await wrong(old) == []


async def test_a_new_store_is_not_upgraded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first transaction finds each step done: nothing is told, and nothing needs room."""
    with caplog.at_level(logging.INFO):
        async with Store.open(tmp_path / "data", StoreConfig(background=False)):
            pass
    assert not [line for line in caplog.records if line.name == "holdfast.engine.upgrade.upgrade"]


async def test_limits_are_in_both_layers_and_nothing_is_lost(old: Path) -> None:
    """Over its quota a namespace reads, deletes and restores; it only stops growing."""
    async with opened(old) as store:
        app = await store.namespaces.find(REGION, "app")
        limits = await store.limits.namespace(app.id)
        assert (limits.limits.quota, limits.limits.immutable_tags) == (10_000, ("release-*",))
        assert (app.quota, app.immutable_tags) == (10_000, ("release-*",))
        frozen = await store.namespaces.find(REGION, "frozen")
        assert (await store.limits.namespace(frozen.id)).limits.locked
        usage = await store.namespaces.usage(app.id)
        assert usage.kept_size > 10_000
        assert usage.held > 0
        with pytest.raises(QuotaExceeded):
            await push(store, "app/web", "v3", [noise(100, "new")])
        await push(store, "app/web", "again", [noise(33_000, "base"), noise(900, "small")])
        trash = (await store.trash.list(project_id=PROJECT)).items
        assert {item.kind for item in trash} == {"tag", "image", "namespace"}
        for item in trash:
            if item.namespace == "again":
                with pytest.raises(AlreadyExists):
                    await store.trash.restore(item.id)
            else:
                await store.trash.restore(item.id)
        assert (await store.namespaces.usage(app.id)).kept_size == usage.kept_size
        again = await store.namespaces.find(REGION, "again")
        told = await store.namespaces.usage(again.id)
        assert told.trash > 33_000, "its predecessor lies in the trash"
    assert await wrong(old) == []


async def test_open_uploads_go_on(old: Path) -> None:
    async with opened(old) as store:
        other = await store.namespaces.find(REGION, "other")
        uploads, _, count = await store.uploads.list(other.id)
        assert (count, sorted(each.size for each in uploads)) == (2, [11, 70_000])
        where = await store.locate(REGION, "other/coming")
        large = noise(70_000, "large")
        for each in uploads:
            data = large if each.size == len(large) else b"a few bytes"
            await store.uploads.finish(where, each.id, sha256(data))
    assert await wrong(old) == []


async def test_nothing_is_upgraded_twice(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "holdfast.engine.upgrade.upgrade")
    for _ in range(2):
        async with opened(old):
            pass
    assert await wrong(old) == []


async def test_killed_after_each_transaction_it_goes_on(
    old: Path, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every commit of the upgrade is the last one of its process once."""
    transactions = 0

    async def dies(txn: Transaction, now: int) -> upgrade.Position:
        nonlocal transactions
        position = await advance(txn, now)
        if transactions:
            raise KeyboardInterrupt
        transactions += 1
        return position

    advance = upgrade.advance
    deaths = 0
    monkeypatch.setattr(upgrade, "advance", dies)
    while True:
        transactions = 0
        try:
            async with opened(old):
                break
        except KeyboardInterrupt:
            deaths += 1
            [problem] = await wrong(old)
            assert "not finished" in problem
    assert deaths > 10
    assert await wrong(old) == []


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_kill_9_at_any_time(old: Path, seconds: float) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from holdfast.engine import Store, StoreConfig\n"
        "from holdfast.engine.upgrade import kept\n"
        "kept._ROWS_PER_TXN = 3\n"
        "async def main():\n"
        "    print('begun', flush=True)\n"
        "    async with Store.open(Path(sys.argv[1]), StoreConfig(background=False)): pass\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(old)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    asyncio.run(is_upgraded(old))


async def is_upgraded(data: Path) -> None:
    async with opened(data):
        pass
    assert await wrong(data) == []


async def test_two_processes_open_it_at_once(old: Path, small_steps: None) -> None:
    first, second = opened(old), opened(old)
    await asyncio.gather(first.start(), second.start())
    await first.close()
    await second.close()
    assert await wrong(old) == []


async def test_an_open_one_of_the_old_version_is_left_alone(old: Path) -> None:
    async with opened(old):
        # As the old version has it open: its mark, and a locked file of its own.
        (old / "FORMAT").write_text("holdfast 2\n")
        with pytest.raises(NotAStore, match="another process has it open"):
            await opened(old).start()
        assert (old / "FORMAT").read_text() == "holdfast 2\n"


async def test_without_room_nothing_is_touched(old: Path) -> None:
    config = StoreConfig(background=False, disk_reserve_bytes=1 << 60)
    with pytest.raises(StorageFull):
        await Store.open(old, config).start()
    assert (old / "FORMAT").read_text() == "holdfast 2\n"


async def test_a_newer_one_of_the_same_format_is_refused(old: Path) -> None:
    async with opened(old) as store:
        await store.core.ledger.transact(_of_the_future)
    with pytest.raises(NotAStore, match="newer"):
        await opened(old).start()


async def test_when_damage_takes_its_position_it_begins_again(old: Path) -> None:
    """And leaves what was set since."""
    async with opened(old) as store:
        app = await store.namespaces.find(REGION, "app")
        await store.limits.update_namespace(app.id, quota=5_000)
        await store.core.ledger.transact(_forget_position)
    async with opened(old) as store:
        limits = await store.limits.namespace(app.id)
        assert (limits.limits.quota, limits.in_force.quota) == (5_000, 5_000)
    assert await wrong(old) == []


async def _forget_position(txn: Transaction) -> None:
    await txn.delete(layout.SETTING + b"upgrade")


async def _of_the_future(txn: Transaction) -> None:
    from holdfast.engine.ledger.records import put_payload

    done = len(upgrade.STEPS) + 1
    await put_payload(txn, layout.SETTING + b"upgrade", done.to_bytes(2, "big"))


def times(directory: Path) -> list[tuple[Path, int]]:
    """Every file, and when it was written last."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted((path, path.stat().st_mtime_ns) for path in files)


async def test_a_snapshot_of_format_2_restores(old: Path, tmp_path: Path) -> None:
    shutil.rmtree(old / "scratch")
    before = times(old)
    target = tmp_path / "restored"
    async for _ in Store.restore(old, target):
        pass
    assert (target / "FORMAT").read_text() == "holdfast 3\n"
    assert await wrong(target) == []
    assert times(old) == before
    assert (old / "FORMAT").read_text() == "holdfast 2\n"
    async with opened(target) as store:
        page = await store.namespaces.list(REGION, project_id=PROJECT)
        assert "app" in [each.name for each in page.items]


def test_the_command(old: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.api.cli.main", "upgrade", "--data", str(old)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ},
        )
        assert (done.returncode, done.stdout) == (0, f"{old} is up to date\n"), done.stderr
    assert asyncio.run(wrong(old)) == []


async def test_a_new_store_needs_one_transaction(tmp_path: Path) -> None:
    place = Place("disk", tmp_path, clock())
    async with place.store() as store:
        assert not await store.core.ledger.read(upgrade.pending)


async def test_holds_of_a_clock_that_was_ahead_are_cut(old: Path) -> None:
    async with opened(old) as store:
        holds = (await store.stats()).holds
        assert holds
    earlier = Clock()
    earlier.now = MADE - 30 * 86400
    async with Store.open(old, StoreConfig(background=False), clock=earlier) as store:
        await store.sweeper.run()
        assert (await store.stats()).holds == holds
        found = check_directory(old, deep=True, now=int(earlier.now * 1e6))
        assert [str(problem) async for problem in found] == []
        earlier.advance(2 * 86400)
        await store.sweeper.run()
        assert (await store.stats()).holds == 0


async def test_another_project_that_has_the_name_lifts_no_limit(place: Place) -> None:
    async with place.store() as store:
        space = await make_namespace(store)
        await store.namespaces.update(space.id, quota=1000)
        await store.namespaces.delete(space.id)
        other = await make_namespace(store, project=OTHER_PROJECT)
        await store.core.ledger.transact(upgrade_limits.advance, b"", 0)
        await store.namespaces.delete(other.id)
        await store.trash.restore(space.id)
        assert (await store.limits.namespace(space.id)).limits.quota == 1000
