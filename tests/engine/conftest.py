"""Fixtures of the engine's behavioural tests: each runs over memory and over a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.check import furnish
from support.copies import fill, finish, here
from support.engine import KINDS, REGION, Clock, Place, make_namespace, problems

from holdfast.engine import Namespace, Repository, Store
from holdfast.engine.check import child_process
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.tasks.threads import Threads


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Place:
    """Where a store may be opened, closed, and opened again."""
    return Place(request.param, tmp_path, clock)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """An open store, whose consistency is checked when the test is over."""
    async with place.store() as opened:
        yield opened
        assert await problems(opened) == []


@pytest.fixture
async def furnished(place: Place) -> AsyncIterator[Store]:
    """Open a store full of everything that a store can hold, for a test to damage."""
    async with place.store() as store:
        await furnish(store)
        yield store


@pytest.fixture
async def filled(place: Place) -> AsyncIterator[Store]:
    """Open a store that has something of every kind."""
    async with place.store() as store:
        await fill(store)
        yield store


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of a restore's processes in this one: to start them takes most of a test."""
    monkeypatch.setattr(child_process, "messages", here)


@pytest.fixture
async def snapshot(filled: Store, tmp_path: Path) -> Path:
    """Return a snapshot of that store, in files of its own."""
    await finish(filled.snapshot(tmp_path / "copy", copy=True))
    return tmp_path / "copy"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return where the depot keeps its files."""
    return tmp_path / "files"


@pytest.fixture
def depot(root: Path) -> DiskDepot:
    return DiskDepot(root)


@pytest.fixture
async def web(store: Store) -> Repository:
    """Return an image to push to, in a new namespace."""
    await make_namespace(store)
    return await store.locate(REGION, "app/web")


@pytest.fixture
async def space(store: Store) -> Namespace:
    """Return a new namespace."""
    return await make_namespace(store)


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Return two threads whose names begin with ``leaf``."""
    threads = Threads(2, "leaf")
    yield threads
    threads.close()
