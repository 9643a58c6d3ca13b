"""The closed-loop jobs of a client: what it does again and again, as fast as it is answered.

A job is a value that the runner sends to client processes; ``work`` turns it into steps. All
content follows from the seed and the job, so clients need nothing but the job.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from .content import PIECE_BYTES, Blob, Content, Image, LayerSizes, digest_of
from .popularity import Zipf
from .registry import Exhausted, Moved, Registry, Style, WrongAnswer, reason
from .tagging import PushTags, Tagger

KEPT_BYTES_MAX = 512 << 20
"""Content that one client process prepares at most; work ends early when it is used up."""


LOOKED_AT = 50
"""Answers of small requests whose bytes are compared before the clock runs."""


class ImageSet(msgspec.Struct, frozen=True):
    """``count`` images, numbered, the same for each caller."""

    name: str
    count: int
    layers: int = 5
    scale: float = 0.01
    cap: int = 2 << 20
    sizes: tuple[int, ...] = ()
    """Sizes of the layers of every image, instead of drawn ones."""

    def image(self, content: Content, number: int) -> Image:
        """One of them."""
        key = f"{self.name}/{number}"
        if not self.sizes:
            return content.image(key, self.layers, LayerSizes(self.scale, self.cap))
        layers = (
            content.blob(f"{key}/layer{index}", size) for index, size in enumerate(self.sizes)
        )
        return content.image_of(key, tuple(layers))

    def tag(self, number: int) -> str:
        """The tag of one of them."""
        return f"{self.name.replace('/', '-')}-{number}"


@lru_cache(maxsize=16)
def known_images(seed: str, images: ImageSet) -> tuple[Image, ...]:
    """All images of a set, without their bytes: pulls need no more."""
    content = Content(seed)
    return tuple(images.image(content, number).hollow() for number in range(images.count))


class PushStream(msgspec.Struct, frozen=True, tag=True):
    """Each client pushes one blob, new with every ``key``."""

    key: str
    size: int
    style: Style
    compressible: bool = False


class PushImages(msgspec.Struct, frozen=True, tag=True):
    """Clients push the images of a set, each image once.

    ``present`` and ``blind``: they are all there, so a HEAD that says 404 is wrong; they are
    pushed again and again, after asking or without asking.
    """

    images: ImageSet
    style: Style = Style.DOCKER
    mode: Literal["missing", "blind", "present"] = "missing"
    late: bool = False
    """Whether content is made when it is pushed, not before: for what is not timed."""


class PullStream(msgspec.Struct, frozen=True, tag=True):
    """Each client pulls the blob of a PushStream by client 0, again and again."""

    key: str
    size: int
    compressible: bool = False
    range_bytes: int = 0
    """When not 0: pull seeded random ranges of up to this size instead of all."""

    once: bool = False
    """Whether each client pulls it only once."""


class PullImages(msgspec.Struct, frozen=True, tag=True):
    """Clients pull images of a set, chosen by Zipf's law; with one image it is a storm."""

    images: ImageSet
    skew: float = 1.0
    once: bool = False
    """Whether each image is pulled once, by one client, instead."""


class Ask(msgspec.Struct, frozen=True):
    """One small request and its right answer."""

    method: str
    target: str
    status: int
    accept: str = ""
    digest: str = ""
    """Of the body, where that is known."""

    header: str = ""
    """A further whole header line, with its CRLF."""


class Requests(msgspec.Struct, frozen=True, tag=True):
    """Small requests, one after the other, round and round."""

    asks: tuple[Ask, ...]


class ListTags(msgspec.Struct, frozen=True, tag=True):
    """Read a whole list of tags, following Link, in pages of 1,000."""

    count: int


ClosedJob = PushStream | PushImages | PullStream | PullImages | PushTags | Requests | ListTags


