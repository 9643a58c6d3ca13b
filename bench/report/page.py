"""The report as one HTML page that needs nothing else: what to know first, plots, all numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from html import escape
from typing import Final

from holdfast.bench.targets.servers import VARIANTS

from .results import Results, Row
from .table import (
    GROWTH_MAX,
    columns,
    cost,
    describe,
    facts,
    groups,
    latencies,
    limit_name,
    limits,
    number,
    ratio,
    spread,
    subject,
    unclear,
)

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4;
  vertical-align: top }
th:first-child, td:first-child { text-align: left }
small, .same { color: #59636e } .win { color: #116329 } .lose, .void { color: #b42318 }
.scroll { overflow-x: auto } svg text { font: 12px system-ui, sans-serif; fill: #1b1f24 }
svg .same { fill: #59636e } .line { stroke: #d8dee4 } .one { stroke: #1b1f24 }
.back { fill: #b42318; opacity: .07 } summary { cursor: pointer; margin: .4rem 0 }
ul { padding-left: 1.2rem; margin: .5rem 0 }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } th, td { border-color: #30363d }
  small, .same { color: #9198a1 } .win { color: #4ac26b } .lose, .void { color: #ff8182 }
  svg text { fill: #e6edf3 } svg .same { fill: #9198a1 } .line { stroke: #30363d }
  .one { stroke: #e6edf3 } .back { fill: #ff8182 } }
"""

_COLOURS: Final = ("#2f6feb", "#d4772c", "#7d8590", "#8e5bd0", "#2da087", "#c2417c", "#9a8a1f")
_WIDTH: Final = 1000
_LABEL: Final = 430
_BAR: Final = 13
_LINE: Final = 20


def render(results: Results) -> str:
    """The page."""
    names = columns(results)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>Holdfast bench</title><style>{_STYLE}</style>",
        "<h1>Holdfast bench</h1>",
        _subtitle(results),
        *([] if results.complete else ["<p class=void>This run is incomplete.</p>"]),
        _summary(results, names),
        _overview(results, names),
        "<h2>What was compared</h2><ul>",
        *(f"<li>{escape(describe(results, one.name))}</li>" for one in results.targets),
        "</ul>",
        f"<p><small>Limits of this machine: {escape(limits(results))}.</small></p>"
        if results.limits
        else "",
        *(f"<p><small>{escape(text)}</small></p>" for text in results.remarks),
    ]
    for group, workloads in groups(results):
        parts.append(f"<h2>{escape(group)}</h2>")
        parts.append(_bars(results, workloads, names))
        parts.append("<details><summary>all numbers</summary>")
        parts.append(_table(results, workloads, names))
        parts.append("</details>")
    parts.append(
        "<p><small>Medians of interleaved rounds, with their range below. ~ and grey: the ranges "
        "overlap, there may be no difference. Bars: each relative to the best of its line, longer "
        "is better. CPU: seconds of the server's processes, per GB or per 1,000 requests (k). A "
        "line with one wrong answer is void.</small></p></html>"
    )
    return "\n".join(parts)


def _subtitle(results: Results) -> str:
    return (
        f"<p>{escape(results.started)}, profile {escape(results.profile)}, "
        f"{results.seconds:.0f} s. {escape(facts(results))}.<br>"
        f"<code>{escape(results.command)}</code></p>"
    )


def _rivals(results: Results, names: list[str]) -> list[str]:
    """What the subject is compared with: not itself with other options."""
    ways = {variant.name for variant in VARIANTS.values()}
    main = subject(results)
    return [name for name in names if name != main and name not in ways]


def _summary(results: Results, names: list[str]) -> str:
    """A sentence for each rival, the losing rows by name; and what grew with the store."""
    items = [_against(results, name) for name in _rivals(results, names)]
    grown = [row for row in results.rows if (results.growth(row) or 0) > GROWTH_MAX]
    sized = [row for row in results.rows if results.growth(row) is not None]
    if sized:
        text = f"{len(sized) - len(grown)} of {len(sized)} costs stay within {GROWTH_MAX:g} x"
        text += " of those in the smallest store"
        items.append(text + _listed("; more in", [row.title for row in grown]))
    void = [row for row in results.rows if row.void]
    if void:
        names_of = [f"{row.title} ({row.target})" for row in void]
        items.append(_listed(f"{len(void)} void:", names_of))
    return f"<ul>{''.join(f'<li>{escape(text)}.</li>' for text in items if text)}</ul>"


