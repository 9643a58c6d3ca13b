"""Small requests over plain sockets, as fast as Python can: some 5 µs each.

For what wrk cannot do (after HEAD it waits for a body that never comes), and where there is no
wrk. One thread, one epoll, requests made beforehand, every status checked.
"""

from __future__ import annotations

import re
import select
import socket
import time
from dataclasses import dataclass
from typing import Final

from .latencies import Latencies
from .wire import CONNECT_SECONDS, Address, WireError

_BUFFER_BYTES: Final = 1 << 20
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SILENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A request as it goes out, and the status that must come back."""

    text: bytes
    status: int
    bodyless: bool


@dataclass(slots=True)
class _Line:
    socket: socket.socket
    turn: int
    sent: float = 0.0
    missing: int = 0
    """Bytes of a body still to come."""

    head: bytes = b""
    """The beginning of a head that came in pieces."""


class SmallRequests:
    """``connections`` closed loops over one list of shots."""

    def __init__(self, address: Address, shots: list[RequestTemplate], connections: int) -> None:
        self.operations = 0
        self.size = 0
        self.latencies = Latencies()
        self.wrong: list[str] = []
        self._address = address
        self._shots = shots
        self._prefixes = [f"HTTP/1.1 {shot.status}".encode() for shot in shots]
        self._connections = connections
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def run(self, seconds: float) -> None:
        """Shoot for so long, then wait for what is under way. Raises WireError."""
        lines: dict[int, _Line] = {}
        poll = select.epoll()
        try:
            for number in range(self._connections):
                line = _Line(self._connect(), number % len(self._shots))
                lines[line.socket.fileno()] = line
                poll.register(line.socket, select.EPOLLIN)
            self._loop(lines, poll, time.perf_counter() + seconds)
        except OSError as error:
            raise WireError(f"the connection was lost: {error}") from error
        finally:
            poll.close()
            for line in lines.values():
                line.socket.close()

    def _connect(self) -> socket.socket:
        where = (self._address.host, self._address.port)
        try:
            made = socket.create_connection(where, timeout=CONNECT_SECONDS)
        except OSError as error:
            raise WireError(f"cannot connect to {self._address.authority}: {error}") from error
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _loop(self, lines: dict[int, _Line], poll: select.epoll, deadline: float) -> None:
        clock, latencies, shots = time.perf_counter, self.latencies, self._shots
        for line in lines.values():
            line.sent = clock()
            line.socket.sendall(shots[line.turn].text)
        busy = len(lines)
        while busy:
            events = poll.poll(_SILENCE_SECONDS)
            if not events:
                raise WireError(f"no answer within {_SILENCE_SECONDS:.0f} s")
            for number, _ in events:
                line = lines[number]
                if not self._take(line):
                    continue
                now = clock()
                latencies.add(now - line.sent)
                self.operations += 1
                if now >= deadline or self.wrong:
                    busy -= 1
                    poll.unregister(number)
                    continue
                line.turn = turn = (line.turn + 1) % len(shots)
                line.sent = now
                line.socket.sendall(shots[turn].text)

    def _take(self, line: _Line) -> bool:
        """Read what came; whether the answer is complete."""
        count = line.socket.recv_into(self._buffer)
        if not count:
            raise WireError("the connection was lost: closed by the server")
        if line.missing:
            line.missing -= count
            self.size += count
            if line.missing < 0:
                raise WireError("the server sent more than an answer")
            return not line.missing
        text = line.head + self._buffer[:count].tobytes()
        end = text.find(b"\r\n\r\n")
        if end < 0:
            line.head = text
            return False
        line.head = b""
        if not text.startswith(self._prefixes[line.turn]):
            self.wrong.append(
                f"{text[:15].decode('latin-1')!r}, not {self._shots[line.turn].status}"
            )
        length = 0
        if not self._shots[line.turn].bodyless:
            match = _LENGTH.search(text, 0, end + 2)
            if match is None:
                raise WireError("an answer without Content-Length")
            length = int(match[1])
        have = len(text) - end - 4
        self.size += have
        line.missing = length - have
        if line.missing < 0:
            raise WireError("the server sent more than an answer")
        return not line.missing
