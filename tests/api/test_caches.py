"""The caches of the fast path: keys that clients choose, one budget, one invalidation."""

from __future__ import annotations

import pytest

from holdfast.api.fast import caches as module
from holdfast.api.fast.caches import ENTRY_BYTES, KEY_BYTES_MAX, Caches
from holdfast.engine import Change


def size_of(key: bytes) -> int:
    return len(key)


def test_all_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_MAX", 3 * ENTRY_BYTES + 100)
    caches = Caches()
    lengths, names = caches.add(size_of), caches.add(bytes.decode)
    assert (lengths[b"ab"], names[b"c"], lengths[b"d"]) == (2, "c", 1)
    assert caches.bytes == 3 * ENTRY_BYTES + 4
    caches.keep(names, b"long", "x", 97)
    assert (len(lengths), dict(names)) == (0, {b"long": "x"}), "one byte too many drops all"
    assert caches.bytes == ENTRY_BYTES + 4 + 97
    caches.clear()
    assert caches.bytes == len(names) == 0


def test_a_value_is_made_once_and_not_kept_if_making_it_fails() -> None:
    made = []

    def make(key: bytes) -> int:
        made.append(key)
        return int(key)

    cache = Caches().add(make)
    assert [cache[b"1"], cache[b"1"]] == [1, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            cache[b"x"]
    assert made == [b"1", b"x", b"x"]


def test_a_long_key_is_not_kept() -> None:
    caches = Caches()
    cache = caches.add(size_of)
    assert cache[bytes(KEY_BYTES_MAX)] == KEY_BYTES_MAX
    assert cache[bytes(KEY_BYTES_MAX + 1)] == KEY_BYTES_MAX + 1
    assert len(cache) == 1


@pytest.mark.parametrize(
    ("change", "left"),
    [(Change.TIMES, "lasting content names"), (Change.CONTENT, "lasting names"),
     (Change.ANY, "lasting")],
)  # fmt: skip
def test_a_change_drops_what_it_may_have_made_wrong(change: Change, left: str) -> None:
    caches = Caches()
    each = {
        "lasting": caches.add(size_of),
        "content": caches.add(size_of, Change.CONTENT),
        "names": caches.add(size_of, Change.ANY),
    }
    for cache in each.values():
        assert cache[b"key"] == 3
    caches.invalidate(change)
    assert " ".join(name for name, cache in each.items() if cache) == left
    assert caches.bytes == sum(cache.bytes for cache in each.values())
