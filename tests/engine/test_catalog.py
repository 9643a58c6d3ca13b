"""The catalog: who sees which images, in which order, and at what cost."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from support.engine import OTHER_PROJECT, PROJECT, REGION, make_namespace, push

from holdfast.engine import Store, Visibility
from holdfast.engine.ledger.interface import Rows, Transaction
from holdfast.engine.namespaces import namespaces
from holdfast.engine.repositories import catalog

LAYER = b"layer"
NAMES = ["a", "a-b", "a0", "ab", "b"]
"""Bare, they order otherwise than with the slash that follows them in full names."""


Reader = dict[str, UUID | bool]


async def seen(store: Store, reader: Reader, *, limit: int = 100, after: str = "") -> list[str]:
    """All names, by pages of at most ``limit``."""
    names: list[str] = []
    following: str | None = after
    while following is not None:
        found, following = await store.repositories(
            REGION,
            after=following,
            limit=limit,
            **reader,  # type: ignore[arg-type]  # passed on
        )
        assert len(found) <= limit
        names += [repository.full_name for repository in found]
    return names


async def put(store: Store, name: str, visibility: Visibility = "inherit") -> UUID:
    pushed = await push(store, name, "v1", [LAYER])
    await store.images.update(pushed.image_id, visibility=visibility)
    return pushed.image_id


async def test_names_are_in_byte_order_with_their_slashes(store: Store) -> None:
    for name in NAMES:
        await make_namespace(store, f"{name}x")
        for image in ("c", "a", "a/b", "a-b"):
            await put(store, f"{name}x/{image}")
    everything = sorted(f"{name}x/{image}" for name in NAMES for image in ("c", "a", "a/b", "a-b"))
    for limit in (1, 3, 100):
        assert await seen(store, {}, limit=limit) == everything
    for after in ("", "a", "ax", "ax/", "ax/a", "ax/a/", "ax/zz", "ax0", "é", "x" * 2000, "ax/é"):
        expected = [name for name in everything if name.encode() > after.encode()]
        assert await seen(store, {}, limit=2, after=after) == expected


class Counted:
    """A transaction that counts the rows that it reads."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    async def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return await self._txn.get(key)

    async def scan(self, start: bytes, stop: bytes, **options: Any) -> Rows:
        rows = await self._txn.scan(start, stop, **options)
        self.rows += 1 + len(rows)
        return rows


async def rows_read(txn: Transaction, scope: bytes | None, limit: int) -> int:
    """How many rows the first page costs."""
    counted: Any = Counted(txn)
    await catalog.listing(counted, REGION, scope, b"", limit)
    rows: int = counted.rows
    return rows


async def test_what_is_hidden_costs_nothing(store: Store) -> None:
    async def costs() -> tuple[int, int]:
        own = namespaces.in_project(REGION, OTHER_PROJECT.bytes)
        return (
            await store.core.ledger.read(rows_read, None, 10),
            await store.core.ledger.read(rows_read, own, 10),
        )

    for name in ("aa", "zz"):
        await make_namespace(store, name, project=OTHER_PROJECT, is_public=True)
        await put(store, f"{name}/app")
    before = await costs()
    for number in range(20):
        await make_namespace(store, f"shut{number}")
        await put(store, f"shut{number}/app")
        # Of strangers, in a public namespace.
        await put(store, f"aa/a{number}", "private")
        gone = await make_namespace(store, f"gone{number}", is_public=True)
        await put(store, f"gone{number}/app", "public")
        await store.namespaces.delete(gone.id)
    anyone, own = await costs()
    assert anyone == before[0]
    assert own < before[1] + 2 * 10


async def test_what_lies_in_the_trash_costs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was deleted; but for deleted namespaces beside the images of a whole region."""
    space = await make_namespace(store, "team")
    app = await put(store, "team/app")
    ledger = store.core.ledger
    rows = 0
    aside: list[str] = []

    async def counting(txn: Transaction, work: Any, *args: Any, **more: Any) -> Any:
        nonlocal rows
        counted: Any = Counted(txn)
        try:
            return await work(counted, *args, **more)
        finally:
            rows += counted.rows

    read, read_in_thread = ledger.read, ledger.read_in_thread

    async def counted_read(work: Any, *args: Any, **more: Any) -> Any:
        return await read(counting, work, *args, **more)

    async def seen_aside(work: Any, *args: Any, **more: Any) -> Any:
        aside.append(work.__name__)
        return await read_in_thread(work, *args, **more)

    monkeypatch.setattr(ledger, "read", counted_read)
    monkeypatch.setattr(ledger, "read_in_thread", seen_aside)

    async def costs() -> tuple[list[int], int]:
        nonlocal rows
        each = []
        for listing in (
            store.namespaces.list(REGION),
            store.namespaces.list(REGION, name="team"),
            store.images.list(REGION, namespace_id=space.id),
            store.images.list(REGION, namespace_id=space.id, name="app"),
            store.tags.list(app),
            store.tags.list(app, name="v1"),
            store.repositories(REGION),
            store.images.list(REGION),
        ):
            rows = 0
            await listing
            each.append(rows)
        return each[:-1], each[-1]

    before, region_wide = await costs()
    for number in range(12):
        gone = await make_namespace(store, f"gone{number}")
        await put(store, f"gone{number}/app")
        await store.namespaces.delete(gone.id)
        await store.images.delete(await put(store, f"team/gone{number}"))
        await push(store, "team/app", f"gone{number}", [LAYER])
        (tag,) = (await store.tags.list(app, name=f"gone{number}")).items
        await store.tags.delete(tag.id)
    after, beside_dead = await costs()
    assert after == before
    assert beside_dead < region_wide + 5 * 12
    assert aside == []
    monkeypatch.setattr(namespaces, "DELETED_SCANNED_MAX", 11)
    assert [image.name for image in (await store.images.list(REGION)).items] == ["app"]
    assert (await store.images.list(REGION, project_id=PROJECT)).total == 1
    assert aside == ["page_of"] * 2
    monkeypatch.setattr(namespaces, "DELETED_SCANNED_MAX", 12)
    assert (await store.images.list(REGION)).total == 1
    assert len(aside) == 2


async def test_one_read_looks_at_so_many_namespaces(store: Store) -> None:
    for number in range(2 * catalog.NAMESPACES_MAX + 1):
        await make_namespace(store, f"n{number:03}", is_public=True)
    await put(store, "n150/app")
    found, following = await store.repositories(REGION, public_only=True)
    assert (found, following) == ([], "n0990")
    assert await seen(store, {"public_only": True}) == ["n150/app"]
    assert await seen(store, {}) == ["n150/app"]
    cost = await store.core.ledger.read(rows_read, None, 10)
    assert cost < 10 * catalog.NAMESPACES_MAX
