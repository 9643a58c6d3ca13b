"""Answers small pushes, past aiohttp, with the handlers of the plain path.

A push is made of many requests that carry little: a POST, a PATCH or PUT of a small layer, the PUT
that ends it, a manifest. A request is answered here if it arrives whole within
``GATHER_SECONDS``, is understood in every part, and is permitted; else the parser gets all its
bytes. This module reads the request and renders the answer; the handler does the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiohttp import web

from holdfast.api.http.chunked import BadChunk, Chunked
from holdfast.api.http.read_owner import set_read_owner
from holdfast.api.http.whole_request import WholeRequest
from holdfast.api.oci.access import Caller, Gate
from holdfast.api.oci.app import ENDPOINTS, refusal
from holdfast.api.oci.exchange import Exchange
from holdfast.api.telemetry.waits import Steps
from holdfast.engine import WAITS, Repository

from .heads import Peer, WriteRequest
from .reads import DECLINE_ERRORS, FastReads, WriteResult

BODY_BYTES_MAX: Final = 64 * 1024
"""Longest body that is gathered, in bytes; ``body_receiver`` takes longer ones."""

FRAMED_BODY_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""Longest request that is gathered, in bytes, with the framing of its chunks."""

GATHER_SECONDS: Final = 1.0
"""Longest time for a body to arrive whole. The plain path, which has rules for slow clients, gets
slower ones."""


class Gathering:
    """A push whose body may be incomplete."""

    def __init__(self, request: WriteRequest, data: bytes, start: int) -> None:
        """Begin with ``data``: the head, and from index ``start`` on the body."""
        self.request = request
        self.started = time.perf_counter()
        self.data = bytearray()
        """All bytes of the request so far, for the parser if the push is declined."""
        self._body = bytearray()
        self._chunked = Chunked() if request.headers.length is None else None
        self._start = start
        self.state: Literal["more", "whole", "declined"] = "more"
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived, and set ``state``."""
        at = 0 if self.data else self._start
        self.data += data
        if self._chunked is None:
            self._body += memoryview(data)[at:]
            self._check_length(self.request.headers.length or 0)
            return
        part = bytearray(memoryview(data)[at:])
        try:
            for start, stop in self._chunked.feed(part, len(part)):
                self._body += part[start:stop]
        except BadChunk:
            self.state = "declined"
            return
        # Bytes behind the last chunk are another request, as in ``_check_length``.
        if self._chunked.done:
            self.state = "whole" if self._chunked.used == len(part) else "declined"
        if len(self._body) > BODY_BYTES_MAX or len(self.data) > FRAMED_BODY_BYTES_MAX:
            self.state = "declined"

    def _check_length(self, length: int) -> None:
        if length > BODY_BYTES_MAX or len(self._body) > length:
            # Bytes after the body are another request. The parser handles pipelining.
            self.state = "declined"
        elif len(self._body) == length:
            self.state = "whole"

    @property
    def size(self) -> int:
        """Body bytes so far."""
        return len(self._body)

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
            bytes(self._body),
            headers.length,
        )


@dataclass(slots=True, eq=False)
class Write:
    """A whole push that is permitted."""

    gathering: Gathering
    peer: Peer
    caller: Caller
    repository: Repository
    steps: Steps | None = None
    """Waits of the push; None unless they are traced."""

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
        if self._reads.closed or (self._recorder is not None and not self._recorder.sends_files):
            return None
        request = self._reads.read_push(data[:end], peer)
        if request is None or (request.headers.length or 0) > BODY_BYTES_MAX:
            return None
        return Gathering(request, data, end)

    def admit(self, gathering: Gathering, peer: Peer) -> Write | None:
        """Check rights and limits of a whole push. Return None to decline."""
        request = gathering.request
        headers = request.headers.parsed
        try:
            caller, repository = self._reads.permit(headers, request.target.name)
        except DECLINE_ERRORS:
            return None
        if self._recorder is not None and (peer.limited or headers.prefix):
            access_key = "" if caller.key is None else caller.key.access_key
            if not self._recorder.admits(headers.prefix or peer.prefix, access_key):
                return None
        return Write(gathering, peer, caller, repository)

    async def answer(self, write: Write) -> WriteResult:
        """Run the handler of a push. The task must have a context of its own.

        Raises CancelledError, and any unexpected error; both are recorded as a push without an
        answer.
        """
        try:
            return await self._answer(write)
        except BaseException:
            self.record_end(
                self._result(write, 0, 0, b"", self._reads.next_request_id()), gone=True
            )
            raise

    async def _answer(self, write: Write) -> WriteResult:
        if self._recorder is not None and self._recorder.traces:
            write.steps = Steps()
            WAITS.set(write.steps)
        request, whole = write.request, write.gathering.whole_request
        set_read_owner(write.caller.key, request.headers.parsed.address or write.peer.address)
        reads, target = self._reads, request.target
        route = ENDPOINTS[target.endpoint][request.method]
        gate = Gate(reads.store, reads.settings, request.headers.parsed.origin, "")
        exchange = Exchange(whole, gate, write.caller, target, route, write.repository)
        response: Any
        try:
            response = await route.handler(exchange)
        except Exception as error:  # noqa: BLE001 - the edge, as in ``oci.app``
            response = refusal(error, request.method, request.path)
        assert isinstance(response, web.Response)
        text, request_id = reads.render(response)
        content = len(response.body) if isinstance(response.body, bytes) else 0
        return self._result(write, response.status, content, text, request_id)

    def record_end(self, result: WriteResult, *, gone: bool) -> None:
        """Record a push before its answer is sent, or after its client has gone."""
        if self._recorder is not None:
            self._recorder.push_ended(result, gone=gone)

    def _result(
        self, write: Write, status: int, content: int, text: bytes, request_id: bytes
    ) -> WriteResult:
        gathering = write.gathering
        return WriteResult(
            request=write.request,
            peer=write.peer,
            caller=write.caller,
            started=gathering.started,
            status=status,
            received=gathering.size,
            content=content,
            text=text,
            request_id=request_id.decode("ascii"),
            steps=write.steps,
        )
