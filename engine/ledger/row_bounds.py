"""Checks that all ledger backends share: sizes of keys and values, and bounds of counters."""

from __future__ import annotations

from typing import Final

from .interface import KEY_BYTES_MAX, VALUE_BYTES_MAX, pack_counter, unpack_counter

_COUNTER_BOUND: Final = 1 << 62


def check_key(key: bytes) -> None:
    """Check that the key has 1 to 500 bytes. Raises ValueError."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key must have 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")


def check_row(key: bytes, value: bytes) -> None:
    """Check the sizes of key and value. Raises ValueError."""
    check_key(key)
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"a value must have at most {VALUE_BYTES_MAX} bytes, not {len(value)}")


def counter_value(key: bytes, stored: bytes | None) -> int:
    """Return the value of a counter's row; 0 for None. Raises Corrupt."""
    return 0 if stored is None else unpack_counter(key, stored)


def counter_sum(value: int, delta: int) -> int:
    """Return the value of a counter after an add. Raises OverflowError outside of 63 bits."""
    total = value + delta
    if not -_COUNTER_BOUND <= total < _COUNTER_BOUND:
        raise OverflowError(f"a counter cannot hold {total}")
    return total


def counter_row(key: bytes, value: int) -> bytes | None:
    """Return the row of a counter; None at zero, which has no row."""
    return pack_counter(key, value) if value else None


def counter_row_after(key: bytes, stored: bytes | None, delta: int) -> bytes | None:
    """Return the row of a counter after an add; None at zero.

    Raises Corrupt, and OverflowError outside of 63 bits.
    """
    return counter_row(key, counter_sum(counter_value(key, stored), delta))
