"""What is pushed and when: seeded, repeatable, and distributed as said."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import zlib
from collections import Counter
from typing import cast

import pytest

from holdfast.bench.load.content import PIECE_BYTES, Content, Image, LayerSizes
from holdfast.bench.load.jobs import ImageSet
from holdfast.bench.load.latencies import Latencies
from holdfast.bench.load.mixed import STYLES, Mix, Mixed
from holdfast.bench.load.popularity import Zipf
from holdfast.bench.load.registry import Registry, Style
from holdfast.bench.load.schedule import Bursts, poisson


def test_equal_seeds_make_equal_images_and_others_others() -> None:
    sizes = LayerSizes(0.01, 1 << 20)
    first = Content("seed").image("a", 5, sizes)
    again = Content("seed").image("a", 5, sizes)
    assert first == again
    assert Content("seed").image("b", 5, sizes).digest != first.digest
    other = Content("other").image("a", 5, sizes)
    assert {blob.digest for blob in other.layers}.isdisjoint(blob.digest for blob in first.layers)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 100, PIECE_BYTES, 2 * PIECE_BYTES + 5])
def test_a_blob_has_its_size_and_digest(size: int) -> None:
    blob = Content("seed").blob("x", size)
    body = b"".join(blob.pieces)
    assert len(body) == blob.size == size
    assert blob.digest == f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_content_compresses_only_where_asked() -> None:
    content = Content("seed")
    size = 2 * PIECE_BYTES
    random_bytes = b"".join(content.blob("x", size).pieces)
    text = b"".join(content.blob("x", size, compressible=True).pieces)
    assert len(zlib.compress(random_bytes)) > 0.99 * size
    assert len(zlib.compress(text)) < 0.5 * size


def test_layer_sizes_follow_the_published_distribution() -> None:
    sizes = LayerSizes(1.0, 1 << 40)
    chance = random.Random(1)
    drawn = sorted(sizes.draw(chance) for _ in range(20_000))
    for share, size in ((0.25, 1 << 10), (0.65, 1 << 20), (0.80, 10 << 20)):
        assert sum(one <= size for one in drawn) / len(drawn) == pytest.approx(share, abs=0.02)
    small = LayerSizes(0.001, 1 << 16)
    assert all(64 <= small.draw(chance) <= 1 << 16 for _ in range(1000))


def test_zipf_shares() -> None:
    zipf = Zipf(100, 1.0)
    chance = random.Random(1)
    drawn = [zipf.draw(chance) for _ in range(20_000)]
    assert set(drawn) <= set(range(100))
    assert drawn.count(0) / len(drawn) == pytest.approx(zipf.share(1), rel=0.1)
    assert drawn.count(0) / drawn.count(9) == pytest.approx(10, rel=0.3)
    assert [Zipf(1, 1.0).draw(chance) for _ in range(3)] == [0, 0, 0]


def test_poisson_arrivals_have_their_rate_and_are_irregular() -> None:
    times = list(poisson(100, 100, random.Random(1)))
    assert times == sorted(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    # Of exponential gaps the standard deviation equals the mean.
    assert variance**0.5 == pytest.approx(mean, rel=0.1)
    assert times == list(poisson(100, 100, random.Random(1)))


def test_bursts_come_when_they_are_due() -> None:
    bursts = Bursts(factor=3, every=10, seconds=2)
    times = list(poisson(50, 200, random.Random(1), bursts))
    inside = sum(time % 10 >= 8 for time in times)
    outside = len(times) - inside
    assert inside / 40 == pytest.approx(150, rel=0.1)
    assert outside / 160 == pytest.approx(50, rel=0.1)


def test_percentiles_are_exact_to_a_percent() -> None:
    chance = random.Random(1)
    values = [chance.expovariate(1000) for _ in range(5000)]
    latencies, half = Latencies(), Latencies()
    for index, value in enumerate(values):
        (latencies if index % 2 else half).add(value)
    latencies.merge(Latencies(half.buckets))
    values.sort()
    assert latencies.count == 5000
    for percent in (50.0, 99.0, 99.9):
        want = values[int(5000 * percent / 100) - 1]
        assert latencies.percentile(percent) == pytest.approx(want, rel=0.011)
    assert Latencies().percentile(50) is None


class Recorder:
    """A registry that keeps what it was asked for, and has it all."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Style, bool]] = []
        self.stopped: list[str] = []
        """Tags that were asked for, and no more."""

        self.pulled: list[str] = []

    async def push_image(self, image: Image, tag: str, style: Style, *, blind: bool) -> int:
        self.pushed.append((tag, style, blind))
        return image.size

    async def has_manifest(self, tag: str) -> bool:
        self.stopped.append(tag)
        return True

    async def pull_manifest(self, reference: str, digest: str) -> int:
        self.pulled.append(self.stopped.pop())
        return 1

    async def pull_blob(self, digest: str, size: int) -> int:
        return size


def mix() -> Mix:
    known, fresh = ImageSet("known", 20, 2, sizes=(70, 80)), ImageSet("new", 900, 2, sizes=(90, 99))
    return Mix(Mixed(known, fresh, rate=100), Content("seed"), 0, 1)


def test_a_mix_has_the_shares_that_clients_have() -> None:
    seen = Recorder()

    async def play() -> None:
        for _, action in mix().plan(40):
            await action(cast("Registry", seen))

    asyncio.run(play())
    pushes = len(seen.pushed)
    pulls = len(seen.pulled) + len(seen.stopped)
    assert pushes > 600
    assert pulls / pushes == pytest.approx(8, rel=0.15)
    styles = Counter(style for _, style, _ in seen.pushed)
    for style, share in STYLES.items():
        assert styles[style] / pushes == pytest.approx(share, abs=0.04)
    assert sum(blind for *_, blind in seen.pushed) / pushes == pytest.approx(0.05, abs=0.03)
    fresh = Counter(tag for tag in seen.pulled if tag.startswith("new-"))
    assert set(fresh) <= {tag for tag, *_ in seen.pushed}
    assert len(fresh) / pushes == pytest.approx(0.7, abs=0.06)
    assert fresh.most_common(1)[0][1] == 3
    assert not any(tag.startswith("new-") for tag in seen.stopped)
    others = pulls - fresh.total()
    assert len(seen.stopped) / others == pytest.approx(0.55, abs=0.04)
