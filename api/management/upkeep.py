"""Upkeep of the whole store, for its operator: beyond Scaleway's API.

A running server does all of it by itself, at its own pace; these do it now. What may take long is
cut: a request works for about WORK_SECONDS, and tells whether to ask again. Nothing of it is kept
between requests, so any worker may take the next one.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Final
from weakref import WeakSet

import msgspec
from msgspec import Meta

from holdfast.engine import Store

from .errors import ApiError, TransientState
from .operation import BEYOND, Call, Nothing, Operation
from .views import CheckAnswer, ScrubAnswer, SweepAnswer, problem_answer, scrub_answer, sweep_answer

WORK_SECONDS: Final = 1.0
"""How long a request works before it answers; a single blob that is read takes what it takes."""

PROBLEMS_MAX: Final = 1000
"""Problems in an answer; the number of all goes on."""

_checked: Final[WeakSet[Store]] = WeakSet()
"""Stores that this process checks now."""


class SweepStore(msgspec.Struct, kw_only=True):
    """What to take."""

    early: Annotated[
        bool, Meta(description="The trash before its time too: nothing can be brought back then")
    ] = False


class ScrubStore(msgspec.Struct, kw_only=True):
    """How far to read."""

    budget: Annotated[
        Annotated[int, Meta(ge=0, le=1 << 62)] | None,
        Meta(description="Bytes to read at most; the first blob of a walk is read in any case"),
    ] = None
    origin: Annotated[
        Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] | None,
        Meta(description="That of the first answer, from the second request of a walk on"),
    ] = None


async def sweep_store(call: Call[Nothing, SweepStore]) -> SweepAnswer:
    """Give back the space of what nobody needs any more, for about a second.

    Ask again until it is ``finished``.
    """
    sweeper = call.store.sweeper
    return sweep_answer(await sweeper.run(early=call.body.early, seconds=WORK_SECONDS))


async def scrub_store(call: Call[Nothing, ScrubStore]) -> ScrubAnswer:
    """Read blobs again for about a second, and quarantine what is damaged.

    It goes on where the last scrub stopped. Ask again, with ``origin``, while it is ``paused``.
    """
    body = call.body
    done = await call.store.scrubber.run(body.budget, seconds=WORK_SECONDS, origin=body.origin)
    return scrub_answer(done)


async def check_store(call: Call[Nothing, Nothing]) -> CheckAnswer:
    """Verify what the store promises, on one consistent state of it, without reading the blobs.

    It answers at the end, which takes time in proportion to the number of things in the store.
    """
    store = call.store
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
                    answer.problems.append(problem_answer(problem))
    finally:
        _checked.discard(store)
    return answer


OPERATIONS: Final = (
    Operation(
        id="SweepStore",
        method="POST",
        path=BEYOND + "/sweep",
        summary="Give back what nobody needs",
        handler=sweep_store,
        answer=SweepAnswer,
        body=SweepStore,
        writes=True,
        owner=True,
    ),
    Operation(
        id="ScrubStore",
        method="POST",
        path=BEYOND + "/scrub",
        summary="Read blobs again, and find damage",
        handler=scrub_store,
        answer=ScrubAnswer,
        body=ScrubStore,
        writes=True,
        owner=True,
    ),
    Operation(
        id="CheckStore",
        method="POST",
        path=BEYOND + "/check",
        summary="Verify the promises of the store",
        handler=check_store,
        answer=CheckAnswer,
        writes=True,
        owner=True,
        only_reads=True,
        errors=(TransientState,),
    ),
)
