"""One client's connection: aiohttp's, with bounds on what comes before a request is understood.

What is no HTTP is answered in OCI form and noted in one line, never with a traceback; a body whose
framing breaks ends at once; a request head has limits in size and time, and a client that takes
too little of its answers is given up. Whoever ends its own side after its requests is answered
first. RFC 9112.
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
from .body_receiver import BodyReceiver
from .connection_limits import LINGERING_MAX, Admission, Refusal
from .oci_errors import OciError
from .origin import is_foreign
from .transfer import API_VERSION, NO_STORE

HEAD_BYTES_MAX: Final = 64 * 1024
"""Of one request head, in however many pieces it comes."""

HEAD_SECONDS = 30.0
"""Longest time from the first byte of a head to its last."""

LINGER_SECONDS: Final = 1.0
"""How long a refused client may go on sending: closing at once could destroy the answer that it
has not read yet."""

GONE_SECONDS = 1.0
"""How long a read goes on for a client that has ended its side: it may be gone."""

_END: Final = b"\r\n\r\n"

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Connection(RequestHandler):
    """aiohttp's connection with limits of ours."""

    __slots__ = (
        "_admission",
        "_body",
        "_bound",
        "_broken",
        "_ended",
        "_guest",
        "_head_bytes",
        "_left",
        "_lingers",
        "_lost",
        "_open",
        "_patience",
        "_pending",
        "_taken",
        "was_made",
    )

    def __init__(
        self, manager: Server, *, admission: Admission, peer: Any = None, **options: Any
    ) -> None:
        """``peer`` is whom the admission has let in already; None asks it when the connection is
        there."""
        super().__init__(manager, **options)
        self._admission = admission
        self._guest = peer
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the newest request that was understood."""
        self._head_bytes = 0
        """Of a head that is not complete."""
        self._broken = False
        """Whether the parser gave up: nothing that comes has a meaning any more."""
        self._left: asyncio.Event | None = None
        """Set when the client has ended its side."""
        self._lost: asyncio.Event | None = None
        """Set when the connection has ended."""
        self.was_made = False
        """Whether it was ever connected."""
        self._open = 0
        """Requests that were understood and are not answered."""
        self._ended = False
        """Whether the client has ended its side, and is owed answers."""
        self._patience: slow_clients.StallTimer | None = None
        """With the client as a reader, once it took less than it was sent."""
        self._taken = 0
        """What it took while something waited for it, in bytes."""
        self._pending = 0
        """Of what waits for it, when that was looked at last."""
        self._lingers: asyncio.TimerHandle | None = None
        """Of a client that was refused."""
        self._bound: asyncio.Future[Any] | None = None
        """What is done for the request that runs, and for nothing once its client is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, or say that there are too many."""
        super().connection_made(transport)
        self.was_made = True
        if self._guest is not None:
            return
        peer = transport.get_extra_info("peername")
        refusal = self._admission.enter(peer)
        if refusal is None:
            # A unix socket has an empty name.
            self._guest = peer or ""
        else:
            self._refuse(cast(asyncio.Transport, transport), _REFUSALS[refusal])

    def _refuse(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Say why, and close."""
        self._broken = True
        transport.write(answer)
        if self._admission.lingering >= LINGERING_MAX or not transport.can_write_eof():
            self.force_close()
            return
        transport.write_eof()
        self._admission.lingering += 1
        self._lingers = self._loop.call_later(LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self._admission.lingering -= 1
        self._lingers = None
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop what waits for the client."""
        if self._guest is not None:
            self._admission.leave(self._guest)
        if self._lingers is not None:
            self._lingers.cancel()
            self._admission.lingering -= 1
        if self._patience is not None:
            self._patience.close()
        if self._bound is not None:
            self._bound.cancel()
        for ended in (self._left, self._lost):
            if ended is not None:
                ended.set()
        super().connection_lost(exc)

    @property
    def is_owed(self) -> bool:
        """Whether a request is to come, or came and was not begun: who connects has one to send,
        who stays connected may not."""
        return self._request_count == 0 or bool(self._messages)

    async def lost(self) -> None:
        """Wait until the connection has ended. For one waiter."""
        self._lost = asyncio.Event()
        if self.transport is not None:
            await self._lost.wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio declares it
        """Nothing more comes (RFC 9112 section 9.6). True keeps our side until what came whole is
        answered; TLS has no half-closed connections here."""
        if self._left is not None:
            self._left.set()
        if not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the client ended its side"))
        if self.ssl_context is not None or self._open == 0 or self._force_close:
            return False
        self._ended = True
        if self._bound is not None:
            self._loop.call_later(GONE_SECONDS, self._bound.cancel)
        return True

    async def while_connected(self, work: Awaitable[T]) -> T:
        """What ``work`` returns or raises; it is cancelled once the client is gone.

        Who ended their side, as a client does that was killed, is gone ``GONE_SECONDS`` later.
        Raises ConnectionResetError then. For one request at a time.
        """
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        self._bound = task
        if self.transport is None:
            task.cancel()
        elif self._ended:
            self._loop.call_later(GONE_SECONDS, task.cancel)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self._bound = None
        if task.cancelled():
            raise ConnectionResetError("the client is gone")
        return task.result()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As ever; the last answer of a client that has ended its side ends the connection."""
        finished = await super().finish_response(request, resp, start_time)
        self._open -= 1
        if self._ended and self._open == 0:
            self._close = True
        return finished

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        if self.transport is None:
            return
        self._pending = self.transport.get_write_buffer_size()
        if self._patience is None:
            reader = slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
            self._patience = slow_clients.StallTimer(reader, self._count_taken, self._give_up)
        self._patience.begin()

    def resume_writing(self) -> None:
        """It caught up."""
        if self._patience is not None:
            self._patience.end()
        super().resume_writing()

    def _count_taken(self) -> int:
        left = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self._taken += max(0, self._pending - left)
        self._pending = left
        return self._taken

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse, and watch over what is not understood yet."""
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
        """Parse what may be the next requests, or belong to them. All pass through here."""
        if self._broken:
            return
        inside = not self._body.is_eof()
        alone = not inside and not self._head_bytes and data.find(_END) == len(data) - len(_END)
        count = self._request_count
        super().data_received(data)
        if self._request_count == count:
            if data and not inside:
                self._head_grew(len(data))
            return
        long = self._head_bytes + len(data) > HEAD_BYTES_MAX
        self._head_bytes = 0
        self._look_at(self._request_count - count, long=long)
        if not alone or self._messages[-1][1] is not EMPTY_PAYLOAD:
            self._end_with_upgrade()
        self._open += self._request_count - count
        newest, body = self._messages[-1]
        if isinstance(newest, _ErrInfo):
            self._break(newest.exc)
        else:
            self._body = body

    def _end_with_upgrade(self) -> None:
        """Let a request that asks for an unknown protocol be the last one, unless it has no body
        and came alone.

        The parser drops what comes behind it in the same packet, a part of the next request
        perhaps, and says nothing of it. (Behind those that it knows it sets it aside.)
        """
        message, body = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or not message.upgrade:
            return
        protocol = message.headers.get(hdrs.UPGRADE, "").encode("utf-8", "surrogateescape")
        if message.method != hdrs.METH_CONNECT and protocol.lower() != b"websocket":
            self._messages[-1] = message._replace(should_close=True), body

    def _look_at(self, count: int, *, long: bool) -> None:
        """Refuse what the parser lets through of the newest requests, and all that follows it.

        Only what is ``long`` may have a head over HEAD_BYTES_MAX: the parser bounds each header,
        and one read brings up to 256 KiB.
        """
        for at in range(len(self._messages) - count, len(self._messages)):
            message, _ = self._messages[at]
            if isinstance(message, _ErrInfo):
                continue
            fault = _fault(message)
            if fault is None and long and _size_of_head(message) > HEAD_BYTES_MAX:
                fault = LineTooLong(b"", HEAD_BYTES_MAX)
            if fault is None:
                continue
            while len(self._messages) > at:
                self._messages.pop()
                self._request_count -= 1
            self._body = EMPTY_PAYLOAD
            self._messages.append((_ErrInfo(fault.code, fault, fault.message), EMPTY_PAYLOAD))
            self._request_count += 1
            return

    def _head_grew(self, count: int) -> None:
        begun = self._head_bytes > 0
        self._head_bytes += count
        waiter, timer = self._waiter, self._keepalive_handle
        if self._head_bytes > HEAD_BYTES_MAX:
            error = LineTooLong(b"", HEAD_BYTES_MAX)
            self._messages.append((_ErrInfo(431, error, error.message), EMPTY_PAYLOAD))
            self._open += 1
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

    def take_body(self, request: web.BaseRequest) -> BodyReceiver | None:
        """The body of the request that runs, to be received past the parser.

        None where the parser has it: then it comes through ``request.content``.
        """
        return None

    def release_body(self) -> None:
        """Nobody took the body: it goes to the parser."""

    @property
    def is_broken(self) -> bool:
        """Whether nothing that comes has a meaning any more."""
        return self._broken

    def cut_body(self, request: web.BaseRequest) -> None:
        """A taken body was left in its middle: nothing that comes has a meaning any more."""
        self._broken = True
        request.content.set_exception(web.RequestPayloadError("the body was left"))

    def _break(self, error: BaseException) -> None:
        """The parser gave up. It does not tell whoever reads a body, who would wait for more."""
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
        """The answer to what is no request, or to a mistake of ours. The connection closes."""
        name = str(uuid4())
        if isinstance(exc, HttpProcessingError):
            self._admission.tell("malformed_requests")
            status = self._status(status, exc)
            _log.info("%s %s: %d, %s", name, request.remote, status, _reason(exc))
            error = OciError("UNSUPPORTED", _MESSAGES[status], status=status)
        else:
            self.logger.error("%s: unexpected error, status %d", name, status, exc_info=exc)
            error = OciError("UNKNOWN", status=status)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = error.response()
        response.headers.update(API_VERSION)
        response.headers["Cache-Control"] = NO_STORE
        response.headers["X-Request-Id"] = name
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def _status(self, status: int, error: HttpProcessingError) -> int:
        if isinstance(error, LineTooLong) and status == 400:
            return 414 if error.args[1] == self.max_line_size else 431
        return status

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            response = self.handle_error(request, err_info.status, err_info.exc)
            await response.prepare(request)
            await response.write_eof()
            await self.linger()
            return response

        return handler

    async def linger(self) -> None:
        """End our side, and wait a moment for the client to end its own."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return
        left = self._left = asyncio.Event()
        transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await left.wait()
        except TimeoutError:
            # It had its time.
            return


def _size_of_head(message: RawRequestMessage) -> int:
    """Bytes of a head: the target, and each header with its colon and its end of line."""
    fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in message.raw_headers)
    return len(message.path) + fields


