"""Parses byte ranges: ``Range`` of a download, ``Content-Range`` of an upload.

Pure functions over header texts. RFC 9110 section 14, OCI distribution-spec "Pushing a blob in
chunks".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

RANGES_MAX: Final = 1024
"""Ranges answered in one response; a request for more gets the whole content.

podman asks for as many at once. Those of the largest blob fit into a header.
"""

_BEYOND_ALL_CONTENT: Final = 1 << 63
"""Position used for any number of more than 18 digits: it is behind the end of all content."""

_UNIT: Final = re.compile(r"bytes[ \t]*=(.*)", re.ASCII | re.IGNORECASE)
_SPEC: Final = re.compile(r"(\d*)-(\d*)", re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"(\d{1,19})-(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` bytes from ``offset``; never empty."""

    offset: int
    length: int

    def content_range(self, size: int) -> str:
        """Return the value of Content-Range for this part of ``size`` bytes."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size}"


class Unsatisfiable(Exception):
    """No requested range is within the content: 416."""


def parse_range(header: str | None, size: int) -> list[Span]:
    """Return the parts of ``size`` bytes that a Range header requests; empty for all of it.

    RFC 9110 lets a server ignore a header: for an unknown unit, bad syntax, more than RANGES_MAX
    ranges, ranges longer in sum than the content, or any range of empty content, the list is
    empty. Ends beyond the content are clipped. Parts keep their order and are never joined,
    although RFC 9110 section 14.2 allows it, because clients count them. Raises Unsatisfiable if no
    range is within the content, and for a range that ends before it begins, as the OCI conformance
    suite demands.
    """
    unit = _UNIT.fullmatch(header) if header else None
    if unit is None or size == 0:
        return []
    spans: list[Span] = []
    texts = [text.strip(" \t") for text in unit.group(1).split(",")]
    texts = [text for text in texts if text]
    if not texts or len(texts) > RANGES_MAX:
        return []
    for text in texts:
        match = _SPEC.fullmatch(text)
        if match is None or text == "-":
            return []
        span = _span(match.group(1), match.group(2), size)
        if span is not None:
            spans.append(span)
    if not spans:
        raise Unsatisfiable
    # Overlapping ranges could make the answer many times longer than the content.
    if len(spans) > 1 and sum(span.length for span in spans) > size:
        return []
    return spans


def _span(first_text: str, last_text: str, size: int) -> Span | None:
    """Clip one range to the content. Return None if it is outside."""
    if not first_text:
        length = min(_number(last_text), size)
        return Span(size - length, length) if length else None
    first = _number(first_text)
    last = min(_number(last_text), size - 1) if last_text else size - 1
    return Span(first, last - first + 1) if first <= last else None


def _number(text: str) -> int:
    digits = text.lstrip("0")
    return _BEYOND_ALL_CONTENT if len(digits) > 18 else int(digits or "0")


def parse_content_range(header: str) -> Span | None:
    """Parse ``<first>-<last>`` (both inclusive) of a chunk. Return None if it is malformed.

    OCI distribution-spec, "Pushing a blob in chunks": no unit, no total.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip(" \t"))
    if match is None:
        return None
    first, last = int(match.group(1)), int(match.group(2))
    return Span(first, last - first + 1) if first <= last else None
