"""Evaluates conditional requests (RFC 9110 section 13).

Entity tags are digests in quotes. A change hands its condition to the store, which decides it in
the transaction that acts, after all other reasons to refuse (section 13.2.1). An answer to GET or
HEAD is decided here, by its own entity tag. There is no Last-Modified, so conditions by date are
ignored (sections 13.1.3 and 13.1.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from holdfast.engine import ALWAYS, ANY, Condition

from .oci_errors import OciError
from .whole_request import IncomingRequest

_MEMBER: Final = re.compile(r"""(?:"[^"]*"|[^,])++""", re.DOTALL)
"""Member of a list: entity tags may contain commas."""

_TAG: Final = re.compile(r"""(?P<weak>W/)?"(?P<quoted>[^"]+)"|(?P<bare>[^"]+)""", re.DOTALL)
"""Entity tag (section 8.8.3), or a digest without quotes, which some clients send."""

_CONTENT_HEADERS: Final = ("Content-Length", "Content-Type")


def condition_of(request: IncomingRequest) -> Condition:
    """Return the condition of a request.

    A malformed entity tag, or one that is no digest, matches nothing: so a malformed ``If-Match``
    lets no change pass. ``*`` within a list counts only where that is the careful reading.
    """
    headers = request.headers
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return ALWAYS
    match, none_match = headers.getall("If-Match", None), headers.getall("If-None-Match", ())
    return Condition(
        match=None if match is None else _strong_tags(",".join(match)),
        none_match=frozenset(tag for tag, _ in _members(",".join(none_match))),
    )


def _strong_tags(text: str) -> frozenset[str]:
    """Return the strong tags of If-Match: weak ones do not count (section 13.1.1)."""
    # Only a lone ``*`` means any; within a list it would let a malformed condition pass.
    if text.strip(" \t") == ANY:
        return frozenset((ANY,))
    return frozenset(tag for tag, weak in _members(text) if not weak and tag != ANY)


def _members(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the entity tags of a list without quotes, and True for weak ones; ``*`` as it is."""
    for member in _MEMBER.findall(text):
        match = _TAG.fullmatch(member.strip(" \t"))
        if match is None:
            continue
        if (tag := match["bare"]) is not None:
            yield tag, False
        elif (tag := match["quoted"]) != ANY:
            # A quoted asterisk is an ordinary entity tag.
            yield tag, match["weak"] is not None


def selected(condition: Condition, response: web.StreamResponse) -> web.StreamResponse:
    """Return the answer to a conditional GET or HEAD: ``response``, or 304 in its place.

    Raises OciError: 412. Other than successful answers stay as they are.
    """
    if condition is ALWAYS or not 200 <= response.status < 300:
        return response
    # A resource without an entity tag exists all the same: only ``*`` matches it.
    current = response.headers.get("ETag", "").strip('"')
    if not condition.is_met(current):
        raise failed(current or None)
    if not condition.excludes(current):
        return response
    headers = {k: v for k, v in response.headers.items() if k not in _CONTENT_HEADERS}
    return web.Response(status=304, headers=headers)


def check_untagged(condition: Condition, *, exists: bool) -> None:
    """Decide a condition on a resource without an entity tag, which only ``*`` names.

    An upload session ``exists``; a resource that is only posted to does not. Raises OciError: 412.
    """
    current = "" if exists else None
    if not condition.is_met(current) or condition.excludes(current):
        raise failed(None)


def failed(current: str | None) -> OciError:
    """Return the error 412 with the current digest of the resource."""
    message = f"the condition does not hold: the current digest is {current or 'none'}"
    return OciError("DENIED", message, status=412, details=({"current": current},))
