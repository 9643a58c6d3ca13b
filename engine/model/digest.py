"""Digests: the names that content has, and the hashers that compute them.

Owns the grammar of the OCI image-spec ("Digests") and the table of algorithms. ``sha256`` is
the canonical one: the store keeps one row per sha256, and any other digest is an alias of it.
blake3 is computed beside it as the store's own checksum, six times as fast to verify.
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
"""Longest digest that is looked at, in characters; sha512 has 135."""

ALGORITHMS: Final = {"sha256": 1, "sha512": 2}
"""Algorithm -> its byte in ledger keys. Numbers are part of the data format."""

_NAMES: Final = {number: name for name, number in ALGORITHMS.items()}
_LENGTHS: Final = {"sha256": 32, "sha512": 64}
_ENCODED: Final = {
    name: re.compile(rf"[0-9a-f]{{{2 * length}}}", re.ASCII) for name, length in _LENGTHS.items()
}


@dataclass(frozen=True, slots=True)
class Digest:
    """``algorithm:encoded`` as clients see it, with an algorithm that the store keeps."""

    algorithm: str
    raw: bytes

    @classmethod
    def parse(cls, text: str | Digest) -> Digest:
        """Read a digest (OCI image-spec, "Digests"); upper-case hex is refused.

        Raises InvalidDigest for bad grammar, for algorithms other than sha256 and sha512, and
        for what is neither text nor a Digest.
        """
        if isinstance(text, Digest):
            return text
        check_text(text)
        if len(text) > _TEXT_MAX or not _GRAMMAR.fullmatch(text):
            raise InvalidDigest(text[:_TEXT_MAX], "not of the form algorithm:encoded")
        algorithm, _, encoded = text.partition(":")
        pattern = _ENCODED.get(algorithm)
        if pattern is None:
            raise InvalidDigest(text, f"algorithm {algorithm} is not supported")
        if not pattern.fullmatch(encoded):
            raise InvalidDigest(text, f"not a {algorithm} in lower-case hex")
        return cls(algorithm, bytes.fromhex(encoded))

    @classmethod
    def sha256(cls, raw: bytes) -> Digest:
        """The canonical digest with these 32 bytes."""
        return cls("sha256", raw)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``content``."""
        return cls(algorithm, hashlib.new(algorithm, content).digest())

    @property
    def key(self) -> bytes:
        """The form in ledger keys: one byte of algorithm, then the raw hash."""
        return bytes((ALGORITHMS[self.algorithm],)) + self.raw

    @classmethod
    def from_key(cls, key: bytes) -> Digest:
        """The inverse of ``key``. Raises ValueError for bytes that no digest has."""
        name = _NAMES.get(key[0]) if key else None
        if name is None or len(key) != 1 + _LENGTHS[name]:
            raise ValueError("not a digest key")
        return cls(name, key[1:])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.raw.hex()}"


def check_text(given: object) -> str:
    """What was given, if it is text at all. Raises InvalidDigest."""
    if not isinstance(given, str):
        raise InvalidDigest("", f"{type(given).__name__} where text is needed")
    return given


def is_digest(text: str) -> bool:
    """Whether ``text`` has the grammar of a digest, of any algorithm (OCI image-spec)."""
    return len(text) <= _TEXT_MAX and _GRAMMAR.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Hashes:
    """What one pass over some content found. ``sha512`` only where it was asked for."""

    size: int
    sha256: bytes
    checksum: bytes
    """blake3, 32 bytes: what the store verifies its own copy with."""
    sha512: bytes | None = None

    def named(self, algorithm: str) -> Digest | None:
        """The digest in that algorithm, or None where it was not computed."""
        raw = {"sha256": self.sha256, "sha512": self.sha512}.get(algorithm)
        return None if raw is None else Digest(algorithm, raw)


class Hasher:
    """sha256 and blake3 (and sha512 when named in ``algorithms``) over a stream, in one pass."""

    __slots__ = ("_blake3", "_sha256", "_sha512", "size")

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3()
        self._sha512 = hashlib.sha512() if "sha512" in algorithms else None
        self.size = 0

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The digests that ``result`` will hold."""
        return ("sha256",) if self._sha512 is None else ("sha256", "sha512")

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Lets go of the interpreter lock for more than 2 KiB."""
        self._blake3.update(data)
        self._sha256.update(data)
        if self._sha512 is not None:
            self._sha512.update(data)
        self.size += len(data)

    def copy(self) -> Hasher:
        """A hasher that goes on from here by itself."""
        copied = Hasher()
        copied._sha256, copied._blake3 = self._sha256.copy(), self._blake3.copy()
        copied._sha512 = None if self._sha512 is None else self._sha512.copy()
        copied.size = self.size
        return copied

    def result(self) -> Hashes:
        """The hashes of what came so far; more may follow."""
        sha512 = None if self._sha512 is None else self._sha512.digest()
        return Hashes(self.size, self._sha256.digest(), self._blake3.digest(), sha512)


def hashes_of(content: bytes, algorithms: Iterable[str] = ()) -> Hashes:
    """As a ``Hasher`` that took all of ``content``: for few bytes, a third of its price."""
    sha512 = hashlib.sha512(content).digest() if "sha512" in algorithms else None
    sha256 = hashlib.sha256(content).digest()
    return Hashes(len(content), sha256, checksum(content), sha512)


def checksum(content: bytes | memoryview) -> bytes:
    """blake3 of ``content``: the store's own checksum."""
    return blake3(content).digest()
