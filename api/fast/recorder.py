"""Records requests of the fast path, as ``middleware`` and the access log do those of aiohttp.

``FastRecorder`` implements ``reads.Recorder``. Whatever a request leaves behind (counts, lines of
access and audit log, traces) is the same on both paths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter
from typing import Final

from holdfast.api.http.queries import parse_query
from holdfast.api.limits.bandwidth import Bandwidth
from holdfast.api.limits.rates import Limits
from holdfast.api.middleware import UPLOADS, name_upload
from holdfast.api.oci.app import KINDS
from holdfast.api.oci.paths import Target
from holdfast.api.telemetry.audit import Audit
from holdfast.api.telemetry.counters import GONE, Slot
from holdfast.api.telemetry.logs import AccessLine, log_access
from holdfast.api.telemetry.request_context import RequestContext
from holdfast.api.telemetry.tracing import EndedRequest, Traces
from holdfast.api.telemetry.waits import Step

from .heads import ParsedHeaders, ReadRequest, WriteRequest
from .reads import Answer, Rendered, WriteResult

_CLIENT_GONE: Final = GONE + 1


class FastRecorder:
    """Applies limits, metrics, access log, audit log and traces of one worker; each is optional."""

    def __init__(
        self,
        *,
        slot: Slot | None = None,
        limits: Limits | None = None,
        bandwidth: Bandwidth | None = None,
        log: logging.Logger | None = None,
        audit: Audit | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._audit = audit
        self._slot = slot
        self._bandwidth = bandwidth
        self._limits = limits
        self._log = log
        self._traces = traces

    @property
    def logs(self) -> bool:
        """True if it writes the access log."""
        return self._log is not None

    def limits(self, prefix: str) -> bool:
        """Return True if requests of a network prefix, or bytes sent, are limited."""
        if self._bandwidth is not None:
            return True
        return self._limits is not None and self._limits.apply_to(prefix)

    def admits(self, prefix: str, access_key: str) -> bool:
        """Charge one request. Return False if it exceeds a limit."""
        limits = self._limits
        if limits is None:
            return True
        # The plain path, which answers 429, also counts the refusal.
        if limits.arrive(prefix):
            return False
        return not (access_key and limits.charge(prefix, access_key))

    @property
    def sends_files(self) -> bool:
        """True if files may be sent as fast as the client reads them."""
        return self._bandwidth is None

    def passes(self, region: str, name: str, count: int) -> bool:
        """Return True if ``count`` bytes of a repository's content may be sent now."""
        bandwidth = self._bandwidth
        return bandwidth is None or bandwidth.of(region, name.partition("/")[0]).now(count)

    @property
    def counts_only(self) -> bool:
        """True if it does nothing with answers but ``count`` them."""
        return self._log is None and self._traces is None

    def count(self, request: ReadRequest, rendered: Rendered, seconds: float) -> None:
        """Count an answer that was sent whole, in one piece."""
        if self._slot is not None:
            self._slot.count(
                request.target.endpoint,
                request.method,
                rendered.status // 100,
                0,
                rendered.size,
                seconds,
            )

    def read_ended(self, answer: Answer, content: int, *, gone: bool) -> None:
        """Record an answer that has ended, with the bytes of content that were sent."""
        seconds = perf_counter() - answer.started
        request, status = answer.request, answer.rendered.status
        if self._slot is not None:
            kind = _CLIENT_GONE if gone else status // 100
            self._slot.count(request.target.endpoint, request.method, kind, 0, content, seconds)
        if self._log is None and self._traces is None:
            return
        key, headers = answer.caller.key, request.headers
        line = AccessLine(
            address=headers.address or answer.peer.address,
            method=request.method,
            path=request.line.split(b" ")[1].decode("ascii"),
            version="HTTP/1.1",
            status=status,
            size=len(answer.text) + (0 if answer.reader is None else content),
            seconds=seconds,
            agent=headers.agent,
            actor="" if key is None else key.access_key,
            request_id=answer.request_id.decode("ascii"),
        )
        self._log_and_trace(line, request.target, headers, gone=gone)

    @property
    def traces(self) -> bool:
        """True if it traces what pushes wait for."""
        return self._traces is not None

    def push_ended(self, result: WriteResult, *, gone: bool) -> None:
        """Record a push before its answer is sent; if the client is ``gone``, none is sent."""
        seconds = perf_counter() - result.started
        request, status = result.request, result.status
        if self._slot is not None:
            kind = _CLIENT_GONE if gone else status // 100
            content = 0 if gone else result.content
            self._slot.count(
                request.target.endpoint, request.method, kind, result.received, content, seconds
            )
        if self._audit is None and self._log is None and self._traces is None:
            return
        key, headers = result.caller.key, request.headers.parsed
        line = AccessLine(
            address=headers.address or result.peer.address,
            method=request.method,
            path=request.path,
            version="HTTP/1.1",
            status=status,
            size=len(result.text),
            seconds=seconds,
            agent=headers.agent,
            actor="" if key is None else key.access_key,
            request_id=result.request_id,
        )
        # This runs before the answer is sent, so that an acknowledged push has its line.
        self._write_audit_line(line, request)
        self._log_and_trace(line, request.target, headers, gone=gone, steps=result.steps or ())

    def _write_audit_line(self, line: AccessLine, request: WriteRequest) -> None:
        """Write the line of the audit log."""
        if self._audit is None:
            return
        target = request.target
        context = RequestContext(
            request_id=line.request_id,
            address=line.address,
            route=target.endpoint,
            actor=line.actor,
            kind=KINDS[target.endpoint],
            id=target.item,
            name=target.name,
            region=request.headers.parsed.origin.region,
        )
        if target.endpoint in UPLOADS:
            name_upload(context, parse_query(request.query))
        if not self._audit.write(context, line.method, line.path, line.status) and self._slot:
            self._slot.add("audit_failures")

    def _log_and_trace(
        self,
        line: AccessLine,
        target: Target,
        headers: ParsedHeaders,
        *,
        gone: bool,
        steps: Iterable[Step] = (),
    ) -> None:
        """Write the access log, and hand the request to the traces."""
        if self._log is not None:
            log_access(self._log, line)
        if self._traces is not None:
            ended = EndedRequest(
                line,
                target.endpoint,
                headers.origin.scheme,
                gone=gone,
                name=target.name,
                region=headers.origin.region,
                parent=headers.parent,
                state=headers.state,
                steps=steps,
            )
            self._traces.ended(ended)
