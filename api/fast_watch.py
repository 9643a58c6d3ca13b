"""What ``watch`` and the access log do around a request, for the answers of the fast lane."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from .board import GONE, Slot
from .fast_answers import Asked
from .limits import Limits
from .logs import AccessLine, log_access

_CLIENT_LEFT: Final = GONE + 1


class LaneWatch:
    """Limits, metrics and access log of one worker's lane; each of them may be missing."""

    def __init__(
        self,
        *,
        slot: Slot | None = None,
        limits: Limits | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._slot = slot
        self._limits = limits
        self._log = log

    @property
    def logs(self) -> bool:
        """Whether it writes the access log."""
        return self._log is not None

    def admits(self, who: str, access_key: str) -> bool:
        """As ``fast_answers.Watcher``. What is refused is counted by the plain path."""
        limits = self._limits
        if limits is None:
            return True
        if limits.arrive(who):
            return False
        return not (access_key and limits.charge(who, access_key))

    def answered(self, asked: Asked, sent: int, content: int, *, gone: bool) -> None:
        """As ``fast_answers.Watcher``."""
        seconds = perf_counter() - asked.begun
        method = asked.method
        if self._slot is not None:
            status = _CLIENT_LEFT if gone else asked.status // 100
            self._slot.count(asked.target.endpoint, method, status, 0, content, seconds)
        if self._log is not None:
            line = AccessLine(
                address=asked.visitor.address or asked.peer.address,
                method=method,
                path=asked.path,
                version="HTTP/1.1",
                status=asked.status,
                size=sent,
                seconds=seconds,
                agent=asked.visitor.agent,
                actor=asked.access_key,
                request_id=asked.request_id.decode("ascii"),
            )
            log_access(self._log, line)
