"""Workloads in an open loop: a mix of pulls and pushes, and recorded traces."""

from __future__ import annotations

from functools import partial

from holdfast.bench.load.jobs import ImageSet, PushImages
from holdfast.bench.load.mixed import Mixed
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.registry import Style
from holdfast.bench.load.trace import Operation, Replay
from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets.targets import Target

from .measure import Bench, MeasureFailed, sample_of
from .pushes import SMALL_CAP, SMALL_SCALE
from .workload import Workload

KNOWN_IMAGES = 30


def workloads(profile: Profile, trace: tuple[Operation, ...]) -> list[Workload]:
    """The mix, and the trace where there is one."""
    rate = f"{profile.mixed_rate:g}"
    made = [
        Workload(
            name="mixed/trace",
            title=f"open loop, {rate} operations a second, bursts of 3 times that, 8 pulls a push",
            group="mixed",
            unit="ms (p99)",
            higher=False,
            prepare=_put_known,
            limit=Limit("offered", "operations"),
            measure=_mix,
        )
    ]
    if trace:
        made.append(
            Workload(
                name="mixed/replay",
                title=f"replay of a recorded trace, {len(trace)} requests in {trace[-1].at:.0f} s",
                group="mixed",
                unit="ms (p99)",
                higher=False,
                limit=Limit("offered", "operations"),
                measure=partial(_replay, trace),
            )
        )
    return made


def _known() -> ImageSet:
    return ImageSet("mixknown", KNOWN_IMAGES, scale=SMALL_SCALE, cap=SMALL_CAP)


def _put_known(bench: Bench, target: Target) -> None:
    bench.set_up(target, target.reach("mixed"), PushImages(_known(), Style.WHOLE, late=True))


def _mix(bench: Bench, target: Target, turn: int) -> Sample:
    profile = bench.profile
    job = Mixed(
        known=_known(),
        fresh=ImageSet(f"mixfresh/{turn}", profile.images, scale=SMALL_SCALE, cap=SMALL_CAP),
        rate=profile.mixed_rate,
    )
    return _open_loop(bench, target, "mixed", job, profile.mixed_seconds)


def _replay(trace: tuple[Operation, ...], bench: Bench, target: Target, turn: int) -> Sample:
    job = Replay(trace, f"replay/{turn}")
    return _open_loop(bench, target, "trace", job, trace[-1].at)


def _open_loop(
    bench: Bench, target: Target, name: str, job: Mixed | Replay, seconds: float
) -> Sample:
    """p99 in milliseconds is the value."""
    clients = bench.profile.processes
    result, meter = bench.job(
        target, target.reach(name), job, clients=clients, seconds=seconds, disk=True
    )
    worst = result.latencies.percentile(99)
    if worst is None:
        raise MeasureFailed("nothing was done")
    sample = sample_of(result, meter, worst * 1e3)
    # The last operation may be due, and be done, a little before the time is over.
    sample.seconds = max(result.seconds, seconds)
    if seconds > 0:
        sample.offered = result.offered / seconds
        sample.note = (
            f"achieved {sample.rate('operations'):.1f} of {sample.offered:.1f} operations/s"
        )
    return sample
