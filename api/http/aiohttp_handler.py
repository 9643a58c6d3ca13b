"""The one module that touches aiohttp's private names: its request handler, as a connection uses
it.

``AiohttpHandler`` belongs to a connection, which is the transport's protocol and hands it the
bytes. It parses them with aiohttp's parser, bounds and checks the heads, runs the application's
handlers, and tells its owner what happened. A request's ``protocol`` is this handler.

``pyproject.toml`` pins aiohttp's minor version for this module. For a newer one, read
``aiohttp/web_protocol.py``, ``base_protocol.py``, ``web_server.py`` and ``web_runner.py`` against
it; ``tests/api/test_aiohttp_handler.py`` names what must still exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_server import Server

from .head_faults import fault_of, size_of_head

HEAD_BYTES_MAX: Final = 64 * 1024
"""Longest request head in bytes, however many packets it takes."""

HEAD_SECONDS = 30.0
"""Longest time from the first byte of a head to its last."""

_END: Final = b"\r\n\r\n"


class Owner(Protocol):
    """The connection of a handler, as the handler sees it."""

    @property
    def is_broken(self) -> bool:
        """True if no later byte has a meaning."""

    @property
    def is_busy(self) -> bool:
        """True while the connection answers a request that the handler does not know."""

    def on_parsed(self, count: int) -> None:
        """Note that ``count`` requests were parsed and will be answered."""

    def on_answered(self, *, idle: bool) -> None:
        """Note that a request is answered; ``idle`` if the next byte begins a head."""

    def on_fault(self) -> None:
        """Note that the parser has failed, or a head breaks a rule."""

    def error_answer(
        self, request: web.BaseRequest, status: int, exc: BaseException | None
    ) -> web.StreamResponse:
        """Return the answer to a malformed request or an unexpected error."""

    async def linger(self) -> None:
        """Wait for the client to end its side, after a last answer."""

    async def lost(self) -> None:
        """Wait until the connection has ended. Only one task may wait."""

    async def finish_work(self, seconds: float | None) -> None:
        """End what runs for the client outside of the handler."""


class AiohttpHandler(RequestHandler):
    """aiohttp's handler of one connection, which calls back its owner."""

    __slots__ = ("_at_boundary", "_body", "_head_bytes", "owner")

    def __init__(self, owner: Owner, manager: Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.owner = owner
        self._body: StreamReader = EMPTY_PAYLOAD
        """Body of the newest request that was parsed."""
        self._head_bytes = 0
        """Bytes of an incomplete head."""
        self._at_boundary = True
        """True unless the parser may be within a request head.

        The last bytes it got ended with an empty line, so no head continues after them. They may
        belong to a body, which is not read to its end then.
        """

    # What the connection calls

    @property
    def stays_open(self) -> bool:
        """True unless the connection is closed, or will be after its answers."""
        return not (self._force_close or self._close or self._manager is None)

    @property
    def may_have_request(self) -> bool:
        """True if a request may be on its way, or was parsed and is not begun.

        A new connection has a request to send. An older one may stay idle for ever.
        """
        return self._request_count == 0 or bool(self._messages)

    @property
    def logs_requests(self) -> bool:
        """True if the handler writes an access log."""
        return self._logging_enabled

    def feed(self, data: bytes) -> None:
        """Parse bytes from the client."""
        self._at_boundary = data.endswith(_END)
        self.data_received(data)

    def count_request(self) -> None:
        """Count a request that the connection answers past the handler."""
        if self._manager is not None:
            self._manager.requests_count += 1
        self._request_count += 1
        self.postpone_keepalive()

    def postpone_keepalive(self) -> None:
        """Begin the time after which an idle connection is closed."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def close_after_answer(self) -> None:
        """Close the connection after the answer that is being sent."""
        self._close = True

    def hold_reading(self) -> None:
        """Stop reading from the transport until ``release_reading``."""
        self._pause_reading_for_buffer()

    def release_reading(self) -> None:
        """Read again, unless a full body holds the reading too. May be repeated."""
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def fail_body(self, reason: str) -> None:
        """End the newest body, which cannot become complete: its reader would wait for ever."""
        if not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError(reason))

    # What aiohttp calls

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and check the heads found in them. aiohttp repeats it with none."""
        self._parse(data)
        while self._upgraded and not self.owner.is_broken and self._parser is not None:
            # No request switches protocols here (RFC 9110 section 7.8), so what the parser has
            # set aside behind one that asks for it is the next request.
            data, self._message_tail = self._message_tail, b""
            self._parser.set_upgraded(False)
            self._upgraded = False
            if data:
                self._parse(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, and report it."""
        resp, reset = await super().finish_response(request, resp, start_time)
        # aiohttp's own flags are of no use here: it begins to wait for the next request some turns
        # of the loop later, and a quick client has sent that by then.
        self.owner.on_answered(
            idle=self._at_boundary
            and bool(resp.keep_alive)
            and not reset
            and not self._messages
            and request.content.is_eof()
        )
        return resp, reset

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request (4xx) or an unexpected error (500)."""
        return self.owner.error_answer(request, status, exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - as aiohttp
        """Let the connection finish its work, then shut down as aiohttp does."""
        await self.owner.finish_work(timeout)
        await super().shutdown(timeout)

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            # aiohttp's own handler would answer in HTML, and close without a linger.
            response = self.handle_error(request, err_info.status, err_info.exc)
            with suppress(ConnectionError):  # the client is gone, and needs no answer
                await response.prepare(request)
                await response.write_eof()
                await self.owner.linger()
            return response

        return handler

    def _process_keepalive(self) -> None:
        """Close an idle connection, as aiohttp does; start the timer again on a busy one.

        aiohttp takes a connection for idle while it answers past the handler.
        """
        if not self.owner.is_busy:
            super()._process_keepalive()
            return
        self.postpone_keepalive()
        self._start_keepalive()

    # Within

    def _start_keepalive(self) -> None:
        self._keepalive_handle = self._loop.call_at(
            self._next_keepalive_close_time, self._process_keepalive
        )

    def _parse(self, data: bytes) -> None:
        """Parse bytes of heads or bodies. Every byte for the parser passes through here."""
        if self.owner.is_broken:
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
        self.owner.on_parsed(self._request_count - count)
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
            fault = fault_of(message)
            if fault is None and long and size_of_head(message) > HEAD_BYTES_MAX:
                fault = LineTooLong(b"", HEAD_BYTES_MAX)
            if fault is None:
                continue
            # Requests behind a faulty one may be smuggled in it, so none of them runs.
            while len(self._messages) > at:
                self._messages.pop()
                self._request_count -= 1
            self._body = EMPTY_PAYLOAD
            self._refuse(fault.code, fault)
            self._request_count += 1
            return

    def _refuse(self, status: int, fault: HttpProcessingError) -> None:
        """Let the next answer be that of a malformed request."""
        self._messages.append((_ErrInfo(status, fault, fault.message), EMPTY_PAYLOAD))

    def _count_head_bytes(self, count: int) -> None:
        begun = self._head_bytes > 0
        self._head_bytes += count
        waiter, timer = self._waiter, self._keepalive_handle
        if self._head_bytes > HEAD_BYTES_MAX:
            error = LineTooLong(b"", HEAD_BYTES_MAX)
            self._refuse(431, error)
            self.owner.on_parsed(1)
            self._break(error)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif not begun and timer is not None:
            # The timer of idle connections closes this one too if nothing is understood by then.
            timer.cancel()
            self._next_keepalive_close_time = self._loop.time() + HEAD_SECONDS
            self._start_keepalive()

    def _break(self, error: BaseException) -> None:
        """Report the fault, and wake the reader of the body: the parser does not tell it."""
        self.owner.on_fault()
        self.fail_body(str(error))


class AiohttpSite(web.SockSite):
    """A site of aiohttp whose subclass accepts the connections."""

    @property
    def handlers(self) -> Server:
        """aiohttp's server, the manager of all handlers."""
        server = self._runner.server
        assert isinstance(server, Server)
        return server

    @property
    def handler_options(self) -> dict[str, Any]:
        """Options that the application's runner sets for each handler."""
        return dict(self.handlers._kwargs)

    @property
    def connection_count(self) -> int:
        """Open connections of the application."""
        return len(self.handlers._connections)

    async def register(self) -> None:
        """Let the runner stop this site with the others."""
        await web.BaseSite.start(self)

    def close_with(self, server: asyncio.Server) -> None:
        """Close ``server`` when the site stops."""
        self._server = server


def rest_of(content: StreamReader) -> bytes:
    """Return the bytes that came before a body broke; its reader refuses to return them."""
    return content._read_nowait(-1)
