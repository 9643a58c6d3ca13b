"""Fixtures for all areas. Plain helpers are in support.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.common import require_tool as _require_tool
from support.rows import Row, row_of

# How long an example takes says more of the machine, and of what else it does, than of the code.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")

SLOW_FOLDERS = ("clients", "faults")
"""Folders whose tests are all slow: each needs real clients, or servers that die."""


# Before pytest's own hook, which applies -m: that one has to see the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow folders."""
    folders = [Path(__file__).parent / name for name in SLOW_FOLDERS]
    for item in items:
        if item.path.parent in folders:
            item.add_marker("slow")


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """``require_tool("skopeo")``: its path, or a skip (a failure where HOLDFAST_CI is set)."""
    return _require_tool


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server started by a test sees only what the test gives it."""
    for name in list(os.environ):
        if name.startswith("HOLDFAST_") and name != "HOLDFAST_CI" and "SOAK" not in name:
            monkeypatch.delenv(name)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of a page that the test's mark ``row`` names; the test has to compare all of it."""
    mark = request.node.get_closest_marker("row")
    assert mark is not None, "the mark says which row: @pytest.mark.row(page, name)"
    row = row_of(*mark.args)
    yield row
    assert not row.unsaid(), (row.name, row.unsaid())
