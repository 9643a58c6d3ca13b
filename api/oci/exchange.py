"""One request of the distribution API, parsed and authenticated: what its handler is given."""

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
"""Results on one page; a larger ``n`` is cut to it, and answered with a Link."""

FOR_GOOD: Final = "max-age=31536000, immutable"
"""How long an answer is right whose bytes are in its name."""

EXPIRY_WARNING: Final = timedelta(days=7)
"""How long before a key's end a push is answered with a Warning."""

_DIGITS_MAX: Final = len(str(RESULTS_MAX))
_NUMBER: Final = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request with its caller; ``target`` holds the repository's name as it was asked for."""

    request: IncomingRequest
    gate: Gate
    caller: Caller
    target: Target
    route: Route
    permitted: Repository | None = None
    """Where the path leads, if it was found already that the caller may do there what the route
    is for."""

    @property
    def plain(self) -> web.Request:
        """The request, for a handler that the fast lane has no part in."""
        assert isinstance(self.request, web.Request)
        return self.request

    @property
    def store(self) -> Store:
        """The store that this application serves."""
        return self.gate.store

    @property
    def query(self) -> Query:
        """The parameters of the query string."""
        return query_of(self.request)

    async def repository(self, *, creates: bool = False) -> Repository:
        """The repository of the path, for a caller who may do there what the route is for.

        ``creates``: a first push, which may make the namespace (``Gate.repository``). Raises
        OciError as ``rights.TABLE`` says, and NAME_INVALID.
        """
        if self.permitted is not None:
            return self.permitted
        name, action = self.target.name, self.route.action
        assert action is not None, "a route without a repository"
        if len(self.gate.origin.host) + 1 + len(name) > FULL_NAME_CHARS_MAX:
            raise OciError("NAME_INVALID", "host and name have over 255 characters together")
        scope = scope_asked(self.request, self.target, self.route)
        return await self.gate.repository(self.caller, name, action, scope=scope, creates=creates)

    def location(self, *parts: str) -> str:
        """The path of something in this repository, relative to the host."""
        return "/".join((f"{self.gate.prefix}/v2/{self.target.name}", *parts))

    @property
    def condition(self) -> Condition:
        """What has to be so for the request to be done (RFC 9110 section 13)."""
        return condition_of(self.request)


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of an endpoint: who answers it, and which right it takes."""

    handler: Handler
    action: Action | None = None
    """In the repository of the path; None where the path has none."""
    asks: Action | None = None
    """What its challenge asks for, where more than ``action`` is likely to follow."""


def query_of(request: IncomingRequest) -> Query:
    """The parameters of a request's query string."""
    if isinstance(request, WholeRequest):
        return parse_query(request.query)
    return parse_query(request.rel_url.raw_query_string)


def scope_asked(request: IncomingRequest, target: Target, route: Route) -> str:
    """What a token must cover for a request, as its challenge says it."""
    if target.endpoint == "catalog":
        return tokens.format_scopes({tokens.CATALOG: frozenset("*")})
    if route.action is None:
        return ""
    scopes = [scope_of(target.name, route.asks or route.action)]
    if target.endpoint == "uploads":
        # A mount needs its source in the token, too.
        scopes.append(scope_of(query_of(request).first("from") or "", "pull"))
    return " ".join(filter(None, scopes))


def content_headers(digest: Digest | str, *, fixed: bool, public: bool) -> dict[str, str]:
    """The headers of content under a digest. ``fixed``: it was asked for by that digest.

    ``public``: anyone may pull it now, so that a cache between us and the client may keep it
    (RFC 9111 section 5.2.2): for good by its digest, and behind a tag as long as it asks each time.
    What only some may pull stays with the client.
    """
    caching = FOR_GOOD if fixed else "no-cache"
    return {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Cache-Control": caching if public else f"private, {caching}",
    }


def json_response(document: Any, headers: dict[str, str] | None = None) -> web.Response:
    """200 with a JSON document and the exact type ``application/json``."""
    response = web.Response(body=msgspec.json.encode(document), headers=headers)
    response.headers["Content-Type"] = JSON
    return response


def read_digest(text: str, unknown: str) -> Digest:
    """The digest that something is asked by.

    Raises DIGEST_INVALID for a malformed one, and the code ``unknown`` for one of an algorithm
    that is not kept: nothing can be there under it.
    """
    try:
        return Digest.parse(text)
    except InvalidDigest:
        if not is_digest(text) or text.partition(":")[0] in ALGORITHMS:
            raise
        raise OciError(unknown) from None


def page_size(query: Query) -> int | None:
    """The parameter ``n``, cut to what a page holds; None where it is not given.

    Raises PAGINATION_NUMBER_INVALID for what is not a natural number.
    """
    text = query.first("n")
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise OciError("PAGINATION_NUMBER_INVALID")
    # A number may be as long as a request line, and Python reads none of over 4300 digits.
    digits = text.lstrip("0") or "0"
    return RESULTS_MAX if len(digits) > _DIGITS_MAX else min(int(digits), RESULTS_MAX)


def last_name(query: Query, chars_max: int) -> str:
    """The parameter ``last`` for a listing of names of ASCII characters, at most that many.

    Cut to what still sorts the same among such names, whatever a client sends.
    """
    text = query.first("last") or ""
    for index, character in enumerate(text):
        if not " " <= character <= "~":
            # Sorts before every name that goes on here, or after all of them.
            text = text[:index] + ("~" * 2 if character > "~" else "")
            break
    return text[: chars_max + 1]


def next_link(path: str, query: Query, **values: str | None) -> dict[str, str]:
    """The Link header to the next page (RFC 8288), other parameters kept."""
    return {"Link": f'<{path}?{query.with_values(**values)}>; rel="next"'}


def expiry_warning(key: Key | None) -> dict[str, str]:
    """A Warning header (OCI distribution-spec, "Warnings") for a key that is about to expire."""
    if key is None or key.expires_at is None:
        return {}
    if key.expires_at - datetime.now(UTC) > EXPIRY_WARNING:
        return {}
    return warning(f"the key expires at {key.expires_at:%Y-%m-%dT%H:%M:%SZ}")


def warning(text: str) -> dict[str, str]:
    """A Warning header with a text that clients show (OCI distribution-spec, "Warnings").

    The agent is a bare hyphen, and there is no date. Other than printable ASCII becomes ``?``.
    """
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text[:1024])
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    return {"Warning": f'299 - "{quoted}"'}
