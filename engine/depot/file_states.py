"""The life of a file, as a table: its states in one instance of the store, and what changes them.

An instance remembers the state of each *unsettled* file, that is any state but SETTLED. This
memory ends with the process, so the rows decide, and an event is read back from them:

    row in the ledger        row in scratch   event      what recovery and rechecks do
    blob or pending unlink   any              SETTLE     nothing; the sweep unlinks a pending one
    none                     open session     TRANSFER   leave the file, and its block open
    none                     none             DISCARD    remove the file unless a writer has it

``discard`` reads the rows too, once more with the file locked. If the file is missing, that
settles it; a row without its file is damage, which the check reports. A block of ids may be
closed once it has no unsettled file.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """State of a file in one instance."""

    SETTLED = auto()
    """A row of the ledger names the file, it is gone, or another instance tracks it."""
    CREATED = auto()
    """A caller writes the file, and no row names it."""
    IN_SESSION = auto()
    """The row of an upload session names the file; any process may continue or end that."""
    DISCARDED = auto()
    """No caller needs the file: it is to be removed, unless a row names it after all."""
    FOREIGN = auto()
    """Discarded here, but tracked by another instance, or settled before."""


class Event(Enum):
    """Cause of a change of state."""

    CREATE = auto()
    """This instance takes the file's id from its block."""
    SETTLE = auto()
    """A row of the ledger names the file, or it is gone."""
    TRANSFER = auto()
    """The row of a session names the file. That ledger may be lost, so this settles nothing."""
    DISCARD = auto()
    """A caller drops the file, or no row was found for it."""


TRANSITIONS: Final = {
    (State.SETTLED, Event.CREATE): State.CREATED,
    (State.SETTLED, Event.SETTLE): State.SETTLED,
    # Each instance rechecks only its own files: one that another tracks stays with that one.
    (State.SETTLED, Event.TRANSFER): State.SETTLED,
    (State.SETTLED, Event.DISCARD): State.FOREIGN,
    (State.CREATED, Event.SETTLE): State.SETTLED,
    (State.CREATED, Event.TRANSFER): State.IN_SESSION,
    (State.CREATED, Event.DISCARD): State.DISCARDED,
    (State.IN_SESSION, Event.SETTLE): State.SETTLED,
    (State.IN_SESSION, Event.TRANSFER): State.IN_SESSION,
    (State.IN_SESSION, Event.DISCARD): State.DISCARDED,
    # The discard was a caller's that did not know whether its transaction had committed.
    (State.DISCARDED, Event.SETTLE): State.SETTLED,
    (State.DISCARDED, Event.TRANSFER): State.IN_SESSION,
    (State.DISCARDED, Event.DISCARD): State.DISCARDED,
    (State.FOREIGN, Event.SETTLE): State.SETTLED,
    (State.FOREIGN, Event.TRANSFER): State.SETTLED,
    (State.FOREIGN, Event.DISCARD): State.FOREIGN,
}
"""State that follows each state and event.

A pair without an entry is an id taken twice. It raises, in production too: two writers of one
file would lose bytes, while nothing is written yet when it raises.
"""
