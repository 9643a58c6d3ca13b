"""One measurement: a job or small requests on one target, with what it cost the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import process, wrk
from .content import Content
from .crew import Crew, Result
from .drive import Job
from .jobs import Ask, Requests
from .profile import Profile
from .reach import Reach
from .results import Sample
from .targets import Target

MEGA: Final = 1e6
CONNECTIONS: Final = 32


class MeasureFailed(Exception):
    """A wrong answer, before or while it was measured: the row is void. One line."""


@dataclass(slots=True)
class Meter:
    """What the server spent between entering and leaving."""

    cpu: float | None = None
    memory: int | None = None
    files: int | None = None
    disk: int | None = None


@dataclass(slots=True)
class Bench:
    """What all workloads share."""

    profile: Profile
    crew: Crew
    seed: str
    directory: Path
    """For small files of the bench's own."""

    wrk: str = field(default_factory=wrk.program)
    """Path of wrk; '' drives small requests with the client in Python."""

    done: set[tuple[str, str, Job]] = field(default_factory=set)
    """Content that was brought in: target, repository and job."""

    remarks: list[str] = field(default_factory=list)
    """What the report should say beside the rows."""

    @property
    def content(self) -> Content:
        """The content of this run."""
        return Content(self.seed)

    def job(
        self,
        target: Target,
        reach: Reach,
        job: Job,
        *,
        clients: int,
        seconds: float,
        disk: bool = False,
        processes: int | None = None,
    ) -> tuple[Result, Meter]:
        """Prepare and run a job. Raises MeasureFailed for the first wrong answer."""
        wrong = self.crew.prepare(
            reach, job, seed=self.seed, clients=clients, seconds=seconds, processes=processes
        )
        if wrong:
            raise MeasureFailed(wrong[0])
        with metered(target, disk=disk) as meter:
            result = self.crew.run()
        if result.wrong:
            raise MeasureFailed(result.wrong[0])
        if not result.operations:
            raise MeasureFailed("nothing was done")
        return result, meter

    def set_up(self, target: Target, reach: Reach, job: Job, *, clients: int = 8) -> None:
        """Run a job to its end, once, to bring content in. Raises MeasureFailed."""
        key = (target.name, reach.repository, job)
        if key not in self.done:
            self.job(target, reach, job, clients=clients, seconds=3600)
            self.done.add(key)

    def small(self, target: Target, reach: Reach, asks: tuple[Ask, ...]) -> Sample:
        """Small requests from 32 connections, by wrk where it can do them.

        Our own client looks closely at some answers first. Raises MeasureFailed.
        """
        job = Requests(asks)
        seconds = self.profile.small_seconds
        if not self.wrk or any(ask.method == "HEAD" for ask in asks):
            result, meter = self.job(
                target, reach, job, clients=CONNECTIONS, seconds=seconds, processes=1
            )
            return sample_of(result, meter, result.operations / result.seconds)
        wrong = self.crew.prepare(reach, job, seed=self.seed, clients=1, seconds=0.0)
        if wrong:
            raise MeasureFailed(wrong[0])
        self.crew.run()
        with metered(target) as meter:
            done = wrk.drive(
                self.wrk,
                reach,
                asks,
                connections=CONNECTIONS,
                seconds=seconds,
                directory=self.directory,
            )
        if done.wrong:
            raise MeasureFailed(f"wrk: {done.wrong[0]}")
        return Sample(
            value=done.requests / done.seconds,
            seconds=done.seconds,
            operations=done.requests,
            requests=done.requests,
            p50=done.p50,
            p99=done.p99,
            p999=done.p999,
            server_cpu=meter.cpu,
            client_cpu=done.cpu,
            client_busy=done.cpu / done.seconds,
            memory=meter.memory,
        )


@contextmanager
def metered(target: Target, *, disk: bool = False) -> Iterator[Meter]:
    """Read the server's counters before and after. The disk is brought to rest before."""
    meter = Meter()
    before = (0, 0)
    if disk:
        if target.data is not None:
            before = process.disk_use(target.data)
        os.sync()
    cpu = 0.0
    if target.pid is not None:
        process.forget_peak(target.pid)
        cpu = _cpu(target)
    yield meter
    if target.pid is not None:
        meter.cpu = _cpu(target) - cpu
        meter.memory = process.peak_bytes(target.pid)
    if disk and target.data is not None:
        files, size = process.disk_use(target.data)
        meter.files, meter.disk = files - before[0], size - before[1]


def _cpu(target: Target) -> float:
    assert target.pid is not None
    try:
        return process.cpu_seconds(target.pid)
    except ProcessLookupError:
        raise MeasureFailed(f"{target.name} has ended") from None


def sample_of(result: Result, meter: Meter, value: float) -> Sample:
    """A sample of what clients of our own did."""
    latencies = result.latencies
    return Sample(
        value=value,
        seconds=result.seconds,
        operations=result.operations,
        requests=result.requests,
        size=result.size,
        p50=latencies.percentile(50),
        p99=latencies.percentile(99),
        p999=latencies.percentile(99.9),
        server_cpu=meter.cpu,
        client_cpu=result.cpu,
        client_busy=result.busiest,
        memory=meter.memory,
        disk_files=meter.files,
        disk_bytes=meter.disk,
    )


def megabytes(result: Result) -> float:
    """MB/s."""
    return result.size / result.seconds / MEGA


def operations(result: Result) -> float:
    """Operations a second."""
    return result.operations / result.seconds
