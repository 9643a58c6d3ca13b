"""The open-loop job: pulls and pushes of images at times that are fixed beforehand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from .content import Blob, Content, Image
from .jobs import ImageSet
from .popularity import Zipf
from .registry import Moved, Registry, Style, WrongAnswer
from .schedule import Bursts, poisson

Action = Callable[[Registry], Awaitable[Moved]]
"""One operation on any free connection. Raises WrongAnswer."""

LOOKED_AT = 3
"""Images that each process reads whole and hashes before the clock runs, and pushed ones after."""


class Mixed(msgspec.Struct, frozen=True, tag=True):
    """Pulls and pushes of images as today's clients do them.

    A pull asks for the tag (HEAD); ``stop`` of them end there, for the client has the image. The
    others get the manifest and the blobs. A push finds most layers present.
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

    burst_factor: float = 3.0
    burst_every: float = 3.0
    burst_seconds: float = 1.0


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
            plan.append((at, self._pull() if number is None else self._push(number)))
        return plan

    def _pull(self) -> Action:
        number = self._zipf.draw(self._chance)
        image, tag = self._known[number], self._job.known.tag(number)
        stop = self._chance.random() < self._job.stop

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

    def _push(self, number: int) -> Action:
        job = self._job
        new = job.fresh.image(self._content, number)
        layers = tuple(
            self._chance.choice(self._known).layers[index % job.known.layers]
            if self._chance.random() < job.present
            else layer
            for index, layer in enumerate(new.layers)
        )
        image = self._content.image_of(f"{job.fresh.name}/{number}", _distinct(layers))
        tag = job.fresh.tag(number)

        async def push(registry: Registry) -> Moved:
            sent = await registry.push_image(image, tag, Style.DOCKER)
            self._pushed.append((image, tag))
            return Moved(sent=sent)

        return push


def _distinct(layers: tuple[Blob, ...]) -> tuple[Blob, ...]:
    return tuple({blob.digest: blob for blob in layers}.values())
