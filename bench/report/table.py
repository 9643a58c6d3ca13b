"""The report in the terminal: one line a workload, the ratio first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.bench.targets.machine_limits import LIMITS

from .results import OTHERS_MAX, Results, Row

FIRST = "holdfast"
"""The column that the others are compared with; the first target where there is no such."""

_WIDEST = 1000

DISTURBED = " !"
"""Beside a value of which some rounds were disturbed."""

GROWTH_MAX = 2.0
"""What must not grow with the store may be so many times worse with more in it."""


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


def unclear(results: Results, workload: str, other: str) -> bool:
    """Whether the ranges of the subject and another target touch: there may be no difference."""
    row, rival = results.row(workload, subject(results)), results.row(workload, other)
    if row is None or rival is None or not row.values or not rival.values:
        return False
    return row.overlaps(rival)


def columns(results: Results) -> list[str]:
    """Targets in order, the subject first."""
    seen = dict.fromkeys([subject(results), *(row.target for row in results.rows)])
    return list(seen)


def groups(results: Results) -> Iterator[tuple[str, list[str]]]:
    """Groups, and the names of their workloads; those that are measured at several sizes of the
    store in order of their kind."""
    found: dict[str, list[Row]] = {}
    for row in results.rows:
        rows = found.setdefault(row.group, [])
        if all(one.workload != row.workload for one in rows):
            rows.append(row)
    for group, rows in found.items():
        kinds = list(dict.fromkeys(_kind(row) for row in rows))
        rows.sort(key=lambda row: (kinds.index(_kind(row)), row.scale))
        yield group, [row.workload for row in rows]


def _kind(row: Row) -> str:
    return row.workload.rpartition("/")[0] if row.scale else row.workload


def facts(results: Results) -> str:
    """What the numbers depend on, in one line."""
    return ", ".join(f"{name} {value}" for name, value in results.machine.items())


def show(results: Results, console: Console) -> None:
    """Print everything that a person wants to know first."""
    console.print(
        f"profile {results.profile}, {results.seconds:.0f} s, {facts(results)}", highlight=False
    )
    for target in results.targets:
        console.print(f"  {describe(results, target.name)}", highlight=False)
    for group, names in groups(results):
        whole = _table(results, group, names)
        # In the console's own width it would always fit, with columns cut off.
        needed = console.measure(whole, options=console.options.update_width(_WIDEST)).minimum
        fits = needed <= console.width
        console.print(whole if fits else _table(results, group, names, narrow=True))
    for row in results.rows:
        if row.void:
            text = f"void: {row.workload} on {row.target}: {row.void}"
            console.print(text, style="red", highlight=False, markup=False)
    for text in results.remarks:
        console.print(f"· {text}", highlight=False, markup=False)
    if any(row.disturbed for row in results.rows):
        text = (
            f"{DISTURBED.strip()} other programs had over {OTHERS_MAX:g} of a core in some rounds"
        )
        console.print(text, style="yellow", highlight=False)
    if results.limits:
        console.print(f"limits of this machine: {limits(results)}", highlight=False)
    if not results.complete:
        console.print("This run is incomplete.", style="yellow")


def limits(results: Results) -> str:
    """The measured limits, in one line."""
    return "; ".join(
        f"{LIMITS[name][0]}: {number(value)} {LIMITS[name][1]}"
        for name, value in results.limits.items()
        if name in LIMITS and name != "no change"
    )


def describe(results: Results, name: str) -> str:
    """One line about a target."""
    target = next(one for one in results.targets if one.name == name)
    text = " ".join(filter(None, (target.name, target.version)))
    notes = list(target.notes)
    if target.syncs_per_image is not None:
        notes.append(
            f"waits for the disk {number(target.syncs_per_image)} times an image of 5 layers"
        )
    return f"{text}: {'; '.join(notes)}" if notes else text


def _table(results: Results, group: str, names: list[str], *, narrow: bool = False) -> Table:
    """One group; ``narrow`` leaves out what the page has too, so that ratios are whole."""
    main = subject(results)
    title = f"{group}: {main}, and how many times better it is"
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    others = [
        name
        for name in columns(results)
        if name != main and any(results.row(workload, name) for workload in names)
    ]
    sized = any(row.scale for row in results.rows if row.workload in names)
    table.add_column("", ratio=None if narrow else 1, min_width=16 if narrow else 36)
    table.add_column(main, justify="right")
    for other in others:
        table.add_column(f"than {other}", justify="right")
    heads = ("of limit", "growth") if sized else ("of limit", "p50/p99/p99.9 ms", "MB")
    for name in heads[: 1 + sized] if narrow else heads:
        table.add_column(name, justify="right")
    for workload in names:
        cells = _cells(results, workload, main, others, sized=sized)
        table.add_row(*cells[: len(table.columns)])
    return table


def _cells(
    results: Results, workload: str, main: str, others: list[str], *, sized: bool
) -> list[Text]:
    row = results.row(workload, main)
    any_row = next(one for one in results.rows if one.workload == workload)
    title = Text(any_row.title)
    title.append(f", {any_row.unit}", "dim")
    for note in [] if row is None or sized else row.notes[:1]:
        title.append(f"\n{note}", "dim")
    ratios = [_ratio(results, workload, other) for other in others]
    cells = [title, _value(row), *ratios, _share(results, row)]
    if sized:
        return [*cells, _growth(results, row)]
    cells.append(Text("" if row is None else latencies(row)))
    memory = None if row is None else row.middle("worker_memory")
    cells.append(Text("" if memory is None else f"{memory / 1e6:.0f}"))
    return cells


def _ratio(results: Results, workload: str, other: str) -> Text:
    """How many times better the subject is, and what the other one's value is."""
    times, value = ratio(results, workload, other), _value(results.row(workload, other))
    if times is None:
        return value
    if unclear(results, workload, other):
        text = Text(f"~{number(times)} x", "dim")
    else:
        text = Text(f"{number(times)} x", "bold green" if times >= 1 else "bold red")
    return text.append("\n").append(value)


def _share(results: Results, row: Row | None) -> Text:
    part = None if row is None else results.share(row)
    if part is None or row is None or row.limit is None:
        return Text("")
    text = Text(f"{part:.0%}")
    text.append(f"\n{limit_name(row)}", "dim")
    return text


def limit_name(row: Row) -> str:
    """What a row is given as a share of, in a word or two."""
    return "" if row.limit is None else row.limit.name.partition(":")[0]


def _growth(results: Results, row: Row | None) -> Text:
    times = None if row is None else results.growth(row)
    if times is None:
        return Text("")
    return Text(f"{number(times)} x", "green" if times <= GROWTH_MAX else "red")


def latencies(row: Row) -> str:
    """p50, p99 and p99.9 in milliseconds."""
    middle = [row.middle(name) for name in ("p50", "p99", "p999")]
    if not any(middle):
        return ""
    return " / ".join("-" if value is None else number(value * 1e3) for value in middle)


def cost(row: Row) -> str:
    """Server CPU per GB where bytes are what counts, else per 1,000 requests."""
    per = "GB" if row.unit in ("MB/s", "CPU s/GB") else "requests"
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
    if row.disturbed:
        text.append(DISTURBED, "yellow")
    if len(row.samples) > 1:
        text.append(f"\n{spread(row)}", "dim")
    if len(row.samples) < row.rounds:
        text.append(f"\n{len(row.samples)} of {row.rounds} rounds", "dim")
    if row.client_bound:
        text.append("\nclient-bound", "yellow")
    if (spent := cost(row)) and not row.scale:
        text.append(f"\nCPU {spent}", "dim")
    return text
