"""Reports: ratios, shares, void rows, files, and comparing two runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.bench.report import compare, page, results, table
from holdfast.bench.report.results import BadResults, Limit, Results, Row, Sample, TargetFacts


def row(workload: str, target: str, *values: float, higher: bool = True, void: str = "") -> Row:
    samples = [
        Sample(value=value, seconds=1.0, operations=10, requests=2000, sent=10**9, p50=0.001,
               p99=0.005, p999=0.01, server_cpu=0.4, client_busy=0.95, memory=50_000_000,
               worker_memory=30_000_000, disk_files=20, disk_bytes=2 * 10**9)
        for value in values
    ]  # fmt: skip
    return Row(
        workload=workload,
        title=f"the work <{workload}>",
        group="group",
        unit="MB/s" if higher else "ms",
        higher=higher,
        target=target,
        limit=Limit("nginx"),
        rounds=len(samples),
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
        targets=[
            TargetFacts(name=name, syncs_per_image=20.0) for name in ("holdfast", "peer", "nginx")
        ],
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
    assert found.share(first) == 0.5
    assert found.share(found.rows[2]) is None
    assert first.cost("GB") == pytest.approx(0.4)
    assert first.cost("requests") == pytest.approx(0.2)
    assert first.client_bound


@pytest.mark.parametrize(
    ("limit", "higher", "share"),
    [
        (Limit("sha256"), True, 200 / 1500),
        (Limit("sha256", "bytes"), True, 1000 / 1500),
        (Limit("sha256", times=7), True, 7 * 200 / 1500),
        (Limit("sha256"), False, 1500 / 200),
        (Limit("nginx:a", "requests"), False, 2000 / 2000),
        (Limit("nginx:a"), True, 200 / 400),
        (Limit("offered", "operations"), False, 10 / 20),
        (Limit("idle"), False, 50 / 200),
        (Limit("absent"), True, None),
        (Limit("nginx:absent"), True, None),
    ],
)
def test_each_kind_of_limit(limit: Limit, higher: bool, share: float | None) -> None:
    found = made()
    one = found.rows[0]
    one.limit, one.higher = limit, higher
    for sample in one.samples:
        sample.offered, sample.idle = 20.0, 50.0
    assert found.share(one) == (None if share is None else pytest.approx(share))


def test_growth_is_told_against_the_smallest_store() -> None:
    found = made()
    for size, value in ((100, 10.0), (10_000, 15.0), (1_000_000, 30.0)):
        one = row(f"engine/get/{size}", "holdfast", value, higher=False)
        one.scale = size
        found.rows.append(one)
    assert [found.growth(one) for one in found.rows[-3:]] == [None, 1.5, 3.0]
    assert found.growth(found.rows[0]) is None
    text = page.render(found)
    assert "1 of 2 costs stay within 2 x" in text
    assert "; more in the work &lt;engine/get/1000000&gt;" in text


def test_the_client_was_the_limit_only_where_the_server_had_a_core_left() -> None:
    def bound(busy: float, cpu: float | None, workers: int = 1) -> bool:
        sample = Sample(value=1, seconds=1.0, client_busy=busy, server_cpu=cpu)
        return sample.client_bound(workers)

    assert bound(0.95, 0.5)
    assert not bound(0.95, 0.95)
    assert bound(0.95, 0.95, workers=2)
    assert not bound(0.8, 0.5)
    # Of a server at a URL nothing is known but that the client had no more to give.
    assert bound(0.95, None)
    assert not bound(0.5, None)


def test_what_may_be_noise_is_not_called_a_difference() -> None:
    found = made()
    found.rows.append(row("d", "holdfast", 90, 110, 100))
    found.rows.append(row("d", "peer", 95, 105, 98))
    assert table.unclear(found, "d", "peer")
    assert not table.unclear(found, "a", "peer")
    text = page.render(found)
    assert "ahead in 1 of 3 rows, no clear difference in 1" in text
    assert "<td class=same>~1.02 x</td>" in text


def test_a_void_row_counts_for_nothing() -> None:
    found = made()
    assert found.rows[5].median is None
    assert found.rows[5].middle("p99") is None
    assert table.ratio(found, "c", "peer") is None


def test_rounds_that_others_disturbed_are_told() -> None:
    found = made()
    for sample, others in zip(found.rows[0].samples, (0.1, 0.9, 0.4), strict=True):
        sample.others = others
    console = Console(width=160, record=True, file=io.StringIO())
    table.show(found, console)
    console.file.close()
    text = console.export_text()
    assert "200 !" in text
    assert "50 !" not in text
    assert "! other programs had over 0.3 of a core in some rounds" in text
    assert "2 of 3 rounds disturbed by other programs" in page.render(found)


def test_the_page_escapes_and_tells_void_and_lost_rows() -> None:
    text = page.render(made())
    assert "the work &lt;a&gt;" in text
    assert "other bytes" in text
    # The bars of six rows, and the ground of the overview; the void row has none.
    assert text.count("<rect") == 6 + 1
    assert "holdfast against peer: ahead in 1 of 2 rows" in text
    assert "behind in the work &lt;b&gt;" in text
    assert "1 void: the work &lt;c&gt; (holdfast)" in text
    assert "2.0 files, 2.00 bytes on disk a pushed byte" in text


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
    new.rows[6] = row("c", "peer", 10, void="a wrong answer")
    new.rows[4] = row("new", "holdfast", 1)
    found = {(one.workload, one.target): one for one in compare.changes(old, new)}
    assert found["a", "holdfast"].times == 3
    assert found["a", "holdfast"].clear
    assert found["b", "holdfast"].times == 0.5
    assert not found["a", "peer"].clear
    assert ("c", "holdfast") not in found
    assert ("new", "holdfast") not in found
    console = Console(width=160, record=True, file=io.StringIO())
    compare.show(old, new, console)
    console.file.close()
    text = console.export_text()
    assert "3 x" in text
    assert "void now, not before: c on peer" in text
    assert "not before: c on holdfast" not in text
