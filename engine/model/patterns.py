"""Patterns of names: ``*`` is any characters, or none, and ``?`` any one. Nothing backtracks.

All patterns of a set run at once as one automaton, its states the bits of one integer. A step is
some operations on that integer, so a name costs at most its length times that of all patterns, as
machine words have it. The steps that names take are kept, as far as there is room: most names
take the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

STATES_MAX: Final = 128
"""States of one set that are kept with the steps from them: some 600 KiB where a set is as long
as it may be, and is tried with names that are all different."""

SETS_MAX: Final = 32
"""Sets of patterns that are kept."""


class _State:
    """A set of places in the patterns, and where single characters lead from it."""

    __slots__ = ("bits", "first", "steps")

    def __init__(self, bits: int, first: str | None) -> None:
        self.bits = bits
        self.first = first
        """The first pattern that is at its end here."""
        self.steps: dict[str, _State] = {}


class Patterns:
    """A set of patterns, in their order. Threads may share it."""

    __slots__ = ("_any_one", "_ends", "_ends_mask", "_literals", "_loops", "_start", "_states")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._literals: dict[str, int] = {}
        """The places at which a character leads to the next one."""
        self._any_one = self._loops = self._ends_mask = start = 0
        self._ends: dict[int, str] = {}
        place = 1
        for pattern in patterns:
            start |= place
            for character in pattern:
                if character == "*":
                    self._loops |= place
                    continue
                if character == "?":
                    self._any_one |= place
                else:
                    self._literals[character] = self._literals.get(character, 0) | place
                place <<= 1
            self._ends[place] = pattern
            self._ends_mask |= place
            place <<= 1
        self._states: dict[int, _State] = {}
        self._start = self._kept(start) or _State(start, self._first(start))

    def first(self, name: str) -> str | None:
        """The first of the patterns that covers the whole name, or None. Case matters."""
        state = self._start
        for at, character in enumerate(name):
            following = state.steps.get(character)
            if following is None:
                bits = self._step(state.bits, character)
                following = self._kept(bits)
                if following is None:
                    return self._rest(bits, name[at + 1 :])
                state.steps[character] = following
            state = following
        return state.first

    def _kept(self, bits: int) -> _State | None:
        """The state of those places; None where there is no room for it."""
        state = self._states.get(bits)
        if state is None and len(self._states) < STATES_MAX:
            state = self._states[bits] = _State(bits, self._first(bits))
        return state

    def _rest(self, bits: int, name: str) -> str | None:
        """As ``first``, from those places on, keeping nothing."""
        for character in name:
            if not bits:
                return None
            bits = self._step(bits, character)
        return self._first(bits)

    def _step(self, bits: int, character: str) -> int:
        onward = bits & (self._literals.get(character, 0) | self._any_one)
        return onward << 1 | bits & self._loops

    def _first(self, bits: int) -> str | None:
        ends = bits & self._ends_mask
        return self._ends[ends & -ends] if ends else None


@lru_cache(SETS_MAX)
def patterns_of(patterns: tuple[str, ...]) -> Patterns:
    """The set of those (checked) patterns."""
    return Patterns(patterns)
