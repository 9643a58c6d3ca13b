"""Writes the audit log: one JSON line for each change that was requested, done or refused."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

from .logs import encoded, timestamp
from .request_record import RequestRecord

STANDARD_OUTPUT: Final = "-"

_log: Final = logging.getLogger(__name__)


def result_of(status: int) -> str:
    """Return ``done``, ``refused`` (the request's fault), ``failed`` (the server's), ``left`` (no
    answer)."""
    if status == 0:
        return "left"
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"


class Audit:
    """An open audit log.

    Each line is one write to a file opened for appending, so lines of several workers never mix. A
    line is handed to the system before the answer is sent; it is not synced.
    """

    def __init__(self, path: str) -> None:
        """Open or create the file (mode 0600). Raises OSError."""
        if path == STANDARD_OUTPUT:
            # A duplicate, so that ``close`` leaves standard output open.
            self._descriptor = os.dup(1)
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)

    def write(self, record: RequestRecord) -> bool:
        """Write the line of one change. Return False if it cannot be written; that is logged."""
        line: dict[str, Any] = {
            "time": timestamp(time.time()),
            "actor": record.actor or "anonymous",
            "action": record.action or f"{record.method} {record.route}",
            "kind": record.kind,
            "id": record.id,
            "name": record.name,
            "region": record.region,
            "method": record.method,
            "path": record.path,
            "address": record.address,
            "status": record.status,
            "result": result_of(record.status),
            "request_id": record.request_id,
        }
        text = encoded(line)
        try:
            os.write(self._descriptor, text + b"\n")
        except OSError as error:
            _log.error("writing the audit log failed: %s; the line is lost", error.strerror)
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
