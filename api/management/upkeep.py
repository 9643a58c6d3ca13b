"""Operations on the whole store: statistics, sweep, scrub, check; not in Scaleway's API.

A running server sweeps and scrubs in the background; these operations do it now. Long work is
split: a request works for about WORK_SECONDS, and its response says if more is left. No state is
kept between requests, so any worker may handle the next one.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Final
from weakref import WeakSet

import msgspec
from msgspec import Meta

from holdfast.engine import Store

from .errors import ApiError, TransientState
from .operation import HOLDFAST, Call, Nothing, operation
from .views import CheckAnswer, ProblemAnswer, ScrubAnswer, StatsAnswer, SweepAnswer, convert

WORK_SECONDS: Final = 1.0
"""Time a request works before it responds; it always reads a started blob to its end."""

PROBLEMS_MAX: Final = 1000
"""Problems in a response; ``problem_count`` counts the others too."""

_checked: Final[WeakSet[Store]] = WeakSet()
"""Stores that this process is checking."""


@operation("GET", HOLDFAST + "/stats", "Get statistics of the whole store", owner=True)
async def get_stats(call: Call[Nothing, Nothing]) -> StatsAnswer:
    """Return the current statistics of the store."""
    return convert(await call.store.stats(), StatsAnswer)


class SweepStore(msgspec.Struct, kw_only=True):
    """Options of a sweep."""

    early: Annotated[
        bool, Meta(description="Also empty the trash; nothing can be restored after that")
    ] = False


class ScrubStore(msgspec.Struct, kw_only=True):
    """Options of a scrub."""

    budget: Annotated[
        Annotated[int, Meta(ge=0, le=1 << 62)] | None,
        Meta(description="Maximum bytes to read; the first blob of a scrub is always read"),
    ] = None
    origin: Annotated[
        Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] | None,
        Meta(description="`origin` of the first response, in all further requests of a scrub"),
    ] = None


@operation("POST", HOLDFAST + "/sweep", "Delete unreferenced data", writes=True, owner=True)
async def sweep_store(call: Call[Nothing, SweepStore]) -> SweepAnswer:
    """Delete unreferenced data, for about a second.

    Repeat the request until it is ``finished``.
    """
    sweeper = call.store.sweeper
    done = await sweeper.run(early=call.body.early, seconds=WORK_SECONDS)
    return convert(done, SweepAnswer)


@operation("POST", HOLDFAST + "/scrub", "Read and verify blobs", writes=True, owner=True)
async def scrub_store(call: Call[Nothing, ScrubStore]) -> ScrubAnswer:
    """Read blobs for about a second, verify them, and quarantine damaged ones.

    A scrub continues where the last one stopped. Repeat the request with ``origin`` while it is
    ``paused``.
    """
    body = call.body
    done = await call.store.scrubber.run(body.budget, seconds=WORK_SECONDS, origin=body.origin)
    return convert(done, ScrubAnswer)


@operation(
    "POST",
    HOLDFAST + "/check",
    "Verify the integrity of the store",
    writes=True,
    owner=True,
    only_reads=True,
    errors=(TransientState,),
)
async def check_store(call: Call[Nothing, Nothing]) -> CheckAnswer:
    """Verify the integrity of a consistent state of the store, without reading the blobs.

    The response comes at the end, after a time in proportion to the number of objects.
    """
    store = call.store
    # One check at a time per process: each reads the whole ledger.
    if store in _checked:
        raise ApiError(
            TransientState(resource="store", resource_id="", current_state="being checked")
        )
    _checked.add(store)
    answer = CheckAnswer(problems=[], problem_count=0)
    try:
        async with aclosing(store.check()) as problems:
            async for problem in problems:
                answer.problem_count += 1
                if len(answer.problems) < PROBLEMS_MAX:
                    answer.problems.append(convert(problem, ProblemAnswer))
    finally:
        _checked.discard(store)
    return answer


OPERATIONS: Final = (get_stats, sweep_store, scrub_store, check_store)
