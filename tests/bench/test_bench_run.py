"""Whole runs, tiny: against a real Holdfast, a liar, and an interrupt."""

from __future__ import annotations

import html
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.bench import TINY, Keeper, Reply, Silent, serving, serving_bodies

from holdfast.api.cli import main as cli
from holdfast.api.cli.commands.serve import serve
from holdfast.bench.load.process import can_drop
from holdfast.bench.load.profile import PROFILES
from holdfast.bench.load.trace import Operation
from holdfast.bench.report import results
from holdfast.bench.report.results import Sample
from holdfast.bench.run import Plan, Run
from holdfast.bench.suites import mixes, pulls, syncs
from holdfast.bench.suites.measure import Bench
from holdfast.bench.suites.workload import Workload
from holdfast.bench.targets.machine_limits import LIMITS
from holdfast.bench.targets.servers import (
    VARIANTS,
    Server,
    Starter,
    start_holdfast,
)
from holdfast.bench.targets.targets import Target

pytestmark = pytest.mark.slow

WAIT_SECONDS = 100

ALONE = replace(TINY, processes=1)
"""For servers of one thread."""

ONLY = (
    "small/manifest/get/tag",
    "small/manifest/head/tag",
    "small/tags",
    "small/token",
    "pull/",
    "push/stream",
    "push/small",
    "push/memory",
    "repush/",
    "mixed/",
    "options/",
)


def served(directory: Path) -> tuple[Starter, ...]:
    """Holdfast, and under the names of its variants the same server: the rows are what counts."""
    started: list[Server] = []

    def start(variant: str) -> Server:
        if not started:
            started.append(start_holdfast(directory / "holdfast"))
        (server,) = started
        name = VARIANTS[variant].name if variant else "holdfast"
        return replace(server, target=replace(server.target, name=name, variant=variant))

    return tuple(
        Starter(variant or "holdfast", partial(start, variant), variant)
        for variant in ("", *VARIANTS)
    )


MISS = "small/blob/head/miss"
"""A workload for which a server that has nothing gives the right answer."""


def absent(method: str, target: str) -> Reply:
    return 404, {}, b""


def runner(directory: Path, port: int, *only: str, progress: Silent, **profile: Any) -> Run:
    """Return a run against one server, with a profile of tiny sizes."""
    target = Target(
        name="x", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"), files=directory / "x"
    )
    shape = replace(ALONE, **{"small_seconds": 0.1, **profile})
    plan = Plan(shape, "s", targets=(target,), only=only, scale=False)
    return Run(plan, directory, progress)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_way_to_serve(variant: str) -> None:
    """Its options are those of ``holdfast serve``, and none is what that does anyway."""
    how = VARIANTS[variant]
    arguments = [*how.options, f"--workers={how.workers}"]
    values = [
        serve.make_context("serve", ["--data=x", *given]).params
        for given in (arguments, ["--workers=1"])
    ]
    assert values[0] != values[1]


