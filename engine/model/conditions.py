"""Conditions: what a name has to lead to for a step to be taken.

They are decided in the transaction that takes the step, so that nothing comes in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import Kind, PreconditionFailed

ANY: Final = "*"
"""In a condition: whatever it leads to."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The preconditions ``If-Match`` and ``If-None-Match`` (RFC 9110 section 13.1) of a step.

    Digests are as text. A name that leads nowhere is at None.
    """

    match: frozenset[str] | None = None
    """It has to be at one of these, or at any with ANY; None: that is not asked."""
    none_match: frozenset[str] = frozenset()
    """It has to be at none of these; with ANY, at nothing at all."""

    def is_met(self, current: str | None) -> bool:
        """Whether ``match`` lets the step be taken."""
        return self.match is None or _names(self.match, current)

    def excludes(self, current: str | None) -> bool:
        """Whether ``none_match`` forbids the step."""
        return _names(self.none_match, current)

    def check(self, kind: Kind, name: str, current: str | None) -> None:
        """Decide, in the order of RFC 9110 section 13.2.2. Raises PreconditionFailed."""
        if not self.is_met(current) or self.excludes(current):
            raise PreconditionFailed(kind, name, current)


def _names(digests: frozenset[str], current: str | None) -> bool:
    return current is not None and (ANY in digests or current in digests)


ALWAYS: Final = Condition()
"""No condition."""
