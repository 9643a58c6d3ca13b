"""What the fast lane answers: manifests by tag or digest, blobs that are small or open already,
and HEAD of any blob.

What the ledger says is remembered only as long as the ledger is at the same transaction, and
whether the caller may read is decided anew for every request. Whatever is not plainly an answer
is declined.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from holdfast.engine import BlobReader, EngineError, NotFound, Repository, Store

from . import access, blobs, manifests
from .access import Caller, Unauthenticated
from .context import SERVER, AppSettings
from .fast_requests import REMEMBERED_MAX, Heads, Peer, Visitor, remember
from .oci_errors import OciError, oci_error
from .transfer import API_VERSION
from .v2_paths import Target

T = TypeVar("T")

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of rendered answers that are remembered."""


class _Waits(Exception):
    """A read that cannot be answered without waiting."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer but for its last headers, which are new each time."""

    status: int
    head: bytes
    body: bytes
    pull: bool
    """Whether it is a manifest that was found."""
    reader: BlobReader | None = None
    """A file that follows the head."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered, for whoever counts or logs it."""

    peer: Peer
    visitor: Visitor
    access_key: str
    head: bytes
    target: Target
    status: int
    request_id: bytes
    begun: float
    """By ``time.perf_counter``."""

    @property
    def method(self) -> str:
        """GET or HEAD."""
        return "GET" if self.head.startswith(b"GET") else "HEAD"

    @property
    def path(self) -> str:
        """As it was asked for."""
        return self.head.split(b" ", 2)[1].decode("ascii")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: ``head``, with the content or with a file to follow."""

    head: bytes
    reader: BlobReader | None
    """Entered; to be closed by whoever sends the file."""
    asked: Asked | None
    """Where somebody wants to know how it ended."""


class Watcher(Protocol):
    """What a server does around the answers of the lane, as ``watch`` does around others."""

    @property
    def logs(self) -> bool:
        """Whether it writes the access log."""

    def admits(self, who: str, access_key: str) -> bool:
        """Whether the limits let this request of a neighbourhood pass; otherwise declined."""

    def answered(self, asked: Asked, sent: int, content: int, *, gone: bool) -> None:
        """An answer has ended: bytes sent with its head, and without it."""


class Lane:
    """The answers that need no waiting, over one store."""

    def __init__(
        self,
        store: Store,
        settings: AppSettings,
        signing_key: bytes,
        watcher: Watcher | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._watcher = watcher
        self._heads = Heads(settings, signing_key)
        self._version: int | None = None
        self._callers: dict[Visitor, Caller] = {}
        self._places: dict[tuple[str, str], Repository] = {}
        self._answers: dict[tuple[str, bytes], Rendered] = {}
        self._body_bytes = 0
        self._closed = False
        self._ids = itertools.count()
        self._id_start = str(uuid4())[:-_ID_DIGITS].encode()

    @property
    def logs(self) -> bool:
        """Whether its answers get into the access log."""
        return self._watcher is not None and self._watcher.logs

    def peer(self, scheme: str, address: str, *, plain: bool) -> Peer:
        """What a new connection has to show with each of its requests."""
        return self._heads.peer(scheme, address, plain=plain)

    def close(self) -> None:
        """Decline from now on: the last answers of a server say that the connection closes."""
        self._closed = True

    def answer(self, head: bytes, peer: Peer) -> Answer | None:
        """The answer to one request head (RFC 9112 section 2.1), or None to decline."""
        watcher = self._watcher
        begun = 0.0 if watcher is None else time.perf_counter()
        line, _, block = head.partition(b"\r\n")
        target = self._heads.target(line)
        visitor = None if target is None else self._heads.visitor(block, peer)
        if target is None or visitor is None:
            return None
        try:
            # The stamp first: what is read after it is at least as new.
            version = self._store.version()
            if version is None or self._closed:
                return None
            if version != self._version:
                self._forget(version)
            caller = self._caller(visitor)
            repository = None if caller is None else self._permitted(caller, visitor, target)
            if caller is None or repository is None:
                return None
            access_key = "" if caller.key is None else caller.key.access_key
            if watcher is not None and not watcher.admits(visitor.who or peer.who, access_key):
                return None
            key = (visitor.origin.region, line)
            rendered = self._answers.get(key)
            if rendered is None:
                rendered = self._render(key, repository, target, plain=peer.plain)
        except (_Waits, Unauthenticated, OciError, EngineError):
            # The plain path says what is wrong.
            return None
        if rendered.pull:
            method = "GET" if line.startswith(b"GET") else "HEAD"
            manifests.count_pull(self._store, repository, method, target.item)
        request_id = b"%b%012x" % (self._id_start, next(self._ids) & _ID_MASK)
        whole = b"%b%b%b%b\r\n\r\n%b" % (
            rendered.head,
            rfc822_formatted_time().encode(),
            _SERVER,
            request_id,
            rendered.body,
        )
        asked = None
        if watcher is not None:
            asked = Asked(
                peer, visitor, access_key, head, target, rendered.status, request_id, begun
            )
            if rendered.reader is None:
                watcher.answered(asked, len(whole), len(rendered.body), gone=False)
        return Answer(whole, rendered.reader, asked)

    def ended(self, answer: Answer, *, gone: bool) -> None:
        """The file of an answer was sent, or its client is gone."""
        if self._watcher is not None and answer.asked is not None and answer.reader is not None:
            content = 0 if gone else answer.reader.length
            self._watcher.answered(answer.asked, len(answer.head) + content, content, gone=gone)

    def _forget(self, version: int) -> None:
        self._version = version
        self._callers.clear()
        self._places.clear()
        self._answers.clear()
        self._body_bytes = 0

    def _caller(self, visitor: Visitor) -> Caller | None:
        """Who is asking, if credentials and key are in their time at this moment."""
        now = time.time()
        claims = visitor.claims
        if claims is not None and not claims.in_time(now):
            return None
        caller = self._callers.get(visitor)
        if caller is None:
            caller = _at_once(access.caller_of(self._store, claims, visitor.origin.region))
            remember(self._callers, visitor, caller, 0)
        key = caller.key
        if key is not None and key.expires_at is not None and key.expires_at.timestamp() <= now:
            return None
        return caller

    def _permitted(self, caller: Caller, visitor: Visitor, target: Target) -> Repository | None:
        """The repository, if the caller may pull from it."""
        place = (visitor.origin.region, target.name)
        repository = self._places.get(place)
        if repository is None:
            repository = _at_once(self._store.locate(*place))
            remember(self._places, place, repository, len(target.name))
        if len(visitor.origin.host) + 1 + len(target.name) > access.FULL_NAME_CHARS_MAX:
            return None
        return repository if access.may(caller, repository, "pull") else None

    def _render(
        self, key: tuple[str, bytes], repository: Repository, target: Target, *, plain: bool
    ) -> Rendered:
        """What the plain path's functions say, as bytes."""
        store, item = self._store, target.item
        with_body = key[1].startswith(b"GET")
        response: web.Response | None
        lasting, pull = True, False
        try:
            if target.endpoint == "manifest":
                pull = True
                response = _at_once(manifests.at_hand(store, repository, item))
            elif not with_body:
                response, lasting = _at_once(blobs.summary(store, repository, item))
            else:
                response, lasting = _at_once(blobs.at_hand(store, repository, item))
                if response is None and plain:
                    return self._render_file(repository, item)
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
        response.headers.setdefault("Content-Length", str(len(body)))
        if not with_body:
            body = b""
        rendered = Rendered(response.status, _head(response), body, pull)
        if lasting and self._body_bytes + len(body) <= BODY_BYTES_MAX:
            if len(self._answers) >= REMEMBERED_MAX:
                self._answers.clear()
                self._body_bytes = 0
            self._body_bytes += len(body)
            remember(self._answers, key, rendered, len(key[1]))
        return rendered

    def _render_file(self, repository: Repository, item: str) -> Rendered:
        opened = _at_once(blobs.open_already(self._store, repository, item))
        if opened is None:
            raise _Waits
        response, reader = opened
        return Rendered(response.status, _head(response), b"", pull=False, reader=reader)


def _head(response: web.StreamResponse) -> bytes:
    """Status line and headers, up to the value of Date."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\r\n".join(lines) + "\r\nDate: ").encode()


_SERVER: Final = f"\r\nServer: {SERVER}\r\nX-Request-Id: ".encode()
_ID_DIGITS: Final = 12
_ID_MASK: Final = (1 << 4 * _ID_DIGITS) - 1


def _at_once(read: Coroutine[Any, Any, T]) -> T:
    """The result of a read that waits for nothing. Raises _Waits if it has to."""
    try:
        read.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    read.close()
    raise _Waits
