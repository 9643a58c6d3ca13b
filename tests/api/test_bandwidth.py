"""Bytes a second that namespaces share: by a clock of the test, and in real servers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Final

import pytest
from support.api import basic, digest_of
from support.operating import SECRET, ask, call, connect, make_namespace, operated, push
from support.rows import Row
from support.server import ServerProcess, command

from holdfast.api.limits.bandwidth import Bandwidth, Flow
from holdfast.api.limits.shared_memory import CLOCKS, SharedMemory

pytestmark = pytest.mark.slow

RATE: Final = 1_000_000
PIECE: Final = RATE // 100


class Line:
    """Connections of several processes that move as much as they may, in a time of their own."""

    def __init__(self, processes: int = 2) -> None:
        memory = SharedMemory()
        self.now = 1_000_000_000
        self.processes = [Bandwidth(memory, RATE, clock=lambda: self.now) for _ in range(processes)]
        self._due: list[tuple[int, int, str, float, int]] = []
        self._number = itertools.count()

    def connect(self, who: str, count: int, every: float = 0.0) -> None:
        """So many connections of a namespace: as quick as may be, or (at best) one piece
        ``every`` so many seconds."""
        for _ in range(count):
            heapq.heappush(self._due, (self.now, next(self._number), who, every, 0))

    def run(self, seconds: float) -> Counter[str]:
        """Bytes that each namespace moved meanwhile."""
        moved: Counter[str] = Counter()
        end = self.now + int(seconds * 1e9)
        while self._due[0][0] < end:
            due, number, who, every, piece = heapq.heappop(self._due)
            self.now = max(self.now, due)
            moved[who] += piece
            process = self.processes[number % len(self.processes)]
            wait = max(process.take(who, PIECE), every, 1e-6)
            heapq.heappush(self._due, (self.now + int(wait * 1e9), number, who, every, PIECE))
        self.now = end
        return moved


def test_one_alone_has_it_all_and_no_more() -> None:
    line = Line()
    line.connect("a", 3)
    assert line.run(5)["a"] == pytest.approx(5 * RATE, rel=0.05)
    # Who rested saved nothing up.
    line.now += 10**11
    assert line.run(5)["a"] == pytest.approx(5 * RATE, rel=0.05)


def test_many_connections_are_no_larger_part() -> None:
    line = Line()
    line.connect("many", 64)
    line.run(2)
    line.connect("one", 1)
    line.run(2)
    moved = line.run(10)
    assert moved["one"] == pytest.approx(5 * RATE, rel=0.1)
    assert moved["many"] == pytest.approx(5 * RATE, rel=0.1)


def test_a_hundred_namespaces_share_alike() -> None:
    line = Line(processes=4)
    for number in range(100):
        line.connect(f"space-{number}", 1 + number % 7)
    line.run(5)
    moved = line.run(20)
    assert moved.total() == pytest.approx(20 * RATE, rel=0.1)
    assert max(moved.values()) < 1.5 * min(moved.values())


def test_what_one_leaves_the_others_have() -> None:
    line = Line()
    line.connect("hungry", 8)
    line.connect("slow", 1, every=0.1)
    line.run(3)
    moved = line.run(10)
    assert moved["slow"] == pytest.approx(1 * RATE, rel=0.1)
    assert moved["hungry"] == pytest.approx(9 * RATE, rel=0.1)


def test_nobody_waits_while_there_is_room() -> None:
    line = Line()
    for number in range(9):
        for process in line.processes:
            assert process.take(f"space-{number}", PIECE // 2) == 0
    assert line.processes[0].take_now("other", PIECE)
    while line.processes[1].take_now("greedy", PIECE):
        pass
    assert not line.processes[0].take_now("greedy", 1)
    assert line.processes[0].take_now("other", PIECE)


def test_more_namespaces_than_clocks() -> None:
    """Some share one then; none stands still, and none goes unlimited."""
    line = Line(processes=1)
    for number in range(2 * CLOCKS):
        line.connect(f"space-{number}", 1)
    line.run(45)
    moved = line.run(45)
    assert moved.total() == pytest.approx(45 * RATE, rel=0.3)


async def test_a_flow_gives_each_piece_on_when_its_turn_has_come() -> None:
    line = Line(processes=1)

    async def source() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes((number,)) * PIECE

    flow = Flow(line.processes[0], "a")
    begun = asyncio.get_running_loop().time()
    assert [piece[0] async for piece in flow.through(source())] == [0, 1, 2]
    # The test's clock stands still, so that these were early, and the next one waits.
    assert flow.now(RATE // 2)
    assert not flow.now(1)
    await flow.turn(1)
    assert asyncio.get_running_loop().time() - begun > 0.4


# --- servers

LIMIT: Final = 1_000_000
OPTION: Final = "bandwidth"
LAYER: Final = os.urandom(300_000)
SMALL: Final = os.urandom(30_000)
BLOB: Final = f"blobs/{digest_of(LAYER)}"


@pytest.fixture(scope="module", params=["--fast-path", "--no-fast-path"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("bandwidth") / "data"
    with operated(data, f"--{OPTION}={LIMIT}", request.param, workers=2) as running:
        for name in ("many", "one"):
            assert make_namespace(running, name, is_public=True).status == 200
            push(running, f"{name}/app", LAYER)
        push(running, "many/small", SMALL)
        yield running


@pytest.mark.row("SECURITY.md", "a read-only key")
def test_many_pulls_of_one_namespace_leave_another_its_part(
    row: Row, server: ServerProcess
) -> None:
    """Counted in bytes: what the many got until the one was done."""
    counts = [0] * 12
    ended = Event()

    def pull(at: int) -> None:
        connection = connect(server.address)
        while not ended.is_set():
            connection.request("GET", f"/v2/many/app/{BLOB}")
            answer = connection.getresponse()
            while data := answer.read1(65536):
                counts[at] += len(data)
                if ended.is_set():
                    break
        connection.close()

    with ThreadPoolExecutor(len(counts)) as threads:
        pulls = [threads.submit(pull, at) for at in range(len(counts))]
        while sum(counts) < len(LAYER):
            time.sleep(0.01)
        begun, before = time.monotonic(), sum(counts)
        reply = call(server, "GET", f"/v2/one/app/{BLOB}")
        seconds, others = time.monotonic() - begun, sum(counts) - before
        ended.set()
        for each in pulls:
            each.result()
    assert reply.body == LAYER
    # Its equal part would be as much as all of them had; by connections it were a twelfth.
    assert others < 3 * len(LAYER)
    # And in all no more than the limit, but for what queued when it came.
    assert others + len(LAYER) < LIMIT * (seconds + 0.3)
    row.says(
        can="use up the bandwidth",
        is_stopped_by=f"`--{OPTION}`, which namespaces share equally, and `--rate-key`",
    )


NONE: Final[Mapping[str, str]] = {}


@pytest.mark.row("limits.md", "bytes of content a second, in and out, of all namespaces")
def test_every_way_counts(row: Row, server: ServerProcess) -> None:
    """Large and small, whole and in parts, in and out, over connections of both workers."""
    assert row.source == OPTION
    data = os.urandom(LIMIT // 2)
    upload = f"/v2/one/app/blobs/uploads/?digest={digest_of(data)}"
    parts = {"Range": "bytes=0-149999,150001-299999"}
    small = f"/v2/many/small/blobs/{digest_of(SMALL)}"
    connections = [connect(server.address) for _ in range(4)]

    def moved(path: str, body: bytes | None = None, headers: Mapping[str, str] = NONE) -> int:
        connections.append(connections.pop(0))
        reply = ask(connections[0], "POST" if body else "GET", path, body, **headers)
        assert reply.status in (200, 201, 206), reply
        return len(reply.body) + len(body or b"")

    whole = (f"/v2/many/app/{BLOB}",)
    for requests in (
        [whole] * 2,
        [(*whole, None, parts)] * 2,
        [(small,)] * 20,
        # What comes first is early; what follows pays for it.
        [(upload, data, {"Authorization": basic(SECRET)}), (f"/v2/one/app/{BLOB}",)],
    ):
        begun = time.monotonic()
        total = sum(moved(*request) for request in requests)
        assert total < LIMIT * (time.monotonic() - begun + 0.15)
    row.says(beyond_it="transfers wait for their turn")
    for connection in connections:
        connection.close()


def test_a_limit_that_is_none_is_refused(tmp_path: Path) -> None:
    done = command("serve", f"--data={tmp_path / 'data'}", "--bandwidth=1KiB")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--bandwidth" in done.stderr
