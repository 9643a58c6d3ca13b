"""Retention rules: what goes, what stays, and that a plan is what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.engine import (
    OTHER_PROJECT,
    REGION,
    Clock,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    problems,
    problems_after_sweep,
    push,
    put,
    sha256,
)

from holdfast.engine import (
    Invalid,
    Locked,
    Namespace,
    NotFound,
    Plan,
    RetentionRule,
    Store,
)

DAY = 24 * 3600.0


def names(plan: Plan) -> list[tuple[str, str | None]]:
    return [(item.image, item.tag) for item in plan.expired]


async def tags(store: Store, name: str = "app/web") -> list[str]:
    return await store.tags.names(await store.locate(REGION, name))


async def push_daily(store: Store, clock: Clock, count: int, name: str = "app/web") -> None:
    for number in range(count):
        await push(store, name, f"v{number}", [noise(50_000, (name, number))])
        clock.advance(DAY)


async def freed_by(store: Store, clock: Clock, plan: Plan) -> None:
    """Check the promise of a plan that has been applied."""
    clock.advance(3 * DAY)
    before = (await store.stats()).stored_bytes
    await store.sweeper.run()
    assert before - (await store.stats()).stored_bytes == plan.freed_bytes
    assert await problems(store) == []


async def apply_with(
    store: Store, space: Namespace, meanwhile: Callable[[], Awaitable[None]]
) -> Plan:
    """Apply the rules; between what is proposed and its removal something else happens."""
    decision = store.core.gate.decision

    @asynccontextmanager
    async def busy(flushes: Any) -> AsyncIterator[None]:
        async with decision(flushes):
            await meanwhile()
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.core.gate, "decision", busy)
        return await store.retention.apply(space.id)


async def test_keeps_the_newest(store: Store, clock: Clock, space: Namespace) -> None:
    await push_daily(store, clock, 5)
    await store.retention.set(space.id, [RetentionRule(keep_last=2)])
    plan = await store.retention.plan(space.id)
    assert names(plan) == [("web", "v0"), ("web", "v1"), ("web", "v2")]
    assert plan.freed_bytes > 150_000
    assert await tags(store) == ["v0", "v1", "v2", "v3", "v4"], "a plan changes nothing"
    assert await store.retention.apply(space.id) == plan
    assert await tags(store) == ["v3", "v4"]
    assert names(await store.retention.plan(space.id)) == []
    await freed_by(store, clock, plan)


async def test_takes_along_what_was_pushed_again_before(
    store: Store, clock: Clock, space: Namespace
) -> None:
    """A push that changes nothing is written later, and is one of before the run all the same."""
    pushed = await push(store, "app/web", "v0", [noise(50_000)])
    clock.advance(60)
    assert await push(store, "app/web", "v0", [noise(50_000)]) == pushed
    clock.advance(60)
    await store.retention.set(space.id, [RetentionRule(keep_last=0)])
    plan = await store.retention.plan(space.id)
    assert plan.freed_bytes > 50_000
    assert await store.retention.apply(space.id) == plan
    with pytest.raises(NotFound):
        await store.manifests.get(await store.locate(REGION, "app/web"), str(pushed.digest))
    await freed_by(store, clock, plan)


async def test_untagged_manifests_are_held_no_longer_than_a_push_takes(
    place: Place, clock: Clock
) -> None:
    """No deleted tag brings them back, so what is in the trash for longer is no measure."""
    async with place.store(hold_seconds=60.0, trash_seconds=DAY) as store:
        space = await make_namespace(store)
        pushed = await push(store, "app/web", None, [noise(50_000)])
        clock.advance(DAY)
        await store.retention.set(space.id, [RetentionRule(untagged_older_than_days=0)])
        plan = await store.retention.apply(space.id)
        assert [item.digest for item in plan.expired] == [pushed.digest]
        clock.advance(61)
        await store.sweeper.run()
        assert (await store.stats()).stored_bytes == 0


async def test_a_plan_is_bounded_within_an_image_too(
    store: Store, clock: Clock, space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over the bound is said to be there, and goes with the next run."""
    monkeypatch.setattr("holdfast.engine.maintenance.retention.PLANNED_MAX", 3)
    await push_daily(store, clock, 6)
    await push_daily(store, clock, 2, "app/api")
    await store.retention.set(space.id, [RetentionRule(keep_last=1)])
    plan = await store.retention.plan(space.id)
    assert names(plan) == [("api", "v0"), ("web", "v0"), ("web", "v1")]
    assert not plan.complete
    assert await store.retention.apply(space.id) == plan
    await freed_by(store, clock, plan)
    last = await store.retention.apply(space.id)
    assert names(last) == [("web", "v2"), ("web", "v3"), ("web", "v4")]
    assert last.complete, "just as many as there is room for"
    await store.retention.set(space.id, [RetentionRule(untagged_older_than_days=0, keep_last=0)])
    for number in range(3):
        await push(store, "app/web", None, [noise(100, number)])
    clock.advance(DAY)
    untagged = await store.retention.plan(space.id)
    assert names(untagged) == [("api", "v1"), ("web", "v5"), ("web", None)]
    assert not untagged.complete


