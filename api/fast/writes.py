"""Pushes on the fast lane: the small requests of an upload, answered past aiohttp.

A push is made of many requests that carry little: a POST, a PATCH or PUT of a small layer, the PUT
that ends it, a manifest. Each of those that comes whole within a moment, says nothing that is not
plainly understood, and is allowed, goes straight to the handler that the plain path would call.
Only reading the request and sending the answer are done here: everything else is the handler's.
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
from .reads import UNSURE, FastReads, WriteResult

BODY_BYTES_MAX: Final = 64 * 1024
"""Longer bodies are received past the parser by ``body_receiver``."""

FRAMED_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""Of a chunked body with its framing."""

GATHER_SECONDS: Final = 1.0
"""How long a body may take to come whole: what is slower is the plain path's, which has rules
for slow clients."""


class Gathering:
    """A request of which more is to come."""

    def __init__(self, sent: WriteRequest, data: bytes, start: int) -> None:
        """``data`` begins with the head, and the body at ``start``."""
        self.sent = sent
        self.begun = time.perf_counter()
        self.data = bytearray()
        """All that came."""
        self._body = bytearray()
        self._chunked = Chunked() if sent.sender.length is None else None
        self._start = start
        self.state: Literal["more", "whole", "declined"] = "more"
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take what came; what becomes of the request is its ``state`` then."""
        at = 0 if self.data else self._start
        self.data += data
        if self._chunked is None:
            self._body += memoryview(data)[at:]
            self._settle(self.sent.sender.length or 0)
            return
        part = bytearray(memoryview(data)[at:])
        try:
            for start, stop in self._chunked.feed(part, len(part)):
                self._body += part[start:stop]
        except BadChunk:
            self.state = "declined"
            return
        if self._chunked.done:
            self.state = "whole" if self._chunked.used == len(part) else "declined"
        if len(self._body) > BODY_BYTES_MAX or len(self.data) > FRAMED_BYTES_MAX:
            self.state = "declined"

    def _settle(self, length: int) -> None:
        if length > BODY_BYTES_MAX or len(self._body) > length:
            # Another request may follow the body: then there is more than one to answer.
            self.state = "declined"
        elif len(self._body) == length:
            self.state = "whole"

    @property
    def size(self) -> int:
        """Bytes of the body that came."""
        return len(self._body)

    @property
    def request(self) -> WholeRequest:
        """The whole request."""
        sent = self.sent
        sender = sent.sender
        return WholeRequest(
            sent.method, sent.path, sent.query, sender.headers, bytes(self._body), sender.length
        )


@dataclass(slots=True, eq=False)
class Write:
    """A whole request that may be answered."""

    gathering: Gathering
    peer: Peer
    caller: Caller
    repository: Repository
    steps: Steps | None = None
    """What it waits for, where somebody wants to know."""

    @property
    def sent(self) -> WriteRequest:
        """What its head says."""
        return self.gathering.sent


class Writes:
    """The pushes that a lane takes."""

    def __init__(self, lane: FastReads) -> None:
        self._lane = lane
        self._watcher = lane.watcher

    def gather(self, data: bytes, end: int, peer: Peer) -> Gathering | None:
        """A request whose head ends before ``end`` of ``data``; None to decline."""
        if self._lane.closed or (self._watcher is not None and not self._watcher.sends_files):
            return None
        sent = self._lane.read_sent(data[:end], peer)
        if sent is None or (sent.sender.length or 0) > BODY_BYTES_MAX:
            return None
        return Gathering(sent, data, end)

    def admit(self, gathering: Gathering, peer: Peer) -> Write | None:
        """A whole request that may be answered; None to decline."""
        sent = gathering.sent
        visitor = sent.sender.visitor
        try:
            caller, repository = self._lane.permit(visitor, sent.target.name)
        except UNSURE:
            return None
        if self._watcher is not None and (peer.limited or visitor.who):
            access_key = "" if caller.key is None else caller.key.access_key
            if not self._watcher.admits(visitor.who or peer.who, access_key):
                return None
        return Write(gathering, peer, caller, repository)

    async def answer(self, write: Write) -> WriteResult:
        """Do what is asked for, in a context of its own.

        Raises CancelledError, and what a mistake of ours raises; either is told as an end without
        an answer.
        """
        try:
            return await self._answer(write)
        except BaseException:
            self.ended(self._written(write, 0, 0, b"", self._lane.name()), gone=True)
            raise

    async def _answer(self, write: Write) -> WriteResult:
        if self._watcher is not None and self._watcher.traces:
            write.steps = Steps()
            WAITS.set(write.steps)
        sent, request = write.sent, write.gathering.request
        set_read_owner(write.caller.key, sent.sender.visitor.address or write.peer.address)
        lane, target = self._lane, sent.target
        route = ENDPOINTS[target.endpoint][sent.method]
        gate = Gate(lane.store, lane.settings, sent.sender.visitor.origin, "")
        asked = Exchange(request, gate, write.caller, target, route, write.repository)
        response: Any
        try:
            response = await route.handler(asked)
        except Exception as error:  # noqa: BLE001 - the edge, as in ``oci.app``
            response = refusal(error, sent.method, sent.path)
        assert isinstance(response, web.Response)
        text, request_id = lane.finished(response)
        content = len(response.body) if isinstance(response.body, bytes) else 0
        return self._written(write, response.status, content, text, request_id)

    def ended(self, written: WriteResult, *, gone: bool) -> None:
        """The answer is about to be sent, or its client is gone."""
        if self._watcher is not None:
            self._watcher.wrote(written, gone=gone)

    def _written(
        self, write: Write, status: int, content: int, text: bytes, request_id: bytes
    ) -> WriteResult:
        gathering = write.gathering
        return WriteResult(
            sent=write.sent,
            peer=write.peer,
            caller=write.caller,
            begun=gathering.begun,
            status=status,
            received=gathering.size,
            content=content,
            text=text,
            request_id=request_id.decode("ascii"),
            steps=write.steps,
        )
