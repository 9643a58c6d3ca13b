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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from . import embedded, limits, mixes, pulls, pushes, smalls, syncs, upkeep
from .crew import Crew, CrewFailed
from .measure import Bench, MeasureFailed
from .profile import Profile
from .reach import Unreachable
from .results import Results, Row, Sample, TargetFacts
from .servers import CannotStart, Server
from .targets import Target
from .trace import Operation
from .workload import Workload
from .wrk import WrkFailed

FREE_BYTES_PER_STREAM: Final = 12
"""Free disk needed, in streams per target and round, with room for all that is smaller."""


class Progress(Protocol):
    """Who is told how far a run is."""

    def begin(self, steps: int) -> None:
        """So many steps are ahead."""

    def step(self, text: str) -> None:
        """A step begins."""

    def say(self, text: str) -> None:
        """Something worth a line of its own."""


class CannotRun(Exception):
    """Nothing can be measured. The text is one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do."""

    profile: Profile
    seed: str
    starters: tuple[tuple[str, Callable[[], Server]], ...] = ()
    """Names of servers and how to start them."""

    targets: tuple[Target, ...] = ()
    """What runs already."""

    only: tuple[str, ...] = ()
    """Beginnings of names of workloads; empty means all."""

    engine: bool = True
    """Whether the engine is measured in process."""

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
                *smalls.workloads(profile),
                *pulls.workloads(profile),
                *pushes.workloads(profile),
                *mixes.workloads(profile, self.trace),
                *upkeep.workloads(profile),
            )
            if self.wants(workload.name)
        ]


