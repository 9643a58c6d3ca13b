"""Digests of content, and the hashers that compute them.

Defines the grammar of the OCI image-spec ("Digests") and the table of algorithms. ``sha256`` is
canonical: the store keeps one row for each sha256, and any other digest is an alias of it. The
hashers also compute blake3, the store's own checksum, which verifies six times as fast.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from .errors import InvalidDigest

_GRAMMAR: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+", re.ASCII)
_TEXT_MAX: Final = 256
"""Characters of the longest digest that is parsed; sha512 has 135."""

ALGORITHMS: Final = {"sha256": 1, "sha512": 2}
"""Byte of each algorithm in ledger keys. The numbers are part of the data format."""

_NAMES: Final = {number: name for name, number in ALGORITHMS.items()}
_LENGTHS: Final = {"sha256": 32, "sha512": 64}
_ENCODED: Final = {
    name: re.compile(rf"[0-9a-f]{{{2 * length}}}", re.ASCII) for name, length in _LENGTHS.items()
}


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest ``algorithm:encoded``, of an algorithm that the store supports."""

    algorithm: str
    raw: bytes

    @classmethod
    def parse(cls, text: str | Digest) -> Digest:
        """Parse a digest (OCI image-spec, "Digests"); upper-case hex is refused.

        Raises InvalidDigest for bad grammar, for algorithms other than sha256 and sha512, and
        for a value that is neither text nor a Digest.
        """
        if isinstance(text, Digest):
            return text
        check_text(text)
        if len(text) > _TEXT_MAX or not _GRAMMAR.fullmatch(text):
            raise InvalidDigest(text[:_TEXT_MAX], "must have the form algorithm:encoded")
        algorithm, _, encoded = text.partition(":")
        pattern = _ENCODED.get(algorithm)
        if pattern is None:
            raise InvalidDigest(text, f"algorithm {algorithm} is not supported")
        if not pattern.fullmatch(encoded):
            raise InvalidDigest(text, f"is not a {algorithm} in lower-case hex")
        return cls(algorithm, bytes.fromhex(encoded))

    @classmethod
    def sha256(cls, raw: bytes) -> Digest:
        """Return the canonical digest with these 32 bytes."""
        return cls("sha256", raw)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """Compute the digest of ``content``."""
        return cls(algorithm, hashlib.new(algorithm, content).digest())

    @property
    def key(self) -> bytes:
        """Form in ledger keys: one byte for the algorithm, then the raw hash."""
        return bytes((ALGORITHMS[self.algorithm],)) + self.raw

    @classmethod
    def from_key(cls, key: bytes) -> Digest:
        """Return the digest with that ``key``. Raises ValueError if there is none."""
        name = _NAMES.get(key[0]) if key else None
        if name is None or len(key) != 1 + _LENGTHS[name]:
            raise ValueError("not a digest key")
        return cls(name, key[1:])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.raw.hex()}"


def check_text(given: object) -> str:
    """Return ``given`` if it is text. Raises InvalidDigest."""
    if not isinstance(given, str):
        raise InvalidDigest("", f"must be text, not {type(given).__name__}")
    return given


def is_digest(text: str) -> bool:
    """Return True if ``text`` has the grammar of a digest of any algorithm (OCI image-spec)."""
    return len(text) <= _TEXT_MAX and _GRAMMAR.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Hashes:
    """Size and hashes from one pass over content; ``sha512`` only if requested."""

    size: int
    sha256: bytes
    checksum: bytes
    """blake3, 32 bytes: the store verifies its own copy with it."""
    sha512: bytes | None = None

    def named(self, algorithm: str) -> Digest | None:
        """Return the digest in ``algorithm``, or None if it was not computed."""
        raw = {"sha256": self.sha256, "sha512": self.sha512}.get(algorithm)
        return None if raw is None else Digest(algorithm, raw)


class Hasher:
    """Computes sha256 and blake3 of a stream in one pass, and sha512 if in ``algorithms``."""

    __slots__ = ("_blake3", "_sha256", "_sha512", "size")

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3()
        self._sha512 = hashlib.sha512() if "sha512" in algorithms else None
        self.size = 0

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms whose digests ``result`` includes."""
        return ("sha256",) if self._sha512 is None else ("sha256", "sha512")

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Hash the next bytes. Releases the interpreter lock for more than 2 KiB."""
        self._blake3.update(data)
        self._sha256.update(data)
        if self._sha512 is not None:
            self._sha512.update(data)
        self.size += len(data)

    def copy(self) -> Hasher:
        """Return an independent hasher with the state of this one."""
        copied = Hasher()
        copied._sha256, copied._blake3 = self._sha256.copy(), self._blake3.copy()
        copied._sha512 = None if self._sha512 is None else self._sha512.copy()
        copied.size = self.size
        return copied

    def result(self) -> Hashes:
        """Return the hashes of the bytes so far; more may follow."""
        sha512 = None if self._sha512 is None else self._sha512.digest()
        return Hashes(self.size, self._sha256.digest(), self._blake3.digest(), sha512)


def hashes_of(content: bytes, algorithms: Iterable[str] = ()) -> Hashes:
    """Hash ``content`` at once: for few bytes, at a third of the cost of a ``Hasher``."""
    sha512 = hashlib.sha512(content).digest() if "sha512" in algorithms else None
    sha256 = hashlib.sha256(content).digest()
    return Hashes(len(content), sha256, checksum(content), sha512)


def checksum(content: bytes | memoryview) -> bytes:
    """Return blake3 of ``content``, the store's own checksum."""
    return blake3(content).digest()
