"""Limits requests a second by address and by key, and failed logins by address, over all workers.

Each limit is a bucket that fills at its rate. A bucket of requests holds those of one second (at
least BURST_MIN); one of failed logins holds those of a minute. A bucket is one number, the time at
which it is full again (the generic cell rate algorithm), in memory that all workers share. They
take no lock: of two requests that two workers count in the same microsecond, one may go uncounted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final, Literal

from .addresses import is_local
from .shared_memory import BUCKETS, UNTIL, HashTable, SharedMemory

Kind = Literal["address", "key", "login"]

BURST_MIN: Final = 10
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """The configured rates; 0 is no limit."""

    address: float = 0.0
    """Requests a second from one address (IPv6: one /64)."""

    key: float = 0.0
    """Requests a second with one key."""

    login: float = 0.0
    """Failed logins a minute from one address."""

    spare_local_address: bool = False
    """True if ``address`` does not apply to this machine itself."""

    spare_local_key: bool = False
    """True if ``key`` does not apply to requests from this machine itself."""


class Limits:
    """The buckets in the view of one process."""

    def __init__(self, shared: SharedMemory, rates: Rates) -> None:
        self._table = HashTable(shared.buckets, BUCKETS, shared.salt)
        self._cells = shared.buckets
        self._rates = rates
        self._rates_ns: dict[Kind, tuple[int, int]] = {}
        self._set("address", rates.address, max(BURST_MIN, rates.address))
        self._set("key", rates.key, max(BURST_MIN, rates.key))
        self._set("login", rates.login / 60, max(1, rates.login))

    def _set(self, kind: Kind, rate: float, burst: float) -> None:
        if rate > 0:
            step = max(1, int(_SECOND_NS / rate))
            self._rates_ns[kind] = (step, step * math.ceil(burst))

    @property
    def are_active(self) -> bool:
        """True if requests must be counted before they run."""
        return "address" in self._rates_ns or "key" in self._rates_ns

    def apply_to(self, prefix: str) -> bool:
        """Return True if requests from a network prefix must be counted before they run."""
        rates = self._rates
        spared = is_local(prefix) and rates.spare_local_address and rates.spare_local_key
        return self.are_active and not spared

    def arrive(self, prefix: str) -> int:
        """Count a request from a network prefix. Returns as ``take`` does."""
        if self._rates.spare_local_address and is_local(prefix):
            return 0
        return self.take("address", prefix)

    def charge(self, prefix: str, access_key: str) -> int:
        """Count a request with a key. Returns as ``take`` does."""
        if self._rates.spare_local_key and is_local(prefix):
            return 0
        return self.take("key", access_key)

    def take(self, kind: Kind, subject: str) -> int:
        """Take one from a bucket. Return 0, or the seconds until there is one; then none is
        taken."""
        if kind not in self._rates_ns:
            return 0
        step, depth = self._rates_ns[kind]
        at, tag = self._table.find(kind, subject)
        now = time.monotonic_ns()
        # A cell with another tag is a bucket of another subject: this one is full.
        full = self._cells[at + UNTIL] if self._cells[at] == tag else 0
        # The bucket is full at ``full``; taking one moves that time by one step.
        full = max(full, now) + step
        if full - now > depth:
            return max(1, math.ceil((full - now - depth) / _SECOND_NS))
        self._cells[at] = tag
        self._cells[at + UNTIL] = full
        return 0

    def wait(self, kind: Kind, subject: str) -> int:
        """Return the seconds until there is one in a bucket; 0 is now. Takes none."""
        if kind not in self._rates_ns:
            return 0
        step, depth = self._rates_ns[kind]
        at, tag = self._table.find(kind, subject)
        if self._cells[at] != tag:
            return 0
        over = self._cells[at + UNTIL] + step - time.monotonic_ns() - depth
        return max(0, math.ceil(over / _SECOND_NS))
