"""Servers that answer wrongly, each in its own way: the row is void, whoever drives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.bench import TINY, Keeper, Reply, serving, serving_bodies

from holdfast.bench.load.client_pool import ClientPool
from holdfast.bench.load.drive import Job
from holdfast.bench.load.endpoint import Endpoint
from holdfast.bench.load.jobs import Ask, ImageSet, PushImages, PushStream
from holdfast.bench.load.mixed import Mixed
from holdfast.bench.load.registry import Style
from holdfast.bench.load.trace import Operation, Replay
from holdfast.bench.suites.measure import Bench, MeasureFailed
from holdfast.bench.targets.targets import Target

pytestmark = pytest.mark.slow


def turning(at: int, before: int, after: int) -> Callable[[str, str], Reply]:
    """One status first, another from some request on."""
    lock, count = threading.Lock(), 0

    def answer(method: str, target: str) -> Reply:
        nonlocal count
        with lock:
            count += 1
            return (before if count < at else after), {}, b""

    return answer


@pytest.mark.parametrize("driver", ["wrk", "python"])
@pytest.mark.parametrize(("right", "lie"), [(404, 401), (404, 503), (200, 204), (200, 302)])
def test_small_requests_with_another_status_are_void(
    tmp_path: Path, require_tool: Callable[[str], str], driver: str, right: int, lie: int
) -> None:
    """An expired token in a storm of 404 is no fast storm of 404."""
    program = require_tool("wrk") if driver == "wrk" else ""
    with serving(turning(200, right, lie)) as port, ClientPool(1) as crew:
        bench = Bench(TINY, crew, "seed", tmp_path, wrk=program)
        target = Target(name="liar", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        reach = Endpoint("127.0.0.1", port, False, "a/b", "")
        with pytest.raises(MeasureFailed, match=str(lie)):
            bench.small(target, reach, (Ask("GET", "/x", right), Ask("GET", "/y", right)))


@pytest.mark.parametrize("driver", ["wrk", "python"])
def test_right_answers_are_counted(
    tmp_path: Path, require_tool: Callable[[str], str], driver: str
) -> None:
    program = require_tool("wrk") if driver == "wrk" else ""
    with serving(lambda method, target: (404, {}, b"")) as port, ClientPool(1) as crew:
        bench = Bench(TINY, crew, "seed", tmp_path, wrk=program)
        target = Target(name="right", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        reach = Endpoint("127.0.0.1", port, False, "a/b", "")
        sample = bench.small(target, reach, (Ask("GET", "/x", 404),))
    assert sample.requests == sample.operations > 10
    assert sample.value == pytest.approx(sample.requests / sample.seconds)


MANY = ImageSet("pushed", 6, 2, sizes=(5000, 6000))
KNOWN = ImageSet("known", 3, 2, sizes=(3000, 4000))


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize(
    "job",
    [
        PushStream("stream", 100_000, Style.DOCKER),
        PushImages(MANY),
        Mixed(KNOWN, MANY, rate=100, pulls_per_push=0.01, present=0.0),
        Replay((Operation(0.0, "push_blob", "a/blobs/uploads/1", 5000),), "r"),
    ],
    ids=lambda job: type(job).__name__,
)
def test_what_is_pushed_is_read_back(tmp_path: Path, job: Job, honest: bool) -> None:
    """The server acknowledges everything, and spoils what is pushed while the clock runs."""
    timed = threading.Event()
    keeper = Keeper(spoils=lambda: timed.is_set() and not honest)
    with serving_bodies(keeper.answer) as port, ClientPool(1) as crew:
        bench = Bench(TINY, crew, "seed", tmp_path)
        target = Target(name="keeper", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        reach = Endpoint("127.0.0.1", port, False, "a/b", "")
        bench.set_up(target, reach, PushImages(KNOWN, Style.WHOLE))
        timed.set()
        if honest:
            result, _ = bench.job(target, reach, job, clients=1, seconds=0.5)
            assert result.operations
            assert result.sent
        else:
            with pytest.raises(MeasureFailed, match="read back after the clock"):
                bench.job(target, reach, job, clients=1, seconds=0.5)


def test_what_was_there_is_looked_at_before_a_mix(tmp_path: Path) -> None:
    keeper = Keeper(spoils=lambda: True)
    with serving_bodies(keeper.answer) as port, ClientPool(1) as crew:
        bench = Bench(replace(TINY, setup_seconds=5), crew, "seed", tmp_path)
        target = Target(name="keeper", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        reach = Endpoint("127.0.0.1", port, False, "a/b", "")
        with pytest.raises(MeasureFailed, match="its bytes have"):
            bench.set_up(target, reach, PushImages(KNOWN, Style.WHOLE))
        crew.restart()
        with pytest.raises(MeasureFailed, match="GET of a blob: its bytes have"):
            bench.job(target, reach, Mixed(KNOWN, MANY, rate=10), clients=1, seconds=0.5)


def test_content_that_takes_too_long_to_bring_in_voids_the_row(tmp_path: Path) -> None:
    with serving_bodies(Keeper().answer) as port, ClientPool(1) as crew:
        bench = Bench(replace(TINY, setup_seconds=0.05), crew, "seed", tmp_path)
        target = Target(name="keeper", url=f"http://127.0.0.1:{port}", prefixes=("a", "b"))
        reach = Endpoint("127.0.0.1", port, False, "a/b", "")
        with pytest.raises(MeasureFailed, match=r"not in place after 0 s"):
            bench.set_up(target, reach, PushImages(ImageSet("much", 2000, 2), late=True))
