"""A run: start what is compared, measure every workload on every target in turns, stop it all.

Rounds are interleaved: A B C A B C, so that a slow moment of the machine hits all alike. What was
measured is kept whatever happens.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from .load import process
from .load.client_pool import ClientPool, ClientsFailed
from .load.endpoint import Unreachable
from .load.profile import Profile
from .load.trace import Operation
from .report.results import OTHERS_MAX, Results, Row, TargetFacts
from .suites import background_load, mixes, pulls, pushes, scale, small, syncs
from .suites.embedded import EmbeddedFailed
from .suites.measure import Bench, MeasureFailed
from .suites.workload import Workload
from .targets import machine_limits, servers
from .targets.servers import CannotStart, Starter
from .targets.targets import Target
from .targets.wrk import WrkFailed

SPARE_BYTES: Final = 2 << 30
STREAMS: Final = 6
"""Free disk that pushes need, in streams per registry and round, with room for what is small."""


class Progress(Protocol):
    """Who is told how far a run is."""

    def begin(self, steps: int) -> None:
        """So many steps are ahead."""

    def step(self, text: str) -> None:
        """A step begins."""

    def show(self, text: str) -> None:
        """What is done now, within a step."""

    def say(self, text: str) -> None:
        """Something worth a line of its own."""


class CannotRun(Exception):
    """Nothing can be measured. The text is one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do."""

    profile: Profile
    seed: str
    starters: tuple[Starter, ...] = ()
    """What can be started here."""

    targets: tuple[Target, ...] = ()
    """What runs already."""

    only: tuple[str, ...] = ()
    """Beginnings of names of workloads; empty means all."""

    scale: bool = True
    """Whether the rows of ``scale`` are measured: the engine in process, among them."""

    trace: tuple[Operation, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether a workload was asked for."""
        return not self.only or any(name.startswith(start) for start in self.only)

    def workloads(self) -> list[Workload]:
        """Those asked for, in order."""
        profile = self.profile
        return [
            workload
            for workload in (
                *small.workloads(profile),
                *pulls.workloads(profile),
                *pushes.workloads(profile),
                *mixes.workloads(profile, self.trace),
                *small.variants(),
                *pulls.variants(),
                *background_load.workloads(profile),
                *pushes.huge(profile),
            )
            if self.wants(workload.name)
        ]

    def needed(self) -> list[Starter]:
        """What has to be started for the workloads."""
        workloads = self.workloads()
        wanted = {variant for workload in workloads for variant in workload.variants}
        return [
            starter
            for starter in self.starters
            if workloads and (not starter.variant or starter.variant in wanted)
        ]