class Run:
    """One run. ``results`` is right at any moment."""

    def __init__(self, plan: Plan, directory: Path, progress: Progress) -> None:
        self._plan = plan
        self._directory = directory
        self._progress = progress
        self._begun = time.monotonic()
        self._due = 1.0
        self._hurried = False
        self.results = Results(
            profile=plan.profile.name,
            seed=plan.seed,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
        )

    def go(self) -> None:
        """Do it all. Raises CannotRun, and KeyboardInterrupt after everything was stopped."""
        plan = self._plan
        try:
            with ExitStack() as stack:
                self._check_room()
                targets = list(plan.targets)
                for name, start in plan.starters if plan.workloads() else ():
                    self._progress.say(f"starting {name}")
                    try:
                        server = start()
                    except CannotStart as error:
                        self._remark(f"left out: {error}")
                        continue
                    stack.callback(server.stop)
                    targets.append(server.target)
                crew = stack.enter_context(Crew(plan.profile.processes))
                bench = Bench(plan.profile, crew, plan.seed, self._directory)
                self._measure_all(bench, self._reachable(targets))
        finally:
            self.results.seconds = round(time.monotonic() - self._begun, 1)

    def _measure_all(self, bench: Bench, targets: list[Target]) -> None:
        workloads = self._plan.workloads()
        sizes = self._plan.profile.engine_sizes if self._wants_engine() else ()
        if not targets and not sizes:
            raise CannotRun("nothing to measure")
        pairs = sum(workload.applies(target) for workload in workloads for target in targets)
        self._progress.begin(pairs * bench.profile.rounds + len(sizes) + 1)
        self._progress.step("limits of this machine")
        self.results.limits = limits.measure(self._directory)
        if not bench.wrk:
            self._remark("wrk is not installed: small requests are driven from Python")
        self._count_syncs(bench, targets)
        for size in sizes:
            self._progress.step(f"engine with {size:,} blobs and tags")
            self._embedded(size)
        for index, workload in enumerate(workloads):
            self._due = (index + 1) / len(workloads)
            if self._late():
                self._remark(
                    f"out of time after {bench.profile.budget:.0f} s: left out from "
                    f"{workload.name} on"
                )
                return
            self._workload(bench, workload, [one for one in targets if workload.applies(one)])
            for text in bench.remarks:
                self._remark(text)
            bench.remarks.clear()
        if self._hurried:
            self._remark("short of time: some rows have fewer rounds")
        self.results.complete = True

    def _wants_engine(self) -> bool:
        return self._plan.engine and (
            not self._plan.only or any(name.startswith("engine") for name in self._plan.only)
        )

    def _late(self, share: float = 1.0) -> bool:
        """Whether more than this share of the time is gone."""
        return time.monotonic() - self._begun > self._plan.profile.budget * share

    def _remark(self, text: str) -> None:
        self.results.remarks.append(text)
        self._progress.say(text)

    def _check_room(self) -> None:
        profile = self._plan.profile
        columns = len(self._plan.starters) + 1
        need = FREE_BYTES_PER_STREAM * profile.stream_bytes * columns
        free = shutil.disk_usage(self._directory).free
        if self._plan.starters and free < need:
            raise CannotRun(
                f"{self._directory} has {free >> 20} MiB free, this profile needs {need >> 20}: "
                "choose another --directory"
            )

    def _reachable(self, targets: list[Target]) -> list[Target]:
        """Those that answer; the others get a remark."""
        found = []
        for target in targets:
            try:
                target.reach("probe")
            except Unreachable as error:
                self._remark(f"left out: {error}")
                continue
            found.append(target)
            self.results.targets.append(
                TargetFacts(
                    name=target.name,
                    version=target.version,
                    url=target.url,
                    notes=list(target.notes),
                )
            )
        return found

    def _count_syncs(self, bench: Bench, targets: list[Target]) -> None:
        if not any(self._plan.wants(name) for name in ("push/", "repush/")):
            return
        for target in targets:
            if not target.registry:
                continue
            with self._voiding(bench) as problem:
                facts = next(one for one in self.results.targets if one.name == target.name)
                facts.fsyncs_per_image = syncs.per_image(bench, target)
            if problem:
                self._remark(f"{target.name}: {problem[0]}")

    @contextmanager
    def _voiding(self, bench: Bench) -> Iterator[list[str]]:
        """Turns what voids a row into a text."""
        problem: list[str] = []
        try:
            yield problem
        except (MeasureFailed, Unreachable, WrkFailed, CrewFailed) as error:
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
            )
            rows[target.name] = row
            self.results.rows.append(row)
            self._progress.step(f"{workload.name} · {target.name} · preparing")
            with self._voiding(bench) as problem:
                workload.prepare(bench, target)
            self._void(row, problem)
        for turn in range(bench.profile.rounds):
            if turn and self._late(self._due):
                self._hurried = True
                return
            for target in targets:
                row = rows[target.name]
                if row.void:
                    continue
                if turn:
                    self._progress.step(f"{workload.name} · {target.name} · round {turn + 1}")
                with self._voiding(bench) as problem:
                    row.samples.append(workload.measure(bench, target, turn))
                self._void(row, problem)

    def _void(self, row: Row, problem: list[str]) -> None:
        if problem:
            row.void = problem[0]
            self._progress.say(f"{row.workload} on {row.target} is void: {row.void}")

    def _embedded(self, size: int) -> None:
        directory = self._directory / f"engine-{size}"
        directory.mkdir()
        left = self._begun + self._plan.profile.budget - time.monotonic()
        try:
            found = embedded.measure(directory, size, self._plan.seed, max(60.0, left))
        except embedded.EmbeddedFailed as error:
            self._remark(f"the engine with {size:,} blobs: {error}")
            return
        finally:
            shutil.rmtree(directory)
        for measured in found:
            title, unit, higher = embedded.ROWS[measured.name]
            self.results.rows.append(
                Row(
                    workload=f"engine/{measured.name}/{size}",
                    title=f"{title}, with {size:,} in the store",
                    group="engine",
                    unit=unit,
                    higher=higher,
                    target=measured.target,
                    samples=[Sample(value=value) for value in measured.values],
                )
            )


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


def machine() -> dict[str, str]:
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
        "load": f"{os.getloadavg()[0]:.1f} at the start",
    }
