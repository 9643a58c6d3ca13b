"""What ``middleware`` and the access log do around a request, for the answers of the fast lane."""

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
from holdfast.api.telemetry.tracing import Ended, Traces
from holdfast.api.telemetry.waits import Step

from .heads import ParsedHeaders, ReadRequest, WriteRequest
from .reads import Answer, Rendered, WriteResult

_CLIENT_LEFT: Final = GONE + 1


class FastRecorder:
    """Limits, metrics, access log and traces of one worker's lane; each may be missing."""

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
        """Whether it writes the access log."""
        return self._log is not None

    def limits(self, who: str) -> bool:
        """As ``fast_answers.Recorder``."""
        if self._bandwidth is not None:
            return True
        return self._limits is not None and self._limits.asks_of(who)

    def admits(self, who: str, access_key: str) -> bool:
        """As ``fast_answers.Recorder``. What is refused is counted by the plain path."""
        limits = self._limits
        if limits is None:
            return True
        if limits.arrive(who):
            return False
        return not (access_key and limits.charge(who, access_key))

    @property
    def sends_files(self) -> bool:
        """As ``fast_answers.Recorder``."""
        return self._bandwidth is None

    def passes(self, region: str, name: str, count: int) -> bool:
        """As ``fast_answers.Recorder``."""
        bandwidth = self._bandwidth
        return bandwidth is None or bandwidth.of(region, name.partition("/")[0]).now(count)

    @property
    def counts_only(self) -> bool:
        """As ``fast_answers.Recorder``."""
        return self._log is None and self._traces is None

    def count(self, asking: ReadRequest, rendered: Rendered, seconds: float) -> None:
        """As ``fast_answers.Recorder``."""
        if self._slot is not None:
            self._slot.count(
                asking.target.endpoint,
                asking.method,
                rendered.status // 100,
                0,
                rendered.size,
                seconds,
            )

    def answered(self, answer: Answer, content: int, *, gone: bool) -> None:
        """As ``fast_answers.Recorder``."""
        seconds = perf_counter() - answer.begun
        asking, status = answer.asking, answer.rendered.status
        if self._slot is not None:
            kind = _CLIENT_LEFT if gone else status // 100
            self._slot.count(asking.target.endpoint, asking.method, kind, 0, content, seconds)
        if self._log is None and self._traces is None:
            return
        key, visitor = answer.caller.key, asking.visitor
        line = AccessLine(
            address=visitor.address or answer.peer.address,
            method=asking.method,
            path=asking.line.split(b" ")[1].decode("ascii"),
            version="HTTP/1.1",
            status=status,
            size=len(answer.text) + (0 if answer.reader is None else content),
            seconds=seconds,
            agent=visitor.agent,
            actor="" if key is None else key.access_key,
            request_id=answer.request_id.decode("ascii"),
        )
        self._tell(line, asking.target, visitor, gone=gone)

    @property
    def traces(self) -> bool:
        """As ``fast_answers.Recorder``."""
        return self._traces is not None

    def wrote(self, written: WriteResult, *, gone: bool) -> None:
        """As ``fast_answers.Recorder``. The audit log has its line before there is an answer."""
        seconds = perf_counter() - written.begun
        sent, status = written.sent, written.status
        if self._slot is not None:
            kind = _CLIENT_LEFT if gone else status // 100
            content = 0 if gone else written.content
            self._slot.count(
                sent.target.endpoint, sent.method, kind, written.received, content, seconds
            )
        if self._audit is None and self._log is None and self._traces is None:
            return
        key, visitor = written.caller.key, sent.sender.visitor
        line = AccessLine(
            address=visitor.address or written.peer.address,
            method=sent.method,
            path=sent.path,
            version="HTTP/1.1",
            status=status,
            size=len(written.text),
            seconds=seconds,
            agent=visitor.agent,
            actor="" if key is None else key.access_key,
            request_id=written.request_id,
        )
        self._record(line, sent)
        self._tell(line, sent.target, visitor, gone=gone, steps=written.steps or ())

    def _record(self, line: AccessLine, sent: WriteRequest) -> None:
        """The line of the audit log."""
        if self._audit is None:
            return
        target = sent.target
        trail = RequestContext(
            request_id=line.request_id,
            address=line.address,
            route=target.endpoint,
            actor=line.actor,
            kind=KINDS[target.endpoint],
            id=target.item,
            name=target.name,
            region=sent.sender.visitor.origin.region,
        )
        if target.endpoint in UPLOADS:
            name_upload(trail, parse_query(sent.query))
        if not self._audit.write(trail, line.method, line.path, line.status) and self._slot:
            self._slot.add("audit_failed")

    def _tell(
        self,
        line: AccessLine,
        target: Target,
        visitor: ParsedHeaders,
        *,
        gone: bool,
        steps: Iterable[Step] = (),
    ) -> None:
        """The access log, and whoever collects traces."""
        if self._log is not None:
            log_access(self._log, line)
        if self._traces is not None:
            ended = Ended(
                line,
                target.endpoint,
                visitor.origin.scheme,
                gone=gone,
                name=target.name,
                region=visitor.origin.region,
                parent=visitor.parent,
                state=visitor.state,
                steps=steps,
            )
            self._traces.ended(ended)
