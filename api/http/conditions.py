"""Conditional requests (RFC 9110 section 13): what their headers say, and what comes of it.

Entity tags are digests in quotes. Changes hand their condition to the store, which decides in the
transaction that acts, behind all other reasons to refuse (section 13.2.1); answers to GET and HEAD
are decided here, by the entity tag that they carry. There is no Last-Modified, so conditions by
date are ignored (sections 13.1.3 and 13.1.4).
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
"""One of a list: entity tags may hold commas."""

_TAG: Final = re.compile(r"""(?P<weak>W/)?"(?P<quoted>[^"]+)"|(?P<bare>[^"]+)""", re.DOTALL)
"""An entity tag (section 8.8.3), or what some clients send: a digest without quotes."""

_OF_CONTENT: Final = ("Content-Length", "Content-Type")


def condition_of(request: IncomingRequest) -> Condition:
    """The condition of a request.

    Entity tags that no digest of ours can be, and what is none, match nothing: so a malformed
    ``If-Match`` lets no change pass. ``*`` among others counts only where that is careful, too.
    """
    headers = request.headers
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return ALWAYS
    match, none_match = headers.getall("If-Match", None), headers.getall("If-None-Match", ())
    return Condition(
        match=None if match is None else _strong(",".join(match)),
        none_match=frozenset(tag for tag, _ in _members(",".join(none_match))),
    )


def _strong(text: str) -> frozenset[str]:
    """What a change is asked for at: weak tags do not count (section 13.1.1)."""
    if text.strip(" \t") == ANY:
        return frozenset((ANY,))
    return frozenset(tag for tag, weak in _members(text) if not weak and tag != ANY)


def _members(text: str) -> Iterator[tuple[str, bool]]:
    """The entity tags of a list without their quotes, and which are weak; ``*`` as it is."""
    for member in _MEMBER.findall(text):
        match = _TAG.fullmatch(member.strip(" \t"))
        if match is None:
            continue
        if (tag := match["bare"]) is not None:
            yield tag, False
        elif (tag := match["quoted"]) != ANY:
            # A quoted asterisk is the entity tag of something else.
            yield tag, match["weak"] is not None


def selected(condition: Condition, response: web.StreamResponse) -> web.StreamResponse:
    """The answer to a GET or HEAD under a condition: ``response``, or 304 in its place.

    Raises OciError: 412. Other than successful answers stay as they are.
    """
    if condition is ALWAYS or not 200 <= response.status < 300:
        return response
    # What has no entity tag is there all the same: only ``*`` can name it.
    current = response.headers.get("ETag", "").strip('"')
    if not condition.is_met(current):
        raise failed(current or None)
    if not condition.excludes(current):
        return response
    headers = {k: v for k, v in response.headers.items() if k not in _OF_CONTENT}
    return web.Response(status=304, headers=headers)


def check_untagged(condition: Condition, *, exists: bool) -> None:
    """Decide about what has no entity tag, so that only ``*`` can name it. Raises OciError: 412.

    An upload session ``exists``; what is only posted to has nothing that a GET would give.
    """
    current = "" if exists else None
    if not condition.is_met(current) or condition.excludes(current):
        raise failed(None)


def failed(current: str | None) -> OciError:
    """412, with the digest that the resource is at."""
    message = f"the condition does not hold: it is at {current or 'no digest'}"
    return OciError("DENIED", message, status=412, details=({"current": current},))
