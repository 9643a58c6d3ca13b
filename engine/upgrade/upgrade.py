"""Upgrading the rows of a store of the last format in place, in bounded steps.

The ledger keeps how many of STEPS are done, and the cursor of the one that is under way, in the
transaction that changes the rows. So a process that is killed anywhere leaves a store that the
next one goes on with, and two processes that open it at once share the work. A store that is new
is done with its first transaction.

A step is added at the end of STEPS, and never taken out before the format that it leads from is
given up: stores count them. Begun again from its start, a step gives the same rows: so damage to
the row that says how far a store is does no harm to others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import get_payload, put_payload
from holdfast.engine.model.errors import Corrupt, NotAStore

from . import clock, kept, limits, trash

_log: Final = logging.getLogger(__name__)

_STATE: Final = layout.SETTING + b"upgrade"
"""-> number of steps done (2), cursor in the next one."""

_TOLD_SECONDS: Final = 10.0
"""Between two lines of the log that tell how far an upgrade is."""

Advance = Callable[[Transaction, bytes, int], Awaitable[bytes | None]]
"""Changes a bounded number of rows from a cursor on (b"" at first), as of a time in microseconds;
says where to go on, or None where the step is done."""


class Step(NamedTuple):
    """One kind of rows that a format has and the last one had not."""

    name: str
    advance: Advance


class Position(NamedTuple):
    """How far a store is."""

    done: int
    """Steps that are done."""
    cursor: bytes
    """In the next one."""


STEPS: Final[tuple[Step, ...]] = (
    Step("the lists of the trash", trash.advance),
    Step("what namespaces keep", kept.advance),
    Step("the clock of ids", clock.advance),
    Step("the limits of namespaces", limits.advance),
)


async def position(txn: Transaction) -> Position:
    """Say how far the store is. Raises NotAStore where a newer version has added steps."""
    try:
        state = await get_payload(txn, _STATE)
    except Corrupt as error:
        # A store is in use for years, and being upgraded for minutes. `check` tells of the row.
        _log.error("taking the store as upgraded, since the row that says so is damaged: %s", error)
        return Position(len(STEPS), b"")
    if state is None:
        return Position(0, b"")
    done = int.from_bytes(state[:2], "big")
    if done > len(STEPS):
        raise NotAStore("ledger", "a newer holdfast has upgraded its rows: use that one")
    return Position(done, state[2:])


async def pending(txn: Transaction) -> bool:
    """Say whether a step is not done. Raises NotAStore."""
    return (await position(txn)).done < len(STEPS)


async def advance(txn: Transaction, now: int) -> Position:
    """Go on with the upgrade: bounded work in one step, and any number of steps that end.

    Raises NotAStore, and what the steps raise.
    """
    done, cursor = await position(txn)
    if not await txn.scan(after(layout.SETTING), after(b"\xfe"), limit=1):
        # Nothing but settings: the store is new, and no step would find anything to do.
        done, cursor = len(STEPS), b""
    while done < len(STEPS):
        rest = await STEPS[done].advance(txn, cursor, now)
        if rest is not None:
            cursor = rest
            break
        done, cursor = done + 1, b""
    await put_payload(txn, _STATE, done.to_bytes(2, "big") + cursor)
    return Position(done, cursor)


async def run(at: Position, step: Callable[[], Awaitable[Position]], name: str) -> None:
    """Upgrade the store called ``name`` from a position on to the end.

    ``step`` commits one ``advance``. Tells the log how far it is. Raises what ``step`` raises.
    """
    if at.done == len(STEPS):
        return
    _log.info("upgrading %s in place, since its rows are of an older format", name)
    begun = told = time.monotonic()
    while (at := await step()).done < len(STEPS):
        now = time.monotonic()
        if now - told >= _TOLD_SECONDS:
            told = now
            what = STEPS[at.done].name
            _log.info("upgrading %s: step %d of %d, %s", name, at.done + 1, len(STEPS), what)
    _log.info("upgraded %s in %.1f s", name, time.monotonic() - begun)
