"""A client's connection: aiohttp's handler, with bounds on the bytes before a request is
understood.

- A head has a limit in bytes (``HEAD_BYTES_MAX``) and in time (``HEAD_SECONDS``).
- A malformed request gets an answer in OCI form and one log line, never a traceback. The connection
  is broken then: it parses nothing more.
- A body whose framing breaks ends at once for the handler that reads it.
- A client that reads its answers too slowly is disconnected (``slow_clients``).
- A client that ends its own side after its requests still gets the answers (RFC 9112 section 9.6).

``fast.connection`` derives from this class.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import (
    BadHttpMessage,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_server import Server

from . import slow_clients
from .app_settings import SERVER
from .connection_limits import LINGERING_MAX, Admission, Refusal
from .oci_errors import OciError
from .origin import is_foreign
from .transfer import API_VERSION, NO_STORE

HEAD_BYTES_MAX: Final = 64 * 1024
"""Longest request head in bytes, however many packets it takes."""

HEAD_SECONDS = 30.0
"""Longest time from the first byte of a head to its last."""

LINGER_SECONDS: Final = 1.0
"""Time in seconds that a refused client may go on sending. Closing at once could reset the
connection, and destroy the answer before the client reads it."""

GONE_SECONDS = 1.0
"""Time in seconds that a read goes on after its client has ended its side: it may be gone."""

_END: Final = b"\r\n\r\n"

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Connection(RequestHandler):
    """aiohttp's request handler with the limits of the server."""

    __slots__ = (
        "_admission",
        "_admitted_peer",
        "_body",
        "_bound_task",
        "_broken",
        "_bytes_pending",
        "_bytes_taken",
        "_eof_event",
        "_half_closed",
        "_head_bytes",
        "_linger_timer",
        "_lost_event",
        "_open_requests",
        "_stall_timer",
        "was_made",
    )

    def __init__(
        self, manager: Server, *, admission: Admission, peer: Any = None, **options: Any
    ) -> None:
        """``peer`` was admitted already; None asks ``admission`` once the connection is made."""
        super().__init__(manager, **options)
        self._admission = admission
        self._admitted_peer = peer
        self._body: StreamReader = EMPTY_PAYLOAD
        """Body of the newest request that was parsed."""
        self._head_bytes = 0
        """Bytes of an incomplete head."""
        self._broken = False
        """True once the parser has failed: no later byte has a meaning."""
        self._eof_event: asyncio.Event | None = None
        """Set once the client has ended its side."""
        self._lost_event: asyncio.Event | None = None
        """Set once the connection has ended."""
        self.was_made = False
        """True once it was connected."""
        self._open_requests = 0
        """Requests that were parsed and are not answered."""
        self._half_closed = False
        """True if the client has ended its side, and is owed answers."""
        self._stall_timer: slow_clients.StallTimer | None = None
        """Timer of the client as a reader; None until it first read less than it was sent."""
        self._bytes_taken = 0
        """Bytes that the client read while the buffer was too full."""
        self._bytes_pending = 0
        """Bytes in the send buffer when ``_count_taken`` last looked."""
        self._linger_timer: asyncio.TimerHandle | None = None
        """Timer that closes the connection of a refused client."""
        self._bound_task: asyncio.Future[Any] | None = None
        """The work of ``while_connected``, cancelled once the client is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or refuse it with an answer."""
        super().connection_made(transport)
        self.was_made = True
        # With TLS the site has admitted the peer before the handshake.
        if self._admitted_peer is not None:
            return
        peer = transport.get_extra_info("peername")
        refusal = self._admission.enter(peer)
        if refusal is None:
            # A unix socket has an empty name.
            self._admitted_peer = peer or ""
        else:
            self._refuse(cast(asyncio.Transport, transport), _REFUSAL_ANSWERS[refusal])

    def _refuse(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Send the refusal, and close after a linger."""
        self._broken = True
        transport.write(answer)
        # A flood of refused connections must not hold descriptors for its answers.
        if self._admission.lingering >= LINGERING_MAX or not transport.can_write_eof():
            self.force_close()
            return
        transport.write_eof()
        self._admission.lingering += 1
        self._linger_timer = self._loop.call_later(LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self._admission.lingering -= 1
        self._linger_timer = None
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop everything that waits for the client."""
        if self._admitted_peer is not None:
            self._admission.leave(self._admitted_peer)
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._admission.lingering -= 1
        if self._stall_timer is not None:
            self._stall_timer.close()
        if self._bound_task is not None:
            self._bound_task.cancel()
        for ended in (self._eof_event, self._lost_event):
            if ended is not None:
                ended.set()
        super().connection_lost(exc)

    @property
    def may_have_request(self) -> bool:
        """True if a request may be on its way, or was parsed and is not begun.

        A new connection has a request to send. An older one may stay idle for ever.
        """
        return self._request_count == 0 or bool(self._messages)

    async def lost(self) -> None:
        """Wait until the connection has ended. Only one task may wait."""
        self._lost_event = asyncio.Event()
        if self.transport is not None:
            await self._lost_event.wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio declares it
        """Handle the end of the client's side (RFC 9112 section 9.6).

        Returns True to keep the server's side until all complete requests are answered. TLS has no
        half-closed connections in asyncio.
        """
        if self._eof_event is not None:
            self._eof_event.set()
        # A body cannot become complete any more, and its reader would wait for ever.
        if not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the client ended its side"))
        # No answer is owed: the transport may close.
        if self.ssl_context is not None or self._open_requests == 0 or self._force_close:
            return False
        self._half_closed = True
        if self._bound_task is not None:
            self._loop.call_later(GONE_SECONDS, self._bound_task.cancel)
        return True

    async def while_connected(self, work: Awaitable[T]) -> T:
        """Return the result of ``work``, or raise its error; cancel it once the client is gone.

        A client that has ended its side, as a killed one does, counts as gone ``GONE_SECONDS``
        later. Raises ConnectionResetError then. Only one request may use it at a time.
        """
        # ``connection_lost`` and ``eof_received`` cancel this task through ``_bound_task``.
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        self._bound_task = task
        if self.transport is None:
            task.cancel()
        elif self._half_closed:
            self._loop.call_later(GONE_SECONDS, task.cancel)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            # The work must not outlive its request, so wait until it has stopped.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self._bound_task = None
        if task.cancelled():
            raise ConnectionResetError("the client is gone")
        return task.result()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; close after the last one to a client that has ended its side."""
        finished = await super().finish_response(request, resp, start_time)
        self._open_requests -= 1
        if self._half_closed and self._open_requests == 0:
            self._close = True
        return finished

    def pause_writing(self) -> None:
        """Start the stall timer: the client reads less than it is sent."""
        super().pause_writing()
        if self.transport is None:
            return
        self._bytes_pending = self.transport.get_write_buffer_size()
        if self._stall_timer is None:
            reader = slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
            self._stall_timer = slow_clients.StallTimer(reader, self._count_taken, self._abort)
        self._stall_timer.begin()

    def resume_writing(self) -> None:
        """Stop the stall timer: the client has caught up."""
        if self._stall_timer is not None:
            self._stall_timer.end()
        super().resume_writing()

    def _count_taken(self) -> int:
        # A buffer that grew means that more was written meanwhile, not that less was read.
        left = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self._bytes_taken += max(0, self._bytes_pending - left)
        self._bytes_pending = left
        return self._bytes_taken

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client, and bound those that are not understood yet."""
        self._parse(data)
        while self._upgraded and not self._broken and self._parser is not None:
            # No request switches protocols here (RFC 9110 section 7.8), so what the parser has
            # set aside behind one that asks for it is the next request.
            data, self._message_tail = self._message_tail, b""
            self._parser.set_upgraded(False)
            self._upgraded = False
            if data:
                self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse bytes of heads or bodies. Every byte for the parser passes through here."""
        if self._broken:
            return
        # Remembered from before the parse: bytes of a body do not count as a head, and a request
        # that came alone in its packet has nothing behind it that an upgrade could swallow.
        in_body = not self._body.is_eof()
        alone = not in_body and not self._head_bytes and data.find(_END) == len(data) - len(_END)
        count = self._request_count
        super().data_received(data)
        # No new request: outside of a body, these bytes belong to an incomplete head.
        if self._request_count == count:
            if data and not in_body:
                self._count_head_bytes(len(data))
            return
        long = self._head_bytes + len(data) > HEAD_BYTES_MAX
        self._head_bytes = 0
        # Heads that the parser accepts may still break a rule, so they are checked before they run.
        self._check_heads(self._request_count - count, long=long)
        if not alone or self._messages[-1][1] is not EMPTY_PAYLOAD:
            self._end_with_upgrade()
        self._open_requests += self._request_count - count
        newest, body = self._messages[-1]
        if isinstance(newest, _ErrInfo):
            self._break(newest.exc)
        else:
            self._body = body

    def _end_with_upgrade(self) -> None:
        """Make a request for an unknown protocol the last one, unless it has no body and came
        alone.

        The parser drops the bytes behind it in the same packet, perhaps a part of the next request,
        without a sign. (It keeps those behind a protocol that it knows.)
        """
        message, body = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or not message.upgrade:
            return
        protocol = message.headers.get(hdrs.UPGRADE, "").encode("utf-8", "surrogateescape")
        if message.method != hdrs.METH_CONNECT and protocol.lower() != b"websocket":
            self._messages[-1] = message._replace(should_close=True), body

    def _check_heads(self, count: int, *, long: bool) -> None:
        """Refuse a new request that the parser should not have accepted, and all that follow it.

        Only bytes that are ``long`` may hold a head over HEAD_BYTES_MAX: the parser bounds each
        header, and one read brings up to 256 KiB.
        """
        for at in range(len(self._messages) - count, len(self._messages)):
            message, _ = self._messages[at]
            if isinstance(message, _ErrInfo):
                continue
            fault = _fault_of(message)
            if fault is None and long and _size_of_head(message) > HEAD_BYTES_MAX:
                fault = LineTooLong(b"", HEAD_BYTES_MAX)
            if fault is None:
                continue
            # Requests behind a faulty one may be smuggled in it, so none of them runs.
            while len(self._messages) > at:
                self._messages.pop()
                self._request_count -= 1
            self._body = EMPTY_PAYLOAD
            self._messages.append((_ErrInfo(fault.code, fault, fault.message), EMPTY_PAYLOAD))
            self._request_count += 1
            return

    def _count_head_bytes(self, count: int) -> None:
        begun = self._head_bytes > 0
        self._head_bytes += count
        waiter, timer = self._waiter, self._keepalive_handle
        if self._head_bytes > HEAD_BYTES_MAX:
            error = LineTooLong(b"", HEAD_BYTES_MAX)
            self._messages.append((_ErrInfo(431, error, error.message), EMPTY_PAYLOAD))
            self._open_requests += 1
            self._break(error)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif not begun and timer is not None:
            # The timer of idle connections closes this one too if nothing is understood by then.
            timer.cancel()
            self._next_keepalive_close_time = self._loop.time() + HEAD_SECONDS
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    @property
    def is_broken(self) -> bool:
        """True if no later byte has a meaning."""
        return self._broken

    def _break(self, error: BaseException) -> None:
        """Break the connection after the parser has failed, and wake the reader of the body.

        The parser does not tell the reader, which would wait for more bytes.
        """
        self._broken = True
        if not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError(str(error)))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request (4xx) or an unexpected error (500), and close the
        connection."""
        request_id = str(uuid4())
        if isinstance(exc, HttpProcessingError):
            self._admission.on_event("malformed_requests")
            status = self._status(status, exc)
            _log.info(
                "%s: malformed request from %s: %s; answered %d",
                request_id,
                request.remote,
                _reason(exc),
                status,
            )
            error = OciError("UNSUPPORTED", _ERROR_MESSAGES[status], status=status)
        else:
            self.logger.error(
                "%s: request failed: unexpected error; answered %d",
                request_id,
                status,
                exc_info=exc,
            )
            error = OciError("UNKNOWN", status=status)
        # A second head would land in the middle of the first answer.
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = error.response()
        response.headers.update(API_VERSION)
        response.headers["Cache-Control"] = NO_STORE
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def _status(self, status: int, error: HttpProcessingError) -> int:
        # aiohttp answers 400 to each long line; the limit in the error tells target and header
        # apart.
        if isinstance(error, LineTooLong) and status == 400:
            return 414 if error.args[1] == self.max_line_size else 431
        return status

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            # aiohttp's own handler would answer in HTML, and close without a linger.
            response = self.handle_error(request, err_info.status, err_info.exc)
            await response.prepare(request)
            await response.write_eof()
            await self.linger()
            return response

        return handler

    async def linger(self) -> None:
        """End the server's side, and wait up to ``LINGER_SECONDS`` for the client to end its
        own."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return
        left = self._eof_event = asyncio.Event()
        transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await left.wait()
        except TimeoutError:
            # The client had its time; the caller closes the connection.
            return


def _size_of_head(message: RawRequestMessage) -> int:
    """Return the bytes of a head: the target, and each header with its colon and its line end."""
    fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in message.raw_headers)
    return len(message.path) + fields


def _fault_of(message: RawRequestMessage) -> HttpProcessingError | None:
    """Return the fault of a request that the parser accepts; None if it has none."""
    if "#" in message.path:
        # RFC 9112 section 3.2: a target has no fragment. A proxy may cut it off, and so read
        # another path than this server.
        return BadHttpMessage("the target has a fragment")
    if is_foreign(message.path):
        return BadHttpMessage("the target is not one of this server")
    codings = message.headers.getall(hdrs.TRANSFER_ENCODING, None)
    if codings is None:
        return None
    if message.version < HttpVersion11:
        # RFC 9112 section 6.1: such framing counts as faulty.
        return BadHttpMessage("Transfer-Encoding before HTTP/1.1")
    coding = ",".join(codings).strip(" \t").lower()
    if coding == "chunked":
        return None
    if not coding:
        return BadHttpMessage("Transfer-Encoding is empty")
    return HttpProcessingError(code=501, message="the transfer coding is not known")


def _reason(error: HttpProcessingError) -> str:
    """Return the parser's reason without the bytes that it quotes: they may be secrets."""
    kind = type(error).__name__
    if isinstance(error, InvalidURLError):
        return kind
    kind_of_fault = re.split(r"[:\n]", error.message, maxsplit=1)[0]
    return f"{kind}: {kind_of_fault}"


_ERROR_MESSAGES: Final = {
    400: "this is not a valid HTTP request",
    414: "the request target is too long",
    431: "the request headers are too long",
    501: "only the transfer coding chunked is supported",
}


def _refusal_answer(error: OciError, reason: str) -> bytes:
    body = error.body()
    lines = (
        f"HTTP/1.1 {error.status} {reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Server: {SERVER}",
        "Retry-After: 1",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


_REFUSAL_ANSWERS: Final[Mapping[Refusal, bytes]] = {
    "full": _refusal_answer(OciError("UNAVAILABLE", "too many connections"), "Service Unavailable"),
    "address": _refusal_answer(
        OciError("TOOMANYREQUESTS", "too many connections from this address"), "Too Many Requests"
    ),
}
"""Whole answers to refused connections."""