def _against(results: Results, name: str) -> str:
    found = [
        (workload, times)
        for workload in results.workloads()
        if (times := ratio(results, workload, name)) is not None
    ]
    if not found:
        return ""
    clear = [(one, times) for one, times in found if not unclear(results, one, name)]
    behind = [_title(results, one) for one, times in clear if times < 1]
    ahead = len(clear) - len(behind)
    middle = statistics.median(times for _, times in found)
    text = f"{subject(results)} against {name}: ahead in {ahead} of {len(found)} rows"
    if len(clear) < len(found):
        text += f", no clear difference in {len(found) - len(clear)}"
    text += f", median {number(middle)} x"
    return text + _listed("; behind in", behind)


def _listed(text: str, names: list[str]) -> str:
    return f"{text} {'; '.join(names)}" if names else ""


def _title(results: Results, workload: str) -> str:
    return next(row.title for row in results.rows if row.workload == workload)


def _overview(results: Results, names: list[str]) -> str:
    """How many times better, on one scale: a point for each rival, with the range around it."""
    rivals = _rivals(results, names)
    lines = [
        (workload, dots)
        for workload in results.workloads()
        if (dots := list(_dots(results, workload, rivals)))
    ]
    if not lines:
        return ""
    ends = [one for _, dots in lines for _, *reach in dots for one in reach]
    low = min(-1, math.floor(math.log10(min(ends))))
    high = max(1, math.ceil(math.log10(max(ends))))
    room = _WIDTH - _LABEL - 20

    def place(times: float) -> float:
        return _LABEL + (math.log10(times) - low) / (high - low) * room

    top = 40
    bottom = top + _LINE * len(lines)
    size = f'width="{place(1) - _LABEL:.1f}" height="{bottom - top + 6}"'
    drawn = [f'<rect class="back" x="{_LABEL}" y="{top - 6}" {size}/>']
    for step in range(low, high + 1):
        x = place(10.0**step)
        kind = "line" if step else "one"
        drawn.append(
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}"/>'
            f'<text x="{x:.1f}" y="{top - 10}" text-anchor="middle">{10.0**step:g} x</text>'
        )
    for index, name in enumerate(rivals):
        x = _LABEL + index * 170
        colour = _colour(names, name)
        drawn.append(
            f'<circle cx="{x + 5}" cy="8" r="5" fill="{colour}"/>'
            f'<text x="{x + 15}" y="12">against {escape(name)}</text>'
        )
    for index, (workload, dots) in enumerate(lines):
        y = top + _LINE * index + _LINE / 2
        drawn.append(f'<text x="0" y="{y + 4}">{escape(_short(_title(results, workload)))}</text>')
        for name, times, worst, best in dots:
            colour = _colour(names, name)
            drawn.append(
                f'<line x1="{place(worst):.1f}" x2="{place(best):.1f}" y1="{y}" y2="{y}" '
                f'stroke="{colour}" stroke-width="3" opacity=".45"/>'
                f'<circle cx="{place(times):.1f}" cy="{y}" r="5" fill="{colour}"/>'
            )
    return (
        f"<h2>How many times better {escape(subject(results))} is</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 4}" width="100%" role="img" '
        f'aria-label="ratios">{"".join(drawn)}</svg>'
    )


def _dots(
    results: Results, workload: str, rivals: list[str]
) -> Iterator[tuple[str, float, float, float]]:
    """Name, ratio, and the ratio's worst and best, where all are over zero."""
    ours = results.row(workload, subject(results))
    for name in rivals:
        times, theirs = ratio(results, workload, name), results.row(workload, name)
        if times is None or ours is None or theirs is None:
            continue
        bounds = (min(ours.values), max(ours.values), min(theirs.values), max(theirs.values))
        if min(bounds) <= 0:
            continue
        worst, best = bounds[0] / bounds[3], bounds[1] / bounds[2]
        yield (name, times, worst, best) if ours.higher else (name, times, 1 / best, 1 / worst)


