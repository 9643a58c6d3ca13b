"""Formats log lines, plain or as JSON, each with the id of its request.

Text from clients stays in one line and in its field: characters that cannot be printed are escaped,
control characters as well as those that reverse the text (U+202E). The access log also escapes
quotes and backslashes, so that a client cannot end a field. Query strings, bodies and credentials
are never logged.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any, Final, Literal

import msgspec

from .request_record import CURRENT, RequestRecord

LogFormat = Literal["plain", "json"]
ACCESS: Final = "holdfast.access"

_QUOTABLE: Final = re.compile(r"[ !#-\[\]-~]*")
_HEADER_CHARS_MAX: Final = 256


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with escapes (``\\u202e``, as in JSON) for characters that cannot be printed.

    ``lines`` keeps line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (lines and character == "\n")
        else _json_escape(character)
        for character in text
    )


def _json_escape(character: str) -> str:
    """Escape a character (RFC 8259 section 7); two escapes beyond U+FFFF."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def quotable(text: str) -> str:
    """Return the text as Apache and nginx write it between quotes.

    That is ``\\"``, ``\\\\``, and ``\\xhh`` for each byte that is not printable ASCII.
    """
    if _QUOTABLE.fullmatch(text):
        return text
    return "".join(
        f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def encoded(fields: dict[str, Any]) -> bytes:
    """Encode a JSON object without characters that cannot be printed, and without lone surrogates.

    Undecodable bytes of a request become such surrogates.
    """
    whole = {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }
    # Characters beyond ASCII appear in strings only, so the escapes below are valid JSON.
    return printable(msgspec.json.encode(whole).decode()).encode()


def timestamp(seconds: float) -> str:
    """Return the time as RFC 3339 in UTC with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def _request_id(record: logging.LogRecord) -> str:
    current = CURRENT.get()
    known: str = record.__dict__.get("request_id", "")
    return known or (current.request_id if current else "")


class PlainFormatter(logging.Formatter):
    """``time [pid] LEVEL name: message (request id)``; a traceback follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        name = _request_id(record)
        text = (
            f"{timestamp(record.created)} [{os.getpid()}] {record.levelname} {record.name}: "
            f"{printable(record.getMessage())}{f' ({name})' if name else ''}"
        )
        return text + _trace(self, record)


class BareFormatter(logging.Formatter):
    """The message alone; a traceback follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return printable(record.getMessage()) + _trace(self, record)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    return "\n" + printable(formatter.formatException(record.exc_info), lines=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; fields of the access log are its members."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
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
        return encoded(fields).decode()


def set_up(kind: LogFormat, level: str, *, bare: bool = False) -> None:
    """Log to standard error from now on. ``bare`` makes plain lines of the message alone."""
    handler = logging.StreamHandler()
    formatter = BareFormatter() if bare else PlainFormatter()
    handler.setFormatter(JsonFormatter() if kind == "json" else formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # The access log has a switch of its own, which a level must not override.
    logging.getLogger(ACCESS).setLevel(logging.INFO)


def log_access(logger: logging.Logger, record: RequestRecord) -> None:
    """Write the line of one request to the access log."""
    address, size = record.address or "-", record.size or 0
    agent = record.agent[:_HEADER_CHARS_MAX] or "-"
    logger.info(
        '%s "%s %s %s" %d %d %.6fs "%s" %s %s',
        quotable(address),
        quotable(record.method),
        quotable(record.path),
        f"HTTP/{record.version}",
        record.status,
        size,
        record.seconds,
        quotable(agent),
        quotable(record.actor) or "-",
        record.request_id,
        extra={
            "fields": {
                "address": address,
                "method": record.method,
                "path": record.path,
                "status": record.status,
                "bytes": size,
                "seconds": round(record.seconds, 6),
                "agent": agent,
                "actor": record.actor,
                "request_id": record.request_id,
            }
        },
    )
