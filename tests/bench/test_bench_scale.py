"""What must not grow with the store: every row there is, at two small sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.bench import TINY, Silent

from holdfast.bench.run import Plan, Run
from holdfast.bench.suites import embedded
from holdfast.bench.suites.embedded import EmbeddedFailed, Measured, Task

pytestmark = pytest.mark.slow

SIZES = TINY.scale_sizes
PAGES = (
    "manage/namespaces",
    "manage/namespaces/filter",
    "manage/images",
    "manage/images/filter",
    "manage/tags",
    "manage/tags/filter",
)


@pytest.mark.timeout(300)
def test_the_engine_is_measured_in_process_at_all_sizes(tmp_path: Path) -> None:
    task = Task(str(tmp_path), "seed", (20, 3), puts=50, calls=10)
    found = [one for one in embedded.measure(task, 100) if isinstance(one, Measured)]
    assert {(one.name, one.size, one.target) for one in found} == {
        *((name, size, "holdfast") for name in embedded.ROWS for size in (20, 3)),
        *(("put", size, "sqlite") for size in (20, 3)),
    }
    assert all(len(one.values) == embedded.BATCHES and min(one.values) > 0 for one in found)


def test_a_measuring_process_that_fails_or_lingers_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedFailed, match="ot a directory"):
        list(embedded.measure(Task(str(tmp_path / "file"), "s", (1,)), 100))
    with pytest.raises(EmbeddedFailed, match="not done after 0 s"):
        list(embedded.measure(Task(str(tmp_path), "s", (100_000,)), 0.4))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_known_limits")
def test_starts_and_first_pages_are_measured_at_all_sizes(tmp_path: Path) -> None:
    profile = replace(TINY, scale_rounds=1)
    run = Run(Plan(profile, "seed", only=("start", "manage")), tmp_path, Silent())
    run.go()
    found = run.results
    assert found.complete, found.remarks
    assert [(row.workload, row.void) for row in found.rows if row.void] == []
    assert {row.workload for row in found.rows} == {
        f"{name}/{size}" for name in ("start", *PAGES) for size in SIZES
    }
    for row in found.rows:
        assert len(row.samples) == row.rounds == profile.scale_rounds
        assert row.median
        assert found.share(row)
        assert (found.growth(row) is None) == (row.scale == SIZES[0])
    page = found.row("manage/namespaces/3", "holdfast")
    assert page is not None
    assert all("order_by=" in note for note in page.notes)
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "scale").exists()