def _colour(names: list[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _bars(results: Results, workloads: list[str], names: list[str]) -> str:
    """One cluster of bars for each workload."""
    y = 0
    drawn = []
    for workload in workloads:
        rows = [row for name in names if (row := results.row(workload, name)) and row.median]
        if not rows:
            continue
        drawn.append(f'<text x="0" y="{y + 11}">{escape(_short(rows[0].title))}</text>')
        best = (max if rows[0].higher else min)(_median(row) for row in rows)
        for row in rows:
            drawn.append(_bar(row, y, best, _colour(names, row.target)))
            y += _BAR + 2
        y += 7
    if not drawn:
        return ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y}" width="100%" role="img" '
        f'aria-label="relative results">{"".join(drawn)}</svg>'
    )


def _median(row: Row) -> float:
    assert row.median is not None
    return row.median


def _bar(row: Row, y: int, best: float, colour: str) -> str:
    value = _median(row)
    part = value / best if row.higher else best / value
    width = max(1.0, part * (_WIDTH - _LABEL - 230))
    label = f"{row.target} {number(value)} {row.unit}"
    return (
        f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 5:.1f}" y="{y + 11}">{escape(label)}</text>'
    )


def _short(text: str) -> str:
    return text if len(text) <= 66 else text[:65] + "…"


def _table(results: Results, workloads: list[str], names: list[str]) -> str:
    main = subject(results)
    used = [name for name in names if any(results.row(one, name) for one in workloads)]
    heads = "".join(
        f"<th>{escape(name)}</th>" + ("" if name == main else f"<th>{escape(main)} is</th>")
        for name in used
    )
    body = "".join(_line(results, workload, used, main) for workload in workloads)
    return f"<div class=scroll><table><tr><th></th>{heads}</tr>{body}</table></div>"


def _line(results: Results, workload: str, used: list[str], main: str) -> str:
    title = _title(results, workload)
    cells = [f"<td>{escape(title)}<br><small>{escape(workload)}</small></td>"]
    for name in used:
        cells.append(f"<td>{_cell(results, results.row(workload, name))}</td>")
        if name != main:
            cells.append(_compared(results, workload, name))
    return f"<tr>{''.join(cells)}</tr>"


def _compared(results: Results, workload: str, name: str) -> str:
    times = ratio(results, workload, name)
    if times is None:
        return "<td></td>"
    if unclear(results, workload, name):
        return f"<td class=same>~{number(times)} x</td>"
    return f"<td class={'win' if times >= 1 else 'lose'}>{number(times)} x</td>"


def _cell(results: Results, row: Row | None) -> str:
    if row is None:
        return ""
    if row.void:
        return f"<span class=void>void</span><br><small>{escape(row.void)}</small>"
    if row.median is None:
        return ""
    lines = [escape(line) for line in _details(results, row)]
    times = results.growth(row)
    if times is not None:
        kind = "win" if times <= GROWTH_MAX else "lose"
        lines.insert(0, f"<span class={kind}>{number(times)} x the smallest store</span>")
    return f"{number(row.median)} {escape(row.unit)}<br><small>{'<br>'.join(lines)}</small>"


def _details(results: Results, row: Row) -> Iterator[str]:
    """What stands below a value, line by line."""
    if len(row.samples) > 1:
        yield spread(row)
    if len(row.samples) < row.rounds:
        yield f"{len(row.samples)} of {row.rounds} rounds"
    part = results.share(row)
    if part is not None:
        yield f"{part:.0%} of {limit_name(row)}"
    if times := latencies(row):
        yield f"p50/99/99.9 {times} ms"
    if text := cost(row):
        yield f"CPU s {text}"
    memory, worker = row.middle("memory"), row.middle("worker_memory")
    if memory and worker:
        yield f"memory {memory / 1e6:.0f} MB, largest process {worker / 1e6:.0f}"
    yield from _disk(row)
    yield from row.notes
    if row.client_bound:
        yield "the client was the limit"
    if row.disturbed:
        yield f"{row.disturbed} of {len(row.samples)} rounds disturbed by other programs"


def _disk(row: Row) -> Iterator[str]:
    """Files and bytes on disk for each operation and pushed byte."""
    files, size = row.middle("disk_files"), row.middle("disk_bytes")
    count, pushed = row.middle("operations"), row.middle("sent")
    if files is not None and size is not None and count and pushed:
        yield f"{files / count:.1f} files, {size / pushed:.2f} bytes on disk a pushed byte"
