"""Answers small reads at once: manifests, blobs that are small or already open, HEAD of any blob.

``FastReads.answer`` turns a request head into bytes without waiting, or declines; then the plain
path answers. Two steps are cached, beside the parts of heads (``heads``) and the repositories:

- head -> ``CachedDecision``: what the bytes mean, the caller, and whether the caller may read;
- region and request line -> ``Rendered``: the answer but for its date and request id.

Every request first asks the ledger for its version. If that has moved, the kinds of change since
then say which caches are dropped; so a decision is never older than the last transaction that may
have changed it. The validity in time of tokens and keys, and the rate limits, are checked for each
request. A read that would have to wait, or fails, is declined.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from uuid import uuid4

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from holdfast.api.http import sendfile
from holdfast.api.http.app_settings import SERVER, AppSettings
from holdfast.api.http.oci_errors import OciError, oci_error
from holdfast.api.http.transfer import API_VERSION, NO_STORE
from holdfast.api.oci import access, blobs, manifests
from holdfast.api.oci.access import Caller, Unauthenticated
from holdfast.api.recorder import Recorder
from holdfast.engine import BlobReader, Change, EngineError, NotFound, Repository, Store

from .caches import Caches
from .heads import KINDS, Declined, Heads, ParsedHeaders, Peer, ReadRequest, WriteRequest
from .records import Answer, record_of

T = TypeVar("T")

WHOLE_BYTES_MAX: Final = 64 * 1024
"""Longest file that is read and sent with the head, in bytes: ``sendfile`` costs more below it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer without the values of Date and X-Request-Id, which differ in each answer."""

    status: int
    head: bytes
    """The bytes before the value of Date."""
    rest: bytes
    """The bytes from the end of the last header on."""
    size: int
    """Content to send, in bytes."""
    pull: bool
    """True if it counts as a pull."""
    file: bool = False
    """True if the content is in a file, which is opened for each request."""


@dataclass(slots=True, eq=False)
class CachedDecision:
    """Caller, repository and rights of a request, valid until a transaction may change them."""

    request: ReadRequest
    caller: Caller
    repository: Repository
    permitted: bool
    """True if the caller may read while credentials and key are valid."""
    since: float
    """Start of their validity, in seconds since 1970."""
    until: float
    """End of their validity, in seconds since 1970."""
    renews: bool
    """True if a caller who may push asks for a manifest by digest: the read then renews the
    manifest (``engine.repositories.deferred_writes``)."""
    rendered: Rendered | None
    """The answer to a caller who may read; None if it must be rendered."""
    reader: BlobReader | None = None
    """A closed reader of that answer's file, from which the next one is opened."""


