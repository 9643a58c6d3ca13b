"""What is pushed: seeded blobs and images, the same for every target, new for every key."""

from __future__ import annotations

import hashlib
import json
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

PIECE_BYTES: Final = 1 << 20
"""Blobs are kept and sent in pieces of this size."""

_POOL_BYTES: Final = 16 << 20

_KEPT_BYTES_MAX: Final = 256 << 20
"""Larger blobs are not kept: their pieces are put together again each time they are sent."""

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"

_SIZES: Final = (
    (0.00, 100),
    (0.10, 200),
    (0.25, 1 << 10),
    (0.45, 32 << 10),
    (0.55, 256 << 10),
    (0.65, 1 << 20),
    (0.72, 4 << 20),
    (0.80, 10 << 20),
    (0.90, 40 << 20),
    (0.96, 100 << 20),
    (0.99, 220 << 20),
    (1.00, 2 << 30),
)
"""Share of layers up to a size in bytes, as studies of Docker Hub and of IBM's registries have
it (65 % under 1 MB, 80 % under 10 MB); between two points the size grows by a constant factor."""

WORD_COUNT: Final = 2000


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """The distribution of layer sizes, times ``scale``, cut off at ``cap`` bytes."""

    scale: float
    cap: int

    def draw(self, chance: random.Random) -> int:
        """A size in bytes, at least 64."""
        point = chance.random()
        index = max(1, bisect_left(_SIZES, (point, 0)))
        (low, small), (high, large) = _SIZES[index - 1], _SIZES[index]
        size = small * (large / small) ** ((point - low) / (high - low))
        return max(64, min(self.cap, int(size * self.scale)))


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with their digest, ready to be sent."""

    digest: str
    size: int
    pieces: Sequence[bytes]

    def hollow(self) -> Blob:
        """The same without its bytes: all that a pull needs to know."""
        return Blob(self.digest, self.size, ())


class Pieces(Sequence[bytes]):
    """The pieces of a blob, made when they are asked for."""

    def __init__(self, pool: bytes, stamp: bytes, offsets: Sequence[int], size: int) -> None:
        self._pool = pool
        self._stamp = stamp
        self._offsets = offsets
        self._size = size

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        numbers = range(len(self._offsets))[index]
        return self._made(numbers) if isinstance(numbers, int) else [*map(self._made, numbers)]

    def _made(self, number: int) -> bytes:
        start = number * PIECE_BYTES
        length = min(PIECE_BYTES, self._size - start)
        mark = hashlib.sha256(self._stamp + start.to_bytes(8, "big")).digest()[:length]
        offset = self._offsets[number]
        return mark + self._pool[offset : offset + length - len(mark)]


@dataclass(frozen=True, slots=True)
class Image:
    """Layers, a config and the manifest that names them."""

    layers: tuple[Blob, ...]
    config: Blob
    manifest: bytes
    digest: str

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that must be there before the manifest, in the order of a push."""
        return (*self.layers, self.config)

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(blob.size for blob in self.blobs) + len(self.manifest)

    def hollow(self) -> Image:
        """The same without the bytes of its blobs."""
        layers = tuple(blob.hollow() for blob in self.layers)
        return Image(layers, self.config.hollow(), self.manifest, self.digest)


class Content:
    """Makes blobs and images. Equal seeds and keys give equal bytes, others give others.

    A blob is cut from a pool of seeded random bytes, at random places, each piece with a stamp
    of its own: it does not compress, and costs little to make.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._random: bytes | None = None
        self._text: bytes | None = None
        self._last: tuple[tuple[str, int, bool], Blob] | None = None

    def chance(self, key: str) -> random.Random:
        """A source of randomness for one purpose."""
        return random.Random(f"{self._seed}/{key}")  # nosec B311 # noqa: S311 - no secret

    def _pool(self, compressible: bool) -> bytes:
        if compressible:
            if self._text is None:
                self._text = self._make_text()
            return self._text
        if self._random is None:
            self._random = self.chance("pool").randbytes(_POOL_BYTES)
        return self._random

    def _make_text(self) -> bytes:
        """JSON lines of words: what configs, sources and raw layers look like to a compressor."""
        chance = self.chance("text")
        letters = "etaoinshrdlucmfw"
        words = [
            "".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(WORD_COUNT)
        ]
        block = bytearray()
        while len(block) < 2 << 20:
            name, *rest = chance.choices(words, k=9)
            line = {"name": name, "at": chance.randrange(10**9), "text": " ".join(rest)}
            block += json.dumps(line).encode() + b"\n"
        return bytes(block)

    def blob(self, key: str, size: int, *, compressible: bool = False, kept: bool = True) -> Blob:
        """A blob of ``size`` bytes; unless ``kept``, one that takes no memory."""
        asked = (key, size, compressible)
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        pool = self._pool(compressible)
        chance = self.chance(f"blob/{key}")
        stamp = hashlib.sha256(f"{self._seed}/{key}".encode()).digest()
        room = len(pool) - PIECE_BYTES
        offsets = [chance.randrange(room) for _ in range(0, size, PIECE_BYTES)]
        pieces: Sequence[bytes] = Pieces(pool, stamp, offsets, size)
        if kept and size <= _KEPT_BYTES_MAX:
            pieces = tuple(pieces)
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        made = Blob(f"sha256:{hasher.hexdigest()}", size, pieces)
        self._last = (asked, made)
        return made

    def image(self, key: str, layers: int, sizes: LayerSizes) -> Image:
        """An image whose layers are all new."""
        chance = self.chance(f"image/{key}")
        made = tuple(
            self.blob(f"{key}/layer{index}", sizes.draw(chance)) for index in range(layers)
        )
        return self.image_of(key, made)

    def image_of(self, key: str, layers: tuple[Blob, ...]) -> Image:
        """An image of given layers, with a config of its own."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin"], "Labels": {"key": f"{self._seed}/{key}"}},
            "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in layers]},
            "history": [{"created_by": f"step {index} " + "x" * 80} for index in range(8)],
        }
        config = whole(json.dumps(document).encode())
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": descriptor(CONFIG_TYPE, config),
                "layers": [descriptor(LAYER_TYPE, blob) for blob in layers],
            }
        ).encode()
        return Image(layers, config, manifest, digest_of(manifest))


def digest_of(content: bytes) -> str:
    """The sha256 digest, as OCI writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def whole(content: bytes) -> Blob:
    """A blob of these bytes."""
    return Blob(digest_of(content), len(content), (content,))


def descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    """The OCI descriptor of a blob."""
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}