async def test_ages_and_the_newest_together(store: Store, clock: Clock, space: Namespace) -> None:
    await push_daily(store, clock, 5)
    clock.advance(1)
    await store.retention.set(space.id, [RetentionRule(keep_last=1, older_than_days=3)])
    assert names(await store.retention.plan(space.id)) == [
        ("web", "v0"),
        ("web", "v1"),
        ("web", "v2"),
    ]


async def test_patterns_and_immutable_tags(store: Store, clock: Clock, space: Namespace) -> None:
    await push_daily(store, clock, 2, "app/web")
    await push_daily(store, clock, 2, "app/tools/cli")
    await push(store, "app/web", "release-1", [noise(10)])
    await store.namespaces.update(space.id, immutable_tags=("release-*",))
    rule = RetentionRule(images=("tools/*",), tags=("v*",), keep_last=0)
    await store.retention.set(space.id, [rule])
    assert await store.retention.get(space.id) == [rule]
    assert names(await store.retention.plan(space.id)) == [
        ("tools/cli", "v0"),
        ("tools/cli", "v1"),
    ]
    await store.retention.set(space.id, [RetentionRule(keep_last=0)])
    assert ("web", "release-1") not in names(await store.retention.plan(space.id))


async def test_what_is_pulled_stays(store: Store, clock: Clock, space: Namespace) -> None:
    await push_daily(store, clock, 3)
    clock.advance(10 * DAY)
    store.pulls.count(await store.locate(REGION, "app/web"), "v1")
    await store.pulls.flush()
    await store.retention.set(space.id, [RetentionRule(not_pulled_for_days=5)])
    await store.retention.apply(space.id)
    assert await tags(store) == ["v1"]


async def test_untagged_manifests(store: Store, clock: Clock, space: Namespace) -> None:
    child = manifest(b"{}", [noise(40_000, "child")])
    lone = manifest(b"{}", [noise(40_000, "lone")])
    await push(store, "app/web", None, [noise(40_000, "child")])
    await push(store, "app/web", None, [noise(40_000, "lone")])
    await put(store, "app/web", index([child]), "multi")
    await put(store, "app/web", manifest(b"{}", subject=child))
    await store.retention.set(space.id, [RetentionRule(untagged_older_than_days=2)])
    assert names(await store.retention.plan(space.id)) == []
    clock.advance(2 * DAY + 1)
    plan = await store.retention.plan(space.id)
    assert [(item.tag, item.image) for item in plan.expired] == [(None, "web")]
    assert plan.expired[0].digest.raw.hex() in sha256(lone)
    await store.retention.apply(space.id)
    where = await store.locate(REGION, "app/web")
    with pytest.raises(NotFound):
        await store.manifests.get(where, sha256(lone))
    assert (await store.manifests.get(where, sha256(child))).body == child
    await freed_by(store, clock, plan)


async def test_a_layer_that_another_image_has_is_not_freed(
    store: Store, clock: Clock, space: Namespace
) -> None:
    shared = noise(70_000, "shared")
    await push(store, "app/web", "v1", [shared, noise(30_000, "own")])
    await push(store, "app/api", "v1", [shared])
    await store.retention.set(space.id, [RetentionRule(images=("web",), keep_last=0)])
    plan = await store.retention.apply(space.id)
    assert 30_000 < plan.freed_bytes < 40_000
    await freed_by(store, clock, plan)


