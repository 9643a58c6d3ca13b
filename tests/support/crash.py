"""Ends of servers that are no stops, and a way to know when."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from support.server import WAIT_SECONDS, ServerProcess


def kill_all(server: ServerProcess) -> None:
    """End the supervisor and its workers as a power cut would, except for the kernel's memory."""
    workers = server.workers()
    server.kill()
    for pid in workers:
        # They notice that the supervisor is gone and may have ended on their own.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Gate:
    """A port in front of a server, which passes on at most so many bytes to it and then holds.

    So a test knows that a client is in the middle of an upload. Connections that are open when
    the gate opens are cut; later ones pass.
    """

    def __init__(self, port: int, limit: int) -> None:
        self.full = threading.Event()
        """Set once the limit is reached."""
        self._port = port
        self._left = limit
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._run(self._accept)

    def open(self) -> None:
        """Cut what is held; let all later connections pass."""
        with self._lock:
            self._open.set()
            self._cut()

    def close(self) -> None:
        """Stop listening and end all connections."""
        with self._lock:
            self._closed = True
            self._open.set()
            self._cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        self._listener.close()

    def _cut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._port), WAIT_SECONDS)
            except ConnectionRefusedError:
                return
            with server:
                with self._lock:
                    if self._closed:
                        return
                    self._sockets += [client, server]
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server, self._wait)
                back.join(WAIT_SECONDS)

    def _wait(self, amount: int) -> None:
        """Return when that many bytes may be passed on."""
        with self._lock:
            self._left -= amount
            passes = self._left >= 0
        if not passes:
            self.full.set()
            self._open.wait(WAIT_SECONDS)


def _pump(
    source: socket.socket, target: socket.socket, wait: Callable[[int], None] | None = None
) -> None:
    """Copy until either end is closed."""
    with suppress(OSError):
        while data := source.recv(65_536):
            if wait is not None:
                wait(len(data))
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
