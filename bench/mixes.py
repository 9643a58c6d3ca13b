"""Workloads in an open loop: a mix of pulls and pushes, and recorded traces."""

from __future__ import annotations

from functools import partial

from .jobs import ImageSet, PushImages
from .measure import Bench, MeasureFailed, sample_of
from .mixed import Mixed
from .profile import Profile
from .pushes import SMALL_CAP, SMALL_SCALE
from .registry import Style
from .results import Sample
from .targets import Target
from .trace import Operation, Replay
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
                measure=partial(_replay, trace),
            )
        )
    return made


def _known() -> ImageSet:
    return ImageSet("mixknown", KNOWN_IMAGES, scale=SMALL_SCALE, cap=SMALL_CAP)


def _put_known(bench: Bench, target: Target) -> None:
    bench.set_up(target, target.reach("mixed"), PushImages(_known(), Style.WHOLE))


def _mix(bench: Bench, target: Target, turn: int) -> Sample:
    profile = bench.profile
    job = Mixed(
        known=_known(),
        fresh=ImageSet(f"mixfresh/{turn}", profile.images, scale=SMALL_SCALE, cap=SMALL_CAP),
        rate=profile.mixed_rate,
    )
    result, meter = bench.job(
        target,
        target.reach("mixed"),
        job,
        clients=profile.processes,
        seconds=profile.mixed_seconds,
        disk=True,
    )
    return sample_of(result, meter, _worst(result.latencies.percentile(99)))


def _replay(trace: tuple[Operation, ...], bench: Bench, target: Target, turn: int) -> Sample:
    result, meter = bench.job(
        target,
        target.reach("trace"),
        Replay(trace, f"replay/{turn}"),
        clients=bench.profile.processes,
        seconds=trace[-1].at + 1,
        disk=True,
    )
    return sample_of(result, meter, _worst(result.latencies.percentile(99)))


def _worst(seconds: float | None) -> float:
    """In milliseconds."""
    if seconds is None:
        raise MeasureFailed("nothing was done")
    return seconds * 1e3
