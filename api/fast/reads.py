"""What the fast lane answers: manifests by tag or digest, blobs that are small or open already,
and HEAD of any blob.

What the ledger says, and so whether a caller may read, is remembered only until a transaction may
have changed it, which is asked of the ledger for every request, as the time is of credentials.
Whatever is not plainly an answer is declined.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

import msgspec
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from holdfast.api.http import sendfile
from holdfast.api.http.app_settings import SERVER, AppSettings
from holdfast.api.http.oci_errors import OciError, oci_error
from holdfast.api.http.transfer import API_VERSION, NO_STORE
from holdfast.api.oci import access, blobs, manifests
from holdfast.api.oci.access import Caller, Unauthenticated
from holdfast.api.telemetry.waits import Steps
from holdfast.engine import BlobReader, Change, EngineError, NotFound, Repository, Store

from .bounded_cache import ENTRIES_MAX, KEY_BYTES_MAX, BoundedCache
from .heads import Heads, ParsedHeaders, Peer, ReadRequest, WriteRequest

T = TypeVar("T")

KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of answers that are remembered, and of the request lines that they are found by."""

WHOLE_BYTES_MAX: Final = 64 * 1024
"""Of files that are read and sent at once with the head: that takes less than sendfile does."""


class _Waits(Exception):
    """A read that cannot be answered without waiting."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer but for its last headers, which are new each time."""

    status: int
    head: bytes
    """Up to the value of Date."""
    rest: bytes
    """From the end of the last header on."""
    size: int
    """Bytes of content to be sent."""
    pull: bool
    """Whether it counts as a pull."""
    file: bool = False
    """Whether the content lies in a file, which is looked for with each request."""


@dataclass(slots=True, eq=False)
class CachedDecision:
    """What the ledger says about a request, until a transaction may have changed it."""

    caller: Caller
    repository: Repository
    permitted: bool
    """Whether the caller may read, while credentials and key are in their time."""
    since: float
    until: float
    """That time: seconds since 1970."""
    renews: bool
    """Whether it asks by digest for a manifest, and may push: see ``engine.pulls``."""
    rendered: Rendered | None
    """The answer to whoever may read; None where it has to be made anew."""
    reader: BlobReader | None = None
    """One that read the file of that answer, and is closed."""


class Answer(msgspec.Struct, eq=False):
    """What goes back. (A dataclass would cost each request half a microsecond.)"""

    asking: ReadRequest
    peer: Peer
    caller: Caller
    rendered: Rendered
    request_id: bytes
    begun: float
    """By ``time.perf_counter``."""
    text: bytes
    """The head, and the content unless that is a file to follow."""
    reader: BlobReader | None
    """That file: entered, and closed by whoever sends it."""


@dataclass(slots=True, eq=False)
class WriteResult:
    """How a push ended; see ``writes``."""

    sent: WriteRequest
    peer: Peer
    caller: Caller
    begun: float
    """By ``time.perf_counter``."""
    status: int
    """0 where it was cancelled."""
    received: int
    """Bytes of the body."""
    content: int
    """Bytes of the answer's body."""
    text: bytes
    """The whole answer."""
    request_id: str
    steps: Steps | None
    """What it waited for, where somebody wants to know."""


class Recorder(Protocol):
    """What a server does around the answers of the lane, as ``middleware`` does around others."""

    @property
    def logs(self) -> bool:
        """Whether it writes the access log."""

    def limits(self, who: str) -> bool:
        """Whether there are limits on the requests of a neighbourhood, or on what goes out."""

    def admits(self, who: str, access_key: str) -> bool:
        """Whether they let this request pass; otherwise it is declined."""

    @property
    def sends_files(self) -> bool:
        """Whether files may go out as fast as they are taken."""

    def passes(self, region: str, name: str, count: int) -> bool:
        """Whether so many bytes of content of a repository may go out now."""

    @property
    def counts_only(self) -> bool:
        """Whether ``count`` is all that it does with answers."""

    def count(self, asking: ReadRequest, rendered: Rendered, seconds: float) -> None:
        """An answer was sent whole, in one piece."""

    def answered(self, answer: Answer, content: int, *, gone: bool) -> None:
        """An answer has ended; so many bytes of content were sent."""

    @property
    def traces(self) -> bool:
        """Whether somebody wants to know what pushes wait for."""

    def wrote(self, written: WriteResult, *, gone: bool) -> None:
        """A push has ended, and its answer is about to be sent unless the client is ``gone``."""


