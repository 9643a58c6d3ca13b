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

from . import access, blobs, manifests, sendfile
from .access import Caller, Unauthenticated
from .context import SERVER, AppSettings
from .fast_requests import KEY_BYTES_MAX, REMEMBERED_MAX, Asking, Heads, Peer, Visitor, remember
from .oci_errors import OciError, oci_error
from .transfer import API_VERSION

T = TypeVar("T")

KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of the content of answers that are remembered."""

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
    """Whether it is a manifest that was found."""
    file: bool = False
    """Whether the content lies in a file, which is looked for with each request."""


@dataclass(slots=True, eq=False)
class Known:
    """What the ledger says about a request, as long as it is at the same transaction."""

    caller: Caller
    repository: Repository
    rendered: Rendered | None
    """The answer to whoever may read; None where it has to be made anew."""
    reader: BlobReader | None = None
    """One that read the file of that answer, and is closed."""


@dataclass(slots=True, eq=False)
class Answer:
    """What goes back. (Frozen, it would cost each request a microsecond.)"""

    asking: Asking
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


class Watcher(Protocol):
    """What a server does around the answers of the lane, as ``watch`` does around others."""

    @property
    def logs(self) -> bool:
        """Whether it writes the access log."""

    def admits(self, who: str, access_key: str) -> bool:
        """Whether the limits let this request of a neighbourhood pass; otherwise declined."""

    @property
    def sends_files(self) -> bool:
        """Whether files may go out as fast as they are taken."""

    def passes(self, region: str, name: str, count: int) -> bool:
        """Whether so many bytes of content of a repository may go out now."""

    def answered(self, answer: Answer, content: int, *, gone: bool) -> None:
        """An answer has ended; so many bytes of content were sent."""


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
        self._metered = watcher is not None and not watcher.sends_files
        self._heads = Heads(settings, signing_key)
        self._version: int | None = None
        self._known: dict[Asking, Known] = {}
        self._callers: dict[Visitor, Caller] = {}
        self._places: dict[tuple[str, str], Repository] = {}
        self._answers: dict[tuple[str, bytes], Rendered] = {}
        self._kept_bytes = 0
        self._closed = False
        self._scratch = memoryview(bytearray(WHOLE_BYTES_MAX))
        """What files are read into: it is copied out of it at once."""
        self._second = 0
        self._dated = b""
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
        begun = time.perf_counter()
        asking = self._heads.read(head, peer)
        if asking is None or self._closed:
            return None
        now = time.time()
        try:
            known = self._newest(asking, len(head))
            if not self._admits(known, asking.visitor, peer, now):
                return None
            rendered = known.rendered
            if rendered is None:
                rendered = self._render(known, asking)
            if self._metered and not self._passes(asking, rendered):
                return None
            data, reader = _NOTHING, None
            if rendered.file:
                data, reader = self._open(known, asking, plain=peer.plain)
        except (_Waits, Unauthenticated, OciError, EngineError):
            # The plain path says what is wrong.
            return None
        if rendered.pull:
            method, item = asking.method, asking.target.item
            manifests.count_pull(self._store, known.repository, method, item)
        request_id = b"%b%012x" % (self._id_start, next(self._ids) & _ID_MASK)
        text = b"".join((rendered.head, self._stamp(now), request_id, rendered.rest, data))
        answer = Answer(asking, peer, known.caller, rendered, request_id, begun, text, reader)
        if self._watcher is not None and reader is None:
            self._watcher.answered(answer, rendered.size, gone=False)
        return answer

    def ended(self, answer: Answer, *, gone: bool) -> None:
        """The file of an answer was sent, or its client is gone."""
        if self._watcher is not None:
            self._watcher.answered(answer, 0 if gone else answer.rendered.size, gone=gone)

    def _stamp(self, now: float) -> bytes:
        """The value of Date, and what follows it up to the request's id."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._dated = rfc822_formatted_time().encode() + _SERVER
        return self._dated

    def _newest(self, asking: Asking, head_bytes: int) -> Known:
        """What the ledger says now. Raises what reading it raises."""
        # The stamp first: what is read after it is at least as new.
        version = self._store.version()
        if version is None:
            raise _Waits
        if version != self._version:
            self._version = version
            self._known.clear()
            self._callers.clear()
            self._places.clear()
            self._answers.clear()
            self._kept_bytes = 0
        known = self._known.get(asking)
        if known is None:
            known = self._look_up(asking)
            remember(self._known, asking, known, head_bytes)
        return known

    def _admits(self, known: Known, visitor: Visitor, peer: Peer, now: float) -> bool:
        """Whether credentials and key are in time, rights cover it, and limits let it pass."""
        claims, key = visitor.claims, known.caller.key
        if claims is not None and not claims.in_time(now):
            return False
        if key is not None and key.expires_at is not None and key.expires_at.timestamp() <= now:
            return False
        if not access.may(known.caller, known.repository, "pull"):
            return False
        if self._watcher is None:
            return True
        access_key = "" if key is None else key.access_key
        return self._watcher.admits(visitor.who or peer.who, access_key)

    def _passes(self, asking: Asking, rendered: Rendered) -> bool:
        """Whether the content may go out now, where that has a limit. Files go in turns."""
        if not rendered.size or self._watcher is None:
            return True
        region, name = asking.visitor.origin.region, asking.target.name
        return not rendered.file and self._watcher.passes(region, name, rendered.size)

    def _look_up(self, asking: Asking) -> Known:
        visitor, name = asking.visitor, asking.target.name
        caller = self._callers.get(visitor)
        if caller is None:
            region = visitor.origin.region
            caller = _at_once(access.caller_of(self._store, visitor.claims, region))
            remember(self._callers, visitor, caller, 0)
        place = (visitor.origin.region, name)
        repository = self._places.get(place)
        if repository is None:
            repository = _at_once(self._store.locate(*place))
            remember(self._places, place, repository, len(name))
        return Known(caller, repository, self._answers.get((visitor.origin.region, asking.line)))

    def _render(self, known: Known, asking: Asking) -> Rendered:
        """What the plain path's functions say, as bytes; remembered where it lasts."""
        store, repository = self._store, known.repository
        target, with_body = asking.target, asking.method == "GET"
        response: web.StreamResponse | None
        lasting, pull = True, False
        try:
            if target.endpoint == "manifest":
                pull = True
                response = _at_once(manifests.at_hand(store, repository, target.item))
            elif not with_body:
                response, lasting = _at_once(blobs.summary(store, repository, target.item))
            else:
                response, lasting = _at_once(blobs.at_hand(store, repository, target.item))
            if response is None:
                raise _Waits
        except OciError as error:
            response, pull = error.response(), False
        except NotFound as error:
            response, pull = oci_error(error).response(), False
        response.headers.update(API_VERSION)
        size, body, file = 0, b"", False
        if isinstance(response, web.Response):
            found = response.body if isinstance(response.body, bytes) else b""
            response.headers.setdefault("Content-Length", str(len(found)))
            if with_body:
                size, body = len(found), found
        else:
            size, file = response.content_length or 0, True
        rendered = Rendered(response.status, _head(response), _END + body, size, pull, file)
        if lasting:
            self._keep(known, asking, rendered)
        return rendered

    def _keep(self, known: Known, asking: Asking, rendered: Rendered) -> None:
        size = len(rendered.rest)
        if self._kept_bytes + size > KEPT_BYTES_MAX or len(asking.line) > KEY_BYTES_MAX:
            return
        if len(self._answers) >= REMEMBERED_MAX:
            # Both of them: each holds the bytes that are counted.
            self._answers.clear()
            self._known.clear()
            self._kept_bytes = 0
        self._kept_bytes += size
        self._answers[asking.visitor.origin.region, asking.line] = known.rendered = rendered

    def _open(
        self, known: Known, asking: Asking, *, plain: bool
    ) -> tuple[memoryview, BlobReader | None]:
        """The content of a file that is open, or who reads it. Raises _Waits for another one."""
        if known.reader is None:
            item = asking.target.item
            reader = _at_once(blobs.open_already(self._store, known.repository, item))
            if known.rendered is not None:
                known.reader = reader
        else:
            reader = known.reader.again()
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


def _head(response: web.StreamResponse) -> bytes:
    """Status line and headers, up to the value of Date."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\r\n".join(lines) + "\r\nDate: ").encode()


_NOTHING: Final = memoryview(b"")
_END: Final = b"\r\n\r\n"
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