async def test_strangers_do_not_show_in_the_projects_number(
    store: Store, clock: Clock, space: Namespace
) -> None:
    shared = noise(70_000, "shared")
    await make_namespace(store, "stranger", project=OTHER_PROJECT)
    await push(store, "app/web", "v1", [shared])
    await push(store, "stranger/web", "v1", [shared])
    await store.retention.set(space.id, [RetentionRule(keep_last=0)])
    plan = await store.retention.apply(space.id)
    assert plan.freed_bytes < 1000
    assert plan.project_freed_bytes > 70_000
    await freed_by(store, clock, plan)


async def test_nothing_goes_from_a_locked_namespace(
    store: Store, clock: Clock, space: Namespace
) -> None:
    await push_daily(store, clock, 2)
    await push(store, "app/web", None, [noise(40_000, "untagged")])
    clock.advance(DAY)
    rules = [RetentionRule(keep_last=0, untagged_older_than_days=0)]
    await store.retention.set(space.id, rules)
    await store.namespaces.update(space.id, locked=True)
    plan = await store.retention.plan(space.id)
    assert names(plan) == [("web", "v0"), ("web", "v1"), ("web", None)]
    with pytest.raises(Locked):
        await store.retention.apply(space.id)
    assert await store.retention.plan(space.id) == plan
    other = await make_namespace(store, "zother")
    await push(store, "zother/web", "v1", [])
    await store.retention.set(other.id, rules)
    store.retention.background.start()
    try:
        async with asyncio.timeout(60):
            while await tags(store, "zother/web"):  # noqa: ASYNC110 - the run tells nobody
                await asyncio.sleep(0.01)
    finally:
        await store.retention.background.stop()
    # The turn came to the other one, and so past this one. What both had is now held there.
    assert (await store.retention.plan(space.id)).expired == plan.expired


async def test_a_run_tells_what_really_went(store: Store, clock: Clock, space: Namespace) -> None:
    """Between the plan and its steps one tag moves, and one is protected."""
    await push_daily(store, clock, 3)
    await store.retention.set(space.id, [RetentionRule(keep_last=0)])

    async def meanwhile() -> None:
        await push(store, "app/web", "v1", [noise(10, "moved")])
        await store.namespaces.update(space.id, immutable_tags=("v2",))

    done = await apply_with(store, space, meanwhile)
    assert names(done) == [("web", "v0")]
    assert 50_000 < done.freed_bytes < 60_000
    assert await tags(store) == ["v1", "v2"]
    await freed_by(store, clock, done)


async def test_the_order_of_pushes_that_changed_nothing(
    store: Store, clock: Clock, space: Namespace
) -> None:
    """They are written later than those that commit meanwhile, and are older all the same."""
    for name in ("v0", "v1", "v2"):
        await push(store, "app/web", name, [noise(10, name)])
    for name in ("v1", "v0"):
        clock.advance(0.01)
        await push(store, "app/web", name, [noise(10, name)])
    clock.advance(0.01)
    await push(store, "app/web", "v3", [noise(10, "v3")])
    await store.retention.set(space.id, [RetentionRule(keep_last=2)])
    await store.retention.apply(space.id)
    assert await tags(store) == ["v0", "v3"]


@pytest.mark.parametrize(
    "rule",
    [
        RetentionRule(),
        RetentionRule(keep_last=-1),
        RetentionRule(older_than_days=40_000),
        RetentionRule(tags=("a b",), keep_last=1),
        RetentionRule(images=("",), keep_last=1),
    ],
)
async def test_bad_rules(store: Store, space: Namespace, rule: RetentionRule) -> None:
    with pytest.raises(Invalid) as raised:
        await store.retention.set(space.id, [rule])
    assert raised.value.argument == "rules"
    assert await store.retention.get(space.id) == []


async def test_rules_end_with_their_namespace(store: Store, clock: Clock, space: Namespace) -> None:
    await store.retention.set(space.id, [RetentionRule(keep_last=1)])
    await store.retention.set(space.id, [])
    assert await store.retention.get(space.id) == []
    await store.retention.set(space.id, [RetentionRule(keep_last=1)])
    await store.namespaces.delete(space.id)
    with pytest.raises(NotFound):
        await store.retention.plan(space.id)
    assert await problems_after_sweep(store, early=True) == []
