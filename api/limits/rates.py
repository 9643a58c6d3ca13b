"""Requests per second by address and by key, and failed logins by address, over all workers.

Every limit is a bucket, filled at its rate: one of requests holds one second's worth of them (but
at least BURST_MIN), one of failed logins holds a minute's. A bucket is one number, the time at
which it will be full again (the generic cell rate algorithm), in memory that all workers share.
They take no lock: of two requests that two workers count in the same microsecond one may go
uncounted.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import time
from dataclasses import dataclass
from typing import Final, Literal

from .addresses import is_local

Kind = Literal["address", "key", "login"]

ENTRIES: Final = 1 << 16
"""Buckets that are not full at one time. Beyond that the fullest of a group starts anew."""

REMEMBERED_MAX: Final = 4096
"""Places of buckets that a process need not look for again."""

_PROBES: Final = 8
_ENTRY: Final = 2
_BYTES: Final = ENTRIES * _ENTRY * 8
_SALT_BYTES: Final = 16

BURST_MIN: Final = 10
RATE_MAX: Final = 1_000_000
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """What is allowed; 0 is no limit."""

    address: float = 0.0
    """Requests a second from one address (of IPv6: from one /64)."""

    key: float = 0.0
    """Requests a second with one key."""

    login: float = 0.0
    """Failed logins a minute from one address."""

    spare_local_address: bool = False
    """Whether ``address`` does not hold for this machine itself."""

    spare_local_key: bool = False
    """Whether ``key`` does not hold for requests that come from this machine itself."""


def create() -> int:
    """Shared memory for the buckets; its file descriptor."""
    descriptor = os.memfd_create("holdfast-limits", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _BYTES + _SALT_BYTES)
    # Nobody outside can choose addresses that share a bucket.
    os.pwrite(descriptor, os.urandom(_SALT_BYTES), _BYTES)
    return descriptor


class Limits:
    """The buckets, as one process uses them."""

    def __init__(self, descriptor: int, rates: Rates) -> None:
        memory = mmap.mmap(descriptor, _BYTES)
        self._cells = memoryview(memory).cast("q")
        self._salt = os.pread(descriptor, _SALT_BYTES, _BYTES)
        self._rates = rates
        self._pace: dict[Kind, tuple[int, int]] = {}
        self._set("address", rates.address, max(BURST_MIN, rates.address))
        self._set("key", rates.key, max(BURST_MIN, rates.key))
        self._set("login", rates.login / 60, max(1, rates.login))

        self._places: dict[tuple[Kind, str], tuple[int, int]] = {}

    def _set(self, kind: Kind, rate: float, burst: float) -> None:
        if rate > 0:
            step = max(1, int(_SECOND / rate))
            self._pace[kind] = (step, step * math.ceil(burst))

    @property
    def asks(self) -> bool:
        """Whether requests have to be counted at all before they run."""
        return "address" in self._pace or "key" in self._pace

    def asks_of(self, who: str) -> bool:
        """Whether those of a neighbourhood have to be."""
        spared = is_local(who) and self._rates.spare_local_address and self._rates.spare_local_key
        return self.asks and not spared

    def arrive(self, who: str) -> int:
        """A request came from a neighbourhood; as ``take``."""
        if self._rates.spare_local_address and is_local(who):
            return 0
        return self.take("address", who)

    def charge(self, who: str, access_key: str) -> int:
        """It is one with that key; as ``take``."""
        if self._rates.spare_local_key and is_local(who):
            return 0
        return self.take("key", access_key)

    def take(self, kind: Kind, who: str) -> int:
        """Take one from a bucket. 0, or (and then none is taken) seconds until there is one."""
        if kind not in self._pace:
            return 0
        step, depth = self._pace[kind]
        at, tag = self._find(kind, who)
        now = time.monotonic_ns()
        full = self._cells[at + 1] if self._cells[at] == tag else 0
        full = max(full, now) + step
        if full - now > depth:
            return max(1, math.ceil((full - now - depth) / _SECOND))
        self._cells[at] = tag
        self._cells[at + 1] = full
        return 0

    def wait(self, kind: Kind, who: str) -> int:
        """Seconds until there is one in a bucket, 0 where there is; takes none."""
        if kind not in self._pace:
            return 0
        step, depth = self._pace[kind]
        at, tag = self._find(kind, who)
        if self._cells[at] != tag:
            return 0
        over = self._cells[at + 1] + step - time.monotonic_ns() - depth
        return max(0, math.ceil(over / _SECOND))

    def _find(self, kind: Kind, who: str) -> tuple[int, int]:
        """Where the bucket is, or may be made; and its tag."""
        known = self._places.get((kind, who))
        if known is not None and self._cells[known[0]] == known[1]:
            return known
        if len(self._places) >= REMEMBERED_MAX:
            self._places.clear()
        found = self._places[kind, who] = self._look(kind, who)
        return found

    def _look(self, kind: Kind, who: str) -> tuple[int, int]:
        digest = hashlib.blake2b(f"{kind} {who}".encode(), digest_size=16, key=self._salt).digest()
        tag = int.from_bytes(digest[:8], "little", signed=True) | 1
        start = int.from_bytes(digest[8:], "little")
        cells = self._cells
        best, least = 0, None
        for probe in range(_PROBES):
            at = (start + probe) % ENTRIES * _ENTRY
            if cells[at] == tag:
                return at, tag
            if least is None or cells[at + 1] < least:
                best, least = at, cells[at + 1]
        return best, tag
