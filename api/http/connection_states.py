"""The states of a client's connection, and the events that lead from one to another.

``TRANSITIONS`` is the whole truth: a pair of state and event that it lacks is a mistake of the
server. ``Connection._step`` alone walks the table.

Bytes are no event of their own. The state says who gets them:

- IDLE: the fast path, if there is one; else aiohttp's parser (HANDED).
- GATHERING: the push that is being gathered.
- PUSHING and SENDING: they are held until the answer is sent.
- PARSER: aiohttp's parser.
- CLOSING: they are dropped.

A small read that the fast path answers at once leaves the connection idle, without an event.

Beside the state, a connection remembers that its client has ended its side while it is owed
answers: that may happen in any state, and changes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """The part of the server that has a connection's bytes."""

    NEW = auto()
    """The transport is not connected."""
    IDLE = auto()
    """All requests are answered, and the next byte begins a head."""
    GATHERING = auto()
    """The head of a small push was understood, and its body is incomplete."""
    PUSHING = auto()
    """A task runs the handler of a whole push."""
    SENDING = auto()
    """``sendfile`` sends a file behind its head."""
    PARSER = auto()
    """aiohttp has a request, or the beginning of one."""
    CLOSING = auto()
    """No later byte has a meaning. What was asked before may still be answered."""
    LOST = auto()
    """The connection has ended."""


class Event(Enum):
    """A cause for a change of state."""

    ADMITTED = auto()
    """The connection may stay."""
    REFUSED = auto()
    """There are too many connections."""
    HANDED = auto()
    """aiohttp's parser got bytes."""
    ANSWERED = auto()
    """aiohttp has answered its last request, has read it to the end, and keeps the connection."""
    FAULT = auto()
    """The parser has failed, or a head breaks a rule of the server."""
    PUSH_BEGUN = auto()
    """The head of a small push is complete."""
    PUSH_WHOLE = auto()
    """The push is complete, and permitted."""
    PUSH_DECLINED = auto()
    """The plain path gets the push: it is slow, unusual or refused, or its client has ended its
    side."""
    PUSH_ANSWERED = auto()
    """The answer of the push is sent, and the connection stays."""
    PUSH_LAST = auto()
    """The push is answered or failed, and the connection must not stay."""
    FILE_BEGUN = auto()
    """A file is to be sent."""
    FILE_SENT = auto()
    """The whole file is sent."""
    FILE_CUT = auto()
    """Sending the file failed."""
    LOST = auto()
    """The transport has ended."""


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.NEW, Event.ADMITTED): State.IDLE,
    (State.NEW, Event.REFUSED): State.CLOSING,
    (State.IDLE, Event.HANDED): State.PARSER,
    (State.IDLE, Event.PUSH_BEGUN): State.GATHERING,
    (State.IDLE, Event.FILE_BEGUN): State.SENDING,
    (State.IDLE, Event.LOST): State.LOST,
    (State.GATHERING, Event.PUSH_WHOLE): State.PUSHING,
    (State.GATHERING, Event.PUSH_DECLINED): State.IDLE,
    (State.GATHERING, Event.LOST): State.LOST,
    (State.PUSHING, Event.PUSH_ANSWERED): State.IDLE,
    (State.PUSHING, Event.PUSH_LAST): State.CLOSING,
    (State.PUSHING, Event.LOST): State.LOST,
    (State.SENDING, Event.FILE_SENT): State.IDLE,
    (State.SENDING, Event.FILE_CUT): State.CLOSING,
    (State.SENDING, Event.LOST): State.LOST,
    (State.PARSER, Event.HANDED): State.PARSER,
    (State.PARSER, Event.ANSWERED): State.IDLE,
    (State.PARSER, Event.FAULT): State.CLOSING,
    (State.PARSER, Event.LOST): State.LOST,
    # Requests from before the fault get their answers.
    (State.CLOSING, Event.ANSWERED): State.CLOSING,
    (State.CLOSING, Event.LOST): State.LOST,
    # Work that ran when the client left ends by itself.
    (State.LOST, Event.ANSWERED): State.LOST,
    (State.LOST, Event.PUSH_ANSWERED): State.LOST,
    (State.LOST, Event.PUSH_LAST): State.LOST,
    (State.LOST, Event.FILE_CUT): State.LOST,
}


class IllegalEvent(RuntimeError):
    """An event that the state of its connection does not allow. The connection is aborted."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"event {event.name} is not legal in state {state.name}")