class FastReads:
    """The answers that need no waiting, over one store."""

    def __init__(
        self,
        store: Store,
        settings: AppSettings,
        watcher: Recorder | None = None,
    ) -> None:
        self.store = self._store = store
        self.settings = settings
        self.watcher = self._watcher = watcher
        self._heads = Heads(settings)
        self._version = -1
        self._known: BoundedCache[ReadRequest, CachedDecision] = BoundedCache()
        self._callers: BoundedCache[ParsedHeaders, Caller] = BoundedCache()
        self._places: BoundedCache[tuple[str, str], Repository] = BoundedCache()
        self._answers: dict[tuple[str, bytes], Rendered] = {}
        self._kept_bytes = 0
        self._refusals: dict[int, tuple[bytes, bytes]] = {}
        """By status, what stands before and behind the length of a refusal's body."""
        self._closed = False
        self._scratch = memoryview(bytearray(WHOLE_BYTES_MAX))
        """What files are read into: it is copied out of it at once."""
        self._second = 0
        self._dated = b""
        self._ids = itertools.count()
        """Of blocks of names."""
        self._id_start = str(uuid4())[:-_ID_DIGITS].encode()
        self._block = b""
        """What the names of a block have in common."""
        self._at = _BLOCK
        """Of the next name in it."""
        self._stamp = b""
        """From the value of Date on, up to the end of that."""
        self._counts_only = watcher is None or watcher.counts_only

    @property
    def logs(self) -> bool:
        """Whether its answers get into the access log."""
        return self._watcher is not None and self._watcher.logs

    def peer(self, scheme: str, address: str, *, plain: bool) -> Peer:
        """What a new connection has to show with each of its requests."""
        watcher = self._watcher
        return self._heads.peer(
            scheme, address, plain=plain, limits=watcher.limits if watcher is not None else None
        )

    def close(self) -> None:
        """Decline from now on: the last answers of a server say that the connection closes."""
        self._closed = True

    def answer(self, head: bytes, peer: Peer) -> Answer | bytes | None:
        """The answer to one request head (RFC 9112 section 2.1), or None to decline.

        Bytes are all there is to it; nobody wants to know when they are sent. In one piece: with
        a function for each step it would take twice as long.
        """
        begun = time.perf_counter()
        if self._closed:
            return None
        now = time.time()
        try:
            # The stamp first: what is read after it is at least as new.
            self._catch_up()
            asking = peer.askings.get(head) or self._heads.read(head, peer)
            if asking is None:
                return None
            known = self._known.get(asking) or self._look_up(asking, len(head))
            if not (known.permitted and known.since <= now < known.until):
                return None
            rendered = known.rendered or self._render(known, asking)
            if (peer.limited or asking.visitor.who) and not self._admits(
                peer, asking, known, rendered
            ):
                return None
            data, reader = _NOTHING, None
            if rendered.file:
                data, reader = self._open(known, asking, plain=peer.plain)
        except UNSURE:
            return None
        if (rendered.pull or (known.renews and rendered.status == 200)) and not self._notes(
            known, asking, rendered
        ):
            return None
        if self._at == _BLOCK or int(now) != self._second:
            self._begin_block(now)
        end = _ENDS[self._at]
        self._at += 1
        parts = (rendered.head, self._stamp, end, rendered.rest)
        text = b"".join((*parts, data) if data else parts)
        if reader is None and self._counts_only:
            if self._watcher is not None:
                self._watcher.count(asking, rendered, time.perf_counter() - begun)
            return text
        name = self._block + end
        answer = Answer(asking, peer, known.caller, rendered, name, begun, text, reader)
        if self._watcher is not None and reader is None:
            self._watcher.answered(answer, rendered.size, gone=False)
        return answer

    def _notes(self, known: CachedDecision, asking: ReadRequest, rendered: Rendered) -> bool:
        """Note a pull of what was found; False where that has to be waited for."""
        pulls = self._store.pulls
        # What was found before it stands at the gate may be gone by a decision since.
        if not (pulls.gathering.inside or (pulls.begin() and self._is_current())):
            return False
        return pulls.count(
            known.repository, asking.target.item, pulled=rendered.pull, renews=known.renews
        )

    def _is_current(self) -> bool:
        """Whether the store is as it was when this answer was begun."""
        return self._store.version() == self._version

    def ended(self, answer: Answer, *, gone: bool) -> None:
        """The file of an answer was sent, or its client is gone."""
        if self._watcher is not None:
            self._watcher.answered(answer, 0 if gone else answer.rendered.size, gone=gone)

    def _renew(self, version: int | None) -> None:
        """The ledger is at another transaction: forget what that may have changed.

        Raises _Waits where it cannot tell.
        """
        if version is None:
            raise _Waits
        change = Change.ANY
        if self._version >= 0:
            change = self._store.changed(self._version, version)
        if change is Change.ANY:
            self._heads.sign_with(_at_once(self._store.keys.signing_keys()))
        self._version = version
        if change >= Change.CONTENT:
            self._known.clear()
            self._answers.clear()
            self._kept_bytes = 0
        if change is Change.ANY:
            self._callers.clear()
            self._places.clear()

    def read_sent(self, head: bytes, peer: Peer) -> WriteRequest | None:
        """What the head of a push says, by the keys of now; None to decline."""
        try:
            self._catch_up()
        except UNSURE:
            return None
        return self._heads.read_sent(head, peer)

    def _catch_up(self) -> None:
        """Forget what may have changed. Raises _Waits, StorageFailed, Closed."""
        version = self._store.version()
        if version != self._version:
            self._renew(version)

    def permit(self, visitor: ParsedHeaders, name: str) -> tuple[Caller, Repository]:
        """Who pushes there, and where that is. Raises whatever says that he may not, or that it
        cannot be said at once (``UNSURE``)."""
        if self._closed:
            raise _Waits
        self._catch_up()
        caller, repository = self._caller(visitor), self._place(visitor.origin.region, name)
        since, until = _span(visitor, caller)
        if not since <= time.time() < until or not access.may(caller, repository, "push"):
            raise _Waits
        return caller, repository

    def finished(self, response: web.Response) -> tuple[bytes, bytes]:
        """An answer of the distribution API as bytes, and the name of its request."""
        rendered = _rendered(response, with_body=True)
        request_id = self.name()
        more = _CLOSE if self._closed else b""
        text = b"".join((rendered.head, self._dated, request_id, more, rendered.rest))
        return text, request_id

    @property
    def closed(self) -> bool:
        """Whether the answers of now are the last ones of their connections."""
        return self._closed

    def name(self) -> bytes:
        """A name for a request that ends now."""
        now = time.time()
        if self._at == _BLOCK or int(now) != self._second:
            self._begin_block(now)
        end = _ENDS[self._at]
        self._at += 1
        return self._block + end

    def _begin_block(self, now: float) -> None:
        """Make a block of names, and bring Date to this time."""
        self._second = int(now)
        self._dated = rfc822_formatted_time().encode() + _SERVER
        self._block = b"%b%010x" % (self._id_start, next(self._ids) & _BLOCK_MASK)
        self._at = 0
        self._stamp = self._dated + self._block

    def _caller(self, visitor: ParsedHeaders) -> Caller:
        if not self._heads.verified(visitor):
            # Its head was read before the keys changed, as of a push that came in pieces.
            raise _Waits
        caller = self._callers.get(visitor)
        if caller is None:
            region = visitor.origin.region
            caller = _at_once(access.caller_of(self._store, visitor.claims, region))
            self._callers.keep(visitor, caller, visitor.size)
        return caller

    def _place(self, region: str, name: str) -> Repository:
        repository = self._places.get((region, name))
        if repository is None:
            repository = _at_once(self._store.locate(region, name))
            self._places.keep((region, name), repository, len(name))
        return repository

    def _look_up(self, asking: ReadRequest, head_bytes: int) -> CachedDecision:
        """What the ledger says now. Raises what reading it raises."""
        visitor = asking.visitor
        caller = self._caller(visitor)
        repository = self._place(visitor.origin.region, asking.target.name)
        since, until = _span(visitor, caller)
        known = CachedDecision(
            caller=caller,
            repository=repository,
            permitted=access.may(caller, repository, "pull"),
            renews=manifests.renews(asking.target, caller, repository),
            since=since,
            until=until,
            rendered=self._answers.get((visitor.origin.region, asking.line)),
        )
        self._known.keep(asking, known, head_bytes)
        return known

    def _admits(
        self, peer: Peer, asking: ReadRequest, known: CachedDecision, rendered: Rendered
    ) -> bool:
        """Whether the limits let a request pass, and its content go out now: files go in turns."""
        watcher, visitor = self._watcher, asking.visitor
        if watcher is None:
            return True
        access_key = "" if known.caller.key is None else known.caller.key.access_key
        if not watcher.admits(visitor.who or peer.who, access_key):
            return False
        if watcher.sends_files or not rendered.size:
            return True
        if rendered.file:
            return False
        return watcher.passes(visitor.origin.region, asking.target.name, rendered.size)

    def _render(self, known: CachedDecision, asking: ReadRequest) -> Rendered:
        """What the plain path's functions say, as bytes; remembered where it lasts."""
        store, repository = self._store, known.repository
        target, with_body = asking.target, asking.method == "GET"
        response: web.StreamResponse | None
        lasting, pull = True, False
        try:
            if target.endpoint == "manifest":
                pull = manifests.counts(asking.method, target.item)
                response = _at_once(manifests.at_hand(store, repository, target.item))
            elif not with_body:
                response, lasting = _at_once(blobs.summary(store, repository, target.item))
            else:
                response, lasting = _at_once(blobs.at_hand(store, repository, target.item))
            if response is None:
                raise _Waits
        except OciError as error:
            rendered = self._refused(error, with_body=with_body)
        except NotFound as error:
            rendered = self._refused(oci_error(error), with_body=with_body)
        else:
            rendered = _rendered(response, with_body=with_body, pull=pull)
        if lasting:
            self._keep(known, asking, rendered)
        return rendered

    def _refused(self, error: OciError, *, with_body: bool) -> Rendered:
        """The answer to what is not there: but for the body and its length, always the same."""
        body = error.body()
        around = self._refusals.get(error.status)
        if around is None or error.headers:
            rendered = _rendered(error.response(), with_body=with_body)
            length = b"Content-Length: %d\r\n" % len(body)
            before, found, after = rendered.head.partition(length)
            if found and not error.headers:
                self._refusals[error.status] = before, after
            return rendered
        head = b"%bContent-Length: %d\r\n%b" % (around[0], len(body), around[1])
        size, sent = (len(body), body) if with_body else (0, b"")
        return Rendered(error.status, head, _END + sent, size, pull=False)

    def _keep(self, known: CachedDecision, asking: ReadRequest, rendered: Rendered) -> None:
        if len(asking.line) > KEY_BYTES_MAX:
            return
        size = len(asking.line) + len(rendered.head) + len(rendered.rest)
        if len(self._answers) >= ENTRIES_MAX or self._kept_bytes + size > KEPT_BYTES_MAX:
            # Where nobody pushes, nothing else ever makes room for what is asked for now. Both
            # of them: each holds the bytes that are counted.
            self._answers.clear()
            self._known.clear()
            self._kept_bytes = 0
        self._kept_bytes += size
        self._answers[asking.visitor.origin.region, asking.line] = known.rendered = rendered

    def _open(
        self, known: CachedDecision, asking: ReadRequest, *, plain: bool
    ) -> tuple[memoryview, BlobReader | None]:
        """The content of a file that is open, or who reads it. Raises _Waits for another one."""
        if known.reader is None:
            item = asking.target.item
            reader = _at_once(blobs.open_already(self._store, known.repository, item))
            if known.rendered is not None:
                known.reader = reader
        else:
            reader = known.reader.reopen()
        file = None if reader is None else reader.file()
        if reader is None or file is None:
            raise _Waits
        data = self._scratch[: reader.length]
        whole = reader.length <= WHOLE_BYTES_MAX and sendfile.read_cached(*file[:2], data)
        if plain and not whole:
            return _NOTHING, reader
        reader.release()
        if not whole:
            raise _Waits
        return data, None


