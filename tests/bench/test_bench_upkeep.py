"""Pushes and pulls beside the sweep and the scrub: only where these were really at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.bench import TINY, Silent

from holdfast.bench.run import Plan, Run
from holdfast.bench.suites import background_load
from holdfast.bench.suites.background import Work
from holdfast.bench.suites.measure import MeasureFailed
from holdfast.bench.targets.servers import Starter, start_holdfast

pytestmark = pytest.mark.slow


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("_known_limits")
def test_the_background_is_at_work_in_one_half_and_idle_in_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: list[tuple[bool, background_load.Half]] = []
    half = background_load.half

    def remembered(what: str, busy: bool, *rest: object) -> background_load.Half:
        found = half(what, busy, *rest)  # type: ignore[arg-type]
        halves.append((busy, found))
        return found

    monkeypatch.setattr(background_load, "half", remembered)
    monkeypatch.setattr(background_load, "AROUND_SECONDS", 3.0)
    starters = (Starter("holdfast", lambda: start_holdfast(tmp_path / "holdfast")),)
    profile = replace(TINY, upkeep_rounds=1)
    only = ("upkeep/pull",)
    run = Run(Plan(profile, "seed", starters, only=only, scale=False), tmp_path, Silent())
    run.go()
    (row,) = run.results.rows
    assert row.void == ""
    assert [busy for busy, _ in halves] == [False, True]
    for busy, found in halves:
        assert (found.swept > 0) == (found.scrubbed > 0) == busy
    (sample,) = row.samples
    (_, alone), (_, beside) = halves
    assert alone.sample.p99 is not None
    assert beside.sample.p99 is not None
    assert sample.value == pytest.approx(beside.sample.p99 / alone.sample.p99)
    assert "entries/s swept" in sample.note
    assert not (tmp_path / "upkeep").exists()


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (Work(10, 100, 5), "the sweep took 0 entries"),
        (Work(20, 100, 0), "took 10 entries, and 0 were left"),
        (Work(20, 50, 5), "nothing was scrubbed"),
    ],
)
def test_a_half_without_work_is_void(after: Work, says: str) -> None:
    with pytest.raises(MeasureFailed, match=says):
        background_load.check(Work(10, 50, 5), after)
    background_load.check(Work(10, 50, 5), Work(11, 51, 1))
