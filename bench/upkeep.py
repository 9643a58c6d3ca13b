"""Workloads beside background work: p99 of pushes and pulls while Holdfast sweeps and scrubs."""

from __future__ import annotations

from functools import partial
from typing import Final

from .background import upkeep
from .jobs import ImageSet, PullImages, PushImages
from .measure import Bench, MeasureFailed, operations, sample_of
from .profile import Profile
from .pulls import image_set
from .pushes import SMALL_CAP, SMALL_SCALE
from .registry import Style
from .results import Sample
from .targets import Target
from .workload import Workload

CLIENTS: Final = 16


def workloads(profile: Profile) -> list[Workload]:
    """Both, for Holdfast on this machine only."""
    return [
        Workload(
            name=f"upkeep/{what}",
            title=f"p99 of {title} during sweep and scrub, against without",
            group="background work",
            unit="times",
            higher=False,
            prepare=prepare,
            measure=measure,
            needs=lambda target: target.name == "holdfast" and target.data is not None,
        )
        for what, title, prepare, measure in (
            ("push", "pushes of images, 16 clients,", _nothing, partial(_ratio, "push")),
            ("pull", "pulls of images, 16 clients,", _put, partial(_ratio, "pull")),
        )
    ]


def _nothing(bench: Bench, target: Target) -> None:
    """Pushes bring their own content."""


def _put(bench: Bench, target: Target) -> None:
    images = image_set("zipf", bench.profile)
    bench.set_up(target, target.reach("zipf"), PushImages(images, Style.WHOLE))


def _ratio(what: str, bench: Bench, target: Target, turn: int) -> Sample:
    """The same work twice, the second time with the background busy: p99 over p99."""
    alone = _once(what, f"{turn}/alone", bench, target)
    assert target.data is not None
    with upkeep(target.data, bench.profile.loop_seconds):
        beside = _once(what, f"{turn}/beside", bench, target)
    if not alone.p99 or not beside.p99:
        raise MeasureFailed("nothing was done")
    beside.value = beside.p99 / alone.p99
    return beside


def _once(what: str, turn: str, bench: Bench, target: Target) -> Sample:
    seconds = bench.profile.loop_seconds
    if what == "pull":
        job: PullImages | PushImages = PullImages(image_set("zipf", bench.profile))
        reach = target.reach("zipf")
    else:
        count = bench.profile.images
        images = ImageSet(f"upkeep/{turn}", count, scale=SMALL_SCALE, cap=SMALL_CAP)
        job, reach = PushImages(images), target.reach("upkeep")
    result, meter = bench.job(target, reach, job, clients=CLIENTS, seconds=seconds, disk=True)
    return sample_of(result, meter, operations(result))
