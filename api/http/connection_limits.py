"""Which connections are taken: so many in all, so many of one address, over all workers.

A process takes no more than leave half of its file descriptors to what connections ask for: a
full house of idle clients must not keep the others from opening a blob.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from holdfast.api.limits.addresses import network_prefix
from holdfast.api.limits.worker_table import WorkerTable

Refusal = Literal["full", "address"]

DESCRIPTOR_SHARE: Final = 2
"""A connection that pulls has a socket, a second one for ``sendfile``, and a file."""

DESCRIPTORS_RESERVED_MIN: Final = 64
"""For the ledger, the listeners, shared memory, and a few files."""

LINGERING_MAX: Final = 32
"""Refused connections of a process that may wait for their clients to read why."""


def connections_of_process(files: int) -> int:
    """How many connections a process takes that may have so many open files."""
    return max(1, min(files // DESCRIPTOR_SHARE, files - DESCRIPTORS_RESERVED_MIN))


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be."""

    total: int
    """Of all workers."""

    of_address: int
    """Of one address (of IPv6: of one /64); 0 is no limit."""

    of_process: int
    """Of this one."""


def _nobody(_host: str) -> bool:
    return False


def _ignore(_name: str) -> None:
    """Nothing is counted."""


class Admission:
    """The door of one process."""

    def __init__(
        self,
        house: ConnectionLimits,
        shared: WorkerTable | None = None,
        slot: int = 0,
        *,
        is_many: Callable[[str], bool] = _nobody,
        tell: Callable[[str], None] = _ignore,
    ) -> None:
        """``is_many`` says which address stands for many clients, as that of a proxy does;
        ``tell`` is told the name of everything that is to be counted."""
        self._house = house
        self._roster = WorkerTable.alone() if shared is None else shared
        self._slot = slot
        self._is_many = is_many
        self.tell = tell
        self.lingering = 0
        """Refused connections that are not closed yet."""

    def enter(self, peer: Any) -> Refusal | None:
        """Count a connection from ``peer`` (its socket's address), or say why it is refused."""
        house, who, host = self._house, _who(peer), _host(peer)
        if (
            self._roster.connections(self._slot) >= house.of_process
            or self._roster.connections() >= house.total
        ):
            self.tell("refused_full")
            return "full"
        if (
            house.of_address
            and not self._is_many(host)
            and self._roster.connections_of(who) >= house.of_address
        ):
            self.tell("refused_address")
            return "address"
        self._roster.add(self._slot, who, 1)
        return None

    def leave(self, peer: Any) -> None:
        """A connection that entered has ended."""
        self._roster.add(self._slot, _who(peer), -1)


def _host(peer: Any) -> str:
    """The address, empty for a unix socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _who(peer: Any) -> str:
    return network_prefix(_host(peer))
