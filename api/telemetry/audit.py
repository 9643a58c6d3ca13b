"""The audit log: one JSON line for every change that was asked for, done or refused."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

from .logs import encoded, timestamp
from .request_context import RequestContext

STANDARD_OUTPUT: Final = "-"

_log: Final = logging.getLogger(__name__)


def result_of(status: int) -> str:
    """``done``, ``refused`` (the request's fault), ``failed`` (ours), ``left`` (no answer)."""
    if status == 0:
        return "left"
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"


class Audit:
    """An open audit log.

    Each line is one write to a file opened for appending, so lines of several workers never mix.
    A line is handed to the system before its request is answered; it is not synced.
    """

    def __init__(self, path: str) -> None:
        """Open or create it (mode 0600). Raises OSError."""
        if path == STANDARD_OUTPUT:
            self._descriptor = os.dup(1)
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)

    def write(self, trail: RequestContext, method: str, path: str, status: int) -> bool:
        """One change (``path`` without its query), with the status it ended with (0: none, the
        client left).

        False where the line could not be written; that is logged.
        """
        line: dict[str, Any] = {
            "time": timestamp(time.time()),
            "actor": trail.actor or "anonymous",
            "action": trail.action or f"{method} {trail.route}",
            "kind": trail.kind,
            "id": trail.id,
            "name": trail.name,
            "region": trail.region,
            "method": method,
            "path": path,
            "address": trail.address,
            "status": status,
            "result": result_of(status),
            "request_id": trail.request_id,
        }
        text = encoded(line)
        try:
            os.write(self._descriptor, text + b"\n")
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error.strerror)
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
