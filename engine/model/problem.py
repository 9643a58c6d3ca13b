"""The findings of a check of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TEXT_CHARS_MAX: Final = 1000
"""Characters of a name or reason; longer ones are cut to keep the output of a check readable."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding: the kind and name of an object, and what is wrong with it.

    ``kind`` is ``record`` (a row that does not decode), ``ledger`` (its file as a whole), or
    the object that breaks a rule: ``blob``, ``file``, ``claim``, ``hold``, ``manifest``,
    ``namespace``, ``image``, ``tag``, ``listing``, ``counter``, ``upload``, ``trash``,
    ``root``, ``key``.
    """

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


def problem(kind: str, name: str, reason: str) -> Problem:
    """Create a problem, with name and reason cut to ``TEXT_CHARS_MAX``."""
    return Problem(kind, name[:TEXT_CHARS_MAX], reason[:TEXT_CHARS_MAX])
