"""One measurement: a job or small requests on one target, with what it cost the server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from holdfast.bench.load import process
from holdfast.bench.load.client_pool import ClientPool, Result
from holdfast.bench.load.content import Content
from holdfast.bench.load.drive import Job
from holdfast.bench.load.endpoint import Endpoint
from holdfast.bench.load.jobs import Ask, Requests
from holdfast.bench.load.profile import Profile
from holdfast.bench.report.results import Sample
from holdfast.bench.targets import wrk
from holdfast.bench.targets.targets import Target

MEGA: Final = 1e6
CONNECTIONS: Final = 32


class MeasureFailed(Exception):
    """A wrong answer, before or while it was measured: the row is void. One line."""


@dataclass(slots=True)
class Meter:
    """What the server spent between entering and leaving."""

    cpu: float | None = None
    memory: process.Peak | None = None
    idle: int | None = None
    """Resident memory of the largest process at the beginning."""

    files: int | None = None
    disk: int | None = None
    reads: int | None = None
    seconds: float = 0.0
    busy: float = 0.0
    """CPU seconds of the whole machine."""

    def others(self, client_cpu: float) -> float | None:
        """Cores that neither the server nor its clients had; None where we cannot look at it."""
        if self.cpu is None or not self.seconds:
            return None
        return max(0.0, self.busy - self.cpu - client_cpu) / self.seconds


@dataclass(slots=True)
class Bench:
    """What all workloads share."""

    profile: Profile
    crew: ClientPool
    seed: str
    directory: Path
    """For small files of the bench's own."""

    wrk: str = field(default_factory=wrk.program)
    """Path of wrk; '' drives small requests with the client in Python."""

    can_drop: bool = False
    """Whether the page cache can be dropped, for what is to be pulled from the disk."""

    done: set[tuple[str, str, Job]] = field(default_factory=set)
    """Content that was brought in: target, repository and job."""

    remarks: list[str] = field(default_factory=list)
    """What the report should say beside the rows."""

    content: Content = field(init=False)
    """The content of this run, made from its seed once: its pool takes a while."""

    def __post_init__(self) -> None:
        self.content = Content(self.seed)

    def job(
        self,
        target: Target,
        reach: Endpoint,
        job: Job,
        *,
        clients: int,
        seconds: float,
        disk: bool = False,
        cold: bool = False,
        processes: int | None = None,
    ) -> tuple[Result, Meter]:
        """Prepare and run a job, then read back some of what it pushed.

        ``disk`` counts files and bytes that it leaves; ``cold`` makes the kernel forget what the
        server has on disk first. Raises MeasureFailed for the first wrong answer.
        """
        wrong = self.crew.prepare(
            reach, job, seed=self.seed, clients=clients, seconds=seconds, processes=processes
        )
        if wrong:
            raise MeasureFailed(wrong[0])
        with metered(target, disk=disk, cold=cold) as meter:
            result = self.crew.run()
        wrong = result.wrong or self.crew.check()
        if wrong:
            raise MeasureFailed(wrong[0])
        if not result.operations and seconds > 0:
            raise MeasureFailed("nothing was done")
        return result, meter

    def set_up(self, target: Target, reach: Endpoint, job: Job, *, clients: int = 8) -> None:
        """Run a job to its end, once, to bring content in.

        Raises MeasureFailed, also where that takes longer than the profile allows.
        """
        key = (target.name, reach.repository, job)
        if key in self.done:
            return
        seconds = self.profile.setup_seconds
        result, _ = self.job(target, reach, job, clients=clients, seconds=seconds)
        if result.cut:
            raise MeasureFailed(f"its content was not in place after {seconds:.0f} s")
        self.done.add(key)

    def small(self, target: Target, reach: Endpoint, asks: tuple[Ask, ...]) -> Sample:
        """Small requests from 32 connections, by wrk where it can do them.

        Our own client looks closely at some answers first. Raises MeasureFailed.
        """
        job = Requests(asks)
        seconds = self.profile.small_seconds
        if not self.wrk or not wrk.can(asks):
            result, meter = self.job(
                target, reach, job, clients=CONNECTIONS, seconds=seconds, processes=1
            )
            return sample_of(result, meter, result.operations / result.seconds)
        self.job(target, reach, job, clients=1, seconds=0.0)  # the close look
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
            others=meter.others(done.cpu),
            **_memory(meter),
        )


@contextmanager
def metered(target: Target, *, disk: bool = False, cold: bool = False) -> Iterator[Meter]:
    """Read the server's counters before and after. The disk is brought to rest before.

    Raises MeasureFailed.
    """
    meter = Meter()
    before = (0, 0)
    if disk:
        if target.data is not None:
            before = process.disk_use(target.data)
        os.sync()
    if cold:
        assert target.data is not None, "whose files are to be forgotten?"
        process.drop_cached(target.data)
    with _watched(target):
        cpu, reads = 0.0, None
        if target.pid is not None:
            process.forget_peak(target.pid)
            meter.idle = process.resident_bytes(target.pid)
            reads = process.disk_reads(target.pid)
            cpu = process.cpu_seconds(target.pid)
    begun, busy = time.monotonic(), process.busy_seconds()
    yield meter
    meter.seconds, meter.busy = time.monotonic() - begun, process.busy_seconds() - busy
    with _watched(target):
        if target.pid is not None:
            meter.cpu = process.cpu_seconds(target.pid) - cpu
            meter.memory = process.peak_bytes(target.pid)
            after = process.disk_reads(target.pid)
            if reads is not None and after is not None:
                meter.reads = after - reads
    if disk and target.data is not None:
        files, size = process.disk_use(target.data)
        meter.files, meter.disk = files - before[0], size - before[1]


@contextmanager
def _watched(target: Target) -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        raise MeasureFailed(f"{target.name} has ended") from None


class _Memory(TypedDict):
    memory: int | None
    worker_memory: int | None


def _memory(meter: Meter) -> _Memory:
    peak = meter.memory
    return {
        "memory": None if peak is None else peak.total,
        "worker_memory": None if peak is None else peak.largest,
    }


def sample_of(result: Result, meter: Meter, value: float) -> Sample:
    """A sample of what clients of our own did."""
    latencies = result.latencies
    return Sample(
        value=value,
        seconds=result.seconds,
        operations=result.operations,
        requests=result.requests,
        sent=result.sent,
        received=result.received,
        p50=latencies.percentile(50),
        p99=latencies.percentile(99),
        p999=latencies.percentile(99.9),
        server_cpu=meter.cpu,
        client_cpu=result.cpu,
        client_busy=result.busiest,
        others=meter.others(result.cpu),
        disk_files=meter.files,
        disk_bytes=meter.disk,
        disk_reads=meter.reads,
        **_memory(meter),
    )


def megabytes(result: Result) -> float:
    """MB/s."""
    return (result.sent + result.received) / result.seconds / MEGA


def operations(result: Result) -> float:
    """Operations a second."""
    return result.operations / result.seconds
