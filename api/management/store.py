"""Operation for statistics of the whole store; not in Scaleway's API."""

from __future__ import annotations

from typing import Final

from .operation import HOLDFAST, Call, Nothing, operation
from .views import StatsAnswer, convert


@operation("GET", HOLDFAST + "/stats", "Get statistics of the whole store", owner=True)
async def get_stats(call: Call[Nothing, Nothing]) -> StatsAnswer:
    """Return the current statistics of the store."""
    return convert(await call.store.stats(), StatsAnswer)


OPERATIONS: Final = (get_stats,)
