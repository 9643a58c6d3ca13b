"""The report as one HTML page that needs nothing else: tables, and bars drawn in SVG."""

from __future__ import annotations

from html import escape

from .limits import LIMITS
from .results import Results, Row
from .table import columns, cost, describe, groups, number, ratio, share, spread, subject

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4;
  vertical-align: top }
th:first-child, td:first-child { text-align: left }
small { color: #59636e } .win { color: #116329 } .lose { color: #b42318 }
.void { color: #b42318 } .scroll { overflow-x: auto } svg text { font: 12px system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } th, td { border-color: #30363d }
  small { color: #9198a1 } .win { color: #4ac26b } .lose, .void { color: #ff8182 }
  svg text { fill: #e6edf3 } }
"""

_COLOURS = ("#2f6feb", "#d4772c", "#7d8590", "#8e5bd0", "#2da087")
_WIDTH = 900
_LABEL = 330
_BAR = 13


def render(results: Results) -> str:
    """The page."""
    names = columns(results)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>Holdfast bench</title><style>{_STYLE}</style>",
        "<h1>Holdfast bench</h1>",
        _subtitle(results),
        "<ul>",
        *(f"<li>{escape(describe(results, one.name))}</li>" for one in results.targets),
        "</ul>",
        _limits(results),
        *([] if results.complete else ["<p class=void>This run is incomplete.</p>"]),
        *(f"<p><small>{escape(text)}</small></p>" for text in results.remarks),
    ]
    for group, workloads in groups(results):
        parts.append(f"<h2>{escape(group)}</h2>")
        parts.append(_bars(results, workloads, names))
        parts.append(_table(results, workloads, names))
    parts.append(
        "<p><small>Medians of interleaved rounds, with their range below. Bars: each relative to "
        "the best of its line, longer is better. CPU: seconds of the server's processes, per GB or "
        "per 1,000 requests (k). A line with one wrong answer is void.</small></p></html>"
    )
    return "\n".join(parts)


def _subtitle(results: Results) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in results.machine.items())
    return (
        f"<p>{escape(results.started)}, profile {escape(results.profile)}, "
        f"{results.seconds:.0f} s. {escape(facts)}.<br><code>{escape(results.command)}</code></p>"
    )


def _limits(results: Results) -> str:
    items = [
        f"{escape(LIMITS[name][0])}: {number(value)} {LIMITS[name][1]}"
        for name, value in results.limits.items()
        if name in LIMITS
    ]
    return f"<p>Limits of this machine: {'; '.join(items)}.</p>" if items else ""


def _bars(results: Results, workloads: list[str], names: list[str]) -> str:
    """One cluster of bars for each workload."""
    y = 0
    drawn = []
    for workload in workloads:
        rows = [row for name in names if (row := results.row(workload, name)) and row.median]
        if not rows:
            continue
        drawn.append(
            f'<text x="0" y="{y + 11}" fill="currentColor">{escape(_short(rows[0].title))}</text>'
        )
        best = (max if rows[0].higher else min)(_median(row) for row in rows)
        for row in rows:
            drawn.append(_bar(row, y, best, _COLOURS[names.index(row.target) % len(_COLOURS)]))
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
    width = max(1.0, part * (_WIDTH - _LABEL - 190))
    label = f"{row.target} {number(value)} {row.unit}"
    return (
        f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 5:.1f}" y="{y + 11}" fill="currentColor">'
        f"{escape(label)}</text>"
    )


def _short(text: str) -> str:
    return text if len(text) <= 52 else text[:51] + "…"


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
    title = next(row.title for row in results.rows if row.workload == workload)
    cells = [f"<td>{escape(title)}<br><small>{escape(workload)}</small></td>"]
    for name in used:
        cells.append(f"<td>{_cell(results, results.row(workload, name))}</td>")
        if name != main:
            times = ratio(results, workload, name)
            kind = "" if times is None else ("win" if times >= 1 else "lose")
            text = "" if times is None else f"{number(times)} x"
            cells.append(f"<td class={kind or 'none'}>{text}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _cell(results: Results, row: Row | None) -> str:
    if row is None:
        return ""
    if row.void:
        return f"<span class=void>void</span><br><small>{escape(row.void)}</small>"
    if row.median is None:
        return ""
    lines = [spread(row)] if len(row.samples) > 1 else []
    part = share(results, row)
    if part is not None:
        lines.append(f"{part:.0%} of the limit")
    middle = [row.middle(name) for name in ("p50", "p99", "p999")]
    if any(middle):
        texts = ("-" if value is None else number(value * 1e3) for value in middle)
        lines.append(f"p50/99/99.9 {' / '.join(texts)} ms")
    if text := cost(row):
        lines.append(f"CPU s {text}")
    memory = row.middle("memory")
    if memory:
        lines.append(f"memory {memory / 1e6:.0f} MB")
    lines += _disk(row)
    if row.client_bound:
        lines.append("the client was the limit")
    return f"{number(row.median)} {escape(row.unit)}<br><small>{'<br>'.join(lines)}</small>"


def _disk(row: Row) -> list[str]:
    """Files and bytes on disk for each operation and pushed byte."""
    files, size = row.middle("disk_files"), row.middle("disk_bytes")
    count, pushed = row.middle("operations"), row.middle("size")
    if files is None or size is None or not count or not pushed:
        return []
    return [f"{files / count:.1f} files, {size / pushed:.2f} bytes on disk a byte"]
