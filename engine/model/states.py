"""Walks a table of states: what an event makes of a state, and which events are errors."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class IllegalEvent(RuntimeError):
    """An event that the table does not allow in that state: a defect of the caller.

    No ``EngineError``: code that tolerates failures of the store must not swallow it.
    """


def advance(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """Return the state that follows. Raises IllegalEvent for a pair that the table lacks."""
    try:
        return table[state, event]
    except KeyError:
        where = f"{type(state).__module__}.{state}"
        raise IllegalEvent(f"{event} is not allowed in state {where}") from None
