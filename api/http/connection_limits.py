"""Limits the number of connections, in all and from one address, over all workers.

A process leaves half of its file descriptors to the requests of its connections, so that idle
clients cannot keep the others from opening a blob.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from holdfast.api.limits.addresses import network_prefix
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.limits.worker_table import WorkerTable

Refusal = Literal["full", "address"]

DESCRIPTOR_SHARE: Final = 2
"""Connections may use one part in this many of a process's descriptors. One that pulls has a
socket, a second one for ``sendfile``, and a file."""

DESCRIPTORS_RESERVED_MIN: Final = 64
"""Descriptors kept for the ledger, the listeners, and a few files."""

LINGERING_MAX: Final = 32
"""Refused connections of a process that may stay open until their clients have read the reason."""


def connections_of_process(files: int) -> int:
    """Return the most connections of a process that may open ``files`` files."""
    return max(1, min(files // DESCRIPTOR_SHARE, files - DESCRIPTORS_RESERVED_MIN))


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The most connections at one time."""

    total: int
    """Connections of all workers."""

    of_address: int
    """Connections from one address (IPv6: one /64); 0 is no limit."""

    of_process: int
    """Connections of this process."""


def _never(_host: str) -> bool:
    return False


def _ignore(_name: str) -> None:
    """Drop an event that is not counted."""


class Admission:
    """Admits or refuses the connections of one process."""

    def __init__(
        self,
        limits: ConnectionLimits,
        shared: WorkerTable | None = None,
        slot: int = 0,
        *,
        is_proxy: Callable[[str], bool] = _never,
        on_event: Callable[[str], None] = _ignore,
    ) -> None:
        """``is_proxy`` returns True for an address that stands for many clients; ``on_event`` is
        called with the name of each counted event."""
        self._limits = limits
        self._worker_table = WorkerTable(SharedMemory()) if shared is None else shared
        self._slot = slot
        self._is_proxy = is_proxy
        self.on_event = on_event
        self.lingering = 0
        """Refused connections that are not closed yet."""

    def enter(self, peer: Any) -> Refusal | None:
        """Admit a connection from ``peer``, its socket's address. Return the reason if it is
        refused."""
        limits, prefix, host = self._limits, _prefix(peer), _host(peer)
        if (
            self._worker_table.connections(self._slot) >= limits.of_process
            or self._worker_table.connections() >= limits.total
        ):
            self.on_event("refused_full")
            return "full"
        if (
            limits.of_address
            and not self._is_proxy(host)
            and self._worker_table.connections_of(prefix) >= limits.of_address
        ):
            self.on_event("refused_address")
            return "address"
        self._worker_table.add(self._slot, prefix, 1)
        return None

    def leave(self, peer: Any) -> None:
        """Release the place of an admitted connection that has ended."""
        self._worker_table.add(self._slot, _prefix(peer), -1)


def _host(peer: Any) -> str:
    """Return the address; empty for a unix socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _prefix(peer: Any) -> str:
    return network_prefix(_host(peer))
