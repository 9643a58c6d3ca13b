"""Reports: ratios, shares, void rows, files, and comparing two runs."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.bench import compare, page, results, table
from holdfast.bench.results import BadResults, Results, Row, Sample, TargetFacts


def row(workload: str, target: str, *values: float, higher: bool = True, void: str = "") -> Row:
    samples = [
        Sample(value=value, seconds=1.0, operations=10, requests=2000, size=10**9, p50=0.001,
               p99=0.005, p999=0.01, server_cpu=0.4, client_busy=0.95, memory=50_000_000,
               disk_files=20, disk_bytes=2 * 10**9)
        for value in values
    ]  # fmt: skip
    return Row(
        workload=workload,
        title=f"the work <{workload}>",
        group="group",
        unit="MB/s" if higher else "ms",
        higher=higher,
        target=target,
        limit="nginx",
        samples=samples,
        void=void,
    )


def made() -> Results:
    return Results(
        started="2026-01-02T03:04:05+00:00",
        profile="quick",
        complete=True,
        machine={"cpu": "one"},
        limits={"sha256": 1500.0},
        targets=[TargetFacts(name=name) for name in ("holdfast", "peer", "nginx")],
        rows=[
            row("a", "holdfast", 100, 300, 200),
            row("a", "peer", 50),
            row("a", "nginx", 400),
            row("b", "holdfast", 20, higher=False),
            row("b", "peer", 5, higher=False),
            row("c", "holdfast", 10, void="GET of a blob: other bytes"),
            row("c", "peer", 10),
        ],
    )


def test_ratios_shares_and_costs() -> None:
    found = made()
    first = found.rows[0]
    assert first.median == 200
    assert table.ratio(found, "a", "peer") == 4
    assert table.ratio(found, "b", "peer") == 0.25
    assert table.share(found, first) == 0.5
    assert table.share(found, found.rows[2]) is None
    assert first.cost("GB") == pytest.approx(0.4)
    assert first.cost("requests") == pytest.approx(0.2)
    assert first.client_bound


def test_a_void_row_counts_for_nothing() -> None:
    found = made()
    assert found.rows[5].median is None
    assert found.rows[5].middle("p99") is None
    assert table.ratio(found, "c", "peer") is None


def test_the_terminal_shows_winning_losing_and_void_rows() -> None:
    console = Console(width=160, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    table.show(made(), console)
    console.file.close()
    text = console.export_text()
    for part in ("4 x", "0.25 x", "100…300", "client-bound", "void", "other bytes", "50%"):
        assert part in text


class Checker(HTMLParser):
    """Counts tags and notices what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}


def test_the_page_is_self_contained_and_escapes() -> None:
    text = page.render(made())
    checker = Checker()
    checker.feed(text)
    assert {"svg", "rect", "table"} <= set(checker.tags)
    assert "the work &lt;a&gt;" in text
    assert "other bytes" in text
    assert "0.25 x" in text
    assert checker.tags.count("rect") == 6  # the void row has no bar


def test_files_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    results.save(made(), path)
    assert results.load(path) == made()
    for text in ("", "{}", '{"rows": 1}', '{"format": 99}', "[]"):
        path.write_text(text)
        if text == "{}":
            assert results.load(path).rows == []
            continue
        with pytest.raises(BadResults):
            results.load(path)
    with pytest.raises(BadResults, match="No such file"):
        results.load(tmp_path / "absent.json")


def test_two_runs_are_compared() -> None:
    old, new = made(), made()
    new.rows[0] = row("a", "holdfast", 400, 600, 800)
    new.rows[3] = row("b", "holdfast", 40, higher=False)
    new.rows[4] = row("new", "holdfast", 1)
    found = {(one.workload, one.target): one for one in compare.changes(old, new)}
    assert found["a", "holdfast"].times == 3
    assert found["a", "holdfast"].clear
    assert found["b", "holdfast"].times == 0.5
    assert not found["a", "peer"].clear
    assert ("c", "holdfast") not in found
    assert ("new", "holdfast") not in found
    console = Console(width=160, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    compare.show(old, new, console)
    console.file.close()
    assert "3 x" in console.export_text()
