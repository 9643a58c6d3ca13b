"""The fast path of a client's connection: small requests answered without aiohttp's parser.

An idle connection looks at the bytes that arrive. It answers those that are one small request in a
form that it fully understands, and hands everything else to aiohttp untouched. The answers are
those of the plain path, byte for byte: the same functions make them.

States, with the attribute that marks each:

- Idle (``_idle`` and ``_at_boundary``): all requests are answered, and the next byte begins a head.
- Gathering (``_gathering``): the head of a small push was understood, and its body is incomplete.
- Pushing (``_push_task``): a task runs the handler of a whole push. Bytes that arrive are held.
- Sending (``_sending``): ``sendfile`` sends a file behind its head. The connection reads nothing.
- Parser (not ``_idle``, and no other mark): aiohttp has the bytes, and runs the handler.

Events, and the state that follows:

- Bytes while idle. A whole GET or HEAD head, alone in the packet: stays idle, or sending. A POST,
  PATCH or PUT: gathering, pushing or parser. Anything else: parser.
- Bytes while gathering. The push is whole: pushing. It is too large, not understood or refused:
  parser, with all bytes that came. After ``GATHER_SECONDS``, or when the client ends its side: the
  same.
- The push is answered: idle; then the bytes held meanwhile are handled as if they came now. The
  connection closes if the client has ended its side, or the server stops.
- The file is sent: idle. Sending it failed: the connection is aborted.
- aiohttp has sent the answer: idle, if the connection stays and the request was read to its end.
- The connection is lost: sending and gathering stop in any state. ``Connection`` does the rest.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_server import Server

from holdfast.api.http import sendfile
from holdfast.api.http.connection import Connection
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

_END: Final = b"\r\n\r\n"
_READ_STARTS: Final = (b"GET /v2/", b"HEAD /v2/")
_UPLOAD_STARTS: Final = (b"PATCH /v2/", b"PUT /v2/", b"POST /v2/")

HELD_BYTES_MAX: Final = 256 * 1024
"""Bytes that are held behind a push before the connection stops reading."""

_log: Final = logging.getLogger(__name__)


class FastConnection(Connection):
    """A connection that answers small requests while it is idle."""

    __slots__ = (
        "_at_boundary", "_drain", "_gather_timer", "_gathering", "_held", "_held_bytes", "_idle",
        "_peer", "_push_task", "_reads", "_sending", "_writes",
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
        self._gathering: Gathering | None = None
        """The push whose body is incomplete."""
        self._gather_timer: asyncio.TimerHandle | None = None
        """Hands that push to the parser after ``GATHER_SECONDS``."""
        self._push_task: asyncio.Task[None] | None = None
        """Answers a push. Bytes that arrive meanwhile are held."""
        self._drain = drain
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._peer: Peer | None = None
        self._at_boundary = True
        """True unless the parser may be within a request head.

        The last bytes it got ended with an empty line, so no head continues after them. They may
        belong to a body; the connection is not idle then.
        """
        self._idle = True
        """True if all requests handed to the parser are answered, and the connection stays open.

        aiohttp's own flags are of no use here: it begins to wait for the next request some turns
        of the loop later, and a quick client has sent that by then.
        """
        self._sending: Sending | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Record the client's address, then continue as ``Connection`` does."""
        super().connection_made(transport)
        socket_transport = cast(asyncio.Transport, transport)
        remote = transport.get_extra_info("peername")
        self._peer = self._reads.peer(
            "http" if transport.get_extra_info("sslcontext") is None else "https",
            str(remote[0]) if isinstance(remote, tuple) else "",
            plain=sendfile.is_plain(socket_transport),
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the file that is being sent, then continue as ``Connection`` does."""
        if self._sending is not None:
            self._sending.stop(ConnectionResetError("the connection was lost"))
        self._stop_gathering()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as in the class above
        """Hand all held bytes to the parser, then continue as ``Connection`` does."""
        # No more bytes come: the parser finds out whether those that came are a whole request.
        self._hand_to_parser()
        return super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Answer a small read at once; else hold, gather or parse the bytes, by state."""
        # The hot path first: a small read on an idle connection is nearly all of the traffic.
        if (
            self._idle
            and self._at_boundary
            and self._gathering is None
            and data.startswith(_READ_STARTS)
            and data.endswith(_END)
            and self._answer_read(data)
        ):
            return
        if self._push_task is not None:
            # Answers keep the order of requests, so what follows a push waits for its answer.
            self._hold(data)
            return
        if self._gathering is not None:
            self._gathering.feed(data)
            self._advance_push(self._gathering)
            return
        if (
            self._idle
            and self._at_boundary
            and data.startswith(_UPLOAD_STARTS)
            and self._begin_push(data)
        ):
            return
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Hand bytes to the parser."""
        if data:
            # ``finish_response`` makes the connection idle again.
            self._at_boundary = data.endswith(_END)
            self._idle = False
        super().data_received(data)

    def _may_answer(self) -> bool:
        """Return True if no answer is waiting to be sent, and the connection stays open."""
        transport = self.transport
        return not (
            self._force_close
            or self._close
            or (self._logging_enabled and not self._reads.logs)
            or self._manager is None
            or transport is None
            or self._peer is None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        )

    def _begin_push(self, data: bytes) -> bool:
        """Gather a push whose head is complete. Return False to leave it to the parser."""
        at = data.find(_END, 0, HEAD_BYTES_MAX)
        if at < 0 or self._peer is None or not self._may_answer():
            return False
        gathering = self._writes.gather(data, at + len(_END), self._peer)
        if gathering is None or gathering.state == "declined":
            return False
        self._gathering = gathering
        self._gather_timer = self._loop.call_later(GATHER_SECONDS, self._hand_to_parser)
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
            self._hand_to_parser()
            return
        self._stop_gathering()
        # From here on the same counters as for a request of the plain path: drain and shutdown
        # wait for it, and the end of the client's side does not close the connection before it.
        self._idle = False
        self._open_requests += 1
        self._request_count += 1
        self._drain.begin()
        if self._manager is not None:
            self._manager.requests_count += 1
        # An empty context: context variables of an earlier request must not leak into this one.
        self._push_task = self._loop.create_task(self._run_push(write), context=Context())

    def _stop_gathering(self) -> list[bytes]:
        """Stop gathering, and return the packets that came."""
        gathering, timer = self._gathering, self._gather_timer
        self._gathering = self._gather_timer = None
        if timer is not None:
            timer.cancel()
        return [] if gathering is None else gathering.packets

    def _hand_to_parser(self) -> None:
        """Hand the push that is being gathered, if any, to the parser."""
        packets = self._stop_gathering()
        if self.transport is not None:
            for packet in packets:
                self._pass_on(packet)

    async def _run_push(self, write: Write) -> None:
        """Run the handler of a push, send its answer, and go on with the bytes held meanwhile."""
        try:
            result = await self._writes.answer(write)
            transport = self.transport
            gone = transport is None or transport.is_closing()
            self._reads.finish(result, gone=gone)
            if transport is not None and not gone:
                transport.write(result.text)
        except BaseException:
            # No answer will come, so the client must not wait for one.
            self.force_close()
            raise
        finally:
            self._push_task = None
            self._open_requests -= 1
            self._drain.end()
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._idle = True
        # Held bytes may be a further request, which is owed an answer even if no more come.
        if (self._half_closed and not self._open_requests and not self._held) or self._reads.closed:
            self._close = True
            if transport is not None:
                transport.close()
        elif held := self._take_held():
            if transport is not None and not self._reading_paused and not self._buffer_paused:
                transport.resume_reading()
            self.data_received(held)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - as aiohttp
        """Wait for the push that runs up to ``timeout`` seconds, then shut down as aiohttp does."""
        writing = self._push_task
        if writing is not None:
            await asyncio.wait([writing], timeout=timeout)
            writing.cancel()
            await asyncio.wait([writing], timeout=timeout)
        await super().shutdown(timeout)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        # Back-pressure: a client cannot fill memory while its push runs.
        if self._held_bytes > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def _take_held(self) -> bytes:
        held = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return held

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer as ``Connection`` does, and become idle if the request is over."""
        resp, reset = await super().finish_response(request, resp, start_time)
        complete = bool(resp.keep_alive) and not reset and request.content.is_eof()
        self._idle = complete and not self._messages
        return resp, reset

    def _process_keepalive(self) -> None:
        """Close an idle connection, as aiohttp does; start the timer again on a busy one.

        aiohttp takes a connection for idle while the fast path sends a file or answers a push.
        """
        if self._sending is None and self._push_task is None and self._gathering is None:
            super()._process_keepalive()
            return
        close_time = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    def _answer_read(self, data: bytes) -> bool:
        """Answer a small read on an idle connection. Return False to leave it to the parser."""
        # ``_may_answer``, written out: this runs for every request, and a call costs too much.
        manager, transport, peer, reads = self._manager, self.transport, self._peer, self._reads
        if (
            self._force_close
            or self._close
            or manager is None
            or transport is None
            or peer is None
            or len(data) > HEAD_BYTES_MAX
            or transport.get_write_buffer_size()
            or transport.is_closing()
            or (self._logging_enabled and not reads.logs)
        ):
            return False
        answer = reads.answer(data, peer)
        if answer is None:
            return False
        manager.requests_count += 1
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if isinstance(answer, bytes):
            transport.write(answer)
        else:
            self._send_answer(transport, answer)
        return True

    def _send_answer(self, transport: asyncio.Transport, answer: Answer) -> None:
        reader = answer.reader
        if reader is None:
            transport.write(answer.text)
            return
        file = reader.file()
        assert file is not None
        self._idle = False
        self._drain.begin()
        try:
            done = partial(self._end_file, answer, reader)
            sending = self._sending = Sending(transport, *file, done, answer.text)
        except OSError as error:
            self._end_file(answer, reader, error)
            return
        sending.start()
        # A short file is sent within ``start``. During a longer one no request may be parsed: its
        # answer would land in the middle of the file.
        if self._sending is not None:
            self._pause_reading_for_buffer()

    def _end_file(self, answer: Answer, reader: BlobReader, error: Exception | None) -> None:
        self._sending = None
        reader.release()
        self._reads.finish(answer, gone=error is not None)
        self._drain.end()
        if error is None and self.transport is not None:
            self._idle = True
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._buffer_paused:
                self._resume_reading_for_buffer()
            return
        if error is not None and not isinstance(error, ConnectionError):
            _log.error("sending blob %s failed: %s; closing the connection", reader.digest, error)
        # Content-Length is sent already: only an abort tells the client that the file is cut.
        if self.transport is not None:
            self.transport.abort()


class FastSite(Site):
    """A listening socket whose connections have the fast path."""

    def __init__(
        self, runner: web.AppRunner, sock: Any, reads: FastReads, drain: Drain, **options: Any
    ) -> None:
        super().__init__(runner, sock, **options)
        self._reads = reads
        self._drain = drain
        self._writes = Writes(reads)

    def _new_connection(self, server: Server, options: dict[str, Any]) -> Connection:
        return FastConnection(
            server, reads=self._reads, writes=self._writes, drain=self._drain, **options
        )
