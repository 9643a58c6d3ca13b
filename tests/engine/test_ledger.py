"""What every ledger does, shown on the one in LMDB and the one in memory alike."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine import Change
from holdfast.engine.ledger import change_log
from holdfast.engine.ledger.interface import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Ledger,
    Rows,
    Transaction,
    after,
    pack_counter,
    unpack_counter,
)
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.ledger.memory import MemoryLedger
from holdfast.engine.model.errors import Closed, Corrupt

AnyLedger = LmdbLedger | MemoryLedger

KINDS = ["lmdb", "memory"]


def make(kind: str, path: Path) -> AnyLedger:
    if kind == "memory":
        return MemoryLedger()
    return LmdbLedger.open(path / "ledger", map_bytes=1 << 30, create=True)


def as_ledger(ledger: AnyLedger) -> Ledger:
    """The type checker holds both classes to the protocol here."""
    return ledger


@pytest.fixture(params=KINDS)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyLedger]:
    opened = make(request.param, tmp_path)
    yield opened
    await opened.close()


class Oops(Exception):
    """What a body raises on purpose."""


class Grave(BaseException):
    """What no `except Exception` catches."""


async def put(txn: Transaction, /, **rows: bytes) -> None:
    for name, value in rows.items():
        await txn.put(name.encode(), value)


async def get(txn: Transaction, key: bytes) -> bytes | None:
    return await txn.get(key)


async def everything(txn: Transaction) -> dict[bytes, bytes]:
    return dict(await txn.scan(b"", b"\xff" * 600, limit=1_000_000))


async def delete(txn: Transaction, key: bytes) -> bool:
    return await txn.delete(key)


async def count(txn: Transaction, key: bytes, *deltas: int) -> int:
    for delta in deltas:
        await txn.add(key, delta)
    return await txn.counter(key)


async def scan(txn: Transaction, /, start: bytes, stop: bytes, **options: Any) -> Rows:
    return await txn.scan(start, stop, **options)


async def test_rows_are_kept_replaced_and_removed(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1", b=b"")
    assert await ledger.read(get, b"a") == b"1"
    assert await ledger.read(get, b"b") == b""
    assert await ledger.read(get, b"c") is None
    await ledger.transact(put, a=b"2")
    assert await ledger.read(everything) == {b"a": b"2", b"b": b""}
    assert await ledger.transact(delete, b"a") is True
    assert await ledger.transact(delete, b"a") is False
    assert await ledger.read(everything) == {b"b": b""}


async def test_every_way_to_read_sees_the_same(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    assert await ledger.read(get, key=b"a") == b"1"
    assert await ledger.read_in_thread(get, key=b"a") == b"1"
    assert ledger.read_now(get, key=b"a") == b"1"
    assert await as_ledger(ledger).transact(get, key=b"a") == b"1"
    value = await ledger.read(get, b"a")
    assert type(value) is bytes


async def test_a_transaction_sees_its_own_writes(ledger: AnyLedger) -> None:
    async def work(txn: Transaction) -> list[Any]:
        seen: list[Any] = [await txn.get(b"b"), await txn.scan(b"a", b"z", limit=9)]
        await txn.put(b"b", b"2")
        seen.append(await txn.scan(b"a", b"z", limit=9))
        await txn.put(b"a", b"1")
        await txn.delete(b"b")
        await txn.put(b"c", b"3")
        seen += [await txn.get(b"b"), await txn.scan(b"a", b"z", limit=9)]
        seen.append(await txn.scan(b"a", b"z", limit=1, reverse=True))
        return seen

    assert await ledger.transact(work) == [
        None,
        [],
        [(b"b", b"2")],
        None,
        [(b"a", b"1"), (b"c", b"3")],
        [(b"c", b"3")],
    ]


@pytest.mark.parametrize("error", [Oops, Grave, asyncio.CancelledError])
async def test_a_body_that_fails_leaves_nothing(
    ledger: AnyLedger, error: type[BaseException]
) -> None:
    async def fill(txn: Transaction) -> None:
        await txn.put(b"kept", b"1")
        await txn.put(b"changed", b"1")
        await txn.add(b"many", 5)
        await txn.add(b"one", 1)

    async def fail(txn: Transaction) -> None:
        await txn.put(b"new", b"2")
        await txn.put(b"changed", b"2")
        await txn.put(b"changed", b"3")
        await txn.delete(b"kept")
        await txn.put(b"kept", b"4")
        await txn.delete(b"kept")
        await txn.add(b"many", 2)
        await txn.add(b"one", -1)
        await txn.add(b"other", 1)
        raise error("on purpose")

    await ledger.transact(fill)
    before = await ledger.read(everything)
    with pytest.raises(error):
        await ledger.transact(fail)
    assert await ledger.read(everything) == before
    assert await ledger.read(count, b"many") == 5
    assert await ledger.read(count, b"one") == 1


async def test_an_error_comes_out_as_it_was_raised(ledger: AnyLedger) -> None:
    error = Oops("mine")

    async def fail(_txn: Transaction) -> None:
        raise error

    for call in (ledger.transact, ledger.read, ledger.read_in_thread):
        with pytest.raises(Oops) as caught:
            await call(fail)
        assert caught.value is error


async def test_a_body_must_not_wait_for_anything_else(ledger: AnyLedger) -> None:
    async def wait(txn: Transaction) -> None:
        if ledger_writes:
            await txn.put(b"a", b"1")
        await asyncio.sleep(0)

    ledger_writes = True
    with pytest.raises(RuntimeError, match="only its transaction"):
        await ledger.transact(wait)
    ledger_writes = False
    with pytest.raises(RuntimeError, match="only its transaction"):
        await ledger.read(wait)
    assert await ledger.read(everything) == {}


async def test_reads_do_not_write(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    for call in (ledger.read, ledger.read_in_thread):
        with pytest.raises(RuntimeError, match="cannot write"):
            await call(put, a=b"2")
        with pytest.raises(RuntimeError, match="cannot write"):
            await call(delete, b"a")
        with pytest.raises(RuntimeError, match="cannot write"):
            await call(count, b"n", 1)
    assert await ledger.read(everything) == {b"a": b"1"}


async def test_keys_and_values_have_limits(ledger: AnyLedger) -> None:
    async def put_row(txn: Transaction, key: bytes, value: bytes) -> None:
        await txn.put(key, value)

    longest = b"k" * KEY_BYTES_MAX
    await ledger.transact(put_row, longest, b"v" * VALUE_BYTES_MAX)
    assert await ledger.read(get, longest) == b"v" * VALUE_BYTES_MAX
    for key in (b"", longest + b"k"):
        for work, arguments in ((put_row, (b"v",)), (get, ()), (delete, ()), (count, (1,))):
            with pytest.raises(ValueError, match="a key must have"):
                await ledger.transact(work, key, *arguments)
        with pytest.raises(ValueError, match="a key must have"):
            await ledger.read(count, key)
    with pytest.raises(ValueError, match="a value must have at most"):
        await ledger.transact(put_row, b"k", b"v" * (VALUE_BYTES_MAX + 1))
    assert list(await ledger.read(everything)) == [longest]


async def test_counters(ledger: AnyLedger) -> None:
    assert await ledger.read(count, b"n") == 0
    assert await ledger.transact(count, b"n", 5, -7) == -2
    assert await ledger.read(count, b"n") == -2
    assert await ledger.transact(count, b"n", 2) == 0
    assert await ledger.transact(count, b"never", 0) == 0
    assert await ledger.read(everything) == {}
    top = (1 << 62) - 1
    assert await ledger.transact(count, b"n", top) == top
    with pytest.raises(OverflowError):
        await ledger.transact(count, b"n", 1)
    assert await ledger.read(count, b"n") == top
    assert await ledger.transact(count, b"m", -top, -1) == -(1 << 62)
    with pytest.raises(OverflowError):
        await ledger.transact(count, b"m", -1)


async def test_a_damaged_counter_is_not_used_and_stops_nothing(ledger: AnyLedger) -> None:
    async def beside(txn: Transaction, key: bytes) -> None:
        await txn.add(key, 1)
        await txn.put(b"beside " + key, b"")

    await ledger.transact(count, b"n", 5)
    row = await ledger.read(get, b"n")
    assert row is not None
    # Damaged, cut, and the sound row of another counter.
    await ledger.transact(put, n=row[:1] + b"\x06" + row[2:], cut=row[:-1], other=row)
    for key in (b"n", b"cut", b"other"):
        with pytest.raises(Corrupt):
            await ledger.read(count, key)
        before = await ledger.read(get, key)
        with pytest.raises(Corrupt):
            await ledger.transact(count, key, 1)
        await ledger.transact(beside, key)
        assert await ledger.read(get, b"beside " + key) == b""
        assert await ledger.read(get, key) == before


async def test_callers_run_one_after_the_other(ledger: AnyLedger) -> None:
    async def step(txn: Transaction, number: int) -> int:
        """Lost updates would show: it reads and writes one row."""
        seen = int(await txn.get(b"sum") or b"0")
        await txn.put(b"sum", b"%d" % (seen + number))
        await txn.add(b"runs", 1)
        if number % 10 == 3:
            raise Oops(number)
        return number * 2

    async def caller(number: int) -> int:
        try:
            return await ledger.transact(step, number)
        except Oops as error:
            assert error.args == (number,)  # noqa: PT017 - most callers see none
            return -1

    results = await asyncio.gather(*(caller(number) for number in range(300)))
    assert results == [-1 if number % 10 == 3 else number * 2 for number in range(300)]
    good = [number for number in range(300) if number % 10 != 3]
    assert await ledger.read(get, b"sum") == b"%d" % sum(good)
    assert await ledger.read(count, b"runs") == len(good)


def test_threads_with_event_loops_of_their_own(tmp_path: Path) -> None:
    for kind in KINDS:
        ledger = make(kind, tmp_path)

        async def push(ledger: AnyLedger = ledger) -> None:
            await asyncio.gather(*(ledger.transact(count, b"n", 1) for _ in range(100)))

        threads = [threading.Thread(target=lambda: asyncio.run(push())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.read_now(count, b"n") == 300
        asyncio.run(ledger.close())


async def test_long_skips_end_with_their_range(ledger: AnyLedger) -> None:
    rows = [(b"r%04d" % number, b"%d" % number) for number in range(5000)]

    async def fill(txn: Transaction) -> None:
        for key, value in rows:
            await txn.put(key, value)
        await txn.put(b"a", b"")
        await txn.put(b"z", b"")

    await ledger.transact(fill)
    for start, stop in ((b"r", b"s"), (b"r1000", b"r4000")):
        inside = [row for row in rows if start <= row[0] < stop]
        for wanted, reverse in ((inside, False), (inside[::-1], True)):
            for skip in (0, 1, 1023, 1024, 1025, 2048, 2999, 3000, 4998, 4999, 5000, 10**12):
                seen = await ledger.read(scan, start, stop, limit=3, reverse=reverse, skip=skip)
                assert seen == wanted[skip : skip + 3]


async def test_after_bounds_a_prefix(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"", b=b"", ba=b"", bzz=b"", c=b"")
    rows = await ledger.read(scan, b"b", after(b"b"), limit=10)
    assert [key for key, _ in rows] == [b"b", b"ba", b"bzz"]


async def test_close_finishes_what_was_submitted(ledger: AnyLedger) -> None:
    tasks = [asyncio.create_task(ledger.transact(count, b"n", 1)) for _ in range(50)]
    await asyncio.sleep(0)
    await ledger.close()
    assert sorted(await asyncio.gather(*tasks)) == list(range(1, 51))


async def test_a_closed_ledger_refuses_everything(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    await asyncio.gather(ledger.close(), ledger.close())
    await ledger.close()
    for call in (ledger.transact, ledger.read, ledger.read_in_thread):
        with pytest.raises(Closed):
            await call(get, b"a")
    with pytest.raises(Closed):
        ledger.read_now(get, b"a")
    with pytest.raises(Closed):
        ledger.last_txn()
    with pytest.raises(Closed):
        ledger.info()


async def test_the_newest_transaction_tells_whether_anything_changed(ledger: AnyLedger) -> None:
    before = ledger.last_txn()
    await ledger.read(get, b"a")
    await ledger.read_in_thread(everything)
    assert ledger.last_txn() == before
    for number in range(5):
        await ledger.transact(put, a=b"%d" % number)
        assert ledger.last_txn() > before
        before = ledger.last_txn()
    with pytest.raises(Oops):
        await ledger.transact(fail_after_put)
    assert ledger.last_txn() == before


async def hush(txn: Transaction, /, **rows: bytes) -> None:
    txn.declare_change(Change.TIMES)
    await put(txn, **rows)


async def test_it_tells_which_transactions_were_quiet(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    start = ledger.last_txn()
    assert ledger.changed(start, start + 1) is Change.ANY, "nothing is known yet"
    await ledger.transact(hush, a=b"2")
    await ledger.transact(hush, a=b"3")
    last = ledger.last_txn()
    assert ledger.changed(start, last) is Change.TIMES
    assert ledger.changed(last - 1, last) is Change.TIMES
    assert ledger.changed(start - 1, last) is Change.ANY
    assert ledger.changed(start, last + 1) is Change.ANY
    await ledger.transact(put, b=b"1")
    loud = ledger.last_txn()
    assert ledger.changed(start, loud) is Change.ANY
    assert ledger.changed(start, last) is Change.TIMES, "what was is known still"
    await ledger.transact(hush, a=b"4")
    assert ledger.changed(loud, ledger.last_txn()) is Change.TIMES
    assert ledger.changed(last, ledger.last_txn()) is Change.ANY


async def fill(txn: Transaction, /, **rows: bytes) -> None:
    txn.declare_change(Change.CONTENT)
    await put(txn, **rows)


async def test_it_tells_which_transactions_brought_content_only(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    start = ledger.last_txn()
    await ledger.transact(hush, a=b"2")
    hushed = ledger.last_txn()
    assert ledger.changed(start, hushed) is Change.TIMES
    await ledger.transact(fill, b=b"1")
    filled = ledger.last_txn()
    await ledger.transact(hush, a=b"3")
    last = ledger.last_txn()
    assert ledger.changed(start, last) is Change.CONTENT
    assert ledger.changed(hushed, filled) is Change.CONTENT
    assert ledger.changed(filled, last) is Change.TIMES
    await ledger.transact(put, a=b"4")
    await ledger.transact(fill, b=b"2")
    assert ledger.changed(last, ledger.last_txn()) is Change.ANY
    assert ledger.changed(ledger.last_txn() - 1, ledger.last_txn()) is Change.CONTENT


async def test_who_is_quiet_and_fails_or_writes_nothing_commits_nothing(ledger: AnyLedger) -> None:
    await ledger.transact(put, a=b"1")
    before = await ledger.read(everything)
    await ledger.transact(hush)
    with pytest.raises(Oops):
        await ledger.transact(hush_and_fail)
    assert await ledger.read(everything) == before


async def test_a_read_cannot_be_quiet(ledger: AnyLedger) -> None:
    with pytest.raises(RuntimeError):
        await ledger.read(hush)


async def hush_and_fail(txn: Transaction) -> None:
    await hush(txn, a=b"x")
    raise Oops


async def test_a_damaged_row_of_quiet_transactions_speaks_for_nobody(ledger: AnyLedger) -> None:
    await ledger.transact(hush, a=b"1")
    start = ledger.last_txn()
    await ledger.transact(spoil)
    await ledger.transact(hush, a=b"2")
    newest = ledger.last_txn()
    assert ledger.changed(start, newest) is Change.ANY
    assert ledger.changed(newest - 1, newest) is Change.TIMES


async def spoil(txn: Transaction) -> None:
    await txn.put(change_log.KEY, b"spoiled")


async def fail_after_put(txn: Transaction) -> None:
    await txn.put(b"a", b"x")
    raise Oops


async def test_info_counts(ledger: AnyLedger) -> None:
    empty = ledger.info()
    assert (empty["entries"], empty["commits"], empty["members"]) == (0, 0, 0)
    await ledger.transact(put, a=b"x" * 60_000, b=b"")
    full = ledger.info()
    assert (full["entries"], full["commits"], full["members"]) == (2, 1, 1)
    assert full["live_bytes"] - empty["live_bytes"] >= 60_000
    assert full["used_bytes"] >= full["live_bytes"]
    assert full["last_txn"] > empty["last_txn"]
    assert set(full) == set(MemoryLedger().info())


def test_memory_takes_rows_and_gives_them_back() -> None:
    rows = {b"b": b"2", b"a": b"1"}
    ledger = MemoryLedger(rows=rows)
    rows[b"c"] = b"3"
    assert ledger.read_now(scan, b"a", b"z", limit=9) == [(b"a", b"1"), (b"b", b"2")]
    captured = ledger.capture()
    asyncio.run(ledger.transact(put, a=b"9"))
    assert captured == {b"a": b"1", b"b": b"2"}
    asyncio.run(ledger.close())
    assert ledger.capture() == {b"a": b"9", b"b": b"2"}
    with pytest.raises(ValueError, match="a key must have"):
        MemoryLedger(rows={b"": b""})


async def test_memory_believes_no_row_of_another_ledger_about_its_transactions() -> None:
    first = MemoryLedger()
    for value in (b"1", b"2", b"3"):
        await first.transact(hush, a=value)
    second = MemoryLedger(first.capture())
    start = second.last_txn()
    await second.transact(put, b=b"1")
    assert second.changed(start, second.last_txn()) is Change.ANY


KEYS = st.lists(st.sampled_from([0, 97, 98, 255]), min_size=1, max_size=3).map(bytes)
BOUNDS = st.just(b"") | KEYS | st.just(b"\xff" * 4)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=3) | st.just(b"v" * 9000)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("add"), st.sampled_from([b"#a", b"#b"]), st.integers(-2, 2)),
    st.tuples(
        st.just("scan"),
        BOUNDS,
        BOUNDS,
        st.integers(-1, 5) | st.just(1000),
        st.booleans(),
        st.integers(0, 4),
    ),
)
TRANSACTIONS = st.lists(st.tuples(st.lists(STEPS, max_size=12), st.booleans()), max_size=8)


async def run_steps(txn: Transaction, steps: list[Any], fail: bool) -> list[Any]:
    seen: list[Any] = []
    for kind, *rest in steps:
        if kind == "put":
            await txn.put(*rest)
        elif kind == "add":
            await txn.add(*rest)
        elif kind == "delete":
            seen.append(await txn.delete(*rest))
        else:
            start, stop, limit, reverse, skip = rest
            seen.append(await txn.scan(start, stop, limit=limit, reverse=reverse, skip=skip))
    if fail:
        raise Oops(seen)
    return seen


def run_model(rows: dict[bytes, bytes], steps: list[Any]) -> list[Any]:
    seen: list[Any] = []
    for kind, *rest in steps:
        if kind == "put":
            rows[rest[0]] = rest[1]
        elif kind == "add":
            key, delta = rest
            total = delta + (unpack_counter(key, rows.pop(key)) if key in rows else 0)
            if total:
                rows[key] = pack_counter(key, total)
        elif kind == "delete":
            seen.append(rows.pop(rest[0], None) is not None)
        else:
            start, stop, limit, reverse, skip = rest
            inside = sorted(row for row in rows.items() if start <= row[0] < stop)
            ordered = inside[::-1] if reverse else inside
            seen.append(ordered[skip : skip + max(limit, 0)])
    return seen


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(TRANSACTIONS)
async def test_as_the_model(kind: str, transactions: list[tuple[list[Any], bool]]) -> None:
    rows: dict[bytes, bytes] = {}
    with tempfile.TemporaryDirectory() as path:
        ledger = make(kind, Path(path))
        try:
            for steps, fail in transactions:
                changed = dict(rows)
                expected = run_model(changed, steps)
                try:
                    seen = await ledger.transact(run_steps, steps, fail)
                    rows = changed
                except Oops as error:
                    seen = error.args[0]
                assert seen == expected
                assert await ledger.read(everything) == rows
                scans = [step for step in steps if step[0] == "scan"]
                assert ledger.read_now(run_steps, scans, False) == run_model(dict(rows), scans)
        finally:
            await ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(TRANSACTIONS)
async def test_as_the_model_also_where_they_share_a_commit(
    kind: str, transactions: list[tuple[list[Any], bool]]
) -> None:
    """Who fails has seen what came before, and leaves nothing to who comes after."""
    rows: dict[bytes, bytes] = {}
    expected = []
    for steps, fail in transactions:
        changed = dict(rows)
        expected.append(run_model(changed, steps))
        rows = rows if fail else changed
    with tempfile.TemporaryDirectory() as path:
        ledger = make(kind, Path(path))
        try:
            outcomes = await asyncio.gather(
                *(ledger.transact(run_steps, *transaction) for transaction in transactions),
                return_exceptions=True,
            )
            seen = [
                outcome.args[0] if isinstance(outcome, Oops) else outcome for outcome in outcomes
            ]
            assert seen == expected
            assert await ledger.read(everything) == rows
        finally:
            await ledger.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_counters_are_the_sum_of_what_was_added(kind: str, tmp_path: Path) -> None:
    dice = random.Random(7)
    ledger = make(kind, tmp_path)
    sums = {b"a": 0, b"b": 0}

    async def add(txn: Transaction, key: bytes, delta: int, fail: bool) -> None:
        await txn.add(key, delta)
        if fail:
            raise Oops

    calls = []
    for _ in range(400):
        key, delta, fail = dice.choice(list(sums)), dice.randint(-3, 3), dice.random() < 0.2
        sums[key] += 0 if fail else delta
        calls.append(ledger.transact(add, key, delta, fail))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, Oops) for outcome in outcomes)
    for key, value in sums.items():
        assert await ledger.read(count, key) == value
    await ledger.close()
