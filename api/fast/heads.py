"""Reads the request heads that the fast path understands, and declines all others.

The meaning of a request line or a header block never changes for one kind of peer, so it is cached
by its bytes. A head is declined if any part of it is not known to leave the answer as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from multidict import CIMultiDict, MultiMapping

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.client_address import address_behind
from holdfast.api.http.origin import HOST_CHARS_MAX, Origin, forwarded_origin, is_proxy, origin_from
from holdfast.api.limits.addresses import network_prefix
from holdfast.api.oci import tokens
from holdfast.api.oci.access import FULL_NAME_CHARS_MAX
from holdfast.api.oci.paths import Target, parse_path
from holdfast.engine import SigningKey

from .bounded_cache import BoundedCache

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


@dataclass(frozen=True, slots=True, eq=False)
class ParsedHeaders:
    """The meaning of a header block."""

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
    size: int
    """Length of the header block, in bytes."""


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

    @property
    def parsed(self) -> ParsedHeaders:
        """The meaning of the header block."""
        return self.headers


@dataclass(frozen=True, slots=True, eq=False)
class WriteHeaders:
    """The meaning of the header block of a request with a body."""

    parsed: ParsedHeaders
    handler_headers: MultiMapping[str]
    """Headers that handlers read."""
    length: int | None
    """Body length in bytes; None if chunked."""


@dataclass(frozen=True, slots=True, eq=False)
class WriteRequest:
    """The meaning of the head of a request with a body."""

    method: str
    path: str
    """Path as sent, not decoded."""
    query: str
    """Query as sent, not decoded."""
    target: Target
    headers: WriteHeaders

    @property
    def parsed(self) -> ParsedHeaders:
        """The meaning of the header block but for its body."""
        return self.headers.parsed


@dataclass(frozen=True, slots=True)
class Peer:
    """The facts that all requests of one connection share."""

    scheme: str
    address: str
    """Address of the other end; empty on a unix socket."""
    prefix: str
    """Network prefix of that address."""
    trusted_proxy: bool
    """True if it is a proxy whose forwarding headers count."""
    plain: bool
    """True if the kernel can send files to it."""
    limited: bool
    """True if its requests are limited."""
    parsed_headers_cache: BoundedCache[bytes, ParsedHeaders] = field(compare=False, repr=False)
    """Header blocks of peers of this kind."""
    read_request_cache: BoundedCache[bytes, ReadRequest] = field(compare=False, repr=False)
    """Whole heads of these peers: clients repeat themselves byte for byte."""
    write_headers_cache: BoundedCache[bytes, WriteHeaders] = field(compare=False, repr=False)
    """Header blocks of their requests with a body."""


_Caches = tuple[
    BoundedCache[bytes, ParsedHeaders],
    BoundedCache[bytes, ReadRequest],
    BoundedCache[bytes, WriteHeaders],
]


class Heads:
    """Reads request heads, with caches by kind of peer."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._signing: tuple[SigningKey, ...] = ()
        self._targets: BoundedCache[bytes, Target] = BoundedCache()
        self._caches_by_kind: dict[tuple[str, bool], _Caches] = {}

    def sign_with(self, keys: tuple[SigningKey, ...]) -> None:
        """Verify tokens with these keys, and drop what other keys verified."""
        if keys == self._signing:
            return
        self._signing = keys
        for caches in self._caches_by_kind.values():
            for cache in caches:
                cache.clear()

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
        trusted_proxy = is_proxy(address, self._settings)
        new = (
            BoundedCache[bytes, ParsedHeaders](),
            BoundedCache[bytes, ReadRequest](),
            BoundedCache[bytes, WriteHeaders](),
        )
        caches = self._caches_by_kind.setdefault((scheme, trusted_proxy), new)
        prefix = network_prefix(address)
        limited = limits is not None and limits(prefix)
        return Peer(scheme, address, prefix, trusted_proxy, plain, limited, *caches)

    def read(self, head: bytes, peer: Peer) -> ReadRequest | None:
        """Read the head of a GET or HEAD of a manifest or blob. Return None to decline.

        The result is cached in ``peer.read_request_cache``, where the caller looks first.
        """
        # Line and block are cached apart: one client reads many targets with the same headers.
        line, _, block = head.partition(b"\r\n")
        target = self._target(line)
        headers = None if target is None else self._parsed_headers(block, peer)
        if target is None or headers is None:
            return None
        # The plain path refuses a name that is too long together with its host.
        if len(headers.origin.host) + 1 + len(target.name) > FULL_NAME_CHARS_MAX:
            return None
        method = "GET" if line.startswith(b"GET") else "HEAD"
        request = ReadRequest(line, method, target, headers)
        peer.read_request_cache.keep(head, request, len(head))
        return request

    def _target(self, line: bytes) -> Target | None:
        target = self._targets.get(line)
        if target is None and (target := _read_line(line)) is not None:
            self._targets.keep(line, target, len(line))
        return target

    def _parsed_headers(self, block: bytes, peer: Peer) -> ParsedHeaders | None:
        headers = peer.parsed_headers_cache.get(block)
        if headers is None and (headers := self._read_block(block, peer)) is not None:
            peer.parsed_headers_cache.keep(block, headers, len(block))
        return headers

    def read_push(self, head: bytes, peer: Peer) -> WriteRequest | None:
        """Read the head of a push. Return None to decline."""
        line, _, block = head.partition(b"\r\n")
        match = _WRITE_LINE.fullmatch(line)
        if match is None or _DOT_SEGMENT.search(match[2]) or match[2].startswith(b"/"):
            return None
        rest, method = match[2].decode("ascii"), match[1].decode("ascii")
        target = parse_path(rest)
        if target is None or (method, target.endpoint) not in _WRITE_ENDPOINTS:
            return None
        headers = peer.write_headers_cache.get(block)
        if headers is None:
            headers = self._read_write_headers(block, peer)
            if headers is None:
                return None
            peer.write_headers_cache.keep(block, headers, len(block))
        if len(headers.parsed.origin.host) + 1 + len(target.name) > FULL_NAME_CHARS_MAX:
            return None
        query = "" if match[3] is None else match[3].decode("ascii")
        return WriteRequest(method, f"/v2/{rest}", query, target, headers)

    def _read_write_headers(self, block: bytes, peer: Peer) -> WriteHeaders | None:
        found = _headers(block, _BODY_HEADERS)
        headers = None if found is None else self._parse_headers(found, peer, len(block))
        if found is None or headers is None:
            return None
        # RFC 9112 section 6.3: a head with both could be read in two ways, so aiohttp refuses it.
        length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
        if (coding is not None and (coding.lower() != "chunked" or length is not None)) or (
            length is not None and not _LENGTH_DIGITS.fullmatch(length)
        ):
            return None
        content_type = {"Content-Type": found[b"content-type"]} if b"content-type" in found else {}
        return WriteHeaders(
            headers, CIMultiDict(content_type), None if coding is not None else int(length or 0)
        )

    def _read_block(self, block: bytes, peer: Peer) -> ParsedHeaders | None:
        found = _headers(block)
        return None if found is None else self._parse_headers(found, peer, len(block))

    def _parse_headers(
        self, found: Mapping[bytes, str], peer: Peer, size: int
    ) -> ParsedHeaders | None:
        host = found.get(b"host", "")
        if not 0 < len(host) <= HOST_CHARS_MAX:
            return None
        claims = None
        if b"authorization" in found:
            claims = self._read_token(found[b"authorization"])
            if claims is None:
                return None
        settings, address, prefix = self._settings, "", ""
        if peer.trusted_proxy:
            # The cached meaning of a header block holds for all trusted proxies, so it must not
            # contain the address of this one: empty stands for the connection's address.
            address = address_behind("", found.get(b"x-forwarded-for", ""), settings)
            prefix = network_prefix(address) if address else ""
            origin = forwarded_origin(
                peer.scheme,
                host,
                found.get(b"x-forwarded-proto"),
                found.get(b"x-forwarded-host"),
                settings,
            )
        else:
            origin = origin_from(peer.scheme, host, settings)
        return ParsedHeaders(
            origin=origin,
            claims=claims,
            signing=self._signing,
            address=address,
            prefix=prefix,
            agent=found.get(b"user-agent", ""),
            parent=found.get(b"traceparent", ""),
            state=found.get(b"tracestate", ""),
            size=size,
        )

    def _read_token(self, authorization: str) -> tokens.Claims | None:
        if not authorization.lower().startswith(_BEARER_PREFIX):
            return None
        try:
            return tokens.read(
                self._signing, authorization[len(_BEARER_PREFIX) :].strip(), "access"
            )
        except tokens.BadToken:
            return None


def _read_line(line: bytes) -> Target | None:
    match = _READ_LINE.fullmatch(line)
    if match is None or _DOT_SEGMENT.search(match[2]) or match[2].startswith(b"/"):
        return None
    target = parse_path(match[2].decode("ascii"))
    if target is None or target.endpoint not in ("manifest", "blob"):
        return None
    return target


def _headers(block: bytes, more: frozenset[bytes] = frozenset()) -> Mapping[bytes, str] | None:
    """Return the headers that matter by lower-case name; None if one may change the answer.

    ``more`` names further headers that the caller understands.
    """
    found: dict[bytes, str] = {}
    lines = block.split(b"\r\n")[:-2]
    if len(lines) > _HEADER_COUNT_MAX:
        return None
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        # The default of HTTP/1.1; any other value changes what happens after the answer.
        if name == b"connection" and match[2].lower() == b"keep-alive":
            continue
        if name.startswith(_EXTENSION_PREFIX) and name not in _CREDENTIAL_HEADERS:
            if name not in _FORWARDED_HEADERS:
                continue
        elif name not in _HARMLESS_HEADERS and name not in more:
            return None
        # aiohttp decides what a repeated header means. Those of Accept change no answer here.
        if name in found and not name.startswith(b"accept"):
            return None
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
