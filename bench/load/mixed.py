"""The open-loop job: pulls and pushes of images at times that are fixed beforehand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from .content import Blob, Content, Image
from .jobs import ImageSet
from .popularity import Zipf
from .registry import Moved, Registry, Style, WrongAnswer
from .schedule import Bursts, poisson

Action = Callable[[Registry], Awaitable[Moved]]
"""One operation on any free connection. Raises WrongAnswer."""

STYLES: Final = {Style.DOCKER: 0.70, Style.WHOLE: 0.25, Style.PARTS: 0.05}
"""How clients send blobs, and how many of them do so."""

PULLED_AFTER_SECONDS: Final = 0.3
"""How soon others pull what was pushed: within the hour in the traces, within seconds here."""

LOOKED_AT = 3
"""Images that each process reads whole and hashes before the clock runs, and pushed ones after."""


class Mixed(msgspec.Struct, frozen=True, tag=True):
    """Pulls and pushes of images as today's clients do them.

    A pull asks for the tag (HEAD); ``stop`` of them end there, for the client has the image. The
    others get the manifest and the blobs. A push finds most layers present, and asks for them,
    but for a few that send all again. Most of what is pushed is what the next pulls want.
    """

    known: ImageSet
    """Images that are there already."""

    fresh: ImageSet
    """Images that are pushed, each once, so many at most."""

    rate: float
    """Image operations a second, of all processes together, outside bursts."""

    pulls_per_push: float = 8.0
    stop: float = 0.55
    present: float = 0.75
    """Share of a pushed image's layers that the repository has."""

    blind: float = 0.05
    """Share of pushes that do not ask."""

    wanted: float = 0.7
    """Share of pushed images that others then pull."""

    wanted_pulls: int = 3
    """How often; these are among the pulls, not besides them."""

    burst_factor: float = 3.0
    burst_every: float = 3.0
    burst_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class _Fresh:
    """An image that is pushed while the clock runs."""

    image: Image
    tag: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether its push is over."""


class Mix:
    """The operations of a Mixed job, for one of several processes."""

    def __init__(self, job: Mixed, content: Content, part: int, parts: int) -> None:
        self._job = job
        self._content = content
        self._chance = content.chance(f"{job.fresh.name}/mix/{part}")
        self._known = [job.known.image(content, number) for number in range(job.known.count)]
        self._zipf = Zipf(job.known.count, 1.0)
        self._rate = job.rate / parts
        self._fresh = iter(range(part, job.fresh.count, parts))
        self._part = part
        self._pushed: list[tuple[Image, str]] = []
        self._wanted: deque[tuple[float, _Fresh]] = deque()
        """When the next pulls of what was pushed are due at the earliest."""

    async def verify(self, registry: Registry) -> None:
        """Before the clock runs: whether some of what is there has the right bytes."""
        for number in range(self._part, self._job.known.count)[:LOOKED_AT]:
            await registry.pull_image(self._known[number], self._job.known.tag(number), verify=True)

    async def check(self, registry: Registry) -> None:
        """After it: whether some of what was pushed can be pulled, with the right bytes."""
        for image, tag in self._pushed[-LOOKED_AT:]:
            await registry.pull_image(image, tag, verify=True)

    def plan(self, seconds: float) -> list[tuple[float, Action]]:
        """What is due when, in seconds; all is drawn and made before the clock runs."""
        job = self._job
        bursts = Bursts(job.burst_factor, job.burst_every, job.burst_seconds)
        share = 1 / (1 + job.pulls_per_push)
        plan: list[tuple[float, Action]] = []
        for at in poisson(self._rate, seconds, self._chance, bursts):
            number = next(self._fresh, None) if self._chance.random() < share else None
            plan.append((at, self._pull(at) if number is None else self._push(number, at)))
        return plan

    def _pull(self, at: float) -> Action:
        if self._wanted and self._wanted[0][0] <= at:
            _, fresh = self._wanted.popleft()
            return self._pull_fresh(fresh)
        number = self._zipf.draw(self._chance)
        stop = self._chance.random() < self._job.stop
        return self._pull_of(self._known[number], self._job.known.tag(number), stop=stop)

    def _pull_fresh(self, fresh: _Fresh) -> Action:
        """By a client that has none of it. Until it is there the pull waits, which counts."""
        whole = self._pull_of(fresh.image, fresh.tag, stop=False)

        async def pull(registry: Registry) -> Moved:
            await fresh.ended.wait()
            return await whole(registry)

        return pull

    @staticmethod
    def _pull_of(image: Image, tag: str, *, stop: bool) -> Action:
        async def pull(registry: Registry) -> Moved:
            if not await registry.has_manifest(tag):
                raise WrongAnswer("HEAD of a manifest that was pushed: 404")
            if stop:
                return Moved()
            size = await registry.pull_manifest(image.digest, image.digest)
            for blob in image.blobs:
                size += await registry.pull_blob(blob.digest, blob.size)
            return Moved(received=size)

        return pull

    def _push(self, number: int, at: float) -> Action:
        job = self._job
        (style,) = self._chance.choices([*STYLES], [*STYLES.values()])
        blind = self._chance.random() < job.blind
        new = job.fresh.image(self._content, number)
        layers = tuple(
            self._chance.choice(self._known).layers[index % job.known.layers]
            if self._chance.random() < job.present
            else layer
            for index, layer in enumerate(new.layers)
        )
        image = self._content.image_of(f"{job.fresh.name}/{number}", _distinct(layers))
        tag = job.fresh.tag(number)
        fresh = _Fresh(image.hollow(), tag)
        if self._chance.random() < job.wanted:
            due = at + PULLED_AFTER_SECONDS
            self._wanted.extend((due, fresh) for _ in range(job.wanted_pulls))

        async def push(registry: Registry) -> Moved:
            try:
                sent = await registry.push_image(image, tag, style, blind=blind)
            finally:
                fresh.ended.set()
            self._pushed.append((fresh.image, tag))
            return Moved(sent=sent)

        return push


def _distinct(layers: tuple[Blob, ...]) -> tuple[Blob, ...]:
    return tuple({blob.digest: blob for blob in layers}.values())
