"""Servers whose connections are looked at byte for byte, in both loops, with the fast lane and
without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holdfast.api import AppSettings
from holdfast.engine import Store, StoreConfig
from support.api import ORGANIZATION, OWNER_SECRET, PROJECT, basic
from support.wire import LOOPS, Client, CountingLane, serving

EDGES: Final = ("asyncio", "uvloop", "uvloop-lane")
"""Parameters of a fixture ``edge``."""

OWNER: Final = f"Authorization: {basic(OWNER_SECRET)}"
LIMITS: Final[dict[str, Any]] = {"max_line_size": 16 * 1024, "max_field_size": 32 * 1024}
"""As a worker has them."""


@dataclass
class Edge:
    """How the servers of a test are made, and where they run."""

    path: Path
    loop: str
    fast: bool

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[self.loop]) as runner:
            runner.run(story)

    @asynccontextmanager
    async def server(self, **options: Any) -> AsyncIterator[int]:
        async with Store.open(self.path / "store", StoreConfig(background=False)) as store:
            await store.keys.create(
                project_id=None,
                default_project_id=PROJECT,
                organization_id=ORGANIZATION,
                secret=OWNER_SECRET,
            )
            await store.namespaces.create(
                "fr-par", "app", project_id=PROJECT, organization_id=ORGANIZATION
            )
            lane = None
            if self.fast:
                lane = CountingLane(store, AppSettings())
            async with serving(store, lane=lane, **LIMITS, **options) as port:
                yield port


async def trickle(client: Client) -> None:
    """Send a byte now and then, until the other side has had enough."""
    while True:
        await client.send(b"x")
        await asyncio.sleep(0.001)


def edge_of(parameter: str, path: Path) -> Edge:
    """One of EDGES, with its data below ``path``."""
    loop, _, lane = parameter.partition("-")
    return Edge(path, loop, bool(lane))
