"""A problem: something that a check of a store found wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TEXT_CHARS_MAX: Final = 1000
"""Longer names and reasons are cut, so that a line of the check stays short."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: which kind of thing, its name, and what is wrong with it.

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
    """A problem with its texts cut to ``TEXT_CHARS_MAX``."""
    return Problem(kind, name[:TEXT_CHARS_MAX], reason[:TEXT_CHARS_MAX])
