"""Namespaces: names of a region, of one project each, with rules and listings."""

from __future__ import annotations

from typing import Any

import pytest
from support.engine import (
    OTHER_PROJECT,
    REGION,
    Clock,
    make_namespace,
    noise,
    push,
    raised,
)

from holdfast.engine import AlreadyExists, Invalid, NotFound, Store

DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [("region", "paris"), ("description", "x" * 1001), ("description", "\udc80")],
)
async def test_arguments_that_are_wrong(store: Store, argument: str, value: str) -> None:
    more: dict[str, Any] = {argument: value}
    with raised(Invalid, argument=argument):
        await make_namespace(store, **more)
    assert (await store.stats()).namespaces == 0


@pytest.mark.promise("SECURITY.md", "names of namespaces")
async def test_a_name_is_taken_in_its_region_by_any_project(store: Store) -> None:
    made = await make_namespace(store)
    with raised(AlreadyExists, kind="namespace", name="app"):
        await make_namespace(store, project=OTHER_PROJECT)
    other = await make_namespace(store, region="nl-ams", project=OTHER_PROJECT)
    assert (await store.namespaces.find("nl-ams", "app")).id == other.id != made.id
    await store.namespaces.delete(made.id)
    assert (await make_namespace(store, project=OTHER_PROJECT)).id != made.id


@pytest.mark.parametrize(
    ("argument", "value"), [("page", 0), ("page_size", 0), ("page_size", 1001), ("order", "size")]
)
async def test_parameters_of_a_listing(store: Store, argument: str, value: object) -> None:
    with raised(Invalid, argument="order_by" if argument == "order" else argument):
        await store.namespaces.list(REGION, **{argument: value})  # type: ignore[arg-type]  # wrong


async def test_long_descriptions_are_sorted_too(store: Store) -> None:
    for name in ("b1", "a1"):
        await make_namespace(store, name, description="\N{BALLOON}" * 500 + name)
    page = await store.namespaces.list(REGION, order="description_asc")
    assert page.total == 2
    for namespace in page.items:
        await store.namespaces.update(namespace.id, description="\N{BALLOON}" * 1000)
    assert (await store.namespaces.list(REGION)).total == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("description", "x" * 1001),
        ("quota", -1),
        ("quota", 1 << 62),
        ("immutable_tags", ("a/b",)),
        ("immutable_tags", ("a",) * 33),
    ],
)
async def test_updates_that_are_wrong(store: Store, argument: str, value: object) -> None:
    made = await make_namespace(store)
    with raised(Invalid, argument=argument):
        await store.namespaces.update(made.id, **{argument: value})  # type: ignore[arg-type]  # wrong
    assert await store.namespaces.get(made.id) == made


async def test_delete(store: Store, clock: Clock) -> None:
    made = await make_namespace(store)
    await push(store, "app/web", "v1", [noise(1000)])
    foretold = await store.namespaces.would_free(made.id)
    deleted = await store.namespaces.delete(made.id)
    assert (deleted.id, deleted.status) == (made.id, "deleting")
    for call in (
        store.namespaces.get(made.id),
        store.namespaces.find(REGION, "app"),
        store.namespaces.update(made.id),
        store.namespaces.delete(made.id),
        store.namespaces.usage(made.id),
        store.namespaces.would_free(made.id),
        store.locate(REGION, "app/web"),
    ):
        with raised(NotFound, kind="namespace"):
            await call
    clock.advance(DAY - 1)
    assert (await store.sweeper.run()).freed_bytes == 0
    clock.advance(2)
    assert (await store.sweeper.run()).freed_bytes == foretold
    stats = await store.stats()
    assert (stats.namespaces, stats.images, stats.blobs, stats.trash) == (0, 0, 0, 0)


async def test_delete_of_much_is_cut_into_steps(store: Store) -> None:
    made = await make_namespace(store)
    for number in range(3):
        names = [f"t{tag}" for tag in range(150)]
        done = await push(store, f"app/i{number}", None, [noise(100, number)])
        where = await store.locate(REGION, f"app/i{number}")
        body = (await store.manifests.get(where, str(done.digest))).body
        await store.manifests.put(where, body, media_type=None, tags=names)
    await store.namespaces.delete(made.id)
    steps = 0
    while (done_now := await store.sweeper.step(early=True)).entries or done_now.files:
        steps += 1
    assert steps > 3
    assert await store.blobs() == []
    assert (await store.stats()).images == 0
