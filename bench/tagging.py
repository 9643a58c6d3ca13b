"""Many tags on one manifest: what lists of tags are read from."""

from __future__ import annotations

import msgspec

from .content import Content, Image, LayerSizes
from .registry import Exhausted, Registry, Style


class PushTags(msgspec.Struct, frozen=True, tag=True):
    """Put one manifest under ``count`` tags."""

    count: int


class Tagger:
    """One client's share of PushTags."""

    def __init__(self, job: PushTags, content: Content, client: int, clients: int) -> None:
        self._image: Image = content.image("tagged", 1, LayerSizes(0.001, 1024))
        self._numbers = list(range(client, job.count, clients))
        self._numbers.reverse()

    async def verify(self, registry: Registry) -> None:
        """The blobs must be there before the first manifest; every client sees to that."""
        await registry.push_image(self._image, tag(0), Style.WHOLE)

    async def step(self, registry: Registry) -> int:
        """Put one tag. Raises Exhausted."""
        if not self._numbers:
            raise Exhausted
        number = self._numbers.pop()
        await registry.push_manifest(tag(number), self._image.manifest, self._image.digest)
        return len(self._image.manifest)


def tag(number: int) -> str:
    """The name of a tag: names sort as numbers do."""
    return f"tag-{number:07d}"