def _fault(message: RawRequestMessage) -> HttpProcessingError | None:
    """What is wrong with a request that the parser takes for a good one."""
    if "#" in message.path:
        # RFC 9112 section 3.2: a target has no fragment, and whoever stands before us may cut it.
        return BadHttpMessage("a fragment in the target")
    if is_foreign(message.path):
        return BadHttpMessage("a target that is none of this server")
    codings = message.headers.getall(hdrs.TRANSFER_ENCODING, None)
    if codings is None:
        return None
    if message.version < HttpVersion11:
        # RFC 9112 section 6.1: the framing is to be taken for faulty.
        return BadHttpMessage("Transfer-Encoding before HTTP/1.1")
    coding = ",".join(codings).strip(" \t").lower()
    if coding == "chunked":
        return None
    if not coding:
        return BadHttpMessage("an empty Transfer-Encoding")
    return HttpProcessingError(code=501, message="a transfer coding that is not known")


def _reason(error: HttpProcessingError) -> str:
    """What the parser says, without the bytes that it goes on to show: they may be secrets."""
    kind = type(error).__name__
    if isinstance(error, InvalidURLError):
        return kind
    said = re.split(r"[:\n]", error.message, maxsplit=1)[0]
    return f"{kind}: {said}"


_MESSAGES: Final = {
    400: "this is not a valid HTTP request",
    414: "the request target is too long",
    431: "the request headers are too long",
    501: "only the transfer coding chunked is supported",
}


def _refusal(error: OciError, reason: str) -> bytes:
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


_REFUSALS: Final[Mapping[Refusal, bytes]] = {
    "full": _refusal(OciError("UNAVAILABLE", "too many connections"), "Service Unavailable"),
    "address": _refusal(
        OciError("TOOMANYREQUESTS", "too many connections from this address"), "Too Many Requests"
    ),
}
"""Whole answers to connections that are not taken."""
