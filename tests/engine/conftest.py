"""Fixtures of the engine's behavioural tests: each runs over memory and over a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.engine import KINDS, Clock, Place, problems

from holdfast.engine import Store


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
