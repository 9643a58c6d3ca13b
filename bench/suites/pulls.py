"""Workloads that pull: one large blob, storms, popular images, ranges, what compresses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from holdfast.bench.load.content import Image
from holdfast.bench.load.jobs import ImageSet, PullImages, PullStream, PushImages, PushStream
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.registry import Style
from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets.targets import Target

from .background import recompress
from .measure import Bench, MeasureFailed, megabytes, sample_of
from .workload import Workload, local, ours_or_files

STORM_CLIENTS = 64
STORM_SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 8 << 20)
ZIPF_CLIENTS = 16
RANGE_CLIENTS = 8
RANGE_BYTES = 4 << 20
COLD_SECONDS = 600
"""A cold measurement ends when everything was pulled once."""

_NGINX = Limit("nginx")


def workloads(profile: Profile) -> list[Workload]:
    """All of them."""
    size = f"{profile.stream_bytes >> 20} MiB"
    many = profile.zipf_images
    return [
        _row(
            name="pull/stream",
            title=f"pull {size}, one stream, hot",
            limit=Limit("sendfile"),
            prepare=partial(_put_stream, False),
            measure=partial(_stream, 1),
        ),
        _row(
            name="pull/stream/cold",
            title=f"pull {size}, one stream, cold: from the disk",
            prepare=partial(_put_stream, False),
            measure=_cold_stream,
            needs=local,
        ),
        _row(
            name="pull/storm",
            title=f"{STORM_CLIENTS} clients pull one image of 5 layers, 13 MiB",
            prepare=partial(_put_images, "storm"),
            measure=partial(_images, "storm", STORM_CLIENTS),
        ),
        _row(
            name="pull/zipf",
            title=f"{ZIPF_CLIENTS} clients pull {many} images, Zipf 1.0",
            prepare=partial(_put_images, "zipf"),
            measure=partial(_images, "zipf", ZIPF_CLIENTS),
        ),
        _row(
            name="pull/images/cold",
            title=f"{ZIPF_CLIENTS} clients pull {many} images, each once, cold: from the disk",
            prepare=partial(_put_images, "zipf"),
            measure=_cold_images,
            needs=local,
        ),
        _row(
            name="pull/ranges",
            title=f"{RANGE_CLIENTS} clients pull ranges of 64 KiB to 4 MiB",
            prepare=partial(_put_stream, False),
            measure=partial(_stream, RANGE_CLIENTS, range_bytes=RANGE_BYTES),
        ),
        _row(
            name="pull/text",
            title=f"pull {size} of text, one stream, hot; plain at rest, and as zstd",
            limit=Limit("sendfile"),
            prepare=_put_text,
            measure=partial(_stream, 1, text=True),
            variants=("zstd",),
        ),
    ]


def variants() -> list[Workload]:
    """What a second worker costs on pulls."""
    return [
        _row(
            name="options/workers/pull",
            title=f"{STORM_CLIENTS} clients pull one image: CPU, with one worker and with two",
            group="options of Holdfast",
            unit="CPU s/GB",
            higher=False,
            prepare=partial(_put_images, "storm"),
            measure=_storm_cpu,
            variants=("two",),
            needs=ours_or_files,
        ),
    ]


_row: Final = partial(Workload, group="pull", unit="MB/s", limit=_NGINX, files=True)


def _key(compressible: bool) -> str:
    return "pulled/text" if compressible else "pulled/random"


def _put_stream(compressible: bool, bench: Bench, target: Target) -> None:
    size = bench.profile.stream_bytes
    reach = target.reach("pulled")
    if target.files is not None:
        blob = bench.content.blob(f"{_key(compressible)}/0", size, compressible=compressible)
        lay(target.files, reach.repository, f"blobs/{blob.digest}", b"".join(blob.pieces))
        return
    job = PushStream(_key(compressible), size, Style.WHOLE, compressible)
    bench.set_up(target, reach, job, clients=1)


def _put_text(bench: Bench, target: Target) -> None:
    """Push text, and recompress it at once where the server would in its own time."""
    _put_stream(True, bench, target)
    if target.ours and target.variant == "zstd" and target.data is not None:
        done = recompress(target.data)
        if done.read:
            bench.remarks.append(
                f"recompressing text: {done.read >> 20} MiB became {done.kept >> 20} MiB at rest, "
                f"in {done.cpu:.1f} s of CPU ({done.cpu / done.read * 1e9:.1f} s a GB)"
            )


def _stream(
    clients: int,
    bench: Bench,
    target: Target,
    turn: int,
    *,
    text: bool = False,
    range_bytes: int = 0,
) -> Sample:
    job = PullStream(_key(text), bench.profile.stream_bytes, text, range_bytes)
    result, meter = bench.job(
        target,
        target.reach("pulled"),
        job,
        clients=clients,
        seconds=bench.profile.loop_seconds,
    )
    return sample_of(result, meter, megabytes(result))


def _cold_stream(bench: Bench, target: Target, turn: int) -> Sample:
    job = PullStream(_key(False), bench.profile.stream_bytes, once=True)
    return _cold(bench, target, "pulled", job, clients=1)


def _cold_images(bench: Bench, target: Target, turn: int) -> Sample:
    job = PullImages(image_set("zipf", bench.profile), once=True)
    return _cold(bench, target, "zipf", job, clients=ZIPF_CLIENTS)


def _cold(
    bench: Bench, target: Target, name: str, job: PullStream | PullImages, clients: int
) -> Sample:
    """Raises MeasureFailed where the bytes did not come from the disk after all."""
    if not bench.can_drop:
        raise MeasureFailed("the page cache cannot be dropped on this file system")
    result, meter = bench.job(
        target, target.reach(name), job, clients=clients, seconds=COLD_SECONDS, cold=True
    )
    sample = sample_of(result, meter, megabytes(result))
    if sample.disk_reads is None:
        sample.note = "whether the disk was read could not be seen"
    elif sample.disk_reads < result.received / 2:
        raise MeasureFailed(
            f"it read {sample.disk_reads >> 20} of {result.received >> 20} MiB from the disk"
        )
    return sample


def _storm_cpu(bench: Bench, target: Target, turn: int) -> Sample:
    """The server's CPU for each GB, in seconds, is the value."""
    sample = _images("storm", STORM_CLIENTS, bench, target, turn)
    if sample.server_cpu is None:
        raise MeasureFailed("its process cannot be looked at")
    sample.value = sample.server_cpu / sample.size * 1e9
    return sample