@pytest.mark.timeout(300)
def test_workloads_of_each_kind_run_against_holdfast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without wrk, which takes a second for what is a tenth here; test_bench_lies drives it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(syncs, "per_image", lambda bench, target: 7.5)
    monkeypatch.setattr(pulls, "STORM_SIZES", (4 << 10, 64 << 10, 300 << 10))
    monkeypatch.setattr(mixes, "KNOWN_IMAGES", 6)
    trace = tuple(
        Operation(index / 50, kind, f"object{index % 3}", 2000)  # type: ignore[arg-type]
        for index, kind in enumerate(
            ["pull_blob", "head_blob", "push_blob", "pull_manifest", "pull_blob", "push_manifest"]
            * 3
        )
    )
    profile = replace(TINY, small_seconds=0.1, huge_tags=130)
    plan = Plan(profile, "seed", served(tmp_path), only=ONLY, scale=False, trace=trace)
    run = Run(plan, tmp_path, Silent())
    run.go()
    found = run.results
    assert found.complete, found.remarks
    assert "wrk is not installed: small requests are driven from Python" in found.remarks
    assert {one.name: one.syncs_per_image for one in found.targets} == {
        "holdfast": 7.5,
        **{variant.name: None for variant in VARIANTS.values()},
    }
    cold = {"pull/stream/cold", "pull/images/cold"}
    droppable = can_drop(tmp_path)
    assert [
        (row.workload, row.void) for row in found.rows if row.void and row.workload not in cold
    ] == []
    assert {row.workload for row in found.rows} == {one.name for one in plan.workloads()}
    for row in found.rows:
        if row.workload in cold and row.void:
            # The kernel may keep pages that it was told to forget: then the row says so.
            assert ("from the disk" if droppable else "cannot be dropped") in row.void
            continue
        assert len(row.samples) == 1
        assert row.median
        assert row.samples[0].server_cpu is not None
        assert row.samples[0].others is not None
        assert row.limit is not None
    assert set(found.limits) == set(LIMITS)
    assert "load at the end" in found.machine
    assert found.machine["file system"] not in ("", "unknown")

    def sample(workload: str, target: str = "holdfast") -> Sample:
        row = found.row(workload, target)
        assert row is not None
        return row.samples[0]

    pushed = sample("push/small")
    assert pushed.disk_bytes
    assert pushed.sent
    memory = sample("push/memory")
    assert memory.idle is not None
    assert memory.worker_memory is not None
    assert 0 < memory.idle <= memory.value == pytest.approx(memory.worker_memory / 1e6)
    mixed = sample("mixed/trace")
    assert mixed.offered
    assert "achieved" in mixed.note
    for row in found.rows:
        if row.workload in cold and not row.void:
            assert row.samples[0].disk_reads or "could not be seen" in row.samples[0].note
    assert found.row("options/log", "holdfast +log") is not None
    assert found.row("options/workers/pull", "holdfast x2") is not None
    assert found.row("small/token", "holdfast +log") is None
    plain, zstd = sample("pull/text"), sample("pull/text", "holdfast zstd")
    assert plain.received % (2 << 20) == zstd.received % (2 << 20) == 0
    assert any("became" in text for text in found.remarks)
    assert zstd.server_cpu is not None


