"""Races of retention with those who push and pull, forced at each of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from support.engine import (
    REGION,
    Clock,
    Function,
    Hooks,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    problems,
    push,
    put,
    sha256,
)
from support.race import gaps

from holdfast.engine import Busy, Namespace, NotFound, Plan, Repository, RetentionRule, Store
from holdfast.engine.depot import gate
from holdfast.engine.depot.gate import Gate, LockedGate
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Manifest, Tag, decode, save
from holdfast.engine.manifests import manifest_put

GAPS_MAX = 40
PROPOSED = 2
"""The gap behind the read that proposes what the run removes."""
DAY = 24 * 3600.0
UNTAGGED = RetentionRule(untagged_older_than_days=7)


class Run:
    """Two openings of a store: one applies rules, another one is used meanwhile."""

    def __init__(self, store: Store, hooks: Hooks, other: Store, clock: Clock) -> None:
        self.store = store
        self.hooks = hooks
        self.other = other
        self.clock = clock
        self.space: Namespace
        self.plan: Plan
        self.gap = 0
        """Where something happens meanwhile."""
        self.before = False
        """Whether that is before the run begins."""

    async def apply(self) -> None:
        self.plan = await self.store.retention.apply(self.space.id)

    async def where(self) -> Repository:
        return await self.other.locate(REGION, "app/web")

    async def in_every_gap(
        self,
        rule: RetentionRule,
        prepare: Callable[[], Awaitable[None]],
        meanwhile: Callable[[], Awaitable[None]],
        verify: Callable[[], Awaitable[None]],
    ) -> None:
        """Before the run, and in each of its gaps, something happens; then it is looked at."""
        self.space = await make_namespace(self.other)
        for gap in range(-1, GAPS_MAX):
            self.gap, self.before = gap, gap < 0
            await prepare()
            await self.other.retention.set(self.space.id, [rule])
            if self.before:
                await meanwhile()
                await self.apply()
            else:
                intruded, error = await gaps(self.hooks, gap, self.apply, meanwhile, reads=True)
                assert error is None
                if not intruded:
                    break
            await verify()
            assert await problems(self.other) == []
            await self.other.namespaces.delete(self.space.id)
            self.space = await make_namespace(self.other)
        assert 4 <= gap < GAPS_MAX - 1


async def run_in(place: Place, clock: Clock) -> Run:
    store, hooks = place.gated()
    other = place.store()
    await store.start()
    await other.start()
    return Run(store, hooks, other, clock)


@pytest.fixture
async def run(place: Place, clock: Clock) -> AsyncIterator[Run]:
    found = await run_in(place, clock)
    yield found
    await found.store.close()
    await found.other.close()


async def set_back(txn: Transaction) -> None:
    """Let times of pushes be as if the clock had been set back before."""
    for key, value in await txn.scan(layout.TAG, after(layout.TAG), limit=100):
        await save(txn, key, msgspec.structs.replace(decode(Tag, key, value), updated=1))
    for key, value in await txn.scan(layout.MANIFEST, after(layout.MANIFEST), limit=100):
        old = decode(Manifest, key, value)
        if old.renewed:
            await save(txn, key, msgspec.structs.replace(old, created=1, renewed=2))


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "back"), [(0, False), (1, False), (0, True)])
async def test_a_tag_that_moves_stays(run: Run, keep: int, back: bool) -> None:
    """The one that was to go, and the one that was to stay."""
    moved: list[str] = []

    async def prepare() -> None:
        for number in range(3):
            await push(run.other, "app/web", f"v{number}", [noise(10, number)])
            run.clock.advance(1)

    async def move() -> None:
        moved[:] = []
        for name in ("v0", "v2"):
            done = await push(run.other, "app/web", name, [noise(10, (name, "moved"))])
            moved.append(str(done.digest))
        if back:
            await run.other.core.ledger.transact(set_back)

    async def verify() -> None:
        where = await run.where()
        names = await run.other.tags.names(where)
        if run.before:
            assert names == ["v2"][:keep]
            return
        if back and run.gap < PROPOSED:
            return
        assert {"v0", "v2"} <= set(names)
        for name, digest in zip(("v0", "v2"), moved, strict=True):
            assert str((await run.other.manifests.get(where, name)).digest) == digest
            assert (await run.other.manifests.get(where, digest)).body

    await run.in_every_gap(RetentionRule(keep_last=keep), prepare, move, verify)


async def test_the_same_push_again_makes_a_tag_the_newest(run: Run) -> None:
    async def prepare() -> None:
        for number in range(4):
            await push(run.other, "app/web", f"v{number}", [noise(10, number)])
            run.clock.advance(1)

    async def again() -> None:
        await push(run.other, "app/web", "v0", [noise(10, 0)])

    async def verify() -> None:
        names = await run.other.tags.names(await run.where())
        assert "v0" in names
        assert set(names) <= {"v0", "v3"}

    await run.in_every_gap(RetentionRule(keep_last=1), prepare, again, verify)


@pytest.mark.parametrize("how", ["put", "head", "put, set back"])
async def test_who_was_told_that_a_child_is_here_can_push_its_index(run: Run, how: str) -> None:
    child, lone = (manifest(b"{}", [noise(10, name)]) for name in ("child", "lone"))

    async def prepare() -> None:
        await push(run.other, "app/web", None, [noise(10, "child")])
        await push(run.other, "app/web", None, [noise(10, "lone")])
        run.clock.advance(9 * DAY)

    told: list[bool] = []

    async def ask() -> None:
        run.clock.advance(1)
        if how != "head":
            await put(run.other, "app/web", child)
            told[:] = [True]
            if run.gap >= PROPOSED and how != "put":
                await run.other.core.ledger.transact(set_back)
        else:
            told[:] = [await found(run.other, await run.where(), sha256(child), renews=True)]

    async def verify() -> None:
        if told[0]:
            await put(run.other, "app/web", index([child]), "multi")
        assert not await found(run.other, await run.where(), sha256(lone))

    await run.in_every_gap(UNTAGGED, prepare, ask, verify)


async def test_what_was_pushed_again_does_not_go_with_another_tag(run: Run) -> None:
    """A child of what goes, and the manifest itself, by their digests."""
    child, lone = (manifest(b"{}", [noise(10, name)]) for name in ("child", "lone"))

    async def prepare() -> None:
        for name in ("child", "lone"):
            await push(run.other, "app/web", None, [noise(10, name)])
        await put(run.other, "app/web", index([child]), "multi")
        await put(run.other, "app/web", lone, "one")
        run.clock.advance(DAY)

    async def again() -> None:
        run.clock.advance(1)
        for body in (child, lone):
            await put(run.other, "app/web", body)

    async def verify() -> None:
        where = await run.where()
        assert await run.other.tags.names(where) == []
        for body in (child, lone):
            assert await found(run.other, where, sha256(body)) is not run.before

    await run.in_every_gap(RetentionRule(keep_last=0), prepare, again, verify)


async def test_a_push_that_is_not_committed_is_seen(place: Place, clock: Clock) -> None:
    """It looks, and a run begins; then it is noted, and answered."""
    pushing, hooks = place.gated()
    async with pushing, place.store() as store:
        space = await make_namespace(store)
        await push(store, "app/web", "v1", [b"0"])
        clock.advance(1)
        runs: list[asyncio.Task[Plan]] = []

        async def begin(work: Function) -> None:
            if work is manifest_put.unchanged:
                hooks.after_read = None
                clock.advance(1)
                await store.retention.set(space.id, [RetentionRule(keep_last=0)])
                runs.append(asyncio.create_task(store.retention.apply(space.id)))
                await asyncio.sleep(2 * gate.POLL_SECONDS)

        hooks.after_read = begin
        await put(pushing, "app/web", manifest(b"{}", [b"0"]), "v1")
        assert (await runs[0]).expired == ()
        assert await store.tags.names(await store.locate(REGION, "app/web")) == ["v1"]


@pytest.mark.slow
@pytest.mark.parametrize(("days", "stopped"), [(0, False), (5, False), (0, True)])
async def test_what_is_pulled_stays(run: Run, days: int, stopped: bool) -> None:
    """Whether or not the clock tells that it was later."""
    pulled: list[bool] = []

    async def prepare() -> None:
        for number in range(3):
            await push(run.other, "app/web", f"v{number}", [noise(10, number)])
        run.clock.advance(9 * DAY)

    async def pull() -> None:
        run.clock.advance(1 - stopped)
        pulled[:] = [await found(run.other, await run.where(), "v1")]

    async def verify() -> None:
        names = await run.other.tags.names(await run.where())
        if stopped and run.gap < PROPOSED:
            return
        stays = pulled[0] and (days > 0 or not run.before)
        assert names == (["v1"] if stays else [])

    rule = RetentionRule(not_pulled_for_days=days)
    await run.in_every_gap(rule, prepare, pull, verify)


async def found(store: Store, where: Repository, reference: str, *, renews: bool = False) -> bool:
    """Read a manifest as a server does: what is told of is known to whoever decides by it."""
    pulled = not renews

    async def read() -> bool:
        try:
            await store.manifests.get(where, reference)
        except NotFound:
            return False
        return True

    with store.pulls.passing() as gathers:
        if not await read():
            return False
        if gathers and store.pulls.count(where, reference, pulled=pulled, renews=renews):
            return True
    await store.pulls.write_pull(where, reference, pulled=pulled, renews=renews)
    return await read()


async def test_rules_that_change_meanwhile(run: Run) -> None:
    """From then on nothing goes by the old ones."""

    async def prepare() -> None:
        for number in range(3):
            await push(run.other, "app/web", f"v{number}", [noise(10, number)])

    left: list[list[str]] = []

    async def change() -> None:
        await run.other.retention.set(run.space.id, [RetentionRule(tags=("v1",), keep_last=0)])
        left[:] = [await run.other.tags.names(await run.where())]

    async def verify() -> None:
        names = await run.other.tags.names(await run.where())
        assert names in (left[0], [name for name in left[0] if name != "v1"])

    await run.in_every_gap(RetentionRule(keep_last=0), prepare, change, verify)


async def test_a_newer_tag_that_goes_meanwhile_saves_the_next(run: Run) -> None:
    """The last so many stay, whoever removes what the plan took for one of them."""

    async def prepare() -> None:
        for number in range(3):
            await push(run.other, "app/web", f"v{number}", [noise(10, number)])
            run.clock.advance(1)

    async def remove() -> None:
        await run.other.tags.untag(await run.where(), "v2")

    async def verify() -> None:
        names = await run.other.tags.names(await run.where())
        gone = [item.tag for item in run.plan.expired]
        assert (names, gone) in ((["v0", "v1"], []), (["v1"], ["v0"]))

    await run.in_every_gap(RetentionRule(keep_last=2), prepare, remove, verify)


@pytest.mark.slow
async def test_a_thousand_pushes_beside_runs_lose_nothing(run: Run) -> None:
    """Each push that was acknowledged is the newest of its image at that moment."""
    run.space = await make_namespace(run.other)
    await push(run.other, "app/web", "latest", [b"0"])
    await run.other.retention.set(
        run.space.id, [RetentionRule(keep_last=1, untagged_older_than_days=0)]
    )
    done = asyncio.Event()

    async def apply() -> int:
        count = 0
        while not done.is_set():
            await run.apply()
            count += len(run.plan.expired)
            await asyncio.sleep(0)
        return count

    applying = asyncio.create_task(apply())
    where = await run.where()
    try:
        for number in range(1000):
            body = manifest(b"{}", [b"0"], annotations={"number": str(number)})
            name = "latest" if number % 3 else f"v{number % 7}"
            run.clock.advance(1)
            await asyncio.sleep(0)
            pushed = await put(run.other, "app/web", body, name)
            got = await run.other.manifests.get(where, name)
            assert got.digest == pushed.digest, f"push {number}"
            assert (await run.other.manifests.get(where, str(pushed.digest))).body == body
    finally:
        done.set()
    run.clock.advance(1)
    removed = await applying
    await run.apply()
    assert removed + len(run.plan.expired) > 900
    assert await problems(run.other) == []


def test_each_side_of_the_gate_sees_the_other(tmp_path: Path) -> None:
    asyncio.run(_both_sides(LockedGate(tmp_path), LockedGate(tmp_path)))
    one = Gate()
    asyncio.run(_both_sides(one, one))


async def _both_sides(one: Gate, other: Gate) -> None:
    order: list[str] = []

    async def flush() -> None:
        order.append("flushed")

    async def decide() -> None:
        async with one.decision((flush,)):
            order.append("decided")
            assert other.deciding()
            assert not other.enter()

    assert other.enter()
    deciding = asyncio.create_task(decide())
    while not other.deciding():  # noqa: ASYNC110 - a lock tells nobody
        await asyncio.sleep(0)
    with other.passing() as inside:
        assert not inside
    await asyncio.sleep(2 * gate.POLL_SECONDS)
    assert order == ["flushed"]
    order.append("left")
    other.leave()
    await deciding
    assert order == ["flushed", "left", "decided"]
    assert other.enter()
    other.leave()
    one.close()
    other.close()


async def test_a_process_that_keeps_its_pulls_puts_a_run_off(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "DECISION_TIMEOUT_SECONDS", 0.2)
    run.space = await make_namespace(run.other)
    await push(run.other, "app/web", "v1", [b"0"])
    await run.other.retention.set(run.space.id, [RetentionRule(keep_last=0)])
    with run.other.pulls.passing() as inside:
        assert inside
        with pytest.raises(Busy):
            await run.apply()
        assert await run.other.tags.names(await run.where()) == ["v1"]
    await run.apply()
    assert await run.other.tags.names(await run.where()) == []
