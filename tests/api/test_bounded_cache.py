"""What is remembered under keys that clients choose."""

from __future__ import annotations

import pytest

from holdfast.api.fast import bounded_cache
from holdfast.api.fast.bounded_cache import KEY_BYTES_MAX, BoundedCache


def test_it_is_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_cache, "ENTRIES_MAX", 3)
    monkeypatch.setattr(bounded_cache, "BYTES_MAX", 100)
    memory: BoundedCache[int, str] = BoundedCache()
    for key in (1, 2, 3):
        memory.keep(key, "x", 10)
    assert list(memory) == [1, 2, 3]
    memory.keep(4, "x", 90)
    assert list(memory) == [4], "a fourth entry"
    memory.keep(5, "x", 10)
    assert list(memory) == [4, 5], "what was forgotten counts no more"
    memory.keep(6, "x", 1)
    assert list(memory) == [6], "a byte too many"


def test_a_long_key_is_not_remembered() -> None:
    memory: BoundedCache[int, str] = BoundedCache()
    memory.keep(1, "x", KEY_BYTES_MAX)
    memory.keep(2, "x", KEY_BYTES_MAX + 1)
    assert list(memory) == [1]