class Work(Protocol):
    """One client's share of a job."""

    async def verify(self, registry: Registry) -> None:
        """Before the clock runs: look at answers more closely than a measured step does."""

    async def step(self, registry: Registry) -> Moved:
        """One operation. Raises Exhausted, WrongAnswer."""

    async def check(self, registry: Registry) -> None:
        """After the clock: read some of what was pushed, and hash it. Raises WrongAnswer."""


class _Pull:
    """What pulls has looked closely before, and has brought nothing in."""

    async def check(self, registry: Registry) -> None:
        """Nothing to look at."""


class _PushStream:
    def __init__(self, job: PushStream, content: Content, client: int) -> None:
        self._style = job.style
        key = f"{job.key}/{client}"
        self._blobs = [content.blob(key, job.size, compressible=job.compressible)]
        self._pushed: Blob | None = None

    async def verify(self, registry: Registry) -> None:
        await registry.client.connect()

    async def step(self, registry: Registry) -> Moved:
        if not self._blobs:
            raise Exhausted
        blob = self._blobs.pop()
        await registry.push_blob(blob, self._style)
        self._pushed = blob.hollow()
        return Moved(sent=blob.size)

    async def check(self, registry: Registry) -> None:
        if self._pushed is not None:
            await registry.pull_blob(self._pushed.digest, self._pushed.size, verify=True)


class _PushImages:
    def __init__(self, job: PushImages, content: Content, client: int, clients: int) -> None:
        self._job = job
        self._content = content
        self._numbers = deque(range(client, job.images.count, clients))
        self._made: dict[int, Image] = {}
        room = 0 if job.late else KEPT_BYTES_MAX // clients
        for number in self._numbers:
            if room <= 0:
                break
            image = self._made[number] = job.images.image(content, number)
            room -= image.size
        if not job.late:
            self._numbers = deque(self._made)
        self._pushed: tuple[Image, str] | None = None

    async def verify(self, registry: Registry) -> None:
        await registry.client.connect()

    async def step(self, registry: Registry) -> Moved:
        if not self._numbers:
            raise Exhausted
        number = self._numbers.popleft()
        image = self._made.pop(number, None) or self._job.images.image(self._content, number)
        if self._job.mode != "missing":
            self._numbers.append(number)
            self._made[number] = image
        tag = self._job.images.tag(number)
        blind = self._job.mode == "blind"
        sent = await registry.push_image(image, tag, self._job.style, blind=blind)
        if self._job.mode == "present" and sent != len(image.manifest):
            raise WrongAnswer("HEAD of a blob that was pushed before: 404")
        self._pushed = image.hollow(), tag
        return Moved(sent=sent)

    async def check(self, registry: Registry) -> None:
        if self._pushed is not None:
            await registry.pull_image(*self._pushed, verify=True)