class FastReads:
    """Answers the reads of one store that need no waiting."""

    def __init__(
        self,
        store: Store,
        settings: AppSettings,
        recorder: Recorder | None = None,
    ) -> None:
        self.store = self._store = store
        self.settings = settings
        self.recorder = Recorder() if recorder is None else recorder
        self._caches = caches = Caches()
        self._heads = Heads(settings, caches)
        self._version = self._generation = -1
        # Times alone outdate nothing. Content outdates answers, and any other change may outdate
        # keys, rights and places of repositories too.
        self._decisions = [
            caches.add(partial(self._decide, kind), Change.CONTENT) for kind in range(len(KINDS))
        ]
        self._rendered_answers = caches.add(_not_rendered, Change.CONTENT)
        self._repositories = caches.add(self._locate, Change.ANY)
        self._refusal_parts: dict[int, tuple[bytes, bytes]] = {}
        """The head of a refusal before and after its Content-Length line, by status."""
        self._closed = False
        self._scratch = memoryview(bytearray(WHOLE_BYTES_MAX))
        """The buffer that files are read into; the answer copies it before the next read."""
        self._second = 0
        self._date_and_server = b""
        self._block_numbers = itertools.count()
        """Numbers of the blocks of request ids."""
        self._id_prefix = str(uuid4())[:-_ID_DIGITS].encode()
        self._block_prefix = b""
        """The common beginning of a block's request ids."""
        self._next_id = _IDS_PER_BLOCK
        """Index of the next request id in the block."""
        self._stamp = b""
        """The head from the value of Date to the end of ``_block_prefix``."""
        self._slot = self.recorder.slot
        self._counts_only = not (self.recorder.logs or self.recorder.traces)
        """True if nothing but the counters is to be written of a read."""

    def peer(self, scheme: str, address: str, *, plain: bool) -> Peer:
        """Return the peer of a new connection, to be passed with each of its requests."""
        return self._heads.peer(scheme, address, plain=plain, limits=self.recorder.limits)

    def close(self) -> None:
        """Decline from now on: the plain path's last answers say that the connection closes."""
        self._closed = True

    def answer(self, head: bytes, peer: Peer) -> Answer | bytes | None:
        """Answer one request head (RFC 9112 section 2.1), or return None to decline.

        Bytes are a whole answer, whose request is recorded; the record of a file waits for its end.
        One long function, since a function for each step would take twice as long.
        """
        started = time.perf_counter()
        if self._closed:
            return None
        now = time.time()
        try:
            # The ledger's version first: what is read after it is at least as new.
            self._refresh()
            decision = self._decisions[peer.kind][head]
            request = decision.request
            if not (decision.permitted and decision.since <= now < decision.until):
                return None
            rendered = decision.rendered or self._render(decision, request)
            if (peer.limited or request.headers.prefix) and not self._admits(
                peer, request, decision, rendered
            ):
                return None
            data, reader = _NOTHING, None
            if rendered.file:
                data, reader = self._open(decision, request, plain=peer.plain)
        except DECLINE_ERRORS:
            return None
        # Counted before the answer is made: once a pull must wait, the plain path counts it.
        if (rendered.pull or (decision.renews and rendered.status == 200)) and not self._count_pull(
            decision, request, rendered
        ):
            return None
        if self._next_id == _IDS_PER_BLOCK or int(now) != self._second:
            self._begin_block(now)
        end = _ID_SUFFIXES[self._next_id]
        self._next_id += 1
        parts = (rendered.head, self._stamp, end, rendered.rest)
        text = b"".join((*parts, data) if data else parts)
        if reader is None and self._counts_only:
            if self._slot is not None:
                self._slot.count(
                    request.target.endpoint,
                    request.method,
                    rendered.status,
                    0,
                    rendered.size,
                    time.perf_counter() - started,
                )
            return text
        record = record_of(request, peer, decision.caller, started)
        record.request_id = (self._block_prefix + end).decode("ascii")
        record.status, record.content = rendered.status, rendered.size
        answer = Answer(record, text, reader)
        if reader is not None:
            return answer
        self.finish(answer, gone=False)
        return text

    def _count_pull(
        self, decision: CachedDecision, request: ReadRequest, rendered: Rendered
    ) -> bool:
        """Count a pull of the manifest or blob found. Return False if that has to wait."""
        pulls = self._store.pulls
        # Retention may have removed what was found before the pull entered the gate, so the
        # version is compared once more after a fresh entry.
        if not (pulls.gathering.inside or (pulls.begin() and self._is_current())):
            return False
        return pulls.count(
            decision.repository, request.target.item, pulled=rendered.pull, renews=decision.renews
        )

    def _is_current(self) -> bool:
        """Return True if the store has not changed since this answer was begun."""
        return self._store.version() == self._version

    def finish(self, answer: Answer, *, gone: bool) -> None:
        """Record an answer that is about to be sent, or whose file was sent.

        ``gone`` is True if its client has left.
        """
        record = answer.record
        record.gone, record.size = gone, len(answer.text)
        if answer.reader is not None and not gone:
            record.size += record.content
        self.recorder.finish(record)

    def _invalidate(self, version: int | None) -> None:
        """Move to a version of the ledger, and drop the entries that it may have outdated.

        Raises Declined if the ledger cannot tell its version.
        """
        if version is None:
            raise Declined
        change = Change.ANY
        if self._version >= 0:
            change = self._store.changed(self._version, version)
        if change >= Change.ANY:
            self._heads.sign_with(_run_without_waiting(self._store.keys.signing_keys()))
            self._generation = version
        self._version = version
        self._caches.invalidate(change)

    def read_push(self, head: bytes, peer: Peer) -> WriteRequest | None:
        """Read the head of a push with the current signing keys. Return None to decline."""
        try:
            self._refresh()
            return self._heads.read_push(head, peer.kind)
        except DECLINE_ERRORS:
            return None

    def _refresh(self) -> None:
        """Drop cached entries that may be outdated. Raises Declined, StorageFailed, Closed."""
        version = self._store.version()
        if version != self._version:
            self._invalidate(version)

    def permit(self, headers: ParsedHeaders, name: str) -> tuple[Caller, Repository]:
        """Return the caller and the repository of a push that is permitted.

        Raises one of ``DECLINE_ERRORS`` if it is not, or cannot be decided without waiting.
        """
        if self._closed:
            raise Declined
        self._refresh()
        caller, repository = self._caller(headers), self._repositories[headers.origin.region, name]
        since, until = _validity(headers, caller)
        if not since <= time.time() < until or not access.may(caller, repository, "push"):
            raise Declined
        return caller, repository

    def render(self, response: web.Response) -> tuple[bytes, bytes]:
        """Return an answer of the distribution API as bytes, and the id of its request."""
        rendered = _rendered(response, with_body=True)
        request_id = self.next_request_id()
        more = _CLOSE if self._closed else b""
        text = b"".join((rendered.head, self._date_and_server, request_id, more, rendered.rest))
        return text, request_id

    @property
    def closed(self) -> bool:
        """True if each answer from now on is the last one of its connection."""
        return self._closed

    def next_request_id(self) -> bytes:
        """Return the id of a request that ends now."""
        now = time.time()
        if self._next_id == _IDS_PER_BLOCK or int(now) != self._second:
            self._begin_block(now)
        end = _ID_SUFFIXES[self._next_id]
        self._next_id += 1
        return self._block_prefix + end

    def _begin_block(self, now: float) -> None:
        """Begin a block of request ids, and set Date to this second."""
        self._second = int(now)
        self._date_and_server = rfc822_formatted_time().encode() + _SERVER
        self._block_prefix = b"%b%010x" % (
            self._id_prefix,
            next(self._block_numbers) & _BLOCK_NUMBER_MASK,
        )
        self._next_id = 0
        self._stamp = self._date_and_server + self._block_prefix

    def _caller(self, headers: ParsedHeaders) -> Caller:
        if not self._heads.verified(headers):
            # The keys changed after the head was read: a push may take several packets.
            raise Declined
        caller = headers.caller
        if caller is None or headers.generation != self._generation:
            region = headers.origin.region
            caller = _run_without_waiting(access.caller_of(self._store, headers.claims, region))
            headers.caller, headers.generation = caller, self._generation
        return caller

    def _locate(self, place: tuple[str, str]) -> Repository:
        return _run_without_waiting(self._store.locate(*place))

    def _decide(self, kind: int, head: bytes) -> CachedDecision:
        """Read a head, and its caller, repository and rights from the ledger.

        Raises Declined, and what reading the ledger raises.
        """
        request = self._heads.read(head, kind)
        headers = request.headers
        caller = self._caller(headers)
        repository = self._repositories[headers.origin.region, request.target.name]
        since, until = _validity(headers, caller)
        return CachedDecision(
            request=request,
            caller=caller,
            repository=repository,
            permitted=access.may(caller, repository, "pull"),
            renews=manifests.renews(request.target, caller, repository),
            since=since,
            until=until,
            rendered=self._rendered_answers.get((headers.origin.region, request.line)),
        )

    def _admits(
        self, peer: Peer, request: ReadRequest, decision: CachedDecision, rendered: Rendered
    ) -> bool:
        """Return True if the limits let a request pass, and its content be sent now."""
        recorder, headers = self.recorder, request.headers
        access_key = "" if decision.caller.key is None else decision.caller.key.access_key
        if not recorder.admits(headers.prefix or peer.prefix, access_key):
            return False
        if recorder.sends_files or not rendered.size:
            return True
        # Under a bandwidth limit files are sent in turns, which only the plain path waits for.
        if rendered.file:
            return False
        return recorder.passes(headers.origin.region, request.target.name, rendered.size)

    def _render(self, decision: CachedDecision, request: ReadRequest) -> Rendered:
        """Render the plain path's answer as bytes; cache it if it stays true."""
        store, repository = self._store, decision.repository
        target, with_body = request.target, request.method == "GET"
        response: web.StreamResponse | None
        lasting, pull = True, False
        try:
            if target.endpoint == "manifest":
                pull = manifests.counts(request.method, target.item)
                response = _run_without_waiting(manifests.at_hand(store, repository, target.item))
            elif not with_body:
                response, lasting = _run_without_waiting(
                    blobs.summary(store, repository, target.item)
                )
            else:
                response, lasting = _run_without_waiting(
                    blobs.at_hand(store, repository, target.item)
                )
            if response is None:
                raise Declined
        except OciError as error:
            rendered = self._refused(error, with_body=with_body)
        except NotFound as error:
            rendered = self._refused(oci_error(error), with_body=with_body)
        else:
            rendered = _rendered(response, with_body=with_body, pull=pull)
        if lasting:
            key = request.headers.origin.region, request.line
            size = len(rendered.head) + len(rendered.rest)
            self._caches.keep(self._rendered_answers, key, rendered, size)
            decision.rendered = rendered
        return rendered

    def _refused(self, error: OciError, *, with_body: bool) -> Rendered:
        """Render a refusal. Refusals of one status differ in body and length only."""
        body = error.body()
        around = self._refusal_parts.get(error.status)
        if around is None or error.headers:
            rendered = _rendered(error.response(), with_body=with_body)
            length = b"Content-Length: %d\r\n" % len(body)
            before, found, after = rendered.head.partition(length)
            if found and not error.headers:
                self._refusal_parts[error.status] = before, after
            return rendered
        head = b"%bContent-Length: %d\r\n%b" % (around[0], len(body), around[1])
        size, content = (len(body), body) if with_body else (0, b"")
        return Rendered(error.status, head, _END + content, size, pull=False)

    def _open(
        self, decision: CachedDecision, request: ReadRequest, *, plain: bool
    ) -> tuple[memoryview, BlobReader | None]:
        """Return the content of a file, or its open reader. Raises Declined if it is not open.

        Short content that is in memory is read at once. The rest is for ``sendfile``, which needs
        a plain socket.
        """
        if decision.reader is None:
            item = request.target.item
            reader = _run_without_waiting(
                blobs.open_already(self._store, decision.repository, item)
            )
            if decision.rendered is not None:
                decision.reader = reader
        else:
            reader = decision.reader.reopen()
        file = None if reader is None else reader.file()
        if reader is None or file is None:
            raise Declined
        data = self._scratch[: reader.length]
        whole = reader.length <= WHOLE_BYTES_MAX and sendfile.read_cached(*file[:2], data)
        if plain and not whole:
            return _NOTHING, reader
        reader.release()
        if not whole:
            raise Declined
        return data, None


