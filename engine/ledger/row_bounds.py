"""What every ledger backend holds a row to: the limits of keys and values, and counters."""

from __future__ import annotations

from typing import Final

from .interface import KEY_BYTES_MAX, VALUE_BYTES_MAX, pack_counter, unpack_counter

_COUNTER_BOUND: Final = 1 << 62


def check_key(key: bytes) -> None:
    """Raises ValueError unless the key has 1 to 500 bytes."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key of {len(key)} bytes; 1 to {KEY_BYTES_MAX} are allowed")


def check_row(key: bytes, value: bytes) -> None:
    """Raises ValueError if key or value is over its limit."""
    check_key(key)
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(value)} bytes; {VALUE_BYTES_MAX} are allowed")


def counted(key: bytes, stored: bytes | None) -> int:
    """The value of a counter from its row. Raises Corrupt."""
    return 0 if stored is None else unpack_counter(key, stored)


def counter_sum(value: int, delta: int) -> int:
    """A counter's value after adding to it. Raises OverflowError outside of 63 bits."""
    total = value + delta
    if not -_COUNTER_BOUND <= total < _COUNTER_BOUND:
        raise OverflowError(f"a counter does not hold {total}")
    return total


def counter_row(key: bytes, value: int) -> bytes | None:
    """The row of a counter; None where it has none."""
    return pack_counter(key, value) if value else None


def added(key: bytes, stored: bytes | None, delta: int) -> bytes | None:
    """The row of a counter after adding to it; None where it has none any more.

    Raises Corrupt, and OverflowError outside of 63 bits.
    """
    return counter_row(key, counter_sum(counted(key, stored), delta))
