"""Matches names against patterns without backtracking: ``*`` is any characters, ``?`` any one.

All patterns of a set run at once as one automaton (NFA): its positions are the bits of one integer.
A step is a few operations on that integer, so matching costs at most the length of the name times
the machine words of all patterns. States and steps are cached up to a limit, since most names
take the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

STATES_MAX: Final = 128
"""States of one set that are cached with their steps: about 600 KiB for the longest set, matched
with names that all differ."""

SETS_MAX: Final = 32
"""Sets of patterns that are cached."""


class _State:
    """A set of positions in the patterns, and the states that characters lead to."""

    __slots__ = ("bits", "first", "steps")

    def __init__(self, bits: int, first: str | None) -> None:
        self.bits = bits
        self.first = first
        """First pattern that ends at one of the positions; None if none does."""
        self.steps: dict[str, _State] = {}


class Patterns:
    """An ordered set of patterns. Threads may share it."""

    __slots__ = ("_any_one", "_ends", "_ends_mask", "_literals", "_loops", "_start", "_states")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._literals: dict[str, int] = {}
        """Positions, by character, at which it leads to the next position."""
        self._any_one = self._loops = self._ends_mask = start = 0
        self._ends: dict[int, str] = {}
        position = 1
        for pattern in patterns:
            start |= position
            for character in pattern:
                if character == "*":
                    self._loops |= position
                    continue
                if character == "?":
                    self._any_one |= position
                else:
                    self._literals[character] = self._literals.get(character, 0) | position
                position <<= 1
            self._ends[position] = pattern
            self._ends_mask |= position
            position <<= 1
        self._states: dict[int, _State] = {}
        self._start = self._kept(start) or _State(start, self._first(start))

    def first(self, name: str) -> str | None:
        """Return the first pattern that matches the whole name, or None. Case matters."""
        state = self._start
        for at, character in enumerate(name):
            following = state.steps.get(character)
            # Threads may add the same step twice; both lead to an equal state.
            if following is None:
                bits = self._step(state.bits, character)
                following = self._kept(bits)
                if following is None:
                    return self._rest(bits, name[at + 1 :])
                state.steps[character] = following
            state = following
        return state.first

    def _kept(self, bits: int) -> _State | None:
        """Return the cached state of those positions; None if the cache is full."""
        state = self._states.get(bits)
        if state is None and len(self._states) < STATES_MAX:
            state = self._states[bits] = _State(bits, self._first(bits))
        return state

    def _rest(self, bits: int, name: str) -> str | None:
        """Match the rest of a name from those positions on, without caching."""
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
        # The lowest bit is the end of the first pattern, since positions ascend.
        return self._ends[ends & -ends] if ends else None


@lru_cache(SETS_MAX)
def patterns_of(patterns: tuple[str, ...]) -> Patterns:
    """Return the compiled set of (checked) patterns, from a cache."""
    return Patterns(patterns)
