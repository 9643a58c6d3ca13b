"""Records requests of both paths: counters, audit log, access log and traces.

``middleware`` makes the records of the plain path, ``fast.records`` those of the fast path. What is
recorded of a request, and with which fields, is decided here and in ``telemetry`` alone.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from holdfast.engine import WAITS

from .http.queries import parse_query
from .limits.addresses import network_prefix
from .limits.bandwidth import Bandwidth
from .limits.rates import Limits
from .telemetry.audit import Audit
from .telemetry.counters import Slot
from .telemetry.logs import log_access
from .telemetry.request_record import RequestLimiter, RequestRecord
from .telemetry.tracing import Traces
from .telemetry.waits import Steps

_READ_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_UNCHANGING_ROUTES: Final = frozenset(("/token", "exists"))
"""Routes whose POST changes nothing."""

_UPLOADS: Final = ("upload", "uploads")
"""Endpoints of uploads."""

_DIGEST_CHARS_MAX: Final = 256


class Recorder:
    """Limits and records the requests of one worker; each part is optional."""

    def __init__(
        self,
        *,
        slot: Slot | None = None,
        limits: Limits | None = None,
        bandwidth: Bandwidth | None = None,
        audit: Audit | None = None,
        log: logging.Logger | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.slot = slot
        self.bandwidth = bandwidth
        """Bandwidth limit of namespaces; None without one."""
        self.logs = log is not None
        """True if the access log is written."""
        self.sends_files = bandwidth is None
        """True if content may be sent as fast as the client reads it."""
        self.traces = traces is not None
        """True if requests are traced."""
        self._limits = limits
        self._audit = audit
        self._log = log
        self._traces = traces

    def limiter(self, address: str) -> RequestLimiter | None:
        """Return the limits of a new request; None without any."""
        if self._limits is None:
            return None
        return RequestLimiter(self._limits, self.slot, network_prefix(address))

    def limits(self, prefix: str) -> bool:
        """Return True if requests of a network prefix, or bytes sent, are limited."""
        if self.bandwidth is not None:
            return True
        return self._limits is not None and self._limits.apply_to(prefix)

    def admits(self, prefix: str, access_key: str) -> bool:
        """Charge one request of the fast path. Return False if it exceeds a limit."""
        limits = self._limits
        if limits is None:
            return True
        # The plain path, which answers 429, also counts the refusal.
        if limits.arrive(prefix):
            return False
        return not (access_key and limits.charge(prefix, access_key))

    def passes(self, region: str, name: str, count: int) -> bool:
        """Return True if ``count`` bytes of a repository's content may be sent now."""
        bandwidth = self.bandwidth
        return bandwidth is None or bandwidth.of(region, name.partition("/")[0]).now(count)

    def begin_steps(self) -> Steps | None:
        """Collect the waits of this task's request from now on; None unless it is traced."""
        if self._traces is None:
            return None
        steps = Steps()
        WAITS.set(steps)
        return steps

    def finish(self, record: RequestRecord) -> None:
        """Record a request that ends now.

        Call it before the answer is sent, so that an acknowledged change has its line in the audit
        log. The access log is left to the caller if ``size`` is None.
        """
        record.seconds = perf_counter() - record.started
        if self.slot is not None:
            status, content = (0, 0) if record.gone else (record.status, record.content)
            self.slot.count(
                record.route, record.method, status, record.received, content, record.seconds
            )
        if self._audit is not None and _changes(record):
            if record.route in _UPLOADS:
                _name_upload(record)
            if not self._audit.write(record) and self.slot is not None:
                self.slot.add("audit_failures")
        if self._log is not None and record.size is not None:
            log_access(self._log, record)
        if self._traces is not None:
            self._traces.ended(record)

    async def close(self) -> None:
        """Close the audit log, and send the last traces. May be called twice."""
        audit, self._audit = self._audit, None
        if audit is not None:
            audit.close()
        traces, self._traces = self._traces, None
        if traces is not None:
            await traces.close()


def _changes(record: RequestRecord) -> bool:
    return record.method not in _READ_METHODS and record.route not in _UNCHANGING_ROUTES


def _name_upload(record: RequestRecord) -> None:
    """Note the digest of an upload, which is only in its query."""
    query = parse_query(record.query)
    named = query.first("digest") or query.first("mount")
    if named:
        record.kind, record.id = "blob", named[:_DIGEST_CHARS_MAX]
