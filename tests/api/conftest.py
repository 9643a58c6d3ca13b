"""Fixtures of the API's tests that need no choice; `support/api_fixtures.py` has the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from support.edge import EDGES, Edge, edge_of
from support.fast_path import Stage, staged
from support.recorded import FAST, PLAIN

from holdfast.api.http.connection import Connection
from holdfast.api.http.connection_states import Event


@pytest.fixture(params=["asyncio", "uvloop"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with staged(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=EDGES)
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Edge:
    return edge_of(request.param, tmp_path)


@pytest.fixture(autouse=True)
def refused_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """Record the events that a connection's state did not allow: there are none."""
    seen: list[Event] = []
    refuse = Connection._refuse_event

    def record(connection: Connection, event: Event) -> NoReturn:
        seen.append(event)
        refuse(connection, event)

    monkeypatch.setattr(Connection, Connection._refuse_event.__name__, record)
    yield seen
    assert not seen


@pytest.fixture(params=[FAST, PLAIN])
def path_option(request: pytest.FixtureRequest) -> str:
    """The option of a server by which small requests take the fast path or the plain one."""
    option: str = request.param
    return option
