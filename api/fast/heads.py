"""Which request heads the fast lane understands, and what they say.

What a request line or a header block *means* never changes for one kind of peer, so it is
remembered. Whatever is not plainly understood is declined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

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

_LINE: Final = re.compile(rb"(GET|HEAD) /v2/([A-Za-z0-9._:/+=-]+) HTTP/1\.1")
_DOTTED: Final = re.compile(rb"//|/\.\.?(?:/|$)")
_HEADER: Final = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([ -~]*?)[ \t]*")
_HARMLESS: Final = frozenset(
    (
        b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"authorization",
        b"docker-distribution-api-version", b"cache-control", b"pragma", b"dnt", b"traceparent",
        b"tracestate",
    )
)  # fmt: skip
_EXTENSION: Final = b"x-"
"""Begins names that mean nothing under ``/v2/``, but for MEANINGFUL and FORWARDED."""
_MEANINGFUL: Final = frozenset((b"x-auth-token", b"x-session-token"))
_FORWARDED: Final = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))
"""What proxies say; it counts only where the peer is one that is believed."""
_HEADERS_MAX: Final = 48
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True, eq=False)
class ParsedHeaders:
    """What a header block says."""

    origin: Origin
    claims: tokens.Claims | None
    """As ``signing`` verified them."""
    signing: tuple[SigningKey, ...]
    address: str
    """The client's, where a proxy that is believed says so; else empty."""
    who: str
    """Its neighbourhood, likewise."""
    agent: str
    parent: str
    """The header ``traceparent``, for ``tracing``."""
    state: str
    """The header ``tracestate``."""
    size: int
    """Of the header block, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadRequest:
    """What a request head says."""

    line: bytes
    """The request line, without its end."""
    method: str
    """GET or HEAD."""
    target: Target
    visitor: ParsedHeaders


@dataclass(frozen=True, slots=True, eq=False)
class WriteHeaders:
    """What the header block of a request with a body says."""

    visitor: ParsedHeaders
    headers: MultiMapping[str]
    """Those that handlers look at."""
    length: int | None
    """Of the body, in bytes; None where it is chunked."""


@dataclass(frozen=True, slots=True, eq=False)
class WriteRequest:
    """What the head of a request with a body says."""

    method: str
    path: str
    """Raw."""
    query: str
    """Raw."""
    target: Target
    sender: WriteHeaders


@dataclass(frozen=True, slots=True)
class Peer:
    """What all requests of one connection have in common."""

    scheme: str
    address: str
    """Of whoever connected; empty on a unix socket."""
    who: str
    """The neighbourhood of that."""
    believed: bool
    """Whether it is a proxy whose word counts."""
    plain: bool
    """Whether the kernel can send files to it."""
    limited: bool
    """Whether there are limits on its requests."""
    visitors: BoundedCache[bytes, ParsedHeaders] = field(compare=False, repr=False)
    """What is remembered of header blocks of peers of this kind."""
    askings: BoundedCache[bytes, ReadRequest] = field(compare=False, repr=False)
    """What is remembered of their whole heads: clients say the same thing again and again."""
    senders: BoundedCache[bytes, WriteHeaders] = field(compare=False, repr=False)
    """As ``visitors``, of requests with a body."""


_Memories = tuple[
    BoundedCache[bytes, ParsedHeaders],
    BoundedCache[bytes, ReadRequest],
    BoundedCache[bytes, WriteHeaders],
]


class Heads:
    """Reads request heads."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._signing: tuple[SigningKey, ...] = ()
        self._targets: BoundedCache[bytes, Target] = BoundedCache()
        self._kinds: dict[tuple[str, bool], _Memories] = {}

    def sign_with(self, keys: tuple[SigningKey, ...]) -> None:
        """Verify tokens with these keys; what others verified is forgotten."""
        if keys == self._signing:
            return
        self._signing = keys
        for memories in self._kinds.values():
            for memory in memories:
                memory.clear()

    def verified(self, visitor: ParsedHeaders) -> bool:
        """Whether what a visitor says was verified with the keys of now."""
        return visitor.claims is None or visitor.signing is self._signing

    def peer(
        self,
        scheme: str,
        address: str,
        *,
        plain: bool,
        limits: Callable[[str], bool] | None = None,
    ) -> Peer:
        """The peer of a new connection. ``limits`` says whether a neighbourhood has any."""
        believed = is_proxy(address, self._settings)
        new = (
            BoundedCache[bytes, ParsedHeaders](),
            BoundedCache[bytes, ReadRequest](),
            BoundedCache[bytes, WriteHeaders](),
        )
        memories = self._kinds.setdefault((scheme, believed), new)
        who = network_prefix(address)
        limited = limits is not None and limits(who)
        return Peer(scheme, address, who, believed, plain, limited, *memories)

    def read(self, head: bytes, peer: Peer) -> ReadRequest | None:
        """What a new head asks for, if it is a manifest or a blob, and nothing in it changes
        answers. None to decline. It is in ``peer.askings`` from now on."""
        line, _, block = head.partition(b"\r\n")
        target = self._target(line)
        visitor = None if target is None else self._visitor(block, peer)
        if target is None or visitor is None:
            return None
        if len(visitor.origin.host) + 1 + len(target.name) > FULL_NAME_CHARS_MAX:
            return None
        method = "GET" if line.startswith(b"GET") else "HEAD"
        asking = ReadRequest(line, method, target, visitor)
        peer.askings.keep(head, asking, len(head))
        return asking

    def _target(self, line: bytes) -> Target | None:
        target = self._targets.get(line)
        if target is None and (target := _read_line(line)) is not None:
            self._targets.keep(line, target, len(line))
        return target

    def _visitor(self, block: bytes, peer: Peer) -> ParsedHeaders | None:
        visitor = peer.visitors.get(block)
        if visitor is None and (visitor := self._read_block(block, peer)) is not None:
            peer.visitors.keep(block, visitor, len(block))
        return visitor

    def read_sent(self, head: bytes, peer: Peer) -> WriteRequest | None:
        """What the head of a push says, if nothing in it changes answers. None to decline."""
        line, _, block = head.partition(b"\r\n")
        match = _SENT_LINE.fullmatch(line)
        if match is None or _DOTTED.search(match[2]) or match[2].startswith(b"/"):
            return None
        rest, method = match[2].decode("ascii"), match[1].decode("ascii")
        target = parse_path(rest)
        if target is None or (method, target.endpoint) not in _SENT_TO:
            return None
        sender = peer.senders.get(block)
        if sender is None:
            sender = self._read_sender(block, peer)
            if sender is None:
                return None
            peer.senders.keep(block, sender, len(block))
        if len(sender.visitor.origin.host) + 1 + len(target.name) > FULL_NAME_CHARS_MAX:
            return None
        query = "" if match[3] is None else match[3].decode("ascii")
        return WriteRequest(method, f"/v2/{rest}", query, target, sender)

    def _read_sender(self, block: bytes, peer: Peer) -> WriteHeaders | None:
        found = _headers(block, _ABOUT_BODY)
        visitor = None if found is None else self._visitor_of(found, peer, len(block))
        if found is None or visitor is None:
            return None
        length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
        if (coding is not None and (coding.lower() != "chunked" or length is not None)) or (
            length is not None and not _LENGTH.fullmatch(length)
        ):
            return None
        headers = {"Content-Type": found[b"content-type"]} if b"content-type" in found else {}
        return WriteHeaders(
            visitor, CIMultiDict(headers), None if coding is not None else int(length or 0)
        )

    def _read_block(self, block: bytes, peer: Peer) -> ParsedHeaders | None:
        found = _headers(block)
        return None if found is None else self._visitor_of(found, peer, len(block))

    def _visitor_of(
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
        settings, address, who = self._settings, "", ""
        if peer.believed:
            # Where it says none, the address is the connection's: what is remembered of a header
            # block holds for all proxies.
            address = address_behind("", found.get(b"x-forwarded-for", ""), settings)
            who = network_prefix(address) if address else ""
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
            who=who,
            agent=found.get(b"user-agent", ""),
            parent=found.get(b"traceparent", ""),
            state=found.get(b"tracestate", ""),
            size=size,
        )

    def _read_token(self, authorization: str) -> tokens.Claims | None:
        if not authorization.lower().startswith(_BEARER):
            return None
        try:
            return tokens.read(self._signing, authorization[len(_BEARER) :].strip(), "access")
        except tokens.BadToken:
            return None


