"""Workloads that pull: one large blob, storms, popular images, ranges, what compresses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .background import recompress
from .content import Image
from .jobs import ImageSet, PullImages, PullStream, PushImages, PushStream
from .measure import Bench, megabytes, sample_of
from .profile import Profile
from .registry import Style
from .results import Sample
from .targets import Target
from .workload import Workload

STORM_CLIENTS = 64
STORM_SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 8 << 20)
ZIPF_CLIENTS = 16
RANGE_CLIENTS = 8
RANGE_BYTES = 4 << 20


def workloads(profile: Profile) -> list[Workload]:
    """All of them."""
    size = f"{profile.stream_bytes >> 20} MiB"
    return [
        Workload(
            name="pull/stream",
            title=f"pull {size}, one stream, hot",
            group="pull",
            unit="MB/s",
            prepare=partial(_put_stream, False),
            measure=partial(_stream, False, 0, 1),
            limit="sendfile",
            files=True,
        ),
        Workload(
            name="pull/storm",
            title=f"{STORM_CLIENTS} clients pull one image of 5 layers, 13 MiB",
            group="pull",
            unit="MB/s",
            prepare=partial(_put_images, "storm"),
            measure=partial(_images, "storm", STORM_CLIENTS),
            limit="nginx",
            files=True,
        ),
        Workload(
            name="pull/zipf",
            title=f"{ZIPF_CLIENTS} clients pull {profile.zipf_images} images, Zipf 1.0",
            group="pull",
            unit="MB/s",
            prepare=partial(_put_images, "zipf"),
            measure=partial(_images, "zipf", ZIPF_CLIENTS),
            limit="nginx",
            files=True,
        ),
        Workload(
            name="pull/ranges",
            title=f"{RANGE_CLIENTS} clients pull ranges of 64 KiB to 4 MiB",
            group="pull",
            unit="MB/s",
            prepare=partial(_put_stream, False),
            measure=partial(_stream, False, RANGE_BYTES, RANGE_CLIENTS),
            limit="nginx",
            files=True,
        ),
        Workload(
            name="pull/zstd",
            title=f"pull {size} of text, one stream, hot; Holdfast has it as zstd at rest",
            group="pull",
            unit="MB/s",
            prepare=_put_text,
            measure=partial(_stream, True, 0, 1),
            limit="sendfile",
            files=True,
        ),
    ]


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
    _put_stream(True, bench, target)
    if target.name == "holdfast" and target.data is not None:
        read, saved = recompress(target.data)
        if saved:
            bench.remarks.append(
                f"recompressing read {read >> 20} MiB and kept them in {(read - saved) >> 20} MiB"
            )


def _stream(
    compressible: bool, range_bytes: int, clients: int, bench: Bench, target: Target, turn: int
) -> Sample:
    size = bench.profile.stream_bytes
    job = PullStream(_key(compressible), size, compressible, range_bytes)
    result, meter = bench.job(
        target,
        target.reach("pulled"),
        job,
        clients=clients,
        seconds=bench.profile.loop_seconds,
    )
    return sample_of(result, meter, megabytes(result))


def image_set(kind: str, profile: Profile) -> ImageSet:
    """What is pulled: one image of 13 MiB, or many with layers of up to 2 MiB."""
    if kind == "storm":
        return ImageSet("storm", 1, sizes=STORM_SIZES)
    return ImageSet("zipf", profile.zipf_images)


def _put_images(kind: str, bench: Bench, target: Target) -> None:
    images = image_set(kind, bench.profile)
    reach = target.reach(kind)
    if target.files is None:
        bench.set_up(target, reach, PushImages(images, Style.WHOLE))
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
