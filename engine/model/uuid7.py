"""Time-ordered ids: UUIDs of version 7 that contain their creation time in microseconds."""

from __future__ import annotations

from typing import Final
from uuid import RFC_4122, UUID

from .errors import Invalid

ENTROPY_BYTES: Final = 8

_VERSION: Final = 7
_VARIANT: Final = 0b10
_ENTROPY_BITS: Final = 62
_FRACTION_BITS: Final = 12
_MILLISECONDS_END: Final = 1 << 48


def uuid7(microseconds: int, entropy: bytes) -> UUID:
    """Return the version 7 UUID of a time (since 1970) with 62 of the 64 bits of ``entropy``.

    RFC 9562, section 5.7: 48 bits of milliseconds; then, by section 6.2 method 3, the fraction of
    the millisecond in the 12 bits of ``rand_a``. So ids order as their microseconds do, as UUIDs,
    bytes and text. Raises Invalid for times before 1970 or past those 48 bits (in 10889), and for
    entropy that is not 8 bytes.
    """
    milliseconds, rest = divmod(microseconds, 1000)
    if not 0 <= milliseconds < _MILLISECONDS_END:
        raise Invalid("microseconds", "must be a time from 1970 on, in 48 bits of milliseconds")
    if len(entropy) != ENTROPY_BYTES:
        raise Invalid("entropy", f"must be {ENTROPY_BYTES} bytes")
    fraction = (rest << _FRACTION_BITS) // 1000
    noise = int.from_bytes(entropy, "big") & ((1 << _ENTROPY_BITS) - 1)
    return UUID(int=milliseconds << 80 | _VERSION << 76 | fraction << 64 | _VARIANT << 62 | noise)


def microseconds_of(value: UUID) -> int:
    """Return the exact time that ``uuid7`` put into the UUID, in microseconds since 1970.

    For a UUID of another generator the time is within its millisecond. Raises Invalid for UUIDs
    of another version.
    """
    if value.variant != RFC_4122 or value.version != _VERSION:
        raise Invalid("id", "is not a UUID of version 7")
    fraction = value.int >> 64 & ((1 << _FRACTION_BITS) - 1)
    # Rounded up, since uuid7 rounds down; a step of the fraction is less than a microsecond.
    rest = -(-fraction * 1000 >> _FRACTION_BITS)
    return (value.int >> 80) * 1000 + min(rest, 999)
