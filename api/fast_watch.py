"""What ``watch`` and the access log do around a request, for the answers of the fast lane."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from .bandwidth import Bandwidth
from .board import GONE, Slot
from .fast_answers import Answer
from .limits import Limits
from .logs import AccessLine, log_access
from .tracing import Ended, Traces

_CLIENT_LEFT: Final = GONE + 1


class LaneWatch:
    """Limits, metrics, access log and traces of one worker's lane; each may be missing."""

    def __init__(
        self,
        *,
        slot: Slot | None = None,
        limits: Limits | None = None,
        bandwidth: Bandwidth | None = None,
        log: logging.Logger | None = None,
        traces: Traces | None = None,
    ) -> None:
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
        """As ``fast_answers.Watcher``."""
        if self._bandwidth is not None:
            return True
        return self._limits is not None and self._limits.asks_of(who)

    def admits(self, who: str, access_key: str) -> bool:
        """As ``fast_answers.Watcher``. What is refused is counted by the plain path."""
        limits = self._limits
        if limits is None:
            return True
        if limits.arrive(who):
            return False
        return not (access_key and limits.charge(who, access_key))

    @property
    def sends_files(self) -> bool:
        """As ``fast_answers.Watcher``."""
        return self._bandwidth is None

    def passes(self, region: str, name: str, count: int) -> bool:
        """As ``fast_answers.Watcher``."""
        bandwidth = self._bandwidth
        return bandwidth is None or bandwidth.of(region, name.partition("/")[0]).now(count)

    def answered(self, answer: Answer, content: int, *, gone: bool) -> None:
        """As ``fast_answers.Watcher``."""
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
        if self._log is not None:
            log_access(self._log, line)
        if self._traces is not None:
            ended = Ended(
                line,
                asking.target.endpoint,
                visitor.origin.scheme,
                gone=gone,
                name=asking.target.name,
                region=visitor.origin.region,
                parent=visitor.parent,
                state=visitor.state,
            )
            self._traces.ended(ended)
