"""Reads the request heads that the fast path understands, and declines all others.

The meaning of a request line or a header block never changes for one kind of peer, so each is
cached by its bytes: one client reads many targets with the same headers. A head is declined if any
part of it is not known to leave the answer as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar, Final

from multidict import CIMultiDict, MultiMapping

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.client_address import address_behind
from holdfast.api.http.origin import HOST_CHARS_MAX, Origin, forwarded_origin, is_proxy, origin_from
from holdfast.api.limits.addresses import network_prefix
from holdfast.api.oci import tokens
from holdfast.api.oci.access import FULL_NAME_CHARS_MAX, Caller
from holdfast.api.oci.paths import Target, parse_path
from holdfast.engine import SigningKey

from .caches import Caches

_READ_LINE: Final = re.compile(rb"(GET|HEAD) /v2/([A-Za-z0-9._:/+=-]+) HTTP/1\.1")
_DOT_SEGMENT: Final = re.compile(rb"//|/\.\.?(?:/|$)")
_HEADER: Final = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([ -~]*?)[ \t]*")
_HARMLESS_HEADERS: Final = frozenset(
    (
        b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"authorization",
        b"docker-distribution-api-version", b"cache-control", b"pragma", b"dnt", b"traceparent",
        b"tracestate",
    )
)  # fmt: skip
_EXTENSION_PREFIX: Final = b"x-"
"""Beginning of headers that mean nothing under ``/v2/``, except those of the next two sets."""
_CREDENTIAL_HEADERS: Final = frozenset((b"x-auth-token", b"x-session-token"))
_FORWARDED_HEADERS: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
)
"""Headers that proxies add. They count only if the peer is a trusted proxy."""
_HEADER_COUNT_MAX: Final = 48
_BEARER_PREFIX: Final = "bearer "
KINDS: Final = tuple(product(("http", "https"), (False, True)))
"""Kinds of peers: scheme, and True for a trusted proxy, whose forwarding headers count."""


class Declined(Exception):
    """Raised for a request that the fast path leaves to the plain path."""


@dataclass(slots=True, eq=False)
class ParsedHeaders:
    """The meaning of a header block, and the caller that it names."""

    origin: Origin
    claims: tokens.Claims | None
    """Claims of the token, verified with ``signing``; None without a token."""
    signing: tuple[SigningKey, ...]
    address: str
    """Client address that a trusted proxy forwards; else empty."""
    prefix: str
    """Network prefix of that address; else empty."""
    agent: str
    parent: str
    """The header ``traceparent``, for ``tracing``."""
    state: str
    """The header ``tracestate``."""
    has_body: bool
    """True if a header says something about a body."""
    handler_headers: MultiMapping[str]
    """Headers that handlers of pushes read."""
    length: int | None
    """Body length in bytes; None if chunked."""
    caller: Caller | None = None
    """The caller at ``generation``; None if not read yet."""
    generation: int = -1
    """Version of the ledger since which no name, key or right had changed."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadRequest:
    """The meaning of a request head without a body."""

    line: bytes
    """Request line without its line end."""
    method: str
    """GET or HEAD."""
    target: Target
    headers: ParsedHeaders
    query: ClassVar[str] = ""

    @property
    def path(self) -> str:
        """Path as sent, not decoded."""
        return self.line.split(b" ")[1].decode("ascii")


@dataclass(frozen=True, slots=True, eq=False)
class WriteRequest:
    """The meaning of the head of a request with a body."""

    method: str
    path: str
    """Path as sent, not decoded."""
    query: str
    """Query as sent, not decoded."""
    target: Target
    headers: ParsedHeaders


@dataclass(frozen=True, slots=True)
class Peer:
    """The facts that all requests of one connection share."""

    scheme: str
    address: str
    """Address of the other end; empty on a unix socket."""
    prefix: str
    """Network prefix of that address."""
    kind: int
    """Index of its kind in ``KINDS``."""
    plain: bool
    """True if the kernel can send files to it."""
    limited: bool
    """True if its requests are limited."""