def _span(visitor: ParsedHeaders, caller: Caller) -> tuple[float, float]:
    """The time of a visitor's credentials: seconds since 1970."""
    since, until = (0.0, math.inf) if visitor.claims is None else visitor.claims.span
    if caller.key is not None and caller.key.expires_at is not None:
        until = min(until, caller.key.expires_at.timestamp())
    return float(since), float(until)


def _rendered(response: web.StreamResponse, *, with_body: bool, pull: bool = False) -> Rendered:
    """A response as bytes; a file's content is not in it."""
    response.headers.update(API_VERSION)
    response.headers.setdefault("Cache-Control", NO_STORE)
    size, body, file = 0, b"", False
    if isinstance(response, web.Response):
        found = response.body if isinstance(response.body, bytes) else b""
        response.headers.setdefault("Content-Length", str(len(found)))
        if with_body:
            size, body = len(found), found
    else:
        size, file = response.content_length or 0, True
    return Rendered(response.status, _head(response), _END + body, size, pull, file)


def _head(response: web.StreamResponse) -> bytes:
    """Status line and headers, up to the value of Date."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\r\n".join(lines) + "\r\nDate: ").encode()


UNSURE: Final = (_Waits, Unauthenticated, OciError, EngineError)
"""What makes the lane decline: the plain path says what is wrong."""

_NOTHING: Final = memoryview(b"")
_END: Final = b"\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close"
_SERVER: Final = f"\r\nServer: {SERVER}\r\nX-Request-Id: ".encode()
_ID_DIGITS: Final = 12
_ENDS: Final = tuple(b"%02x" % place for place in range(256))
"""Of the names of a block: to format one takes longer than to find it."""
_BLOCK: Final = len(_ENDS)
_BLOCK_MASK: Final = (1 << 4 * (_ID_DIGITS - 2)) - 1


def _at_once(read: Coroutine[Any, Any, T]) -> T:
    """The result of a read that waits for nothing. Raises _Waits if it has to."""
    try:
        read.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    read.close()
    raise _Waits