def _read_line(line: bytes) -> Target | None:
    match = _LINE.fullmatch(line)
    if match is None or _DOTTED.search(match[2]) or match[2].startswith(b"/"):
        return None
    target = parse_path(match[2].decode("ascii"))
    if target is None or target.endpoint not in ("manifest", "blob"):
        return None
    return target


def _headers(block: bytes, more: frozenset[bytes] = frozenset()) -> Mapping[bytes, str] | None:
    """The headers that matter, by lower-case name; None where one may change the answer.

    ``more`` are names of further ones that are understood.
    """
    found: dict[bytes, str] = {}
    lines = block.split(b"\r\n")[:-2]
    if len(lines) > _HEADERS_MAX:
        return None
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name == b"connection" and match[2].lower() == b"keep-alive":
            continue
        if name.startswith(_EXTENSION) and name not in _MEANINGFUL:
            if name not in _FORWARDED:
                continue
        elif name not in _HARMLESS and name not in more:
            return None
        if name in found and not name.startswith(b"accept"):
            return None
        found[name] = match[2].decode("ascii")
    return found


_SENT_LINE: Final = re.compile(
    rb"(POST|PATCH|PUT) /v2/([A-Za-z0-9._:/+=-]+)(?:\?([A-Za-z0-9._:/+=%&-]*))? HTTP/1\.1"
)
_SENT_TO: Final = frozenset(
    (("POST", "uploads"), ("PATCH", "upload"), ("PUT", "upload"), ("PUT", "manifest"))
)
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_ABOUT_BODY: Final = frozenset((b"content-type", b"content-length", b"transfer-encoding"))
