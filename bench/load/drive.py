"""Driving a job: closed loops of many clients, or an open loop over a pool of connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from .content import Content
from .jobs import Ask, ClosedJob, Requests, Work, work
from .latencies import Latencies
from .mixed import Action, Mix, Mixed
from .registry import Exhausted, Registry, WrongAnswer
from .small_requests import RequestTemplate, SmallRequests
from .trace import Player, Replay
from .wire import Address, WireError

CONNECTIONS_MAX: Final = 128
"""Connections of one process in an open loop; arrivals beyond wait, and their wait counts."""

CHECKED: Final = 2
"""Clients of one process whose pushes are read back after the clock."""

WRONG_MAX: Final = 5
"""Wrong answers that are reported; a client stops at its first."""

Job = ClosedJob | Mixed | Replay


class Assignment(msgspec.Struct, frozen=True):
    """What one client process is to do."""

    host: str
    port: int
    tls: bool
    authorization: str
    repository: str
    seed: str
    job: Job
    seconds: float
    """When to stop; what is under way then is finished, and counts."""

    clients: int
    """Of all processes together."""

    part: int
    parts: int
    """Which process this is, and how many there are."""


class Outcome(msgspec.Struct):
    """What one process did."""

    begun: float
    ended: float
    """By the machine's monotonic clock, so that processes can be compared."""

    operations: int = 0
    requests: int = 0
    sent: int = 0
    received: int = 0
    """Bytes of blobs and manifests."""

    offered: int = 0
    """Of an open loop: operations that were due."""

    cut: int = 0
    """Clients that had something left to do when the time was over."""

    cpu: float = 0.0
    latencies: dict[int, int] = {}
    wrong: list[str] = []


@lru_cache(maxsize=1)
def _content(seed: str) -> Content:
    """One pool of bytes for all assignments of a run."""
    return Content(seed)


class Drive:
    """One assignment: ``prepare``, then ``run``, then ``check``."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._content = _content(assignment.seed)
        self._latencies = Latencies()
        self._outcome = Outcome(0.0, 0.0)
        self._works: list[tuple[Work, Registry]] = []
        self._player: Mix | Player | None = None
        self._plan: list[tuple[float, Action]] = []
        self._registries: list[Registry] = []

    def _registry(self) -> Registry:
        asked = self._assignment
        address = Address(asked.host, asked.port, asked.tls)
        registry = Registry(address, asked.authorization, asked.repository)
        self._registries.append(registry)
        return registry

    async def prepare(self) -> str:
        """Make content, connect, look closely at some answers; '' or what was wrong."""
        try:
            await self._prepare()
        except (WrongAnswer, WireError) as error:
            return str(error)
        return ""

    async def _prepare(self) -> None:
        asked = self._assignment
        match asked.job:
            case Mixed():
                mix = self._player = Mix(asked.job, self._content, asked.part, asked.parts)
                await mix.verify(self._registry())
                self._plan = mix.plan(asked.seconds)
            case Replay():
                player = self._player = Player(asked.job, self._content, asked.part, asked.parts)
                await player.prepare(self._registry())
                self._plan = player.plan()
            case _:
                for client in range(asked.part, asked.clients, asked.parts):
                    share = work(asked.job, self._content, client, asked.clients, asked.seed)
                    registry = self._registry()
                    await share.verify(registry)
                    self._works.append((share, registry))

    async def run(self) -> Outcome:
        """Do it."""
        before = sum(registry.client.requests for registry in self._registries)
        cpu = time.process_time()
        outcome = self._outcome
        outcome.begun = time.monotonic()
        if isinstance(self._assignment.job, Requests) and not self._assignment.tls:
            self._volley(self._assignment.job)
        elif self._works:
            loops = (self._closed(share, registry) for share, registry in self._works)
            await asyncio.gather(*loops)
        else:
            await self._open()
        outcome.ended = time.monotonic()
        outcome.cpu = time.process_time() - cpu
        outcome.requests += sum(registry.client.requests for registry in self._registries) - before
        outcome.latencies = self._latencies.buckets
        return outcome

    async def check(self) -> str:
        """Read some of what was pushed; '' or what was wrong. Closes all connections."""
        try:
            for share, registry in self._works[:CHECKED]:
                await share.check(registry)
            if self._player is not None:
                await self._player.check(self._registry())
        except (WrongAnswer, WireError) as error:
            return f"read back after the clock: {error}"
        finally:
            for registry in self._registries:
                registry.close()
        return ""

    def _volley(self, job: Requests) -> None:
        asked, outcome = self._assignment, self._outcome
        if asked.seconds <= 0:
            return  # only the close look was asked for
        address = Address(asked.host, asked.port, asked.tls)
        shots = [shot_of(ask, address, asked.authorization) for ask in job.asks]
        volley = SmallRequests(address, shots, len(self._works))
        try:
            volley.run(asked.seconds)
        except WireError as error:
            self._wrong(error)
        for text in volley.wrong[:1]:
            self._wrong(WrongAnswer(text))
        self._latencies = volley.latencies
        outcome.operations = outcome.requests = volley.operations
        outcome.received = volley.size

    def _wrong(self, error: Exception) -> None:
        if len(self._outcome.wrong) < WRONG_MAX:
            self._outcome.wrong.append(str(error))

    async def _closed(self, share: Work, registry: Registry) -> None:
        outcome = self._outcome
        begun = time.monotonic()
        deadline = begun + self._assignment.seconds
        while begun < deadline:
            try:
                moved = await share.step(registry)
            except Exhausted:
                return
            except (WrongAnswer, WireError) as error:
                self._wrong(error)
                return
            ended = time.monotonic()
            self._latencies.add(ended - begun)
            outcome.operations += 1
            outcome.sent += moved.sent
            outcome.received += moved.received
            begun = ended
        outcome.cut += 1

    async def _open(self) -> None:
        self._outcome.offered = len(self._plan)
        await open_loop(self._plan, self._registry, self._latencies, self._outcome, self._wrong)


def shot_of(ask: Ask, address: Address, authorization: str) -> RequestTemplate:
    """An Ask as it goes over the wire."""
    lines = [f"{ask.method} {ask.target} HTTP/1.1", f"Host: {address.authority}"]
    lines.append("User-Agent: holdfast-bench")
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if ask.accept:
        lines.append(f"Accept: {ask.accept}")
    text = "\r\n".join(lines) + "\r\n" + ask.header + "\r\n"
    return RequestTemplate(
        text.encode("latin-1"), ask.status, ask.method == "HEAD" or ask.status == 304
    )


async def open_loop(
    plan: Sequence[tuple[float, Action]],
    connect: Callable[[], Registry],
    latencies: Latencies,
    outcome: Outcome,
    report: Callable[[Exception], None],
) -> None:
    """Start each operation when it is due, whether or not earlier ones have ended.

    Latencies count from when an operation was due. At most CONNECTIONS_MAX run at once.
    """
    idle: list[Registry] = []
    room = asyncio.Semaphore(CONNECTIONS_MAX)
    start = time.monotonic()

    async def one(due: float, action: Action) -> None:
        async with room:
            registry = idle.pop() if idle else connect()
            try:
                moved = await action(registry)
            except (WrongAnswer, WireError) as error:
                report(error)
                return
            finally:
                idle.append(registry)
        latencies.add(max(0.0, time.monotonic() - start - due))
        outcome.operations += 1
        outcome.sent += moved.sent
        outcome.received += moved.received

    async with asyncio.TaskGroup() as group:
        for due, action in plan:
            wait = start + due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(due, action))
