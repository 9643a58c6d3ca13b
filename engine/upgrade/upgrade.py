"""Upgrades the rows of a store of the previous format in place, in bounded transactions.

The ledger records how many of STEPS are done, and the cursor of the current one, in the same
transaction that changes the rows. A process that is killed at any point leaves a store that the
next one continues with, and two processes that open it at once share the work. For a new store
the first transaction completes all steps.

Stores count the steps: add new ones at the end of STEPS, and remove none until the format that it
upgrades is no longer supported. A step that runs again from its start writes the same rows, so
damage to the row of the position harms no other row.
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

_PROGRESS_SECONDS: Final = 10.0
"""Interval of log lines about the progress of an upgrade."""

Advance = Callable[[Transaction, bytes, int], Awaitable[bytes | None]]
"""Function of cursor (b"" at first) and time (us) that changes a bounded number of rows; returns
the next cursor, None if the step is done."""


class Step(NamedTuple):
    """One change from the previous format to this one."""

    name: str
    """Description for the log."""
    advance: Advance


class Position(NamedTuple):
    """A store's progress."""

    done: int
    """Number of completed steps."""
    cursor: bytes
    """Cursor of the next step."""


STEPS: Final[tuple[Step, ...]] = (
    Step("the lists of the trash", trash.advance),
    Step("what namespaces keep", kept.advance),
    Step("the clock of ids", clock.advance),
    Step("the limits of namespaces", limits.advance),
)


async def position(txn: Transaction) -> Position:
    """Return the store's position. Raises NotAStore if a newer version has added steps."""
    try:
        state = await get_payload(txn, _STATE)
    except Corrupt as error:
        # The likelier state: a store is in use for years, and being upgraded for minutes.
        _log.error(
            "cannot read the position of the upgrade: %s; assuming that the store is upgraded, "
            "`check` reports the row",
            error,
        )
        return Position(len(STEPS), b"")
    if state is None:
        return Position(0, b"")
    done = int.from_bytes(state[:2], "big")
    if done > len(STEPS):
        raise NotAStore("ledger", "a newer version of holdfast has upgraded its rows: use that")
    return Position(done, state[2:])


async def pending(txn: Transaction) -> bool:
    """Return True if a step is left to do. Raises NotAStore."""
    return (await position(txn)).done < len(STEPS)


async def advance(txn: Transaction, now: int) -> Position:
    """Continue the upgrade until a step returns a cursor: bounded work. Return the new position.

    Raises NotAStore, and what the steps raise.
    """
    done, cursor = await position(txn)
    if not await txn.scan(after(layout.SETTING), after(b"\xfe"), limit=1):
        # Only settings: the store is new, and no step would find any rows.
        done, cursor = len(STEPS), b""
    while done < len(STEPS):
        following = await STEPS[done].advance(txn, cursor, now)
        if following is not None:
            cursor = following
            break
        done, cursor = done + 1, b""
    await put_payload(txn, _STATE, done.to_bytes(2, "big") + cursor)
    return Position(done, cursor)


async def run(at: Position, step: Callable[[], Awaitable[Position]], name: str) -> None:
    """Upgrade a store from a position to the end; log the progress under ``name``.

    ``step`` commits one ``advance``. Raises what ``step`` raises.
    """
    if at.done == len(STEPS):
        return
    _log.info("upgrading %s in place: its rows are of an older format", name)
    begun = logged = time.monotonic()
    while (at := await step()).done < len(STEPS):
        now = time.monotonic()
        if now - logged >= _PROGRESS_SECONDS:
            logged = now
            title = STEPS[at.done].name
            _log.info("upgrading %s: step %d of %d, %s", name, at.done + 1, len(STEPS), title)
    _log.info("upgraded %s in %.1f s", name, time.monotonic() - begun)
