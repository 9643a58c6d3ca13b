"""A client's connection: the transport's protocol, with the limits of the server.

It has a state (``connection_states``) and a handler of aiohttp (``aiohttp_handler``), which parses
and answers what the connection hands it.

- A connection needs admission; a refused one gets an answer.
- A malformed request gets an answer in OCI form and one log line, never a traceback. The connection
  parses nothing more then.
- A body whose framing breaks ends at once for the handler that reads it.
- A client that reads its answers too slowly is disconnected (``slow_clients``).
- A client that ends its own side after its requests still gets the answers (RFC 9112 section 9.6).

``fast.connection`` derives from this class.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final, NoReturn, TypeVar, cast
from uuid import uuid4

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_server import Server

from . import slow_clients
from .aiohttp_handler import AiohttpHandler
from .app_settings import SERVER
from .connection_limits import LINGERING_MAX, Admission, Refusal
from .connection_states import TRANSITIONS, Event, IllegalEvent, State
from .head_faults import MESSAGES, reason_of
from .oci_errors import OciError
from .transfer import API_VERSION, NO_STORE

LINGER_SECONDS: Final = 1.0
"""Time in seconds that a refused client may go on sending. Closing at once could reset the
connection, and destroy the answer before the client reads it."""

GONE_SECONDS = 1.0
"""Time in seconds that a read goes on after its client has ended its side: it may be gone."""

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """The protocol of one transport, on the plain path."""

    __slots__ = (
        "_admission", "_admitted_peer", "_bound_task", "_bytes_pending", "_bytes_taken",
        "_eof_event", "_half_closed", "_linger_timer", "_loop", "_lost_event", "_open_requests",
        "_stall_timer", "handler", "state", "transport",
    )  # fmt: skip

    def __init__(
        self,
        manager: Server,
        *,
        admission: Admission,
        loop: asyncio.AbstractEventLoop,
        peer: Any = None,
        **options: Any,
    ) -> None:
        """``peer`` was admitted already; None asks ``admission`` once the connection is made."""
        self.state = State.NEW
        self.handler = AiohttpHandler(self, manager, loop=loop, **options)
        self.transport: asyncio.Transport | None = None
        """The transport; None before and after the connection."""
        self._loop = loop
        self._admission = admission
        self._admitted_peer = peer
        self._eof_event: asyncio.Event | None = None
        """Set once the client has ended its side."""
        self._lost_event: asyncio.Event | None = None
        """Set once the connection has ended."""
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

    def _step(self, event: Event) -> None:
        """Change the state as the table says. Raises IllegalEvent, and aborts the connection."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            self._refuse_event(event)
        else:
            self.state = state

    def _refuse_event(self, event: Event) -> NoReturn:
        error = IllegalEvent(self.state, event)
        _log.error("a connection failed: %s; aborting it", error)
        # Its bytes may be in the wrong hands, so no further answer may go out.
        self.abort()
        raise error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or refuse it with an answer."""
        self.transport = cast(asyncio.Transport, transport)
        self.handler.connection_made(transport)
        # With TLS the site has admitted the peer before the handshake.
        if self._admitted_peer is None:
            peer = transport.get_extra_info("peername")
            refusal = self._admission.enter(peer)
            if refusal is not None:
                self._step(Event.REFUSED)
                self._refuse(self.transport, _REFUSAL_ANSWERS[refusal])
                return
            # A unix socket has an empty name.
            self._admitted_peer = peer or ""
        self._step(Event.ADMITTED)

    def _refuse(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Send the refusal, and close after a linger."""
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

    def connection_lost(self, exc: Exception | None) -> None:
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
        self._step(Event.LOST)
        self.transport = None
        self.handler.connection_lost(exc)

    @property
    def was_made(self) -> bool:
        """True once it was connected."""
        return self.state is not State.NEW

    @property
    def is_broken(self) -> bool:
        """True if no later byte has a meaning."""
        return self.state is State.CLOSING

    @property
    def is_busy(self) -> bool:
        """True while it answers a request past the handler; never on the plain path."""
        return False

    def force_close(self) -> None:
        """Close the connection without waiting for what runs."""
        self.handler.force_close()

    def abort(self) -> None:
        """End the connection at once, without what waits to be sent."""
        if self.transport is not None:
            self.transport.abort()

    async def finish_work(self, seconds: float | None) -> None:
        """End what runs for the client outside of the handler: nothing, on the plain path."""

    async def lost(self) -> None:
        """Wait until the connection has ended. Only one task may wait."""
        self._lost_event = asyncio.Event()
        if self.transport is not None:
            await self._lost_event.wait()

    def eof_received(self) -> bool:
        """Handle the end of the client's side (RFC 9112 section 9.6).

        Returns True to keep the server's side until all complete requests are answered. TLS has no
        half-closed connections in asyncio.
        """
        if self._eof_event is not None:
            self._eof_event.set()
        handler = self.handler
        handler.fail_body("the client ended its side")
        # No answer is owed: the transport may close.
        if handler.ssl_context is not None or not self._open_requests or handler.transport is None:
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

    def on_parsed(self, count: int) -> None:
        """Count requests that were parsed, and are owed an answer."""
        self._open_requests += count

    def on_answered(self, *, idle: bool) -> None:
        """Become idle after the last answer; close after it if the client has ended its side."""
        self._open_requests -= 1
        if self._half_closed and self._open_requests == 0:
            self.handler.close_after_answer()
        if idle:
            self._step(Event.ANSWERED)

    def on_fault(self) -> None:
        """Parse nothing more."""
        self._step(Event.FAULT)

    def pause_writing(self) -> None:
        """Start the stall timer: the client reads less than it is sent."""
        self.handler.pause_writing()
        if self.transport is None:
            return
        self._bytes_pending = self.transport.get_write_buffer_size()
        if self._stall_timer is None:
            reader = slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
            self._stall_timer = slow_clients.StallTimer(reader, self._count_taken, self.abort)
        self._stall_timer.begin()

    def resume_writing(self) -> None:
        """Stop the stall timer: the client has caught up."""
        if self._stall_timer is not None:
            self._stall_timer.end()
        self.handler.resume_writing()

    def _count_taken(self) -> int:
        # A buffer that grew means that more was written meanwhile, not that less was read.
        left = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self._bytes_taken += max(0, self._bytes_pending - left)
        self._bytes_pending = left
        return self._bytes_taken

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the parser, or drop those without a meaning."""
        if self.state is not State.CLOSING:
            self._hand(data)

    def _hand(self, data: bytes) -> None:
        # Before the parse, which may find a fault, or an answer of which aiohttp is done at once.
        self._step(Event.HANDED)
        self.handler.feed(data)

    def error_answer(
        self, request: web.BaseRequest, status: int, exc: BaseException | None
    ) -> web.StreamResponse:
        """Return the answer to a malformed request (4xx) or an unexpected error (500).

        It closes the connection.
        """
        request_id = str(uuid4())
        if isinstance(exc, HttpProcessingError):
            self._admission.on_event("malformed_requests")
            status = self._status(status, exc)
            _log.info(
                "%s: malformed request from %s: %s; answered %d",
                request_id,
                request.remote,
                reason_of(exc),
                status,
            )
            error = OciError("UNSUPPORTED", MESSAGES[status], status=status)
        else:
            self.handler.logger.error(
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
            return 414 if error.args[1] == self.handler.max_line_size else 431
        return status

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


def connection_of(request: web.BaseRequest) -> Connection | None:
    """Return the connection of a request; None in an application that another server runs."""
    handler = request.protocol
    owner = handler.owner if isinstance(handler, AiohttpHandler) else None
    return owner if isinstance(owner, Connection) else None


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
