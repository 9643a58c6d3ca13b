"""Version 7 UUIDs: the layout of RFC 9562, their order, and the way back."""

from __future__ import annotations

from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.model.errors import Invalid
from holdfast.engine.model.uuid7 import microseconds_of, uuid7

LAST = (1 << 48) * 1000 - 1
TIMES = st.integers(0, LAST)
ENTROPY = st.binary(min_size=8, max_size=8)


def test_the_example_of_the_rfc() -> None:
    # RFC 9562, appendix A.6, with the fraction that belongs to 0.797 ms (0xcc3 of 0x1000).
    entropy = bytes.fromhex("18c4dc0c0c07398f")
    made = uuid7(1645557742000 * 1000 + 797, entropy)
    assert str(made) == "017f22e2-79b0-7cc0-98c4-dc0c0c07398f"


@given(TIMES, ENTROPY)
def test_the_layout(microseconds: int, entropy: bytes) -> None:
    made = uuid7(microseconds, entropy)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert int.from_bytes(made.bytes[:6], "big") == microseconds // 1000
    assert (made.bytes[8] & 0x3F, made.bytes[9:]) == (entropy[0] & 0x3F, entropy[1:])


@given(TIMES, TIMES, ENTROPY, ENTROPY)
def test_ids_order_as_their_times(one: int, other: int, some: bytes, more: bytes) -> None:
    earlier, later = sorted((one, other))
    if earlier < later:
        first, second = uuid7(earlier, some), uuid7(later, more)
        assert first < second
        assert first.bytes < second.bytes
        assert str(first) < str(second)


@given(TIMES, ENTROPY)
def test_the_time_comes_back(microseconds: int, entropy: bytes) -> None:
    assert microseconds_of(uuid7(microseconds, entropy)) == microseconds


def test_every_microsecond_of_a_millisecond_has_its_place() -> None:
    start = 1_700_000_000_000_000
    made = [uuid7(start + step, bytes((255,)) * 8) for step in range(1001)]
    following = [uuid7(start + step, bytes(8)) for step in range(1001)]
    assert all(made[step] < following[step + 1] for step in range(1000))
    assert [microseconds_of(value) - start for value in made] == list(range(1001))


def test_entropy_tells_ids_of_one_time_apart() -> None:
    assert uuid7(5, bytes(8)) != uuid7(5, bytes(7) + b"\x01")


@pytest.mark.parametrize("microseconds", [-1, LAST + 1])
def test_times_that_do_not_fit_are_refused(microseconds: int) -> None:
    with pytest.raises(Invalid, match="microseconds"):
        uuid7(microseconds, bytes(8))


@pytest.mark.parametrize("entropy", [b"", bytes(7), bytes(9)])
def test_entropy_has_one_length(entropy: bytes) -> None:
    with pytest.raises(Invalid, match="entropy"):
        uuid7(0, entropy)


@pytest.mark.parametrize("value", [uuid4(), UUID(int=0), UUID(int=7 << 76)])
def test_other_uuids_have_no_time(value: UUID) -> None:
    with pytest.raises(Invalid, match="version 7"):
        microseconds_of(value)


def test_foreign_ids_stay_in_their_millisecond() -> None:
    assert microseconds_of(UUID("017f22e2-79b0-7fff-98c4-dc0c0c07398f")) == 1645557742000_999
