"""Operation for statistics of the whole store; not in Scaleway's API."""

from __future__ import annotations

from typing import Final

from .operation import HOLDFAST, Call, Nothing, Operation
from .views import StatsAnswer, convert


async def get_stats(call: Call[Nothing, Nothing]) -> StatsAnswer:
    """Return the current statistics of the store."""
    return convert(await call.store.stats(), StatsAnswer)


OPERATIONS: Final = (
    Operation(
        id="GetStats",
        method="GET",
        path=HOLDFAST + "/stats",
        summary="Get statistics of the whole store",
        handler=get_stats,
        answer=StatsAnswer,
        owner=True,
    ),
)
