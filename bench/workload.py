"""What a workload is: a name, what it means, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .measure import Bench
from .results import Sample
from .targets import Target


def _nothing(bench: Bench, target: Target) -> None:
    """Most workloads need nothing before."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the report, measured on every target that it applies to.

    ``prepare`` runs once on each target, ``measure`` once each round, with the number of the
    round; both may raise MeasureFailed or Unreachable, which void the row.
    """

    name: str
    title: str
    group: str
    unit: str
    measure: Callable[[Bench, Target, int], Sample]
    prepare: Callable[[Bench, Target], None] = _nothing
    higher: bool = True
    limit: str = ""
    files: bool = False
    """Whether it can be measured on a server of static files."""

    needs: Callable[[Target], bool] = lambda _: True

    def applies(self, target: Target) -> bool:
        """Whether the target gets this row."""
        return (target.registry or self.files) and self.needs(target)