class Run:
    """One run. ``results`` is right at any moment."""

    def __init__(self, plan: Plan, directory: Path, progress: Progress) -> None:
        self._plan = plan
        self._directory = directory
        self._progress = progress
        self._begun = time.monotonic()
        self._due = plan.profile.budget
        """When the row that is measured should be over: later it gets no further round."""
        self.results = Results(
            profile=plan.profile.name,
            seed=plan.seed,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(directory),
        )

    def go(self) -> None:
        """Do it all. Raises CannotRun, and KeyboardInterrupt after everything was stopped."""
        plan = self._plan
        try:
            with ExitStack() as stack:
                self._check_room()
                targets = list(plan.targets)
                for starter in plan.needed():
                    self._progress.say(f"starting {starter.name}")
                    try:
                        targets.append(servers.start(stack, starter.start))
                    except CannotStart as error:
                        self._remark(f"left out: {error}")
                crew = stack.enter_context(ClientPool(plan.profile.processes))
                bench = Bench(plan.profile, crew, plan.seed, self._directory)
                bench.can_drop = process.can_drop(self._directory)
                self._measure_all(bench, self._reachable(targets))
        finally:
            self._say_disturbed()
            self.results.seconds = round(self._spent(), 1)
            self.results.machine["load at the end"] = f"{os.getloadavg()[0]:.1f}"

    def _measure_all(self, bench: Bench, targets: list[Target]) -> None:
        workloads = self._plan.workloads()
        parts = scale.parts(self._plan.only) if self._plan.scale else frozenset()
        if not targets and not parts:
            raise CannotRun("nothing to measure")
        pairs = sum(
            workload.applies(target) * self._rounds(workload)
            for workload in workloads
            for target in targets
        )
        self._progress.begin(pairs + 1)
        self._progress.step("limits of this machine")
        self.results.limits = machine_limits.measure(self._directory, bench.profile.limit_seconds)
        if not bench.wrk:
            self._remark("wrk is not installed: small requests are driven from Python")
        self._count_syncs(bench, targets)
        profile = bench.profile
        if parts:
            seconds = profile.scale_seconds if workloads else profile.budget
            self._scale(bench, parts, seconds)
        if self._workloads(bench, workloads, targets):
            self.results.complete = True
        self._say_fewer()

    def _workloads(self, bench: Bench, workloads: list[Workload], targets: list[Target]) -> bool:
        """Measure them in order; whether there was time for all. What is left of it they share."""
        total = sum(workload.weight for workload in workloads)
        left = bench.profile.budget - self._spent()
        done = 0.0
        for workload in workloads:
            done += workload.weight
            self._due = bench.profile.budget - left * (1 - done / total)
            if self._spent() > bench.profile.budget:
                self._remark(
                    f"out of time after {bench.profile.budget:.0f} s: left out from "
                    f"{workload.name} on"
                )
                return False
            self._workload(bench, workload, [one for one in targets if workload.applies(one)])
            for text in bench.remarks:
                self._remark(text)
            bench.remarks.clear()
        return True

    def _rounds(self, workload: Workload) -> int:
        return min(workload.rounds, self._plan.profile.rounds)

    def _spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def _remark(self, text: str) -> None:
        self.results.remarks.append(text)
        self._progress.say(text)

    def _say_fewer(self) -> None:
        """Name the rows that there was no time to repeat as often as was wanted."""
        fewer = {
            row.workload: f"{row.workload} ({len(row.samples)} of {row.rounds})"
            for row in self.results.rows
            if not row.void and len(row.samples) < row.rounds
        }
        if fewer:
            self._remark(f"short of time, fewer rounds of {', '.join(fewer.values())}")

    def _say_disturbed(self) -> None:
        """Whether the machine was ours: what else it did makes numbers noise."""
        samples = [one for row in self.results.rows for one in row.counted]
        taken = [one.others for one in samples if one.others is not None]
        many = [cores for cores in taken if cores > OTHERS_MAX]
        if many:
            self._remark(
                f"{len(many)} of {len(taken)} measurements were disturbed: other programs took up "
                f"to {max(many):.1f} cores meanwhile"
            )

    def _check_room(self) -> None:
        profile = self._plan.profile
        starters = [one for one in self._plan.needed() if not one.variant]
        need = SPARE_BYTES
        if any("push/" in workload.name for workload in self._plan.workloads()):
            pushed = STREAMS * profile.stream_bytes + pushes.MANY * profile.many_bytes
            need += pushed * profile.rounds * len(starters)
        free = shutil.disk_usage(self._directory).free
        if starters and free < need:
            raise CannotRun(
                f"{self._directory} has {free >> 20} MiB free, this profile needs {need >> 20}: "
                "choose another --directory"
            )

    def _reachable(self, targets: list[Target]) -> list[Target]:
        """Those that answer; the others get a remark."""
        found = []
        for target in targets:
            try:
                target.probe()
            except Unreachable as error:
                self._remark(f"left out: {error}")
                continue
            found.append(target)
            self.results.targets.append(
                TargetFacts(
                    name=target.name,
                    version=target.version,
                    url=target.url,
                    workers=target.workers,
                    notes=list(target.notes),
                )
            )
        return found

    def _count_syncs(self, bench: Bench, targets: list[Target]) -> None:
        names = [workload.name for workload in self._plan.workloads()]
        if not any(name.startswith(("push/", "repush/")) for name in names):
            return
        for target in targets:
            if not target.registry or target.variant:
                continue
            self._progress.say(f"counting how often {target.name} waits for the disk")
            with self._voiding(bench) as problem:
                facts = next(one for one in self.results.targets if one.name == target.name)
                facts.syncs_per_image = syncs.per_image(bench, target)
            if problem:
                self._remark(f"{target.name}: {problem[0]}")

    @contextmanager
    def _voiding(self, bench: Bench) -> Iterator[list[str]]:
        """Turns what voids a row into a text."""
        problem: list[str] = []
        try:
            yield problem
        except (MeasureFailed, Unreachable, WrkFailed, ClientsFailed) as error:
            problem.append(str(error))
            bench.crew.restart()  # half-prepared clients know nothing of the next job

    def _workload(self, bench: Bench, workload: Workload, targets: list[Target]) -> None:
        rows: dict[str, Row] = {}
        for target in targets:
            row = Row(
                workload=workload.name,
                title=workload.title,
                group=workload.group,
                unit=workload.unit,
                higher=workload.higher,
                target=target.name,
                limit=workload.limit,
                rounds=self._rounds(workload),
                workers=target.workers,
            )
            rows[target.name] = row
            self.results.rows.append(row)
            self._progress.step(f"{workload.name} · {target.name} · preparing")
            with self._voiding(bench) as problem:
                workload.prepare(bench, target)
            if problem:
                self.failed(row, problem[0])
        for turn in range(self._rounds(workload)):
            if turn and self._spent() > self._due:
                return
            for target in targets:
                row = rows[target.name]
                if row.void:
                    continue
                if turn:
                    self._progress.step(f"{workload.name} · {target.name} · round {turn + 1}")
                with self._voiding(bench) as problem:
                    row.samples.append(workload.measure(bench, target, turn))
                if problem:
                    self.failed(row, problem[0])

    def step(self, text: str) -> None:
        """A step of ``scale``."""
        self._progress.show(text)

    def row(self, row: Row) -> None:
        """A row of ``scale``."""
        self.results.rows.append(row)

    def failed(self, row: Row, text: str) -> None:
        """A row does not count, for that reason."""
        row.void = text
        self._progress.say(f"{row.workload} on {row.target} is void: {text}")

    def _scale(self, bench: Bench, parts: frozenset[str], seconds: float) -> None:
        directory = self._directory / "scale"
        try:
            with self._voiding(bench) as problem:
                scale.Scale(bench, directory, self._plan.wants, self).run(parts, seconds)
            if problem:
                self._remark(f"cost against size: {problem[0]}")
        except EmbeddedFailed as error:
            self._remark(f"cost against size: {error}")
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """A new directory for all data, removed at the end. Servers of other users can enter it.

    Raises CannotRun where it cannot be made.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=parent))
    except OSError as error:
        raise CannotRun(f"no room for data: {error}") from error
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def machine(directory: Path) -> dict[str, str]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{pages * page / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file system": process.filesystem(directory) or "unknown",
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }
