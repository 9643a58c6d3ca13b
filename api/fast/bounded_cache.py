"""A cache under keys that clients choose, bounded in entries and in bytes.

A full cache drops all entries instead of the oldest: a hit then costs one look-up in a dict and no
bookkeeping, and entries that clients still ask for come back at once.
"""

from __future__ import annotations

from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

ENTRIES_MAX: Final = 8192
KEY_BYTES_MAX: Final = 2048
"""Longest key that is cached, in bytes."""

BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of all keys of one cache together. A client that never repeats itself fills the keys of
all six caches with 24 MiB. The values are small, or their owner bounds them."""


class BoundedCache(dict[K, V]):
    """A dict that drops all its entries when it is full."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def keep(self, key: K, value: V, key_bytes: int) -> None:
        """Cache a value under a key of ``key_bytes`` bytes, unless the key is too long."""
        if key_bytes > KEY_BYTES_MAX:
            return
        if len(self) >= ENTRIES_MAX or self._bytes + key_bytes > BYTES_MAX:
            self.clear()
        self._bytes += key_bytes
        self[key] = value

    def clear(self) -> None:
        """Drop all entries."""
        super().clear()
        self._bytes = 0
