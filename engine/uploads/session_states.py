"""The life of an upload session, as two tables: of its rows, and of a request's work on it.

The rows outlive every process; what a request finds is read back from them and from the file:

    rows of the session   row of its file   its file    what the next request does
    CLOSED                any               any         answers that there is no such session
    IN_ROW                none              none        goes on after the bytes in the row
    IN_FILE or WHOLE      of a blob         any         ends the session; as for CLOSED
    IN_FILE or WHOLE      none              gone        answers that there is no such session
    IN_FILE or WHOLE      none              locked      answers that the session is busy
    IN_FILE               none              of any size goes on at the end of the file
    WHOLE                 none              past base   cuts the file to ``base`` and goes on

In the third case, the process that published the file died before it ended the session.
The scratch ledger is gone after a restart of the machine, and with it all sessions. A session
without requests is ended by the sweep when it expires, and by others in need of its room.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from holdfast.engine.ledger.records import Session
from holdfast.engine.model.errors import DigestMismatch, Locked, QuotaExceeded, TooLarge


class State(Enum):
    """State of a session's rows."""

    CLOSED = auto()
    """No row: not begun yet, or finished, cancelled, expired, or evicted."""
    IN_ROW = auto()
    """All of its bytes are in a row, which each append writes whole."""
    IN_FILE = auto()
    """All of its bytes are in a file, and each of them counts."""
    WHOLE = auto()
    """In a file, where those after ``base`` count only if their request completes."""


class Event(Enum):
    """Change of a session's rows."""

    BEGIN = auto()
    WRITE = auto()
    """Its content is written to the row."""
    MOVE = auto()
    """Its content has moved to a file."""
    MARK = auto()
    """The last request begins: ``base`` is set to the size that the file has."""
    UNMARK = auto()
    """An append follows a last request that failed."""
    COUNT = auto()
    """Its times, or the bytes that it counts for, are set."""
    END = auto()
    """It is finished, cancelled, expired, or evicted, or its namespace is gone."""


TRANSITIONS: Final = {
    (State.CLOSED, Event.BEGIN): State.IN_ROW,
    (State.IN_ROW, Event.WRITE): State.IN_ROW,
    (State.IN_ROW, Event.MOVE): State.IN_FILE,
    (State.IN_ROW, Event.COUNT): State.IN_ROW,
    (State.IN_ROW, Event.END): State.CLOSED,
    (State.IN_FILE, Event.MARK): State.WHOLE,
    (State.IN_FILE, Event.COUNT): State.IN_FILE,
    (State.IN_FILE, Event.END): State.CLOSED,
    (State.WHOLE, Event.MARK): State.WHOLE,
    (State.WHOLE, Event.UNMARK): State.IN_FILE,
    (State.WHOLE, Event.COUNT): State.WHOLE,
    (State.WHOLE, Event.END): State.CLOSED,
}
"""State of the rows after each state and event.

A pair without an entry raises, in production too: its transaction is rolled back, so the session
stays as it was. A session that has ended is no such case; that is NotFound.
"""


def state_of(session: Session | None) -> State:
    """Return the state that a session's row is in."""
    if session is None:
        return State.CLOSED
    if not session.file_id:
        return State.IN_ROW
    return State.IN_FILE if session.base < 0 else State.WHOLE


class Step(Enum):
    """Step of a request's work on a session; the last six end it."""

    APPENDING = auto()
    """Receives bytes, each of which counts."""
    KEEPING = auto()
    """Stores the bytes that arrived, so that they survive this process."""
    FINISHING = auto()
    """Receives bytes that count only if the blob is published."""
    PUBLISHING = auto()
    """Makes all bytes a blob."""
    KEPT = auto()
    """The session has the bytes."""
    DROPPED = auto()
    """The bytes could not be stored: a file that the session does not own is removed."""
    CUT = auto()
    """The session is back to what it had before this request."""
    UNCERTAIN = auto()
    """As CUT, but the file keeps its bytes: a submitted transaction may publish it yet. The next
    request on the session runs after that commit, and cuts."""
    PUBLISHED = auto()
    """The bytes are a durable blob; the session's rows go."""
    ENDED = auto()
    """The session has ended: the upload is refused for good."""


class Ending(Enum):
    """Way in which a step ends."""

    DONE = auto()
    FAILED = auto()
    """Any error, or a cancellation: the client may go on with the session."""
    REFUSED = auto()
    """An error that another try meets again. If the session stayed open, a client that asks for
    its status would resume it, and report the later failure instead of the refusal."""


STEPS: Final = {
    (Step.APPENDING, Ending.DONE): Step.KEEPING,
    # Also when cancelled: the client may resume from the bytes that arrived.
    (Step.APPENDING, Ending.FAILED): Step.KEEPING,
    (Step.APPENDING, Ending.REFUSED): Step.ENDED,
    (Step.KEEPING, Ending.DONE): Step.KEPT,
    (Step.KEEPING, Ending.FAILED): Step.DROPPED,
    # The quota of bytes held in memory is checked only when they are stored.
    (Step.KEEPING, Ending.REFUSED): Step.ENDED,
    (Step.FINISHING, Ending.DONE): Step.PUBLISHING,
    (Step.FINISHING, Ending.FAILED): Step.CUT,
    (Step.FINISHING, Ending.REFUSED): Step.ENDED,
    (Step.PUBLISHING, Ending.DONE): Step.PUBLISHED,
    (Step.PUBLISHING, Ending.FAILED): Step.UNCERTAIN,
    (Step.PUBLISHING, Ending.REFUSED): Step.ENDED,
}
"""Step after each step and ending.

A pair without an entry is work on a session after its request has ended. It raises, in
production too: what the request has stored or published stays so.
"""


def ending_of(error: BaseException) -> Ending:
    """Return how a step ended that raised ``error``."""
    if isinstance(error, QuotaExceeded) and error.resource == "uploads":
        return Ending.FAILED
    final = isinstance(error, (DigestMismatch, TooLarge, Locked, QuotaExceeded))
    return Ending.REFUSED if final else Ending.FAILED
