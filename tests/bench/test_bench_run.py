"""Whole runs, tiny: against a real Holdfast, a liar, and an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_support import Reply, serving

from holdfast.bench import embedded, results
from holdfast.bench.profile import PROFILES
from holdfast.bench.run import CannotRun, Plan, Run, workspace
from holdfast.bench.servers import CannotStart, Peer, installed, start_holdfast, start_peer
from holdfast.bench.targets import Target
from holdfast.bench.trace import Operation

WAIT_SECONDS = 100

TINY = replace(
    PROFILES["quick"],
    loop_seconds=0.1,
    small_seconds=1,
    stream_bytes=2 << 20,
    images=20,
    known_images=4,
    zipf_images=4,
    many_tags=30,
    mixed_seconds=0.5,
)


class Silent:
    """Progress that nobody looks at."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, steps: int) -> None:
        assert steps > 0

    def step(self, text: str) -> None:
        assert text

    def say(self, text: str) -> None:
        self.said.append(text)


ONLY = (
    "small/manifest/get/tag",
    "small/manifest/head/tag",
    "small/blob/head/miss",
    "small/tags",
    "small/token",
    "pull/",
    "push/stream",
    "push/small",
    "repush/",
    "mixed/",
    "upkeep/pull",
)


@pytest.mark.timeout(300)
def test_workloads_of_each_kind_run_against_holdfast(tmp_path: Path) -> None:
    trace = tuple(
        Operation(index / 50, kind, f"object{index % 3}", 2000)  # type: ignore[arg-type]
        for index, kind in enumerate(
            ["pull_blob", "head_blob", "push_blob", "pull_blob", "pull_blob", "push_blob"] * 3
        )
    )
    starters = (("holdfast", lambda: start_holdfast(tmp_path / "holdfast")),)
    plan = Plan(TINY, "seed", starters, only=ONLY, engine=False, trace=trace)
    run = Run(plan, tmp_path, Silent())
    run.go()
    found = run.results
    assert found.complete, found.remarks
    assert [(row.workload, row.void) for row in found.rows if row.void] == []
    assert {row.workload for row in found.rows} == {one.name for one in plan.workloads()}
    for row in found.rows:
        assert len(row.samples) == 1
        assert row.median
        assert row.samples[0].server_cpu is not None
    pushed = found.row("push/small", "holdfast")
    assert pushed is not None
    assert pushed.samples[0].disk_bytes
    assert set(found.limits) == {"sha256", "write", "fsync", "sendfile"}