@pytest.mark.usefixtures("_known_limits")
def test_one_wrong_answer_voids_the_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A server that has everything, with the wrong bytes."""

    def answer(method: str, target: str) -> Reply:
        if target == "/v2/":
            return 200, {}, b"{}"
        return 200, {}, b"lies"

    with serving(answer) as port:
        only = (MISS, "pull/stream", "pull/storm", "pull/ranges")
        run = runner(tmp_path, port, *only, progress=Silent())
        run.go()
    assert run.results.complete
    assert len(run.results.rows) == 4
    for row in run.results.rows:
        assert row.void
        assert row.values == []


@pytest.mark.usefixtures("_known_limits")
def test_a_run_that_is_late_leaves_out_the_rest_and_says_so(tmp_path: Path) -> None:
    with serving(lambda method, target: (200, {}, b"{}")) as port:
        run = runner(tmp_path, port, progress=Silent(), budget=0.0)
        run.go()
    assert not run.results.complete
    assert run.results.rows == []
    assert any("out of time" in text for text in run.results.remarks)


@pytest.mark.usefixtures("_known_limits")
def test_targets_take_turns(tmp_path: Path) -> None:
    """Rounds are interleaved: a slow moment of the machine hits all alike."""
    seen: list[str] = []

    def answering(name: str) -> Callable[[str, str], Reply]:
        def answer(method: str, target: str) -> Reply:
            if not seen or seen[-1] != name:
                seen.append(name)
            return 404, {}, b""

        return answer

    names = ("one", "two")
    with ExitStack() as stack:
        targets = tuple(
            Target(
                name=name,
                url=f"http://127.0.0.1:{stack.enter_context(serving(answering(name)))}",
                prefixes=("a", "b"),
                files=tmp_path / name,
            )
            for name in names
        )
        profile = replace(ALONE, rounds=2, small_seconds=0.1)
        only = (MISS,)
        run = Run(Plan(profile, "s", targets=targets, only=only, scale=False), tmp_path, Silent())
        run.go()
    assert run.results.complete, run.results.remarks
    assert [len(row.samples) for row in run.results.rows] == [2, 2]
    assert seen == [*names, *names]


class Delaying(Silent):
    """Progress after whose second round it is an hour later."""

    def __init__(self) -> None:
        super().__init__()
        self.late = 0.0

    def step(self, text: str) -> None:
        super().step(text)
        if "round 2" in text:
            self.late = 3600.0

    def monotonic(self) -> float:
        return time.monotonic() + self.late


@pytest.mark.usefixtures("_known_limits")
def test_rows_with_fewer_rounds_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delaying = Delaying()
    monkeypatch.setattr("holdfast.bench.run.time", delaying)
    with serving(absent) as port:
        run = runner(tmp_path, port, MISS, progress=delaying, rounds=5, budget=600)
        run.go()
    (row,) = run.results.rows
    assert len(row.samples) == 2
    assert run.results.complete
    assert run.results.remarks == ["short of time, fewer rounds of small/blob/head/miss (2 of 5)"]


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    _known_limits: None,
) -> Command:
    """``holdfast bench``, in this process and tiny: its code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROFILES, "quick", replace(ALONE, small_seconds=0.1))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["holdfast", "bench", "--quick", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_writes_its_report_and_compares(tmp_path: Path, command: Command) -> None:
    keeper = Keeper()
    with serving_bodies(keeper.answer) as port:
        arguments = (
            f"--url=mine=http://127.0.0.1:{port}",
            *("--only=small/blob/head/miss", "--only=small/tags/10"),
            "--out=report",
        )
        code, out, err = command(*arguments)
        assert code == 0, err
        assert "void: small/tags/10 on mine" in out
        found = results.load(tmp_path / "report" / "report.json")
        right, wrong = found.rows
        assert right.median
        assert wrong.void
        assert wrong.void in html.unescape((tmp_path / "report" / "report.html").read_text())
        assert found.command == f"holdfast bench --quick {' '.join(arguments)}"
        code, out, err = command(*arguments, "--compare=report/report.json")
        assert code == 0, err
        assert "against the run of" in out
        code, out, err = command(arguments[0], "--only=small/tags/10")
        assert (code, err) == (1, "holdfast: nothing was measured\n")
        assert "void: small/tags/10 on mine" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--url=http://127.0.0.1:1",), "nothing to measure"),
        (("--compare=bad.json",), "no report"),
        (("--trace=bad.json",), "not JSON"),
        (("--peer=mine",), "NAME=VALUE"),
        (("--peer-config=mine=x",), "no such --peer"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, command: Command, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "bad.json").write_text("no json")
    kept = tmp_path / "bench" / "results" / "report.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("the run before")
    code, _, err = command(*arguments)
    assert code != 0
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert kept.read_text() == "the run before"


def test_an_interrupt_stops_the_servers_and_keeps_what_there_is(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the middle of the second row: the first one is in the report."""
    seen: list[Path] = []
    begin = Run._workload

    def interrupted(run: Run, bench: Bench, workload: Workload, targets: list[Target]) -> None:
        if workload.name == "pull/stream":
            seen.extend(left(tmp_path))
            os.kill(os.getpid(), signal.SIGINT)
        begin(run, bench, workload, targets)

    monkeypatch.setattr(Run, "_workload", interrupted)
    code, out, err = command(
        *("--only=small/token", "--only=pull/stream"),
        *("--no-scale", f"--directory={tmp_path / 'data'}", "--out=report"),
    )
    assert code == 130, err
    assert err.strip() == "holdfast: interrupted; what was measured is kept"
    assert "This run is incomplete." in out
    assert seen
    assert left(tmp_path) == []
    assert not any((tmp_path / "data").iterdir())
    found = results.load(tmp_path / "report" / "report.json")
    assert not found.complete
    row = found.row("small/token", "holdfast")
    assert row is not None
    assert row.median


def left(directory: Path) -> list[Path]:
    """Processes with this directory in their command line."""
    return [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(directory).encode() in _command_line(entry)
    ]


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_bench_that_is_not_whole_says_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['rich.progress'] = None\n"
        "sys.argv = ['holdfast', 'bench', '--help']\n"
        "from holdfast.api.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'holdfast[bench]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
