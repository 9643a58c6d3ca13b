"""The fast lane: small reads of ``/v2/`` answered straight from the connection's buffer.

A connection looks at what arrives while it is idle. One complete GET or HEAD without a body, alone
in the buffer and with no header that is not known to be harmless, may be answered at once, by
``FastReads``; everything else goes on to aiohttp untouched. The answers are those of the plain
path, byte for byte: the same functions make them. A file follows its head by ``sendfile``, and
meanwhile nothing is read from the connection.

A push that comes whole within a moment is answered likewise, by a task of its own (``Writes``).
The large body of an upload is kept from aiohttp's parser, until the request's handler takes it
(``body_receiver``) or turns out not to want it.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE
from aiohttp.web_server import Server

from holdfast.api.http import sendfile
from holdfast.api.http.body_receiver import BodyReceiver, Buffers
from holdfast.api.http.connection import Connection
from holdfast.api.http.drain import Drain
from holdfast.api.http.sendfile import Sending
from holdfast.api.http.site import Site
from holdfast.engine import BlobReader

from .heads import Peer
from .reads import Answer, FastReads
from .writes import GATHER_SECONDS, Gathering, Write, Writes

HEAD_BYTES_MAX: Final = 8 * 1024
"""Longer heads are aiohttp's business, with its limits."""

_END: Final = b"\r\n\r\n"
_STARTS: Final = (b"GET /v2/", b"HEAD /v2/")
_UPLOADS: Final = (b"PATCH /v2/", b"PUT /v2/", b"POST /v2/")
_UPLOADS_PATH: Final = "/blobs/uploads/"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"

SMALL_BYTES: Final = 64 * 1024
"""Shorter bodies are not worth it."""

HELD_BYTES_MAX: Final = 256 * 1024
"""Of a body that nobody has taken yet."""

_log: Final = logging.getLogger(__name__)


