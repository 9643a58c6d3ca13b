"""The check of a directory, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from pathlib import Path

import pytest
from support.check import BASE, HELD, SMALL, found, furnish, matches
from support.damage import claim_of, content_of, cut, file_of, flip, overrun, rows, vanish
from support.engine import Clock, noise
from support.history import History

from holdfast.engine import NotAStore, Problem, StorageFailed, Store, StoreConfig, check_directory
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger

pytestmark = pytest.mark.slow

QUIET = StoreConfig(background=False)


async def in_directory(path: Path, *, deep: bool = False) -> list[Problem]:
    return [problem async for problem in check_directory(path, deep=deep)]


async def test_a_directory_is_checked_open_and_closed(tmp_path: Path) -> None:
    async def damage(txn: Transaction) -> None:
        await flip(txn, (await rows(txn, layout.TAG))[0][0])
        key, claim = await claim_of(txn, "web", HELD)
        await cut(txn, layout.expiry(claim.hold, key[-16:], key[1:33]))

    place = tmp_path / "data"
    async with Store.open(place, QUIET) as store:
        await furnish(store)
        assert await in_directory(place) == []
        assert await found(store, deep=True) == []
        await store.core.ledger.transact(damage)
        await vanish(store, await file_of(store, BASE))
        expected = ["record: checksum", "hold: is missing", "blob: was not found"]
        assert matches(await found(store), expected)
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    assert matches(await in_directory(place, deep=True), expected)
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


async def test_a_directory_is_checked_while_it_is_in_use(tmp_path: Path) -> None:
    place = tmp_path / "data"
    clock = Clock()
    async with Store.open(place, QUIET, clock=clock) as store:
        history = History(store, clock, 5)

        async def use() -> None:
            while True:
                await history.step()

        using = asyncio.create_task(use())
        try:
            for deep in (False, True, False, True):
                before = history.done
                assert await in_directory(place, deep=deep) == []
                assert history.done > before
        finally:
            using.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await using


@pytest.mark.parametrize("make", ["nothing", "a file", "other things", "a newer format"])
async def test_what_is_no_store_is_an_error_and_no_problem(tmp_path: Path, make: str) -> None:
    place = tmp_path / "data"
    if make == "a file":
        place.write_text("")
    elif make != "nothing":
        place.mkdir()
        name, text = ("notes", "") if make == "other things" else ("FORMAT", "holdfast 99\n")
        (place / name).write_text(text)
    with pytest.raises(NotAStore) as caught:
        await in_directory(place)
    assert caught.value.path == str(place)


@pytest.mark.parametrize("left", [0, 100, 8192, 0.5])
async def test_a_cut_off_ledger_is_a_problem_that_says_how_to_restore(
    tmp_path: Path, left: float
) -> None:
    place = tmp_path / "data"
    async with Store.open(place, QUIET) as store:
        await furnish(store)
    ledger = place / "ledger" / "data.mdb"
    size = ledger.stat().st_size
    os.truncate(ledger, int(left * size) if left < 1 else int(left))
    (problem,) = await in_directory(place)
    assert (problem.kind, problem.name) == ("ledger", "ledger/data.mdb")
    assert "restore the directory from a snapshot" in problem.reason


async def test_a_ledger_that_kills_its_reader_is_a_problem(tmp_path: Path) -> None:
    place = tmp_path / "data"
    async with Store.open(place, QUIET) as store:
        await furnish(store)
        key = await store.core.ledger.read(content_of, SMALL)
        ((_, value),) = await store.core.ledger.read(rows, key)
    overrun(place / "ledger" / "data.mdb", key, value)
    problems = await in_directory(place)
    assert problems[-1].kind == "ledger"
    assert "SIGBUS" in problems[-1].reason
    assert "restore the directory from a snapshot" in problems[-1].reason


@pytest.mark.parametrize("seed", range(2))
async def test_no_ruined_page_passes_as_clean(tmp_path: Path, seed: int) -> None:
    """Pages of a ledger without free ones, but the two that say where the others are."""
    place = tmp_path / "data"
    async with Store.open(place, QUIET) as store:
        await furnish(store)
        ledger = store.core.ledger
        assert isinstance(ledger, LmdbLedger)
        ledger.copy(tmp_path / "compact", compact=True)
    content = (tmp_path / "compact" / "data.mdb").read_bytes()
    pages = range(2, len(content) // 4096)
    for page in random.Random(seed).sample(pages, 6):
        ruined = bytearray(content)
        # The page's number, its kind and its bounds stay, so that LMDB does not see it at once.
        ruined[page * 4096 + 16 : (page + 1) * 4096] = noise(4080, (seed, page))
        (place / "ledger" / "data.mdb").write_bytes(ruined)
        assert await in_directory(place) != [], f"page {page} of {len(pages)}"


# The worker


async def test_a_worker_that_is_killed_is_no_problem_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store.open(tmp_path / "data", QUIET):
        pass
    program = tmp_path / "worker"
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(StorageFailed, match="signal 9"):
        await in_directory(tmp_path / "data")
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(StorageFailed, match="status 3"):
        await in_directory(tmp_path / "data")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(StorageFailed, match="cannot start"):
        await in_directory(tmp_path / "data")


async def test_problems_come_one_by_one_and_a_check_can_be_left(tmp_path: Path) -> None:
    """The worker is still at it when the first problem is seen, and is gone after the last."""
    place = tmp_path / "data"

    async def ruin(txn: Transaction) -> None:
        for number in range(20_000):
            await txn.put(b"?%d" % number, b"")

    async with Store.open(place, QUIET) as store:
        await store.core.ledger.transact(ruin)
        async with contextlib.aclosing(store.check()) as problems:
            first = await anext(problems)
            assert first.kind == "record"
            assert workers() == 1
        assert workers() == 0


def workers() -> int:
    """Workers of checks that this process started, and that have not ended.

    It may have other children: what plugins and libraries start stays for the whole run.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    return sum(b"holdfast.engine.check.worker" in command for command in commands)


async def test_the_worker_imports_nothing_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store.open(tmp_path / "data", QUIET) as store:
        await furnish(store)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "lmdb.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(trap)
    assert await in_directory(tmp_path / "data") == []
