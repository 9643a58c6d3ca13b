"""The fast path of a client's connection: small requests answered without aiohttp's parser.

An idle connection looks at the bytes that arrive. It answers those that are one small request in a
form that it fully understands, and hands everything else to aiohttp untouched. The answers are
those of the plain path, byte for byte: the same functions make them.

``http.connection_states`` has the states and what leads from one to another. What happens to a
small request:

- A GET or HEAD whose whole head is alone in its packet is answered at once, or ``sendfile`` sends a
  file behind its head.
- A POST, PATCH or PUT whose head is complete is gathered. Once it is whole, a task runs its
  handler. If it turns out too large, not understood or refused, if it is not whole after
  ``GATHER_SECONDS``, or if its client ends its side, aiohttp gets the packets that came.
- Packets that come while a push runs or a file is sent are held, and handled afterwards one by one
  as if they came then. So answers keep the order of requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import Context
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_server import Server

from holdfast.api.http import sendfile
from holdfast.api.http.connection import Connection
from holdfast.api.http.connection_states import Event, State
from holdfast.api.http.drain import Drain
from holdfast.api.http.sendfile import Sending
from holdfast.api.http.site import Site
from holdfast.engine import BlobReader

from .heads import Peer
from .reads import FastReads
from .records import Answer
from .writes import GATHER_SECONDS, Gathering, Write, Writes

HEAD_BYTES_MAX: Final = 8 * 1024
"""Longest head that the fast path reads, in bytes. aiohttp gets longer ones, with its limits."""

HELD_BYTES_MAX: Final = 256 * 1024
"""Bytes that are held behind an answer before the connection stops reading."""

_END: Final = b"\r\n\r\n"
_READ_STARTS: Final = (b"GET /v2/", b"HEAD /v2/")
_UPLOAD_STARTS: Final = (b"PATCH /v2/", b"PUT /v2/", b"POST /v2/")
_IDLE: Final = State.IDLE
_ANSWERING: Final = (State.PUSHING, State.SENDING)
_BUSY: Final = (State.GATHERING, *_ANSWERING)

_log: Final = logging.getLogger(__name__)


class FastConnection(Connection):
    """A connection that answers small requests while it is idle."""

    __slots__ = (
        "_drain", "_gather_timer", "_gathering", "_held", "_held_bytes", "_peer", "_push_task",
        "_reads", "_sending", "_writes",
    )  # fmt: skip

    def __init__(
        self,
        manager: Server,
        *,
        reads: FastReads,
        writes: Writes,
        drain: Drain,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._reads = reads
        self._writes = writes
        self._drain = drain
        self._peer: Peer | None = None
        """Facts about the client; None if the fast path may not answer it."""
        self._gathering: Gathering | None = None
        """The push whose body is incomplete."""
        self._gather_timer: asyncio.TimerHandle | None = None
        """Hands that push to the parser after ``GATHER_SECONDS``."""
        self._push_task: asyncio.Task[None] | None = None
        """Answers a push."""
        self._sending: Sending | None = None
        """The file that is being sent."""
        self._held: deque[bytes] = deque()
        """Packets that came while a push ran or a file was sent."""
        self._held_bytes = 0

    @property
    def is_busy(self) -> bool:
        """True while it answers a request past the handler."""
        return self.state in _BUSY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Record the client's address, then continue as ``Connection`` does."""
        super().connection_made(transport)
        # An access log that only aiohttp's handler writes must not miss a request.
        if self.handler.logs_requests and not self._reads.recorder.logs:
            return
        socket_transport = cast(asyncio.Transport, transport)
        remote = transport.get_extra_info("peername")
        self._peer = self._reads.peer(
            "http" if transport.get_extra_info("sslcontext") is None else "https",
            str(remote[0]) if isinstance(remote, tuple) else "",
            plain=sendfile.is_plain(socket_transport),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the file that is being sent, then continue as ``Connection`` does."""
        if self._sending is not None:
            self._sending.stop(ConnectionResetError("the connection was lost"))
        self._stop_gathering()
        # The connection and its handler refer to each other until the garbage is collected.
        self._held.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """Hand a push that is being gathered to the parser, then continue as ``Connection``
        does."""
        # No more bytes come: the parser finds out whether those that came are a whole request.
        if self.state is State.GATHERING:
            self._decline_push()
        return super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Answer a small read at once; else gather, hold, parse or drop the bytes, by state."""
        state = self.state
        # The hot path first: a small read on an idle connection is nearly all of the traffic.
        if state is _IDLE:
            if data.startswith(_READ_STARTS):
                if data.endswith(_END) and self._answer_read(data):
                    return
            elif data.startswith(_UPLOAD_STARTS) and self._begin_push(data):
                return
            self._hand(data)
        elif state is State.GATHERING and self._gathering is not None:
            self._gathering.feed(data)
            self._advance_push(self._gathering)
        elif state in _ANSWERING:
            self._hold(data)
        else:
            super().data_received(data)

    # Small reads

    def _answer_read(self, data: bytes) -> bool:
        """Answer a small read on an idle connection. Return False to leave it to the parser."""
        # ``_may_answer``, written out: this runs for every request, and a call costs too much.
        handler, transport, peer = self.handler, self.transport, self._peer
        if (
            transport is None
            or peer is None
            or len(data) > HEAD_BYTES_MAX
            or not handler.stays_open
            or transport.get_write_buffer_size()
            or transport.is_closing()
        ):
            return False
        answer = self._reads.answer(data, peer)
        if answer is None:
            return False
        handler.count_request()
        if isinstance(answer, bytes):
            transport.write(answer)
        elif answer.reader is not None:
            self._send_file(transport, answer, answer.reader)
        return True

    def _send_file(self, transport: asyncio.Transport, answer: Answer, reader: BlobReader) -> None:
        file = reader.file()
        assert file is not None
        self._step(Event.FILE_BEGUN)
        self._drain.begin()
        done = partial(self._end_file, answer, reader)
        try:
            sending = Sending(transport, *file, done, answer.text)
        except OSError as error:
            done(error)
            return
        sending.start()
        # A short file is sent within ``start``. During a longer one no request may be parsed: its
        # answer would land in the middle of the file.
        if self.state is State.SENDING:
            self._sending = sending
            self.handler.hold_reading()

    def _end_file(self, answer: Answer, reader: BlobReader, error: Exception | None) -> None:
        waited, self._sending = self._sending is not None, None
        reader.release()
        self._reads.finish(answer, gone=error is not None)
        self._drain.end()
        if error is None:
            self._step(Event.FILE_SENT)
            self.handler.postpone_keepalive()
            # Within ``start`` nothing was held, and the caller may be going on already.
            if waited:
                self._go_on()
            return
        if not isinstance(error, ConnectionError):
            _log.error("sending blob %s failed: %s; closing the connection", reader.digest, error)
        self._step(Event.FILE_CUT)
        # Content-Length is sent already: only an abort tells the client that the file is cut.
        self.abort()

    # Small pushes

    def _may_answer(self) -> bool:
        """Return True if no answer is waiting to be sent, and the connection stays open."""
        transport = self.transport
        return (
            transport is not None
            and self.handler.stays_open
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def _begin_push(self, data: bytes) -> bool:
        """Gather a push whose head is complete. Return False to leave it to the parser."""
        at = data.find(_END, 0, HEAD_BYTES_MAX)
        if at < 0 or self._peer is None or not self._may_answer():
            return False
        gathering = self._writes.gather(data, at + len(_END), self._peer)
        if gathering is None or gathering.state == "declined":
            return False
        self._step(Event.PUSH_BEGUN)
        self._gathering = gathering
        if gathering.state == "more":
            self._gather_timer = self._loop.call_later(GATHER_SECONDS, self._decline_push)
        self._advance_push(gathering)
        return True

    def _advance_push(self, gathering: Gathering) -> None:
        """Start to answer a push that is whole, or hand a declined one to the parser."""
        if gathering.state == "more":
            return
        write = None
        if gathering.state == "whole" and self._peer is not None and self._may_answer():
            write = self._writes.admit(gathering, self._peer)
        if write is None:
            self._decline_push()
            return
        self._stop_gathering()
        self._step(Event.PUSH_WHOLE)
        # From here on the same counters as for a request of the plain path: drain and shutdown
        # wait for it, and the end of the client's side does not close the connection before it.
        self._open_requests += 1
        self._drain.begin()
        self.handler.count_request()
        # An empty context: context variables of an earlier request must not leak into this one.
        self._push_task = self._loop.create_task(self._run_push(write), context=Context())

    def _stop_gathering(self) -> list[bytes]:
        """Stop gathering, and return the packets that came."""
        gathering, timer = self._gathering, self._gather_timer
        self._gathering = self._gather_timer = None
        if timer is not None:
            timer.cancel()
        return [] if gathering is None else gathering.packets

    def _decline_push(self) -> None:
        """Hand the push that is being gathered to the parser."""
        packets = self._stop_gathering()
        self._step(Event.PUSH_DECLINED)
        for packet in packets:
            # The parser, not ``self.data_received``, which would gather it again.
            super().data_received(packet)

    async def _run_push(self, write: Write) -> None:
        """Run the handler of a push, send its answer, and go on with the packets held
        meanwhile."""
        ended = Event.PUSH_LAST
        try:
            result = await self._writes.answer(write)
            transport = self.transport
            gone = transport is None or transport.is_closing()
            self._reads.finish(result, gone=gone)
            if transport is not None and not gone:
                transport.write(result.text)
            if not self._reads.closed:
                ended = Event.PUSH_ANSWERED
        except BaseException:
            # No answer will come, so the client must not wait for one.
            self.force_close()
            raise
        finally:
            self._push_task = None
            self._open_requests -= 1
            self._drain.end()
            self.handler.postpone_keepalive()
            self._step(ended)
        if self.state is State.CLOSING:
            self._close()
        else:
            self._go_on()

    async def finish_work(self, seconds: float | None) -> None:
        """Wait for the push that runs up to ``seconds``, then cancel it."""
        writing = self._push_task
        if writing is not None:
            await asyncio.wait([writing], timeout=seconds)
            writing.cancel()
            await asyncio.wait([writing], timeout=seconds)

    # Packets that wait for an answer

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        # Back-pressure: a client cannot fill memory while an earlier request is answered.
        if self._held_bytes > HELD_BYTES_MAX:
            self.handler.hold_reading()

    def _go_on(self) -> None:
        """Handle the packets that were held, up to the next one whose answer must be waited for."""
        while self._held and self.state not in (*_ANSWERING, State.LOST):
            data = self._held.popleft()
            self._held_bytes -= len(data)
            self.data_received(data)
        # Not before the loop: each push among many that are held would let in as much again.
        if self._held_bytes <= HELD_BYTES_MAX and self.state is not State.SENDING:
            self.handler.release_reading()
        if self._half_closed and self.state not in _ANSWERING:
            # No more bytes come, so half a push stays half, and so does half a body.
            if self.state is State.GATHERING:
                self._decline_push()
            self.handler.fail_body("the client ended its side")
            if not self._open_requests:
                self._close()

    def _close(self) -> None:
        """Close the connection once what was written is sent."""
        self.handler.close_after_answer()
        if self.transport is not None:
            self.transport.close()


class FastSite(Site):
    """A listening socket whose connections have the fast path."""

    def __init__(
        self, runner: web.AppRunner, sock: Any, reads: FastReads, drain: Drain, **options: Any
    ) -> None:
        super().__init__(runner, sock, **options)
        self._reads = reads
        self._drain = drain
        self._writes = Writes(reads)

    def _new_connection(self, options: dict[str, Any]) -> Connection:
        return FastConnection(
            self.handlers, reads=self._reads, writes=self._writes, drain=self._drain, **options
        )