class _PullStream(_Pull):
    def __init__(self, job: PullStream, content: Content, client: int) -> None:
        self._job = job
        blob = content.blob(f"{job.key}/0", job.size, compressible=job.compressible)
        self._blob = blob if job.range_bytes else blob.hollow()
        self._chance = content.chance(f"ranges/{client}")
        self._client = client
        self._done = False

    async def verify(self, registry: Registry) -> None:
        if self._job.range_bytes:
            for _ in range(5):
                first, last = self._range()
                await registry.pull_range(self._blob.digest, first, last, self._part(first, last))
        elif self._client == 0:
            await registry.pull_blob(self._blob.digest, self._blob.size, verify=True)

    def _range(self) -> tuple[int, int]:
        size = self._blob.size
        length = min(size, self._chance.randint(64 << 10, self._job.range_bytes))
        first = self._chance.randrange(size - length + 1)
        return first, first + length - 1

    def _part(self, first: int, last: int) -> bytes:
        start = first // PIECE_BYTES
        pieces = self._blob.pieces[start : last // PIECE_BYTES + 1]
        offset = first - start * PIECE_BYTES
        return b"".join(pieces)[offset : offset + last - first + 1]

    async def step(self, registry: Registry) -> Moved:
        if self._done:
            raise Exhausted
        self._done = self._job.once
        if self._job.range_bytes:
            return Moved(
                received=await registry.pull_range(self._blob.digest, *self._range(), None)
            )
        return Moved(received=await registry.pull_blob(self._blob.digest, self._blob.size))


class _PullImages(_Pull):
    def __init__(
        self, job: PullImages, content: Content, client: int, clients: int, seed: str
    ) -> None:
        self._images = known_images(seed, job.images)
        self._tags = [job.images.tag(number) for number in range(job.images.count)]
        self._zipf = Zipf(job.images.count, job.skew)
        self._chance = content.chance(f"pulls/{client}")
        self._client = client
        self._left = list(range(client, job.images.count, clients)) if job.once else None

    async def verify(self, registry: Registry) -> None:
        if self._client < len(self._images):
            image, tag = self._images[self._client], self._tags[self._client]
            await registry.pull_image(image, tag, verify=True)

    def _next(self) -> int:
        if self._left is None:
            return self._zipf.draw(self._chance)
        if not self._left:
            raise Exhausted
        return self._left.pop()

    async def step(self, registry: Registry) -> Moved:
        number = self._next()
        return Moved(received=await registry.pull_image(self._images[number], self._tags[number]))


class _Requests(_Pull):
    def __init__(self, job: Requests, client: int) -> None:
        self._asks = job.asks
        self._client = client
        self._next = client % len(job.asks)

    async def verify(self, registry: Registry) -> None:
        await registry.client.connect()
        for ask in self._asks[:LOOKED_AT] if self._client == 0 else ():
            await self._one(registry, ask, verify=True)

    async def _one(self, registry: Registry, ask: Ask, *, verify: bool = False) -> int:
        headers = ask.header
        if ask.accept:
            headers += f"Accept: {ask.accept}\r\n"
        answer = await registry.client.request(ask.method, ask.target, headers, keep=verify)
        if answer.status != ask.status:
            text = f"{answer.status}, not {ask.status} {reason(answer.body)}".rstrip()
            raise WrongAnswer(f"{ask.method} {ask.target[:80]}: {text}")
        if verify and ask.digest and ask.method == "GET":
            got = digest_of(answer.body)
            if got != ask.digest:
                raise WrongAnswer(f"GET {ask.target[:80]}: its bytes have {got}")
        return answer.size

    async def step(self, registry: Registry) -> Moved:
        ask = self._asks[self._next]
        self._next = (self._next + 1) % len(self._asks)
        return Moved(received=await self._one(registry, ask))


class _ListTags(_Pull):
    def __init__(self, job: ListTags) -> None:
        self._count = job.count

    async def verify(self, registry: Registry) -> None:
        await self.step(registry)

    async def step(self, registry: Registry) -> Moved:
        target: str | None = f"/v2/{registry.repository}/tags/list?n=1000"
        names = size = 0
        while target is not None:
            answer = await registry.client.request("GET", target, keep=True)
            if answer.status != 200:
                raise WrongAnswer(f"list of tags: {answer.status}")
            size += answer.size
            names += len(msgspec.json.decode(answer.body)["tags"])
            link = answer.header("Link")
            target = link.partition("<")[2].partition(">")[0] or None
        if names != self._count:
            raise WrongAnswer(f"list of tags: {names} names, not {self._count}")
        return Moved(received=size)


def work(job: ClosedJob, content: Content, client: int, clients: int, seed: str) -> Work:
    """The share of client number ``client`` of ``clients``."""
    match job:
        case PushStream():
            return _PushStream(job, content, client)
        case PushImages():
            return _PushImages(job, content, client, clients)
        case PullStream():
            return _PullStream(job, content, client)
        case PullImages():
            return _PullImages(job, content, client, clients, seed)
        case PushTags():
            return Tagger(job, content, client, clients)
        case Requests():
            return _Requests(job, client)
        case ListTags():
            return _ListTags(job)