def test_one_wrong_answer_voids_the_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A server that has everything, with the wrong bytes."""

    def answer(method: str, target: str) -> Reply:
        if target == "/v2/":
            return 200, {}, b"{}"
        return 200, {}, b"lies"

    with serving(answer) as port:
        liar = Target(name="liar", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        run = Run(
            Plan(TINY, "seed", targets=(liar,), only=("pull/", "small/blob"), engine=False),
            tmp_path,
            Silent(),
        )
        run.go()
    assert run.results.complete
    assert len(run.results.rows) == 8
    for row in run.results.rows:
        assert row.void
        assert row.values == []


def test_what_cannot_be_reached_or_started_is_left_out(tmp_path: Path) -> None:
    dead = Target(name="dead", url="http://127.0.0.1:1", prefixes=("a", "b"))

    def broken() -> object:
        raise CannotStart("broken did not start: it said nothing")

    progress = Silent()
    plan = Plan(TINY, "s", (("broken", broken),), (dead,), engine=False)  # type: ignore[arg-type]
    with pytest.raises(CannotRun, match="nothing to measure"):
        Run(plan, tmp_path, progress).go()
    assert any("broken did not start" in text for text in progress.said)
    assert any("does not answer" in text for text in progress.said)


def test_a_peer_is_started_from_its_command_and_config(tmp_path: Path) -> None:
    config = tmp_path / "port.txt"
    config.write_text("{port}\n")
    program = (
        "import sys, http.server as h;"
        "port = int(open(sys.argv[1]).read());"
        "h.HTTPServer(('127.0.0.1', port), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    command = f'{sys.executable} -c "{program}" {{config}}'
    server = start_peer(tmp_path / "peer", Peer("peer", command, config))
    try:
        assert server.process.poll() is None
        assert server.target.pid == server.process.pid
    finally:
        server.stop()
    assert server.process.returncode is not None
    with pytest.raises(CannotStart, match="no such program"):
        start_peer(tmp_path / "none", Peer("none", "/no/such/program"))
    with pytest.raises(CannotStart, match="did not start"):
        start_peer(tmp_path / "false", Peer("false", f"{sys.executable} -c 1/0"))


def test_without_workloads_no_server_is_started(tmp_path: Path) -> None:
    def start() -> object:
        raise AssertionError("nobody needs it")

    plan = Plan(TINY, "s", (("x", start),), only=("none/such",))  # type: ignore[arg-type]
    with pytest.raises(CannotRun, match="nothing to measure"):
        Run(plan, tmp_path, Silent()).go()


def test_a_run_that_is_late_leaves_out_the_rest_and_says_so(tmp_path: Path) -> None:
    with serving(lambda method, target: (200, {}, b"{}")) as port:
        target = Target(name="x", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        late = replace(TINY, budget=0.0)
        run = Run(Plan(late, "s", targets=(target,), engine=False), tmp_path, Silent())
        run.go()
    assert not run.results.complete
    assert run.results.rows == []
    assert any("out of time" in text for text in run.results.remarks)


def test_holdfast_comes_first_of_what_is_installed(tmp_path: Path) -> None:
    names = [name for name, _ in installed(tmp_path, (Peer("mine", "x"),))]
    assert names[0] == "holdfast"
    assert "mine" in names


def test_the_engine_is_measured_in_process(tmp_path: Path) -> None:
    found = embedded.measure(tmp_path, 30, "seed", WAIT_SECONDS, puts=50, calls=10)
    assert {(one.name, one.target) for one in found} == {
        *((name, "holdfast") for name in embedded.ROWS),
        ("put", "sqlite"),
    }
    assert all(len(one.values) == embedded.BATCHES and min(one.values) > 0 for one in found)


def bench(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast.api.cli", "bench", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, err


def test_the_command_writes_its_report_and_compares(tmp_path: Path) -> None:
    with serving(lambda method, target: (200 if target == "/v2/" else 404, {}, b"")) as port:
        arguments = (
            "--quick",
            f"--url=mine=http://127.0.0.1:{port}",
            "--only=small/blob/get/miss",
            "--out=report",
        )
        code, _, err = finished(bench(*arguments, cwd=tmp_path))
        assert code == 0, err
        found = results.load(tmp_path / "report" / "report.json")
        (row,) = found.rows
        # This server refuses the content that comes first, so there is nothing to measure.
        assert "POST of an upload: 404" in row.void
        assert "POST of an upload" in (tmp_path / "report" / "report.html").read_text()
        code, out, err = finished(bench(*arguments, "--compare=report/report.json", cwd=tmp_path))
        assert code == 0, err
        assert "against the run of" in out


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("no json")
    for arguments, says in (
        (("--url=http://127.0.0.1:1",), "nothing to measure"),
        (("--compare=bad.json",), "no report"),
        (("--trace=bad.json",), "not JSON"),
        (("--peer=mine",), "NAME=VALUE"),
        (("--peer-config=mine=x",), "no such --peer"),
    ):
        code, _, err = finished(bench(*arguments, cwd=tmp_path))
        assert code != 0
        assert says in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1


def test_an_interrupt_stops_the_servers_and_keeps_what_there_is(tmp_path: Path) -> None:
    process = bench(
        "--only=small/manifest", "--no-engine", "--directory=data", "--out=report", cwd=tmp_path
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("starting"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130, err
    assert not children.exists()
    assert not any((tmp_path / "data").iterdir())
    found = results.load(tmp_path / "report" / "report.json")
    assert not found.complete
    left = [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(tmp_path).encode() in _command_line(entry)
    ]
    assert left == []


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_the_workspace_is_removed(tmp_path: Path) -> None:
    with workspace(tmp_path / "new") as place:
        (place / "file").write_text("x")
        assert os.access(place, os.W_OK)
    assert not any((tmp_path / "new").iterdir())


def test_a_bench_that_is_not_whole_says_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['rich.progress'] = None\n"
        "sys.argv = ['holdfast', 'bench', '--help']\n"
        "from holdfast.api.cli import main; main()"
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
