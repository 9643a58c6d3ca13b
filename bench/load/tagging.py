"""Many tags on one manifest: what lists of tags are read from."""

from __future__ import annotations

import msgspec

from .content import Content, Image, LayerSizes
from .registry import Exhausted, Moved, Registry, Style


class PushTags(msgspec.Struct, frozen=True, tag=True):
    """Put one manifest under ``count`` tags."""

    count: int


class Tagger:
    """One client's share of PushTags."""

    def __init__(self, job: PushTags, content: Content, client: int, clients: int) -> None:
        self._image: Image = content.image("tagged", 1, LayerSizes(0.001, 1024))
        self._numbers = list(range(client, job.count, clients))
        self._numbers.reverse()
        self._last = 0

    async def verify(self, registry: Registry) -> None:
        """The blobs must be there before the first manifest; every client sees to that."""
        await registry.push_image(self._image, tag(0), Style.WHOLE)

    async def check(self, registry: Registry) -> None:
        """The last tag leads to the manifest."""
        await registry.pull_manifest(tag(self._last), self._image.digest, verify=True)

    async def step(self, registry: Registry) -> Moved:
        """Put one tag. Raises Exhausted."""
        if not self._numbers:
            raise Exhausted
        number = self._last = self._numbers.pop()
        await registry.push_manifest(tag(number), self._image.manifest, self._image.digest)
        return Moved(sent=len(self._image.manifest))


def tag(number: int) -> str:
    """The name of a tag: names sort as numbers do."""
    return f"tag-{number:07d}"
