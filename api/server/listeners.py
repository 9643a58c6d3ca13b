"""The listening sockets of a server: one socket per address and worker.

The sockets of an address share its port (SO_REUSEPORT), so the kernel spreads connections over
the workers. The supervisor keeps them open: while a worker restarts, new connections wait in the
queue of its socket.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .settings import Address

BACKLOG: Final = 1024
"""Connections per socket that wait to be accepted; the kernel allows at most 4096."""

PORTS_TRIED: Final = 100
PORT_MAX: Final = 65535
UNIX_MODE: Final = 0o660


class CannotListen(Exception):
    """Listening on an address failed. The text is one line; ``errno`` is the system's."""

    def __init__(self, address: Address | Path, error: OSError) -> None:
        reason = {
            errno.EADDRINUSE: "the port is in use by another program",
            errno.EADDRNOTAVAIL: "it is not an address of this machine",
            errno.EACCES: "the port needs more privileges",
        }.get(error.errno or 0, error.strerror or str(error))
        super().__init__(f"cannot listen on {address}: {reason}")
        self.errno = error.errno


class Listeners:
    """All listening sockets of a server. ``address`` is the main address with its real port."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._groups: list[list[socket.socket]] = []
        self._metrics: list[socket.socket] = []
        self._unix: socket.socket | None = None
        self._unix_path: Path | None = None
        self.address: Address | None = None

    def listen(self, address: Address) -> Address:
        """Listen on every IP address of a host. Return the address with the real port.

        Raises CannotListen; no socket stays open then.
        """
        groups, real = _listen(address, self._workers)
        self._groups += groups
        self.address = self.address or real
        return real

    def listen_too(self, endpoint: Address) -> bool:
        """Listen on a region's endpoint if it names a free port of this machine.

        Return False otherwise: then another program, such as a proxy, serves the endpoint.
        """
        if endpoint.port is None or self.address is None:
            return False
        if endpoint.port in self.ports():
            return False
        wildcard = self.address.host in {"0.0.0.0", "::"}  # nosec B104 # noqa: S104 - compared
        if wildcard and not _is_local(endpoint):
            return False
        try:
            self.listen(Address(self.address.host, endpoint.port) if wildcard else endpoint)
        except CannotListen as error:
            # Taken, not an address of this machine, or an unknown name: a proxy serves it.
            if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL} or (error.errno or 0) < 0:
                return False
            raise
        return True

    def listen_next(self) -> int | None:
        """Listen on the next free port after the main one, on its host. Return the port.

        Return None if none of the next ``PORTS_TRIED`` ports is free. Raises CannotListen.
        """
        assert self.address is not None, "there is no main address yet"
        assert self.address.port is not None
        taken = self.ports()
        for port in range(self.address.port + 1, self.address.port + 1 + PORTS_TRIED):
            if port in taken or port > PORT_MAX:
                continue
            try:
                self.listen(Address(self.address.host, port))
            except CannotListen as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                    raise
            else:
                return port
        return None

    def listen_unix(self, path: Path) -> None:
        """Listen on a unix socket, which all workers share (mode 0660). Raises CannotListen.

        Replace a socket that a killed server left behind, but no socket in use and no other file.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale_socket(path)
            listener.bind(os.fspath(path))
            # bind() takes the mode from the umask: set it before the first client can connect.
            path.chmod(UNIX_MODE)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise CannotListen(path, error) from None
        self._unix, self._unix_path = listener, path.absolute()

    def listen_metrics(self, address: Address) -> Address:
        """Listen for scrapes, which worker 0 serves. Return the real address.

        Raises CannotListen; no socket stays open then.
        """
        groups, real = _listen(address, 1)
        self._metrics += [group[0] for group in groups]
        return real

    def of_metrics(self) -> list[socket.socket]:
        """Return the sockets for scrapes."""
        return list(self._metrics)

    def ports(self) -> set[int]:
        """Return the ports of all TCP listeners except the metrics."""
        return {group[0].getsockname()[1] for group in self._groups}

    def of_worker(self, index: int) -> list[socket.socket]:
        """Return the sockets of a worker."""
        shared = [] if self._unix is None else [self._unix]
        return [*(group[index] for group in self._groups), *shared]

    def close(self) -> None:
        """Close this process's descriptors. Those of the workers stay open."""
        _close((*self._groups, self._metrics))
        self._groups, self._metrics = [], []
        if self._unix is not None and self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)
            self._unix.close()
            self._unix = None


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket without a listener. Raises OSError (EADDRINUSE, EEXIST)."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the path is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another program listens on it")


def _close(groups: Iterable[Iterable[socket.socket]]) -> None:
    for group in groups:
        for listener in group:
            listener.close()


def _listen(address: Address, workers: int) -> tuple[list[list[socket.socket]], Address]:
    """Return a group of sockets for every IP address of a host, and the real address.

    Raises CannotListen; no socket stays open then.
    """
    groups: list[list[socket.socket]] = []
    port = address.port or 0
    try:
        for family, host in _resolve(address):
            groups.append(_group(family, host, port, workers))
            port = groups[0][0].getsockname()[1]
    except OSError as error:
        _close(groups)
        raise CannotListen(address, error) from None
    return groups, Address(address.host, port)


def _resolve(address: Address) -> list[tuple[socket.AddressFamily, str]]:
    """Return the IP addresses of a host, each once. Raises OSError (errno < 0: unknown name)."""
    found = socket.getaddrinfo(
        address.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return list(dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found))


def _is_local(address: Address) -> bool:
    """Return True if an IP address of the host can be bound on this machine."""
    try:
        hosts = _resolve(address)
    except OSError:
        return False
    for family, host in hosts:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((host, 0))
        except OSError:
            continue
        return True
    return False


def _group(family: socket.AddressFamily, host: str, port: int, workers: int) -> list[socket.socket]:
    """Open one listening socket per worker on an address. Raises OSError.

    The first socket gets SO_REUSEPORT only after it listens. With it from the start, a second
    server on the port would take half of the connections instead of failing with EADDRINUSE.
    """
    group: list[socket.socket] = []
    try:
        for _ in range(workers):
            listener = socket.socket(family, socket.SOCK_STREAM)
            group.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The IPv4 address of the host has a socket of its own.
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            first = len(group) == 1
            if not first:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            if first:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = listener.getsockname()[1]
    except OSError:
        _close([group])
        raise
    return group
