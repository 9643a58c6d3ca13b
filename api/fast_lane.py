"""The fast lane: small reads of ``/v2/`` answered straight from the connection's buffer.

A connection looks at what arrives while it is idle. One complete GET or HEAD without a body, alone
in the buffer and with no header that is not known to be harmless, may be answered at once, by
``Lane``; everything else goes on to aiohttp untouched. The answers are those of the plain path,
byte for byte: the same functions make them.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from aiohttp.web_server import Server

from .connection import Connection, Site
from .fast_answers import Lane

HEAD_BYTES_MAX: Final = 8 * 1024
"""Longer heads are aiohttp's business, with its limits."""

_END: Final = b"\r\n\r\n"
_STARTS: Final = (b"GET /v2/", b"HEAD /v2/")


class LaneConnection(Connection):
    """A connection with a look at idle moments."""

    __slots__ = ("_between", "_free", "_lane")

    def __init__(self, manager: Server, *, lane: Lane, **options: Any) -> None:
        super().__init__(manager, **options)
        self._lane = lane
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

    def data_received(self, data: bytes) -> None:
        """Answer at once, or hand on."""
        end = data.endswith(_END)
        if end and self._between and self._answer(data):
            return
        if data:
            self._between = end
            self._free = False
        super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As ever, and see whether the connection is free now."""
        resp, reset = await super().finish_response(request, resp, start_time)
        complete = bool(resp.keep_alive) and not reset and request.content.is_eof()
        self._free = complete and not self._messages
        return resp, reset

    def _answer(self, data: bytes) -> bool:
        """Answer, if it can be done: no request runs, and nothing waits to be sent."""
        manager, transport = self._manager, self.transport
        if (
            not self._free
            or not data.startswith(_STARTS)
            or len(data) > HEAD_BYTES_MAX
            or self._force_close
            or self._close
            or self._logging_enabled
            or manager is None
            or transport is None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        ):
            return False
        answer = self._lane.answer(data)
        if answer is None:
            return False
        transport.write(answer)
        manager.requests_count += 1
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True


class LaneSite(Site):
    """A listening socket whose connections have the fast lane."""

    def __init__(self, runner: web.AppRunner, sock: Any, lane: Lane, **options: Any) -> None:
        super().__init__(runner, sock, **options)
        self._lane = lane

    def _connection(self, server: Server, options: dict[str, Any]) -> Connection:
        return LaneConnection(server, lane=self._lane, **options)
