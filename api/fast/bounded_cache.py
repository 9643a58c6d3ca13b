"""What a process remembers under keys that clients choose: bounded in number and in bytes."""

from __future__ import annotations

from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

ENTRIES_MAX: Final = 8192
KEY_BYTES_MAX: Final = 2048
"""A longer key is not remembered: it is read anew each time."""

BYTES_MAX: Final = 4 * 1024 * 1024
"""Of all keys together: with six memories, the keys of a client that never says the same thing
twice take 24 MiB. What stands under them is small, or counted by whoever keeps it."""


class BoundedCache(dict[K, V]):
    """A dict that forgets everything when it is full: what is asked for again comes back."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def keep(self, key: K, value: V, key_bytes: int) -> None:
        """Remember something under a key of that length, unless that is too long."""
        if key_bytes > KEY_BYTES_MAX:
            return
        if len(self) >= ENTRIES_MAX or self._bytes + key_bytes > BYTES_MAX:
            self.clear()
        self._bytes += key_bytes
        self[key] = value

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._bytes = 0
