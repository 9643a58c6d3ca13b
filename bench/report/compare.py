"""Two runs side by side: what became faster or slower."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import Results
from .table import number


@dataclass(frozen=True, slots=True)
class Change:
    """One row of two runs."""

    workload: str
    title: str
    target: str
    unit: str
    old: float
    new: float
    times: float
    """How many times better the new one is."""

    clear: bool
    """Whether the ranges of the two runs do not touch."""


def changes(old: Results, new: Results) -> list[Change]:
    """All rows that both runs have, in the order of the new one."""
    found = []
    for row in new.rows:
        before = old.row(row.workload, row.target)
        if before is None or not before.median or not row.median or before.unit != row.unit:
            continue
        times = row.median / before.median
        found.append(
            Change(
                workload=row.workload,
                title=row.title,
                target=row.target,
                unit=row.unit,
                old=before.median,
                new=row.median,
                times=times if row.higher else 1 / times,
                clear=not row.overlaps(before),
            )
        )
    return found


def show(old: Results, new: Results, console: Console) -> None:
    """Print the changes; what may be noise is dim."""
    title = f"against the run of {old.started}"
    if old.machine.get("cpu") != new.machine.get("cpu"):
        title += " (on another machine!)"
    if old.profile != new.profile:
        title += f" (profile {old.profile})"
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("", ratio=1)
    for name in ("target", "before", "now", "change"):
        table.add_column(name, justify="right")
    for change in changes(old, new):
        style = ("green" if change.times >= 1 else "red") if change.clear else "dim"
        table.add_row(
            Text(change.title),
            Text(change.target),
            Text(f"{number(change.old)} {change.unit}"),
            Text(f"{number(change.new)} {change.unit}"),
            Text(f"{number(change.times)} x", style),
        )
    console.print(table)
    for row in new.rows:
        before = old.row(row.workload, row.target)
        if before is not None and before.values and row.void:
            text = f"void now, not before: {row.workload} on {row.target}"
            console.print(text, style="red", highlight=False, markup=False)
