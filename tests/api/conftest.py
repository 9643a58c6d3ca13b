"""Fixtures of the API's tests that need no choice; `support/api_fixtures.py` has the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.edge import EDGES, Edge, edge_of
from support.fast_path import Stage, staged


@pytest.fixture(params=["asyncio", "uvloop"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with staged(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=EDGES)
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Edge:
    return edge_of(request.param, tmp_path)
