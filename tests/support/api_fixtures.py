"""Fixtures of servers in this process, which test modules take under a name of their own:
``server = api_fixtures.team_server``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.distribution import Registry, registry
from support.management import Server, disk_store, memory_store, serving


@pytest.fixture
async def management_server() -> AsyncIterator[Server]:
    """Start a server for the management API over an empty store in memory."""
    async with serving(memory_store()) as running:
        yield running


@pytest.fixture(params=["memory", "disk"])
async def management_servers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Server]:
    """Start a server for the management API over an empty store, in memory and on disk."""
    opened = memory_store() if request.param == "memory" else disk_store(tmp_path)
    async with serving(opened) as running:
        yield running


@pytest.fixture
async def team_server() -> AsyncIterator[Registry]:
    """Start a server for the distribution API that has the private namespace ``team``."""
    async with registry() as running:
        await running.namespace("team")
        yield running