class FastConnection(Connection):
    """A connection with a look at idle moments."""

    __slots__ = (
        "_between", "_buffers", "_drain", "_free", "_gathering", "_held", "_held_bytes",
        "_kept_from", "_lane", "_patient", "_peer", "_sending", "_writes", "_writing",
    )  # fmt: skip

    def __init__(
        self,
        manager: Server,
        *,
        lane: FastReads,
        writes: Writes,
        drain: Drain,
        buffers: Buffers,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._lane = lane
        self._writes = writes
        self._gathering: Gathering | None = None
        """A push that has not come whole."""
        self._patient: asyncio.TimerHandle | None = None
        """Until it is the parser's."""
        self._writing: asyncio.Task[None] | None = None
        """Answers a push. What comes meanwhile is held."""
        self._drain = drain
        self._buffers = buffers
        self._kept_from: StreamReader | None = None
        """Where the parser would have put the body that is held."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._peer: Peer | None = None
        self._between = True
        """Whether the parser is between two requests or in a body, but in no request head.

        So it is when the last bytes it got were an empty line: whatever they belonged to, a
        head does not go on after them. In a body the connection is not free.
        """
        self._free = True
        """Whether all requests that were handed on are answered, and the connection stays.

        aiohttp itself waits for the next request only some turns of the loop later, when a quick
        client has sent it already.
        """
        self._sending: Sending | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As ever, and note who it is."""
        super().connection_made(transport)
        socket_transport = cast(asyncio.Transport, transport)
        remote = transport.get_extra_info("peername")
        self._peer = self._lane.peer(
            "http" if transport.get_extra_info("sslcontext") is None else "https",
            str(remote[0]) if isinstance(remote, tuple) else "",
            plain=sendfile.is_plain(socket_transport),
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """As ever; a file on its way goes no further."""
        if self._sending is not None:
            self._sending.stop(ConnectionResetError("the connection was lost"))
        self._end_gathering()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as in the class above
        """As ever; what is held is all there is, and the parser sees whether it is whole."""
        self._give_over()
        self.release_body()
        return super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Answer at once, hold, or hand on."""
        if (
            self._free
            and self._between
            and self._gathering is None
            and data.startswith(_STARTS)
            and data.endswith(_END)
            and self._answer(data)
        ):
            return
        if self._kept_from is not None or self._writing is not None:
            self._hold(data)
            return
        if self._gathering is not None:
            self._gathering.feed(data)
            self._go_on(self._gathering)
            return
        end = data.endswith(_END)
        if self._between and self._free and data.startswith(_UPLOADS):
            if not self._begin_push(data):
                self._parse_upload(data)
            return
        if data:
            self._between = end
            self._free = False
        super().data_received(data)

    def _parse_upload(self, data: bytes) -> None:
        """As ``data_received``, of the beginning of an upload that the parser gets."""
        data = self._begin_upload(data)
        if data:
            self._between = data.endswith(_END)
            self._free = False
        super().data_received(data)

    def _may_answer(self) -> bool:
        """Whether nothing waits to be sent, and the connection stays."""
        transport = self.transport
        return not (
            self._force_close
            or self._close
            or (self._logging_enabled and not self._lane.logs)
            or self._manager is None
            or transport is None
            or self._peer is None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        )

    def _begin_push(self, data: bytes) -> bool:
        """Take a push whose head is there; False to leave it to the parser."""
        at = data.find(_END, 0, HEAD_BYTES_MAX)
        if at < 0 or self._peer is None or not self._may_answer():
            return False
        gathering = self._writes.gather(data, at + len(_END), self._peer)
        if gathering is None or gathering.state == "declined":
            return False
        self._gathering = gathering
        self._patient = self._loop.call_later(GATHER_SECONDS, self._give_over)
        self._go_on(gathering)
        return True

    def _go_on(self, gathering: Gathering) -> None:
        """Answer a push that is whole; hand on one that is too much."""
        if gathering.state == "more":
            return
        write = None
        if gathering.state == "whole" and self._peer is not None and self._may_answer():
            write = self._writes.admit(gathering, self._peer)
        if write is None:
            self._give_over()
            return
        self._end_gathering()
        self._free = False
        self._open += 1
        self._request_count += 1
        self._drain.begin()
        if self._manager is not None:
            self._manager.requests_count += 1
        # In a context of its own: nothing that was noted of another request is in it.
        self._writing = self._loop.create_task(self._push(write), context=Context())

    def _end_gathering(self) -> bytes:
        """Gather no more; what there is of it."""
        gathering, timer = self._gathering, self._patient
        self._gathering = self._patient = None
        if timer is not None:
            timer.cancel()
        return b"" if gathering is None else bytes(gathering.data)

    def _give_over(self) -> None:
        """Leave the push that is being gathered, if there is one, to the parser."""
        if (data := self._end_gathering()) and self.transport is not None:
            self._parse_upload(data)

    async def _push(self, write: Write) -> None:
        """Answer a push."""
        try:
            written = await self._writes.answer(write)
            transport = self.transport
            gone = transport is None or transport.is_closing()
            self._writes.ended(written, gone=gone)
            if transport is not None and not gone:
                transport.write(written.text)
        except BaseException:
            # There is no answer, and the client must not wait for one.
            self.force_close()
            raise
        finally:
            self._writing = None
            self._open -= 1
            self._drain.end()
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._free = True
        if (self._ended and not self._open and not self._held) or self._lane.closed:
            self._close = True
            if transport is not None:
                transport.close()
        elif held := self._let_go():
            if transport is not None and not self._reading_paused and not self._buffer_paused:
                transport.resume_reading()
            self.data_received(held)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - as aiohttp
        """As ever, with the push that runs."""
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing], timeout=timeout)
            writing.cancel()
            await asyncio.wait([writing], timeout=timeout)
        await super().shutdown(timeout)

    def _begin_upload(self, data: bytes) -> bytes:
        """Give the head of an upload to the parser; what is left for it."""
        at = data.find(_END, 0, HEAD_BYTES_MAX)
        if at < 0 or (len(data) < SMALL_BYTES and data.endswith(_LAST_CHUNK)):
            return data
        head, data = data[: at + len(_END)], data[at + len(_END) :]
        self._free = False
        super().data_received(head)
        if not self._messages:
            return data
        message, content = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or _UPLOADS_PATH not in message.path:
            return data
        length = message.headers.get("Content-Length", "0")
        if message.chunked or (length.isdecimal() and int(length) > max(SMALL_BYTES, len(data))):
            self._kept_from = content
            if data:
                self._hold(data)
            return b""
        return data

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def _let_go(self) -> bytes:
        held = b"".join(self._held)
        self._held, self._held_bytes, self._kept_from = [], 0, None
        return held

    def take_body(self, request: web.BaseRequest) -> BodyReceiver | None:
        """As ``Connection``."""
        transport, content = self.transport, request.content
        if self._kept_from is not content or transport is None or transport.is_closing():
            return None

        def complete(size: int, rest: bytes) -> None:
            content.total_bytes = size
            content.feed_eof()
            self._renew_parser()
            if rest:
                self.data_received(rest)

        length = request.content_length
        body = BodyReceiver(transport, self, self._buffers, length=length, complete=complete)
        body.start(self._let_go())
        return body

    def release_body(self) -> None:
        """As ``Connection``."""
        if self._kept_from is None:
            return
        held, transport = self._let_go(), self.transport
        self._between = False
        super().data_received(held)
        if transport is not None and not self._reading_paused and not self._buffer_paused:
            transport.resume_reading()

    def _renew_parser(self) -> None:
        """The one that waits for the body will never see it."""
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
        )
        self._between = True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As ever, and see whether the connection is free now."""
        self.release_body()
        resp, reset = await super().finish_response(request, resp, start_time)
        complete = bool(resp.keep_alive) and not reset and request.content.is_eof()
        self._free = complete and not self._messages
        return resp, reset

    def _process_keepalive(self) -> None:
        """The timer of idle connections: one that is sent a file, or waits for an answer, is not
        idle."""
        if self._sending is None and self._writing is None and self._gathering is None:
            super()._process_keepalive()
            return
        close_time = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    def _answer(self, data: bytes) -> bool:
        """Answer a small read, if it can be done: no request runs, and nothing waits to be sent.

        (Most of ``_may_answer`` is here: it is asked for every request.)
        """
        manager, transport, peer, lane = self._manager, self.transport, self._peer, self._lane
        if (
            self._force_close
            or self._close
            or manager is None
            or transport is None
            or peer is None
            or len(data) > HEAD_BYTES_MAX
            or transport.get_write_buffer_size()
            or transport.is_closing()
            or (self._logging_enabled and not lane.logs)
        ):
            return False
        answer = lane.answer(data, peer)
        if answer is None:
            return False
        manager.requests_count += 1
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if isinstance(answer, bytes):
            transport.write(answer)
        else:
            self._send(transport, answer)
        return True

    def _send(self, transport: asyncio.Transport, answer: Answer) -> None:
        reader = answer.reader
        if reader is None:
            transport.write(answer.text)
            return
        file = reader.file()
        assert file is not None
        self._free = False
        self._drain.begin()
        try:
            done = partial(self._sent, answer, reader)
            sending = self._sending = Sending(transport, *file, done, answer.text)
        except OSError as error:
            self._sent(answer, reader, error)
            return
        sending.start()
        if self._sending is not None:
            self._pause_reading_for_buffer()

    def _sent(self, answer: Answer, reader: BlobReader, error: Exception | None) -> None:
        self._sending = None
        reader.release()
        self._lane.ended(answer, gone=error is not None)
        self._drain.end()
        if error is None and self.transport is not None:
            self._free = True
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._buffer_paused:
                self._resume_reading_for_buffer()
            return
        if error is not None and not isinstance(error, ConnectionError):
            _log.error("breaking off GET of blob %s: %s", reader.digest, error)
        # The part must not be taken for the whole, and nothing may follow it.
        if self.transport is not None:
            self.transport.abort()


class FastSite(Site):
    """A listening socket whose connections have the fast lane."""

    def __init__(
        self, runner: web.AppRunner, sock: Any, lane: FastReads, drain: Drain, **options: Any
    ) -> None:
        super().__init__(runner, sock, **options)
        self._lane = lane
        self._drain = drain
        self._writes = Writes(lane)
        self._buffers = Buffers()

    def _connection(self, server: Server, options: dict[str, Any]) -> Connection:
        return FastConnection(
            server,
            lane=self._lane,
            writes=self._writes,
            drain=self._drain,
            buffers=self._buffers,
            **options,
        )
