"""Workloads that push: new content, content that is there, and content of a neighbour."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Final

from holdfast.bench.load.jobs import ImageSet, PushImages, PushStream
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.registry import Style
from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets.targets import Target

from .measure import MEGA, Bench, MeasureFailed, megabytes, operations, sample_of
from .workload import Workload, ours

_STYLES = {
    Style.DOCKER: "docker style: one PATCH, chunked, no length",
    Style.WHOLE: "one request",
    Style.PARTS: "PATCH of 16 MiB each",
}

CLIENTS = 16
MANY = 64
SPARE_BYTES = 2 << 30

LAYERS = 5

SMALL_SCALE = 0.001
SMALL_CAP = 64 << 10
MIDDLE_SCALE = 0.01
MIDDLE_CAP = 2 << 20

SYNCED_OBJECTS = LAYERS + 2
"""What an image of five layers has acknowledged: with its config and its manifest."""

_HEADS = Limit("nginx:small/blob/head/hit", "requests")
"""For what is mostly many small requests."""


def workloads(profile: Profile) -> list[Workload]:
    """All of them."""
    size = f"{profile.stream_bytes >> 20} MiB"
    made = [
        _row(
            name=f"push/stream/{style}",
            title=f"push {size}, one stream, {text}",
            unit="MB/s",
            limit=Limit("sha256"),
            measure=partial(_stream, style),
        )
        for style, text in _STYLES.items()
    ]
    made += [
        _row(
            name="push/many",
            title=f"{MANY} uploads of {profile.many_bytes >> 20} MiB at once",
            unit="MB/s",
            limit=Limit("sha256"),
            measure=_many_streams,
        ),
        _row(
            name="push/images",
            title=f"push images of {LAYERS} layers (up to 2 MiB), {CLIENTS} clients",
            limit=Limit("write", "bytes"),
            measure=_images,
        ),
        _row(
            name="push/small",
            title=f"push {profile.images:,} images of {LAYERS} small layers (up to 64 KiB), "
            f"{CLIENTS} clients",
            limit=Limit("syncs", times=SYNCED_OBJECTS),
            measure=partial(_small_images, CLIENTS),
            weight=2 * profile.push_seconds / profile.loop_seconds,
        ),
        _row(
            name="push/small/one",
            title=f"push images of {LAYERS} small layers, one client",
            limit=Limit("fsync", times=SYNCED_OBJECTS),
            measure=partial(_small_images, 1),
        ),
        _row(
            name="push/memory",
            title=f"{MANY} uploads of {profile.many_bytes >> 20} MiB at once: peak memory of the "
            "largest server process",
            unit="MB",
            higher=False,
            limit=Limit("idle"),
            measure=partial(_memory, profile.many_bytes),
            rounds=1,
        ),
        _row(
            name="repush/head",
            title=f"push again what is there, asking first (HEAD), {CLIENTS} clients",
            group="push again",
            limit=_HEADS,
            prepare=_push_known,
            measure=partial(_again, "present"),
        ),
        _row(
            name="repush/blind",
            title=f"push again what is there, bytes and all, {CLIENTS} clients",
            group="push again",
            limit=_HEADS,
            prepare=_push_known,
            measure=partial(_again, "blind"),
        ),
        _row(
            name="repush/neighbour",
            title=f"push what another namespace has, {CLIENTS} clients",
            group="push again",
            limit=_HEADS,
            prepare=_push_known,
            measure=_neighbour,
        ),
    ]
    return made


def huge(profile: Profile) -> list[Workload]:
    """What comes last, since it leaves so much on the disk."""
    size = profile.huge_many_bytes
    if not size:
        return []
    return [
        _row(
            name="push/memory/huge",
            title=f"{MANY} uploads of {size >> 20} MiB at once: peak memory of the worker",
            unit="MB",
            higher=False,
            limit=Limit("idle"),
            measure=partial(_memory, size),
            needs=ours,
            rounds=1,
        )
    ]


_row: Final = partial(Workload, group="push", unit="images/s")


def _stream(style: Style, bench: Bench, target: Target, turn: int) -> Sample:
    reach = target.reach("streams")
    job = PushStream(f"stream/{style}/{turn}", bench.profile.stream_bytes, style)
    result, meter = bench.job(target, reach, job, clients=1, seconds=600, disk=True)
    return sample_of(result, meter, megabytes(result))


def _many_streams(bench: Bench, target: Target, turn: int) -> Sample:
    job = PushStream(f"many/{turn}", bench.profile.many_bytes, Style.DOCKER)
    result, meter = bench.job(
        target, target.reach("many"), job, clients=MANY, seconds=600, disk=True
    )
    return sample_of(result, meter, megabytes(result))


def _memory(size: int, bench: Bench, target: Target, turn: int) -> Sample:
    """The peak is the value, what the server took before is the idle value."""
    need = MANY * size + SPARE_BYTES
    if target.data is None or target.pid is None:
        raise MeasureFailed("its process cannot be looked at")
    free = shutil.disk_usage(target.data).free
    if free < need:
        raise MeasureFailed(f"this needs {need >> 30} GiB of disk, {free >> 30} are free")
    job = PushStream(f"memory/{size}/{turn}", size, Style.DOCKER)
    result, meter = bench.job(
        target, target.reach("memory"), job, clients=MANY, seconds=3600, disk=True
    )
    if meter.memory is None or meter.idle is None:
        raise MeasureFailed("its process cannot be looked at")
    sample = sample_of(result, meter, meter.memory.largest / MEGA)
    sample.idle = meter.idle / MEGA
    return sample


def _images(bench: Bench, target: Target, turn: int) -> Sample:
    images = ImageSet(
        f"push/{turn}", bench.profile.images, LAYERS, scale=MIDDLE_SCALE, cap=MIDDLE_CAP
    )
    return _push(images, CLIENTS, bench.profile.loop_seconds, bench, target)


def _small_images(clients: int, bench: Bench, target: Target, turn: int) -> Sample:
    """All images of the profile, or what can be pushed of them in the time for that."""
    profile = bench.profile
    images = ImageSet(
        f"push{clients}/{turn}", profile.images, LAYERS, scale=SMALL_SCALE, cap=SMALL_CAP
    )
    seconds = profile.loop_seconds if clients == 1 else profile.push_seconds
    return _push(images, clients, seconds, bench, target)


def _push(images: ImageSet, clients: int, seconds: float, bench: Bench, target: Target) -> Sample:
    result, meter = bench.job(
        target,
        target.reach("images"),
        PushImages(images),
        clients=clients,
        seconds=seconds,
        disk=True,
    )
    sample = sample_of(result, meter, operations(result))
    if result.operations < images.count and seconds > bench.profile.loop_seconds:
        sample.note = f"{result.operations:,} of {images.count:,} images in {seconds:g} s"
    return sample


def _known(bench: Bench) -> ImageSet:
    """What is pushed again; a measurement ends early when all were."""
    return ImageSet("known", bench.profile.known_images, scale=SMALL_SCALE, cap=SMALL_CAP)


def _push_known(bench: Bench, target: Target) -> None:
    job = PushImages(_known(bench), Style.WHOLE, late=True)
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
