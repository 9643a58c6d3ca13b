"""A parsed and authenticated request of the distribution API, and helpers for its handlers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from aiohttp import web

from holdfast.api.http.conditions import condition_of
from holdfast.api.http.oci_errors import JSON, OciError
from holdfast.api.http.queries import Query, parse_query
from holdfast.api.http.whole_request import IncomingRequest, WholeRequest
from holdfast.engine import (
    ALGORITHMS,
    Condition,
    Digest,
    InvalidDigest,
    Key,
    Repository,
    Store,
    is_digest,
)

from . import tokens
from .access import FULL_NAME_CHARS_MAX, Caller, Gate, scope_of
from .paths import Target
from .rights import Action

RESULTS_MAX: Final = 1000
"""Results per page; a larger ``n`` is cut to it, and the response has a Link."""

IMMUTABLE: Final = "max-age=31536000, immutable"
"""Cache-Control of content under its own digest, which never changes."""

EXPIRY_WARNING: Final = timedelta(days=7)
"""Time before the expiry of a key in which pushes get a Warning."""

_DIGITS_MAX: Final = len(str(RESULTS_MAX))
_NUMBER: Final = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request with its caller; ``target`` has the repository's name as requested."""

    request: IncomingRequest
    gate: Gate
    caller: Caller
    target: Target
    route: Route
    permitted: Repository | None = None
    """Repository of the path if the fast path has already checked the right of the route."""

    @property
    def plain(self) -> web.Request:
        """The aiohttp request, for handlers that the fast path never calls."""
        assert isinstance(self.request, web.Request)
        return self.request

    @property
    def store(self) -> Store:
        """Store of the application."""
        return self.gate.store

    @property
    def query(self) -> Query:
        """Parameters of the query string."""
        return query_of(self.request)

    async def repository(self, *, creates: bool = False) -> Repository:
        """Return the repository of the path; the caller has the right that the route needs.

        With ``creates`` a push may create the namespace (``Gate.repository``). Raises OciError
        according to ``rights.TABLE``, or NAME_INVALID.
        """
        if self.permitted is not None:
            return self.permitted
        name, action = self.target.name, self.route.action
        assert action is not None, "a route without a repository"
        if len(self.gate.origin.host) + 1 + len(name) > FULL_NAME_CHARS_MAX:
            raise OciError("NAME_INVALID", "host and name together have more than 255 characters")
        scope = requested_scope(self.request, self.target, self.route)
        return await self.gate.repository(self.caller, name, action, scope=scope, creates=creates)

    def location(self, *parts: str) -> str:
        """Return a path below this repository, relative to the host."""
        return "/".join((f"{self.gate.prefix}/v2/{self.target.name}", *parts))

    @property
    def condition(self) -> Condition:
        """Precondition of the request (RFC 9110 section 13)."""
        return condition_of(self.request)


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """Handler of a method of an endpoint, and the right that it needs."""

    handler: Handler
    action: Action | None = None
    """Right needed in the repository of the path; None if the path has no repository."""
    asks: Action | None = None
    """Right that the challenge asks for if more than ``action`` is likely to follow."""


def query_of(request: IncomingRequest) -> Query:
    """Return the parameters of a request's query string."""
    if isinstance(request, WholeRequest):
        return parse_query(request.query)
    return parse_query(request.rel_url.raw_query_string)


def requested_scope(request: IncomingRequest, target: Target, route: Route) -> str:
    """Return the scopes that a token needs for a request, for its challenge."""
    if target.endpoint == "catalog":
        return tokens.format_scopes({tokens.CATALOG: frozenset("*")})
    if route.action is None:
        return ""
    scopes = [scope_of(target.name, route.asks or route.action)]
    if target.endpoint == "uploads":
        # A mount also pulls from its source.
        scopes.append(scope_of(query_of(request).first("from") or "", "pull"))
    return " ".join(filter(None, scopes))


def content_headers(digest: Digest | str, *, fixed: bool, public: bool) -> dict[str, str]:
    """Return the headers of content with a digest; ``fixed`` if the request named the digest.

    With ``public`` anyone may pull the content, so a shared cache may store it (RFC 9111 section
    5.2.2): for a year under its digest; under a tag only if it revalidates each time. Other
    content may only be stored by the client.
    """
    caching = IMMUTABLE if fixed else "no-cache"
    return {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Cache-Control": caching if public else f"private, {caching}",
    }


def json_response(document: Any, headers: dict[str, str] | None = None) -> web.Response:
    """Return 200 with a JSON document and the exact type ``application/json``."""
    response = web.Response(body=msgspec.json.encode(document), headers=headers)
    response.headers["Content-Type"] = JSON
    return response


def read_digest(text: str, unknown: str) -> Digest:
    """Parse the digest of a request.

    Raises DIGEST_INVALID if it is malformed, and the code ``unknown`` if its algorithm is not
    supported: no content can have it.
    """
    try:
        return Digest.parse(text)
    except InvalidDigest:
        if not is_digest(text) or text.partition(":")[0] in ALGORITHMS:
            raise
        raise OciError(unknown) from None


def page_size(query: Query) -> int:
    """Return the parameter ``n``, at most RESULTS_MAX, which is also the default.

    Raises PAGINATION_NUMBER_INVALID unless it is a natural number.
    """
    text = query.first("n")
    if text is None:
        return RESULTS_MAX
    if not _NUMBER.fullmatch(text):
        raise OciError("PAGINATION_NUMBER_INVALID")
    # A number may be as long as the request line; int() refuses more than 4300 digits.
    digits = text.lstrip("0") or "0"
    return RESULTS_MAX if len(digits) > _DIGITS_MAX else min(int(digits), RESULTS_MAX)


def last_name(query: Query, chars_max: int) -> str:
    """Return the parameter ``last`` for a listing of ASCII names of at most ``chars_max``.

    Shorten a longer value so that it sorts the same among such names.
    """
    text = query.first("last") or ""
    for index, character in enumerate(text):
        if not " " <= character <= "~":
            # Cut before a control character, which sorts before all longer names with this prefix;
            # replace a character after "~" by "~~", which sorts after them.
            text = text[:index] + ("~" * 2 if character > "~" else "")
            break
    # One character more than any name: the rest does not change the order.
    return text[: chars_max + 1]


def next_link(path: str, query: Query, **values: str | None) -> dict[str, str]:
    """Return the Link header to the next page (RFC 8288), with all other parameters."""
    return {"Link": f'<{path}?{query.with_values(**values)}>; rel="next"'}


def expiry_warning(key: Key | None) -> dict[str, str]:
    """Return a Warning header (OCI distribution-spec, "Warnings") if the key expires soon."""
    if key is None or key.expires_at is None:
        return {}
    if key.expires_at - datetime.now(UTC) > EXPIRY_WARNING:
        return {}
    return warning(f"the key expires at {key.expires_at:%Y-%m-%dT%H:%M:%SZ}")


def warning(text: str) -> dict[str, str]:
    """Return a Warning header with a text that clients show (OCI distribution-spec, "Warnings").

    The agent is a bare hyphen and there is no date. Characters that are not printable ASCII become
    ``?``.
    """
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text[:1024])
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    return {"Warning": f'299 - "{quoted}"'}
