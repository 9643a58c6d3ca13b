"""Reads the chunked transfer coding out of a reused buffer (RFC 9112 section 7.1).

Strict where leniency only helps request smuggling: a size is hexadecimal digits, each line ends
with CR LF, and extensions and trailers are bounded and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

LINE_BYTES_MAX: Final = 1024
"""Longest line of a size with its extensions, in bytes."""

TRAILER_BYTES_MAX: Final = 16 * 1024
"""Longest trailer section, in bytes."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_CRLF: Final = b"\r\n"


class BadChunk(ValueError):
    """The bytes are not chunked content. No byte after them has a meaning."""


class Chunked:
    """The state of one body. Call ``feed`` with what arrives until it is ``done``."""

    __slots__ = ("_left", "_line", "_trailer_bytes", "_want", "done", "used")

    def __init__(self) -> None:
        self.done = False
        """True if the body is complete."""
        self.used = 0
        """Bytes of the last ``feed`` that belong to the body, once its iterator is exhausted."""
        self._want = _SIZE_LINE
        self._left = 0
        """Bytes left of the chunk that is being read."""
        self._line = b""
        """Beginning of an incomplete line."""
        self._trailer_bytes = 0

    def feed(self, data: bytearray, end: int) -> Iterator[tuple[int, int]]:
        """Yield the spans of content in the first ``end`` bytes of ``data``. Raises BadChunk."""
        at = 0
        while at < end and not self.done:
            if self._want == _DATA:
                stop = min(end, at + self._left)
                yield at, stop
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._want = _DATA_END
                continue
            line_end = data.find(_CRLF, at, end)
            # CR and LF came in two packets.
            if self._line.endswith(b"\r") and data[at] == _LF:
                line, at = self._line[:-1], at + 1
            elif line_end < 0:
                self._keep(data, at, end)
                at = end
                break
            else:
                line, at = self._line + data[at:line_end], line_end + 2
            self._line = b""
            self._take(line)
        self.used = at

    def _keep(self, data: bytearray, at: int, end: int) -> None:
        if len(self._line) + end - at > LINE_BYTES_MAX:
            raise BadChunk("a line is too long")
        self._line += data[at:end]

    def _take(self, line: bytes) -> None:
        """Handle one line without its end."""
        if len(line) > LINE_BYTES_MAX or b"\r" in line or b"\n" in line:
            raise BadChunk("a line is malformed")
        if self._want == _DATA_END:
            if line:
                raise BadChunk("a chunk is longer than its size")
            self._want = _SIZE_LINE
        elif self._want == _SIZE_LINE:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BadChunk("a size is malformed")
            # The pattern bounds a size to 15 digits, far beyond any blob.
            self._left = int(match[1], 16)
            self._want = _DATA if self._left else _TRAILER
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > TRAILER_BYTES_MAX or not _FIELD.fullmatch(line):
                raise BadChunk("a trailer is malformed")
        else:
            self.done = True


_LF: Final = 10
_SIZE_LINE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3
