"""Log lines, plain or as JSON, each with the id of the request it belongs to.

Whatever a client can bring into a message stays in one line: control characters are escaped.
Query strings, bodies and credentials are never logged.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from .trail import CURRENT

LogFormat = Literal["plain", "json"]
LEVELS: Final = ("debug", "info", "warning", "error")
ACCESS: Final = "holdfast.access"

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS_BUT_NEWLINE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER_CHARS_MAX: Final = 256


def _escaped(text: str, controls: re.Pattern[str] = _CONTROLS) -> str:
    return controls.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def _request_id(record: logging.LogRecord) -> str:
    trail = CURRENT.get()
    known: str = record.__dict__.get("request_id", "") or (trail.request_id if trail else "")
    return known


class PlainFormatter(logging.Formatter):
    """``time [pid] LEVEL name: message (request id)``; a traceback follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        name = _request_id(record)
        text = (
            f"{timestamp(record.created)} [{os.getpid()}] {record.levelname} {record.name}: "
            f"{_escaped(record.getMessage())}{f' ({name})' if name else ''}"
        )
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            text += f"\n{_escaped(trace, _CONTROLS_BUT_NEWLINE)}"
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line; fields of the access log are its members."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        if name := _request_id(record):
            fields["request_id"] = name
        fields |= record.__dict__.get("fields", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(_representable(fields)).decode()


def _representable(fields: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which undecodable bytes of a request become."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }


def set_up(kind: LogFormat, level: str, *, bare: bool = False) -> None:
    """Log to standard error from now on. ``bare`` plain lines are messages and nothing else."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(message)s") if bare else PlainFormatter()
    handler.setFormatter(JsonFormatter() if kind == "json" else formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # What was switched on by itself is not switched off by a level.
    logging.getLogger(ACCESS).setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class AccessLine:
    """One request: who asked for what, and how it ended. Never the query."""

    address: str
    """The client's; empty where there is none."""
    method: str
    path: str
    version: str
    status: int
    size: int
    """Bytes sent, with the head."""
    seconds: float
    agent: str
    """The User-Agent header; empty where there is none."""
    actor: str
    """The access key; empty for nobody in particular."""
    request_id: str


def log_access(logger: logging.Logger, line: AccessLine) -> None:
    """Write a line of the access log."""
    address, agent = line.address or "-", line.agent[:_HEADER_CHARS_MAX] or "-"
    logger.info(
        '%s "%s %s %s" %d %d %.6fs "%s" %s %s',
        address,
        line.method,
        line.path,
        line.version,
        line.status,
        line.size,
        line.seconds,
        agent,
        line.actor or "-",
        line.request_id,
        extra={
            "fields": {
                "address": address,
                "method": line.method,
                "path": line.path,
                "status": line.status,
                "bytes": line.size,
                "seconds": round(line.seconds, 6),
                "agent": agent,
                "actor": line.actor,
                "request_id": line.request_id,
            }
        },
    )
