"""What the fast lane answers: manifests by tag or digest, blobs that are small or open already,
and HEAD of any blob.

What a header block, a path or a token *means* never changes, and is remembered. What the ledger
says is remembered only as long as the ledger is at the same transaction, and whether the caller
may read is decided anew for every request. Whatever is not plainly an answer is declined.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from holdfast.engine import BlobReader, EngineError, NotFound, Repository, Store

from . import access, blobs, manifests, tokens
from .access import Caller, Unauthenticated
from .context import AppSettings
from .oci_errors import OciError, oci_error
from .origin import HOST_CHARS_MAX, Origin, origin_from
from .transfer import API_VERSION
from .v2_paths import Target, parse_path

T = TypeVar("T")

REMEMBERED_MAX: Final = 2048
"""Of each kind of thing; then all of that kind is forgotten."""

KEY_BYTES_MAX: Final = 2048
"""Longer lines and header blocks are read anew each time: with four kinds of things under such
keys, a client that never says the same thing twice costs 16 MiB."""

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of rendered answers that are remembered."""

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
_NOT_HARMLESS: Final = frozenset((b"x-auth-token", b"x-session-token"))
"""Of those that begin with ``x-``: all others mean nothing here, but for FORWARDED."""
_FORWARDED: Final = (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
"""What proxies say. It means something only where the peer is one that is believed."""
_HEADERS_MAX: Final = 32
_BEARER: Final = "bearer "


class _Waits(Exception):
    """A read that cannot be answered without waiting."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a header block says."""

    origin: Origin
    claims: tokens.Claims | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer but for its last headers, which are new each time."""

    head: bytes
    body: bytes
    pull: bool
    """Whether it is a manifest that was found."""


class Lane:
    """The answers that need no waiting, over one store."""

    def __init__(self, store: Store, settings: AppSettings, signing_key: bytes) -> None:
        self._store = store
        self._settings = settings
        self._signing_key = signing_key
        self._visitors: dict[bytes, Visitor] = {}
        self._targets: dict[bytes, Target] = {}
        self._version: int | None = None
        self._callers: dict[bytes, Caller] = {}
        self._places: dict[tuple[str, str], Repository] = {}
        self._answers: dict[tuple[str, bytes], Rendered] = {}
        self._body_bytes = 0
        self._closed = False
        self._ids = itertools.count()
        self._id_start = str(uuid4())[:-_ID_DIGITS].encode()

    def close(self) -> None:
        """Decline from now on: the last answers of a server say that the connection closes."""
        self._closed = True

    def answer(self, head: bytes) -> bytes | None:
        """The whole answer to one request head (RFC 9112 section 2.1), or None to decline."""
        line, _, block = head.partition(b"\r\n")
        target = self._targets.get(line)
        if target is None and (target := self._read_line(line)) is None:
            return None
        visitor = self._visitors.get(block)
        if visitor is None and (visitor := self._read_block(block)) is None:
            return None
        try:
            # The stamp first: what is read after it is at least as new.
            version = self._store.version()
            if version is None or self._closed:
                return None
            if version != self._version:
                self._forget(version)
            repository = self._permitted(block, visitor, target)
            if repository is None:
                return None
            key = (visitor.origin.region, line)
            rendered = self._answers.get(key)
            if rendered is None:
                rendered = self._render(key, repository, target)
        except (_Waits, Unauthenticated, OciError, EngineError):
            # The plain path says what is wrong.
            return None
        if rendered.pull:
            method = "GET" if line.startswith(b"GET") else "HEAD"
            manifests.count_pull(self._store, repository, method, target.item)
        return b"%b%b%b%b%012x\r\n\r\n%b" % (
            rendered.head,
            rfc822_formatted_time().encode(),
            _SERVER,
            self._id_start,
            next(self._ids) & _ID_MASK,
            rendered.body,
        )

    def _forget(self, version: int) -> None:
        self._version = version
        self._callers.clear()
        self._places.clear()
        self._answers.clear()
        self._body_bytes = 0

    def _read_line(self, line: bytes) -> Target | None:
        """The target of a request line that can be answered here."""
        match = _LINE.fullmatch(line)
        if match is None or _DOTTED.search(match[2]) or match[2].startswith(b"/"):
            return None
        target = parse_path(match[2].decode("ascii"))
        if target is None:
            return None
        if target.endpoint not in ("manifest", "blob"):
            return None
        _remember(self._targets, line, target, len(line))
        return target

    def _read_block(self, block: bytes) -> Visitor | None:
        """The visitor that a header block describes, if it holds nothing that changes answers."""
        found: dict[bytes, bytes] = {}
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
            if name not in _HARMLESS or (name in found and not name.startswith(b"accept")):
                return None
            found[name] = match[2]
        host = found.get(b"host", b"").decode("ascii")
        if not 0 < len(host) <= HOST_CHARS_MAX:
            return None
        claims = None
        if b"authorization" in found:
            claims = self._read_token(found[b"authorization"].decode("ascii"))
            if claims is None:
                return None
        visitor = Visitor(origin_from("http", host, self._settings), claims)
        _remember(self._visitors, block, visitor, len(block))
        return visitor

    def _read_token(self, authorization: str) -> tokens.Claims | None:
        if not authorization.lower().startswith(_BEARER):
            return None
        try:
            return tokens.read(self._signing_key, authorization[len(_BEARER) :].strip(), "access")
        except tokens.BadToken:
            return None

    def _permitted(self, block: bytes, visitor: Visitor, target: Target) -> Repository | None:
        """The repository, if the caller may pull from it at this moment."""
        now = time.time()
        claims = visitor.claims
        if claims is not None and not claims.in_time(now):
            return None
        caller = self._callers.get(block)
        if caller is None:
            caller = _at_once(access.caller_of(self._store, claims, visitor.origin.region))
            _remember(self._callers, block, caller, len(block))
        key = caller.key
        if key is not None and key.expires_at is not None and key.expires_at.timestamp() <= now:
            return None
        place = (visitor.origin.region, target.name)
        repository = self._places.get(place)
        if repository is None:
            repository = _at_once(self._store.locate(*place))
            _remember(self._places, place, repository, len(target.name))
        if len(visitor.origin.host) + 1 + len(target.name) > access.FULL_NAME_CHARS_MAX:
            return None
        return repository if access.may(caller, repository, "pull") else None

    def _render(self, key: tuple[str, bytes], repository: Repository, target: Target) -> Rendered:
        """What the plain path's functions say, as bytes."""
        store, item = self._store, target.item
        response: web.Response | None
        lasting, pull = True, False
        try:
            if target.endpoint == "manifest":
                pull = True
                response = _at_once(manifests.at_hand(store, repository, item))
            elif key[1].startswith(b"HEAD"):
                response, lasting = _at_once(blobs.summary(store, repository, item))
            else:
                response, lasting = _at_once(blobs.at_hand(store, repository, item))
            if response is None:
                raise _Waits
        except OciError as error:
            response, pull = error.response(), False
        except NotFound as error:
            response, pull = oci_error(error).response(), False
        body = response.body
        if not isinstance(body, bytes):
            body = b""
        response.headers.update(API_VERSION)
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if "Content-Length" not in response.headers:
            lines.append(f"Content-Length: {len(body)}")
        if key[1].startswith(b"HEAD"):
            body = b""
        rendered = Rendered(("\r\n".join(lines) + "\r\nDate: ").encode(), body, pull)
        if lasting and self._body_bytes + len(body) <= BODY_BYTES_MAX:
            self._body_bytes += len(body)
            _remember(self._answers, key, rendered, len(key[1]))
        return rendered


_SERVER: Final = f"\r\nServer: {SERVER_SOFTWARE}\r\nX-Request-Id: ".encode()
_ID_DIGITS: Final = 12
_ID_MASK: Final = (1 << 4 * _ID_DIGITS) - 1

K = TypeVar("K")


def _remember(memory: dict[K, Any], key: K, value: object, key_bytes: int) -> None:
    if key_bytes > KEY_BYTES_MAX:
        return
    if len(memory) >= REMEMBERED_MAX:
        memory.clear()
    memory[key] = value


def _at_once(read: Coroutine[Any, Any, T]) -> T:
    """The result of a read that waits for nothing. Raises _Waits if it has to."""
    try:
        read.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    read.close()
    raise _Waits
