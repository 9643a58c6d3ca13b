"""Numbers of the whole store, for its operator: beyond Scaleway's API."""

from __future__ import annotations

from typing import Final

from .operation import BEYOND, Call, Nothing, Operation
from .views import StatsAnswer, stats_answer


async def get_stats(call: Call[Nothing, Nothing]) -> StatsAnswer:
    """The store's numbers at this moment."""
    return stats_answer(await call.store.stats())


OPERATIONS: Final = (
    Operation(
        id="GetStats",
        method="GET",
        path=BEYOND + "/stats",
        summary="Numbers of the whole store",
        handler=get_stats,
        answer=StatsAnswer,
        owner=True,
    ),
)
