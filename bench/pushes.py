"""Workloads that push: new content, content that is there, and content of a neighbour."""

from __future__ import annotations

from functools import partial

from .jobs import ImageSet, PushImages, PushStream
from .measure import Bench, megabytes, operations, sample_of
from .profile import Profile
from .registry import Style
from .results import Sample
from .targets import Target
from .workload import Workload

_STYLES = {
    Style.DOCKER: "docker style: one PATCH, chunked, no length",
    Style.WHOLE: "one request",
    Style.PARTS: "PATCH of 16 MiB each",
}

CLIENTS = 16
MANY = 64

SMALL_SCALE = 0.001
SMALL_CAP = 64 << 10
MIDDLE_SCALE = 0.01
MIDDLE_CAP = 2 << 20


def workloads(profile: Profile) -> list[Workload]:
    """All of them."""
    size = f"{profile.stream_bytes >> 20} MiB"
    made = [
        Workload(
            name=f"push/stream/{style}",
            title=f"push {size}, one stream, {text}",
            group="push",
            unit="MB/s",
            measure=partial(_stream, style),
            limit="sha256",
        )
        for style, text in _STYLES.items()
    ]
    made += [
        Workload(
            name="push/many",
            title=f"{MANY} uploads of {_many(profile) >> 20} MiB at once",
            group="push",
            unit="MB/s",
            measure=_many_streams,
            limit="sha256",
        ),
        Workload(
            name="push/images",
            title=f"push images of 5 layers (up to 2 MiB), {CLIENTS} clients",
            group="push",
            unit="images/s",
            measure=partial(_images, MIDDLE_SCALE, MIDDLE_CAP, CLIENTS),
        ),
        Workload(
            name="push/small",
            title=f"push images of 5 small layers (up to 64 KiB), {CLIENTS} clients",
            group="push",
            unit="images/s",
            measure=partial(_images, SMALL_SCALE, SMALL_CAP, CLIENTS),
        ),
        Workload(
            name="push/small/one",
            title="push images of 5 small layers, one client",
            group="push",
            unit="images/s",
            measure=partial(_images, SMALL_SCALE, SMALL_CAP, 1),
        ),
        Workload(
            name="repush/head",
            title=f"push again what is there, asking first (HEAD), {CLIENTS} clients",
            group="push again",
            unit="images/s",
            prepare=_push_known,
            measure=partial(_again, "present"),
        ),
        Workload(
            name="repush/blind",
            title=f"push again what is there, bytes and all, {CLIENTS} clients",
            group="push again",
            unit="images/s",
            prepare=_push_known,
            measure=partial(_again, "blind"),
        ),
        Workload(
            name="repush/neighbour",
            title=f"push what another namespace has, {CLIENTS} clients",
            group="push again",
            unit="images/s",
            prepare=_push_known,
            measure=_neighbour,
        ),
    ]
    return made


def _stream(style: Style, bench: Bench, target: Target, turn: int) -> Sample:
    reach = target.reach("streams")
    job = PushStream(f"stream/{style}/{turn}", bench.profile.stream_bytes, style)
    result, meter = bench.job(target, reach, job, clients=1, seconds=600, disk=True)
    return sample_of(result, meter, megabytes(result))


def _many(profile: Profile) -> int:
    return profile.stream_bytes // 32


def _many_streams(bench: Bench, target: Target, turn: int) -> Sample:
    job = PushStream(f"many/{turn}", _many(bench.profile), Style.DOCKER)
    result, meter = bench.job(
        target, target.reach("many"), job, clients=MANY, seconds=600, disk=True
    )
    return sample_of(result, meter, megabytes(result))


def _images(
    scale: float, cap: int, clients: int, bench: Bench, target: Target, turn: int
) -> Sample:
    images = ImageSet(f"push{cap}x{clients}/{turn}", bench.profile.images, scale=scale, cap=cap)
    seconds = bench.profile.loop_seconds
    reach = target.reach("images")
    result, meter = bench.job(
        target, reach, PushImages(images), clients=clients, seconds=seconds, disk=True
    )
    return sample_of(result, meter, operations(result))


def _known(bench: Bench) -> ImageSet:
    """What is pushed again; a measurement ends early when all were."""
    return ImageSet("known", bench.profile.known_images, scale=SMALL_SCALE, cap=SMALL_CAP)


def _push_known(bench: Bench, target: Target) -> None:
    job = PushImages(_known(bench), Style.WHOLE)
    bench.set_up(target, target.reach("known"), job, clients=CLIENTS)


def _again(mode: str, bench: Bench, target: Target, turn: int) -> Sample:
    job = PushImages(_known(bench), mode="blind" if mode == "blind" else "present")
    result, meter = bench.job(
        target,
        target.reach("known"),
        job,
        clients=CLIENTS,
        seconds=bench.profile.loop_seconds,
        disk=True,
    )
    return sample_of(result, meter, operations(result))


def _neighbour(bench: Bench, target: Target, turn: int) -> Sample:
    result, meter = bench.job(
        target,
        target.reach(f"copy{turn}", second=True),
        PushImages(_known(bench)),
        clients=CLIENTS,
        seconds=bench.profile.loop_seconds,
        disk=True,
    )
    return sample_of(result, meter, operations(result))
