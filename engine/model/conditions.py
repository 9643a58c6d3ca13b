"""Preconditions on the digest that a name points to.

A transaction checks them itself before it writes, so no other write can come in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import Kind, PreconditionFailed

ANY: Final = "*"
"""Wildcard of a condition: any digest."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The preconditions ``If-Match`` and ``If-None-Match`` of a request (RFC 9110 section 13.1).

    Digests are text. The current digest of a name that does not exist is None.
    """

    match: frozenset[str] | None = None
    """Digests of which the name must have one; ANY: the name must exist; None: no condition."""
    none_match: frozenset[str] = frozenset()
    """Digests of which the name must have none; ANY: the name must not exist."""

    def is_met(self, current: str | None) -> bool:
        """Return True if ``match`` allows the step."""
        return self.match is None or _includes(self.match, current)

    def excludes(self, current: str | None) -> bool:
        """Return True if ``none_match`` forbids the step."""
        return _includes(self.none_match, current)

    def check(self, kind: Kind, name: str, current: str | None) -> None:
        """Evaluate both in the order of RFC 9110 section 13.2.2. Raises PreconditionFailed."""
        if not self.is_met(current) or self.excludes(current):
            raise PreconditionFailed(kind, name, current)


def _includes(digests: frozenset[str], current: str | None) -> bool:
    return current is not None and (ANY in digests or current in digests)


ALWAYS: Final = Condition()
"""The condition that is always met."""