def _not_rendered(place: tuple[str, bytes]) -> Rendered:
    """Raise KeyError: answers are kept once they are rendered."""
    raise KeyError(place)


def _validity(headers: ParsedHeaders, caller: Caller) -> tuple[float, float]:
    """Return start and end of the credentials' validity, in seconds since 1970."""
    since, until = (0.0, math.inf) if headers.claims is None else headers.claims.span
    if caller.key is not None and caller.key.expires_at is not None:
        until = min(until, caller.key.expires_at.timestamp())
    return float(since), float(until)


def _rendered(response: web.StreamResponse, *, with_body: bool, pull: bool = False) -> Rendered:
    """Render a response as bytes, without the content of a file."""
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
    """Return status line and headers, up to the value of Date."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\r\n".join(lines) + "\r\nDate: ").encode()


DECLINE_ERRORS: Final = (Declined, Unauthenticated, OciError, EngineError)
"""Errors after which a request is declined: the plain path answers with what is wrong."""

_NOTHING: Final = memoryview(b"")
_END: Final = b"\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close"
_SERVER: Final = f"\r\nServer: {SERVER}\r\nX-Request-Id: ".encode()
_ID_DIGITS: Final = 12
_ID_SUFFIXES: Final = tuple(b"%02x" % number for number in range(256))
"""The last two digits of a block's request ids: formatting takes longer than a look-up."""
_IDS_PER_BLOCK: Final = len(_ID_SUFFIXES)
_BLOCK_NUMBER_MASK: Final = (1 << 4 * (_ID_DIGITS - 2)) - 1


def _run_without_waiting(read: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits. Raises Declined if it does."""
    try:
        read.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    read.close()
    raise Declined
