"""Answers small pushes, past aiohttp, with the handlers of the plain path.

A push is made of many requests that carry little: a POST, a PATCH or PUT of a small layer, the PUT
that ends it, a manifest. A request is answered here if it arrives whole within
``GATHER_SECONDS``, is understood in every part, and is permitted; else the parser gets all its
bytes. This module reads the request and renders the answer; the handler does the rest.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from aiohttp import web

from holdfast.api.http.read_owner import set_read_owner
from holdfast.api.http.whole_request import WholeRequest
from holdfast.api.oci.access import Caller, Gate
from holdfast.api.oci.app import ENDPOINTS, refusal
from holdfast.api.oci.exchange import Exchange
from holdfast.api.telemetry.request_record import RequestRecord
from holdfast.engine import Repository

from .heads import Peer, WriteRequest
from .reads import DECLINE_ERRORS, FastReads
from .records import Answer, record_of

BODY_BYTES_MAX: Final = 64 * 1024
"""Longest body that is gathered, in bytes. Longer ones go through the parser."""

FRAMED_BODY_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""Longest chunked request that is gathered, in bytes, with its framing."""

GATHER_SECONDS: Final = 1.0
"""Longest time for a body to arrive whole. The plain path, which has rules for slow clients, gets
slower ones."""

State = Literal["more", "whole", "declined"]

_CRLF: Final = b"\r\n"
_SIZE_CHARS_MAX: Final = 8
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,%d}" % _SIZE_CHARS_MAX)


class Gathering:
    """A push whose body may be incomplete."""

    def __init__(self, request: WriteRequest, data: bytes, start: int) -> None:
        """Begin with ``data``: the head, and from index ``start`` on the body."""
        self.request = request
        self.started = time.perf_counter()
        self._data = bytearray(data)
        """All bytes of the request so far."""
        self._ends = [len(data)]
        """Index in ``_data`` of the end of each packet."""
        self._at = start
        """Index in ``_data`` of the body; of the next chunk if it is chunked."""
        self._content = bytearray()
        """Content of the chunks before that index."""
        self.state = self._advance()

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived, and set ``state``."""
        self._data += data
        self._ends.append(len(self._data))
        self.state = self._advance()

    def _advance(self) -> State:
        length = self.request.headers.length
        if length is None:
            return self._take_chunks()
        # Bytes after the body are another request. The parser handles pipelining.
        missing = self._at + length - len(self._data)
        if length > BODY_BYTES_MAX or missing < 0:
            return "declined"
        return "more" if missing else "whole"

    def _take_chunks(self) -> State:
        """Take the chunks that are complete (RFC 9112 section 7.1).

        The parser gets all that is unusual: extensions, trailers, long sizes and bytes behind the
        last chunk.
        """
        data = self._data
        while len(data) <= FRAMED_BODY_BYTES_MAX:
            line_end = data.find(_CRLF, self._at)
            if line_end < 0:
                return "more" if len(data) - self._at <= _SIZE_CHARS_MAX + 1 else "declined"
            if not _SIZE.fullmatch(data, self._at, line_end):
                return "declined"
            size = int(data[self._at : line_end], 16)
            start = line_end + len(_CRLF)
            end = start + size
            if len(self._content) + size > BODY_BYTES_MAX:
                return "declined"
            line = data[end : end + len(_CRLF)]
            if line != _CRLF:
                return "more" if _CRLF.startswith(line) else "declined"
            if not size:
                return "whole" if len(data) == end + len(_CRLF) else "declined"
            self._content += data[start:end]
            self._at = end + len(_CRLF)
        return "declined"

    @property
    def packets(self) -> list[bytes]:
        """All bytes, cut as they arrived: the parser treats a fault in the packet of a head as one
        of the head."""
        return [bytes(self._data[a:b]) for a, b in pairwise((0, *self._ends))]

    @property
    def whole_body(self) -> bytes:
        """Content of a whole push."""
        data = self._content if self.request.headers.length is None else self._data[self._at :]
        return bytes(data)

    @property
    def size(self) -> int:
        """Content of a whole push in bytes."""
        length = self.request.headers.length
        return len(self._content) if length is None else length

    @property
    def whole_request(self) -> WholeRequest:
        """The request with its whole body, for the handler."""
        request = self.request
        headers = request.headers
        return WholeRequest(
            request.method,
            request.path,
            request.query,
            headers.handler_headers,
            self.whole_body,
            headers.length,
        )


@dataclass(slots=True, eq=False)
class Write:
    """A whole push that is permitted."""

    gathering: Gathering
    caller: Caller
    repository: Repository
    record: RequestRecord

    @property
    def request(self) -> WriteRequest:
        """The head of the push."""
        return self.gathering.request


class Writes:
    """Gathers, admits and answers the small pushes of one listening socket."""

    def __init__(self, reads: FastReads) -> None:
        self._reads = reads
        self._recorder = reads.recorder

    def gather(self, data: bytes, end: int, peer: Peer) -> Gathering | None:
        """Begin a push whose head is ``data[:end]``. Return None to decline."""
        # Under a bandwidth limit bodies are read in turns, which only the plain path does.
        if self._reads.closed or not self._recorder.sends_files:
            return None
        request = self._reads.read_push(data[:end], peer)
        if request is None or (request.headers.length or 0) > BODY_BYTES_MAX:
            return None
        return Gathering(request, data, end)

    def admit(self, gathering: Gathering, peer: Peer) -> Write | None:
        """Check rights and limits of a whole push. Return None to decline."""
        request = gathering.request
        headers = request.headers
        try:
            caller, repository = self._reads.permit(headers, request.target.name)
        except DECLINE_ERRORS:
            return None
        if peer.limited or headers.prefix:
            access_key = "" if caller.key is None else caller.key.access_key
            if not self._recorder.admits(headers.prefix or peer.prefix, access_key):
                return None
        record = record_of(request, peer, caller, gathering.started)
        record.received = gathering.size
        return Write(gathering, caller, repository, record)

    async def answer(self, write: Write) -> Answer:
        """Run the handler of a push. The task must have a context of its own.

        Raises CancelledError, and any unexpected error; both are recorded as a push without an
        answer.
        """
        try:
            return await self._answer(write)
        except BaseException:
            write.record.request_id = self._reads.next_request_id().decode("ascii")
            self._reads.finish(Answer(write.record, b""), gone=True)
            raise

    async def _answer(self, write: Write) -> Answer:
        request, whole, record = write.request, write.gathering.whole_request, write.record
        record.steps = self._recorder.begin_steps()
        set_read_owner(write.caller.key, record.address)
        reads, target = self._reads, request.target
        route = ENDPOINTS[target.endpoint][request.method]
        gate = Gate(reads.store, reads.settings, request.headers.origin, "")
        exchange = Exchange(whole, gate, write.caller, target, route, write.repository)
        response: Any
        try:
            response = await route.handler(exchange)
        except Exception as error:  # noqa: BLE001 - the edge, as in ``oci.app``
            response = refusal(error, request.method, request.path)
        assert isinstance(response, web.Response)
        text, request_id = reads.render(response)
        record.request_id, record.status = request_id.decode("ascii"), response.status
        record.content = len(response.body) if isinstance(response.body, bytes) else 0
        return Answer(record, text)