def image_set(kind: str, profile: Profile) -> ImageSet:
    """What is pulled: one image of 13 MiB, or many with layers of up to 2 MiB."""
    if kind == "storm":
        return ImageSet("storm", 1, sizes=STORM_SIZES)
    return ImageSet("zipf", profile.zipf_images)


def _put_images(kind: str, bench: Bench, target: Target) -> None:
    images = image_set(kind, bench.profile)
    reach = target.reach(kind)
    if target.files is None:
        bench.set_up(target, reach, PushImages(images, Style.WHOLE, late=True))
        return
    content = bench.content
    for number in range(images.count):
        lay_image(target.files, reach.repository, images.image(content, number), images.tag(number))


def _images(kind: str, clients: int, bench: Bench, target: Target, turn: int) -> Sample:
    job = PullImages(image_set(kind, bench.profile))
    result, meter = bench.job(
        target, target.reach(kind), job, clients=clients, seconds=bench.profile.loop_seconds
    )
    return sample_of(result, meter, megabytes(result))


def lay(root: Path, repository: str, name: str, content: bytes) -> None:
    """Put an object where a server of static files finds it under a registry's path."""
    path = root / "v2" / repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def lay_image(root: Path, repository: str, image: Image, tag: str) -> None:
    """All objects of an image, its manifest under tag and digest."""
    for blob in image.blobs:
        lay(root, repository, f"blobs/{blob.digest}", b"".join(blob.pieces))
    lay(root, repository, f"manifests/{tag}", image.manifest)
    lay(root, repository, f"manifests/{image.digest}", image.manifest)
