"""The caches of the fast path, which share one budget of bytes and one invalidation.

Clients choose the keys. When the budget is spent, all entries are dropped instead of the oldest: a
hit then costs one look-up in a dict and no bookkeeping, and entries that clients still ask for come
back at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from holdfast.engine import Change

K = TypeVar("K", bound=bytes | tuple[str, str] | tuple[str, bytes])
V = TypeVar("V")

BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of all entries together that a process keeps."""

ENTRY_BYTES: Final = 1024
"""Bytes that the objects of an entry count, beside its key and an answer's bytes."""

KEY_BYTES_MAX: Final = 2048
"""Longest key that is kept, in bytes."""


class Cache(dict[K, V]):
    """A dict that makes the values it misses, and keeps them while there is room."""

    __slots__ = ("_caches", "_make", "bytes", "outdated_by")

    def __init__(self, caches: Caches, make: Callable[[K], V], outdated_by: Change | None) -> None:
        """``outdated_by`` is the least change of the ledger that may make an entry wrong; None if
        no change does."""
        super().__init__()
        self._caches = caches
        self._make: Callable[[K], V] = make
        self.bytes = 0
        """Bytes that its entries count."""
        self.outdated_by = outdated_by

    def __missing__(self, key: K) -> V:
        """Make a value and keep it. Raises what making it raises; then nothing is kept."""
        value = self._make(key)
        self._caches.keep(self, key, value)
        return value

    def clear(self) -> None:
        """Drop all entries."""
        super().clear()
        self._caches.bytes -= self.bytes
        self.bytes = 0


class Caches:
    """All caches of one process."""

    def __init__(self) -> None:
        self._all: list[Cache[Any, Any]] = []
        self.bytes = 0
        """Bytes that the entries of all caches count."""

    def add(self, make: Callable[[K], V], outdated_by: Change | None = None) -> Cache[K, V]:
        """Return a new cache under this budget."""
        cache = Cache(self, make, outdated_by)
        self._all.append(cache)
        return cache

    def keep(self, cache: Cache[K, V], key: K, value: V, value_bytes: int = 0) -> None:
        """Keep a value, unless its key is too long."""
        key_bytes = len(key) if isinstance(key, bytes) else sum(map(len, key))
        if key_bytes > KEY_BYTES_MAX:
            return
        size = ENTRY_BYTES + key_bytes + value_bytes
        # Without pushes no change ever drops the entries, so a full budget must. All of them: one
        # refers to another, so what a single cache dropped might stay in memory uncounted.
        if self.bytes + size > BYTES_MAX:
            self.clear()
        self.bytes += size
        cache.bytes += size
        cache[key] = value

    def invalidate(self, change: Change) -> None:
        """Drop the entries that a change of the ledger may have made wrong."""
        for cache in self._all:
            if cache.outdated_by is not None and change >= cache.outdated_by:
                cache.clear()

    def clear(self) -> None:
        """Drop all entries."""
        for cache in self._all:
            cache.clear()
