"""Workloads beside background work: p99 of pushes and pulls while Holdfast sweeps and scrubs.

Each measurement starts two servers of its own, one after the other: one that has nothing to do in
the background, and one that sweeps and scrubs from its start on, at its own rates. Which one comes
first changes from round to round. What was swept and scrubbed meanwhile is read from the server's
metrics: a row is void where that was nothing, or came to its end before the clock did.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from holdfast.bench.load.jobs import ImageSet, PullImages, PushImages
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.registry import Style
from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets import servers
from holdfast.bench.targets.servers import CannotStart
from holdfast.bench.targets.targets import Target

from .background import Work, fill, progress
from .measure import Bench, MeasureFailed, operations, sample_of
from .pushes import LAYERS, SMALL_CAP, SMALL_SCALE
from .workload import Workload, ours

CLIENTS: Final = 16
PULLED: Final = ImageSet("upkeep", 20)

SWEPT_PER_SECOND: Final = 2000
SCRUBBED_PER_SECOND: Final = 16 << 20
"""The most that a server does; so much is made ready for each second."""

AROUND_SECONDS: Final = 8.0
"""From the start of a server to its end, beside the measurement."""

WARM_SECONDS: Final = 0.5
PUSHED_PER_SECOND: Final = 1500
"""Images that are made ready for each second: more than can be pushed."""


def workloads(profile: Profile) -> list[Workload]:
    """Both, for Holdfast on this machine only."""
    return [
        Workload(
            name=f"upkeep/{what}",
            title=f"{title} of images, {CLIENTS} clients: p99 during sweep and scrub over that "
            "without",
            group="background work",
            unit="times",
            higher=False,
            limit=Limit("no change"),
            prepare=_stores,
            measure=partial(_ratio, what),
            needs=ours,
            rounds=profile.upkeep_rounds,
            weight=2 * (profile.upkeep_seconds + 4) / profile.loop_seconds,
        )
        for what, title in (("push", "pushes"), ("pull", "pulls"))
    ]


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two."""

    sample: Sample
    swept: float
    scrubbed: float
    """Entries and bytes a second."""


def _stores(bench: Bench, target: Target) -> None:
    """Make both stores, once: each measurement works on a copy."""
    seconds = bench.profile.upkeep_seconds + AROUND_SECONDS
    for busy in (False, True):
        place = bench.directory / f"upkeep-{int(busy)}"
        if not place.exists():
            small, large = SWEPT_PER_SECOND * seconds, SCRUBBED_PER_SECOND * seconds
            fill(place, int(small), int(large), work=busy)


def _ratio(what: str, bench: Bench, target: Target, turn: int) -> Sample:
    """p99 with background work over p99 without it is the value."""
    order = (False, True) if turn % 2 == 0 else (True, False)
    halves = {busy: half(what, busy, bench, turn) for busy in order}
    alone, beside = halves[False].sample, halves[True].sample
    if not alone.p99 or not beside.p99:
        raise MeasureFailed("nothing was done")
    beside.value = beside.p99 / alone.p99
    beside.note = (
        f"p99 {alone.p99 * 1e3:.1f} ms without and {beside.p99 * 1e3:.1f} ms beside "
        f"{halves[True].swept:,.0f} entries/s swept, "
        f"{halves[True].scrubbed / (1 << 20):.0f} MiB/s scrubbed"
    )
    return beside


def half(what: str, busy: bool, bench: Bench, turn: int) -> Half:
    """Measure on a server with or without work in the background. Raises MeasureFailed."""
    with _server(bench, busy) as target:
        reach = target.reach("upkeep")
        seconds = bench.profile.upkeep_seconds
        if what == "pull":
            job: PullImages | PushImages = PullImages(PULLED)
            wanted = PushImages(PULLED, Style.WHOLE)
            bench.job(target, reach, wanted, clients=CLIENTS, seconds=AROUND_SECONDS)
        else:
            count = int(PUSHED_PER_SECOND * seconds)
            name = f"upkeep/{turn}/{int(busy)}"
            images = ImageSet(name, count, LAYERS, scale=SMALL_SCALE, cap=SMALL_CAP)
            job = PushImages(images)
        bench.job(target, reach, _warm(what), clients=CLIENTS, seconds=WARM_SECONDS)
        before = progress(target.metrics)
        result, meter = bench.job(target, reach, job, clients=CLIENTS, seconds=seconds, disk=True)
        after = progress(target.metrics)
        if busy:
            check(before, after)
        spent = result.seconds
        return Half(
            sample_of(result, meter, operations(result)),
            (after.swept - before.swept) / spent,
            (after.scrubbed - before.scrubbed) / spent,
        )


def _warm(what: str) -> PullImages | PushImages:
    if what == "pull":
        return PullImages(PULLED)
    return PushImages(ImageSet("upkeep/warm", 200, LAYERS, scale=SMALL_SCALE, cap=SMALL_CAP))


def check(before: Work, after: Work) -> None:
    """Raises MeasureFailed where the background was not busy to the end."""
    swept, scrubbed = after.swept - before.swept, after.scrubbed - before.scrubbed
    if not swept or not after.garbage:
        raise MeasureFailed(f"the sweep took {swept} entries, and {after.garbage} were left")
    if not scrubbed:
        raise MeasureFailed("nothing was scrubbed")


@contextmanager
def _server(bench: Bench, busy: bool) -> Iterator[Target]:
    """A Holdfast on a copy of one of the two stores."""
    place = bench.directory / "upkeep"
    shutil.copytree(bench.directory / f"upkeep-{int(busy)}", place)
    try:
        with ExitStack() as stack:
            yield servers.start(stack, partial(servers.start_holdfast, place))
    except CannotStart as error:
        raise MeasureFailed(str(error)) from error
    finally:
        shutil.rmtree(place)
