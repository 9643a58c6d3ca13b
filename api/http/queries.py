"""Parses query strings and percent-encoding, once and leniently: grammars judge the result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, unquote_to_bytes

PARAMETERS_MAX: Final = 512
"""Parameters that are parsed; a request line of 8 KiB may have more."""

_MALFORMED: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def percent_decode(text: str) -> str:
    """Decode ``text`` once. Return it unchanged if an escape is malformed or the bytes are no
    UTF-8.

    A bad escape so keeps its ``%``, which no grammar of names, tags, digests or ids allows.
    """
    if not text.isascii():
        # Raw bytes beyond ASCII arrive as surrogates, which no later step can encode.
        text = text.encode("utf-8", "replace").decode("utf-8")
    if "%" not in text or _MALFORMED.search(text):
        return text
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except ValueError:
        return text


class Query:
    """The parameters of one request, in order, names repeated."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = tuple(pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def first(self, name: str) -> str | None:
        """Return the first value under a name; None without one."""
        return next((value for key, value in self._pairs if key == name), None)

    def all(self, name: str) -> list[str]:
        """Return all values under a name."""
        return [value for key, value in self._pairs if key == name]

    def with_values(self, **values: str | None) -> str:
        """Return the query string with these parameters replaced, and the others kept (RFC
        3986)."""
        pairs = [pair for pair in self._pairs if pair[0] not in values]
        pairs += [(name, value) for name, value in values.items() if value is not None]
        return "&".join(
            f"{quote(name, safe='', errors='replace')}={quote(value, safe='', errors='replace')}"
            for name, value in pairs
        )


def parse_query(raw: str, *, form: bool = False) -> Query:
    """Parse a raw query string.

    A ``+`` stands for itself, as in media types that clients do not escape; with ``form`` it is a
    space (application/x-www-form-urlencoded).
    """
    if form:
        raw = raw.replace("+", " ")
    pairs = []
    for part in raw.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX]:
        if part:
            name, _, value = part.partition("=")
            pairs.append((percent_decode(name), percent_decode(value)))
    return Query(pairs)
