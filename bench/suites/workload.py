"""What a workload is: a name, what it means, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets.targets import Target

from .measure import Bench


def nothing(bench: Bench, target: Target) -> None:
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
    limit: Limit
    measure: Callable[[Bench, Target, int], Sample]
    prepare: Callable[[Bench, Target], None] = nothing
    higher: bool = True
    files: bool = False
    """Whether it can be measured on a server of static files."""

    variants: tuple[str, ...] = ()
    """Which Holdfasts with other options get it, too."""

    needs: Callable[[Target], bool] = lambda _: True
    rounds: int = 99
    """How many rounds at most."""

    weight: float = 1.0
    """Its share of the time, beside that of the others."""

    def applies(self, target: Target) -> bool:
        """Whether the target gets this row."""
        if target.variant:
            return target.variant in self.variants
        return (target.registry or self.files) and self.needs(target)


def ours(target: Target) -> bool:
    """For ``needs``: rows of Holdfast alone."""
    return target.ours


def ours_or_files(target: Target) -> bool:
    """For ``needs``: rows of Holdfast, and of nginx as their limit."""
    return target.ours or not target.registry


def local(target: Target) -> bool:
    """For ``needs``: rows that must see what the server has on disk."""
    return target.data is not None