class Heads:
    """Reads request heads, with caches of their parts."""

    def __init__(self, settings: AppSettings, caches: Caches) -> None:
        self._settings = settings
        self._signing: tuple[SigningKey, ...] = ()
        self._caches = caches
        self._targets = caches.add(_read_line)
        self._blocks = [caches.add(partial(self._read_block, *kind)) for kind in KINDS]

    def sign_with(self, keys: tuple[SigningKey, ...]) -> None:
        """Verify tokens with these keys, and drop what other keys verified."""
        if keys != self._signing:
            self._signing = keys
            self._caches.clear()

    def verified(self, headers: ParsedHeaders) -> bool:
        """Return True if the token of a header block, if any, was verified with current keys."""
        return headers.claims is None or headers.signing is self._signing

    def peer(
        self,
        scheme: str,
        address: str,
        *,
        plain: bool,
        limits: Callable[[str], bool] | None = None,
    ) -> Peer:
        """Return the peer of a new connection.

        ``limits`` returns True for a network prefix whose requests are limited.
        """
        kind = KINDS.index((scheme, is_proxy(address, self._settings)))
        prefix = network_prefix(address)
        limited = limits is not None and limits(prefix)
        return Peer(scheme, address, prefix, kind, plain, limited)

    def read(self, head: bytes, kind: int) -> ReadRequest:
        """Read the head of a GET or HEAD of a manifest or blob. Raises Declined."""
        line, _, block = head.partition(b"\r\n")
        target, headers = self._targets[line], self._blocks[kind][block]
        if headers.has_body:
            raise Declined
        _check_name(target, headers)
        method = "GET" if line.startswith(b"GET") else "HEAD"
        return ReadRequest(line, method, target, headers)

    def read_push(self, head: bytes, kind: int) -> WriteRequest:
        """Read the head of a push. Raises Declined."""
        line, _, block = head.partition(b"\r\n")
        match = _WRITE_LINE.fullmatch(line)
        target = _target(match)
        assert match is not None
        rest, method = match[2].decode("ascii"), match[1].decode("ascii")
        if (method, target.endpoint) not in _WRITE_ENDPOINTS:
            raise Declined
        headers = self._blocks[kind][block]
        _check_name(target, headers)
        query = "" if match[3] is None else match[3].decode("ascii")
        return WriteRequest(method, f"/v2/{rest}", query, target, headers)

    def _read_block(self, scheme: str, trusted_proxy: bool, block: bytes) -> ParsedHeaders:
        found = _headers(block)
        host = found.get(b"host", "")
        if not 0 < len(host) <= HOST_CHARS_MAX:
            raise Declined
        length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
        # RFC 9112 section 6.3: a head with both could be read in two ways, so aiohttp refuses it.
        if (coding is not None and (coding.lower() != "chunked" or length is not None)) or (
            length is not None and not _LENGTH_DIGITS.fullmatch(length)
        ):
            raise Declined
        settings, address, prefix = self._settings, "", ""
        if trusted_proxy:
            # The cached meaning of a header block holds for all trusted proxies, so it must not
            # contain the address of this one: empty stands for the connection's address.
            address = address_behind("", found.get(b"x-forwarded-for", ""), settings)
            prefix = network_prefix(address) if address else ""
            origin = forwarded_origin(
                scheme,
                host,
                found.get(b"x-forwarded-proto"),
                found.get(b"x-forwarded-host"),
                settings,
            )
        else:
            origin = origin_from(scheme, host, settings)
        content_type = {"Content-Type": found[b"content-type"]} if b"content-type" in found else {}
        return ParsedHeaders(
            origin=origin,
            claims=self._read_token(found.get(b"authorization")),
            signing=self._signing,
            address=address,
            prefix=prefix,
            agent=found.get(b"user-agent", ""),
            parent=found.get(b"traceparent", ""),
            state=found.get(b"tracestate", ""),
            has_body=not found.keys().isdisjoint(_BODY_HEADERS),
            handler_headers=CIMultiDict(content_type),
            length=None if coding is not None else int(length or 0),
        )

    def _read_token(self, authorization: str | None) -> tokens.Claims | None:
        if authorization is None:
            return None
        if not authorization.lower().startswith(_BEARER_PREFIX):
            raise Declined
        try:
            return tokens.read(
                self._signing, authorization[len(_BEARER_PREFIX) :].strip(), "access"
            )
        except tokens.BadToken:
            raise Declined from None


def _read_line(line: bytes) -> Target:
    target = _target(_READ_LINE.fullmatch(line))
    if target.endpoint not in ("manifest", "blob"):
        raise Declined
    return target


def _target(match: re.Match[bytes] | None) -> Target:
    """Return the target of a request line, whose second group is the path under ``/v2/``."""
    if match is None or _DOT_SEGMENT.search(match[2]) or match[2].startswith(b"/"):
        raise Declined
    target = parse_path(match[2].decode("ascii"))
    if target is None:
        raise Declined
    return target


def _check_name(target: Target, headers: ParsedHeaders) -> None:
    """Decline a name that the plain path refuses as too long together with its host."""
    if len(headers.origin.host) + 1 + len(target.name) > FULL_NAME_CHARS_MAX:
        raise Declined


def _headers(block: bytes) -> Mapping[bytes, str]:
    """Return the headers that matter by lower-case name. Raises Declined if one may change the
    answer."""
    found: dict[bytes, str] = {}
    lines = block.split(b"\r\n")[:-2]
    if len(lines) > _HEADER_COUNT_MAX:
        raise Declined
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Declined
        name = match[1].lower()
        # The default of HTTP/1.1; any other value changes what happens after the answer.
        if name == b"connection" and match[2].lower() == b"keep-alive":
            continue
        if name.startswith(_EXTENSION_PREFIX) and name not in _CREDENTIAL_HEADERS:
            if name not in _FORWARDED_HEADERS:
                continue
        elif name not in _HARMLESS_HEADERS and name not in _BODY_HEADERS:
            raise Declined
        # aiohttp decides what a repeated header means. Those of Accept change no answer here.
        if name in found and not name.startswith(b"accept"):
            raise Declined
        found[name] = match[2].decode("ascii")
    return found


_WRITE_LINE: Final = re.compile(
    rb"(POST|PATCH|PUT) /v2/([A-Za-z0-9._:/+=-]+)(?:\?([A-Za-z0-9._:/+=%&-]*))? HTTP/1\.1"
)
_WRITE_ENDPOINTS: Final = frozenset(
    (("POST", "uploads"), ("PATCH", "upload"), ("PUT", "upload"), ("PUT", "manifest"))
)
_LENGTH_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_BODY_HEADERS: Final = frozenset((b"content-type", b"content-length", b"transfer-encoding"))
