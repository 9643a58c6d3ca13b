"""The report in the terminal: one line a workload, the ratio first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import Results, Row

FIRST = "holdfast"
"""The column that the others are compared with; the first target where there is no such."""


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def spread(row: Row) -> str:
    """The range of the rounds."""
    low, high = min(row.values), max(row.values)
    return number(low) if low == high else f"{number(low)}…{number(high)}"


def subject(results: Results) -> str:
    """The target that ratios are of."""
    names = [row.target for row in results.rows]
    return FIRST if FIRST in names or not names else names[0]


def ratio(results: Results, workload: str, other: str) -> float | None:
    """How many times better the subject is than another target: over 1 means it wins."""
    row, rival = results.row(workload, subject(results)), results.row(workload, other)
    if row is None or rival is None or not row.median or not rival.median:
        return None
    return row.median / rival.median if row.higher else rival.median / row.median


def columns(results: Results) -> list[str]:
    """Targets in order, the subject first."""
    seen = dict.fromkeys([subject(results), *(row.target for row in results.rows)])
    return list(seen)


def groups(results: Results) -> Iterator[tuple[str, list[str]]]:
    """Groups, and the names of their workloads."""
    found: dict[str, list[str]] = {}
    for row in results.rows:
        names = found.setdefault(row.group, [])
        if row.workload not in names:
            names.append(row.workload)
    yield from found.items()


def share(results: Results, row: Row) -> float | None:
    """The row's median as a share of its limit."""
    limit = results.limit_of(row)
    return row.median / limit if limit and row.median else None


def show(results: Results, console: Console) -> None:
    """Print everything that a person wants to know first."""
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    console.print(f"profile {results.profile}, {results.seconds:.0f} s, {facts}", highlight=False)
    for target in results.targets:
        console.print(f"  {describe(results, target.name)}", highlight=False)
    for group, names in groups(results):
        console.print(_table(results, group, names))
    for row in results.rows:
        if row.void:
            text = f"void: {row.workload} on {row.target}: {row.void}"
            console.print(text, style="red", highlight=False, markup=False)
    for text in results.remarks:
        console.print(f"· {text}", highlight=False)
    if not results.complete:
        console.print("This run is incomplete.", style="yellow")


def describe(results: Results, name: str) -> str:
    """One line about a target."""
    target = next(one for one in results.targets if one.name == name)
    text = " ".join(filter(None, (target.name, target.version)))
    notes = list(target.notes)
    if target.fsyncs_per_image is not None:
        notes.append(f"{number(target.fsyncs_per_image)} fsyncs a pushed image of 5 layers")
    return f"{text}: {'; '.join(notes)}" if notes else text


def _table(results: Results, group: str, names: list[str]) -> Table:
    table = Table(title=group, title_justify="left", title_style="bold", pad_edge=False)
    main = subject(results)
    others = [
        name
        for name in columns(results)
        if name != main and any(results.row(workload, name) for workload in names)
    ]
    table.add_column("", ratio=1)
    table.add_column(main, justify="right")
    for other in others:
        table.add_column(other, justify="right")
        table.add_column(f"{main} is", justify="right")
    table.add_column("of limit", justify="right")
    table.add_column("p99 ms", justify="right")
    table.add_column("CPU s", justify="right")
    table.add_column("MB", justify="right")
    for workload in names:
        table.add_row(*_cells(results, workload, main, others))
    return table


def _cells(results: Results, workload: str, main: str, others: list[str]) -> list[Text]:
    row = results.row(workload, main)
    any_row = next(one for one in results.rows if one.workload == workload)
    title = Text(any_row.title)
    title.append(f", {any_row.unit}", "dim")
    cells = [title, _value(row)]
    for other in others:
        cells.append(_value(results.row(workload, other)))
        times = ratio(results, workload, other)
        style = "" if times is None else ("green" if times >= 1 else "red")
        cells.append(Text("" if times is None else f"{number(times)} x", style))
    part = None if row is None else share(results, row)
    cells.append(Text("" if part is None else f"{part:.0%}"))
    slow = None if row is None else row.middle("p99")
    cells.append(Text("" if slow is None else number(slow * 1e3)))
    cells.append(Text("" if row is None else cost(row)))
    memory = None if row is None else row.middle("memory")
    cells.append(Text("" if memory is None else f"{memory / 1e6:.0f}"))
    return cells


def cost(row: Row) -> str:
    """Server CPU per GB where bytes are what counts, else per 1,000 requests."""
    per = "GB" if row.unit == "MB/s" else "requests"
    value = row.cost(per)
    if value is None:
        return ""
    return f"{value:.2f}/GB" if per == "GB" else f"{value:.3f}/k"


def _value(row: Row | None) -> Text:
    if row is None:
        return Text("")
    if row.void:
        return Text("void", "red")
    if row.median is None:
        return Text("")
    text = Text(number(row.median))
    if len(row.samples) > 1:
        text.append(f"\n{spread(row)}", "dim")
    if row.client_bound:
        text.append("\nclient-bound", "yellow")
    return text
