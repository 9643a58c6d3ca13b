"""Counters of all workers, in memory that they share with their supervisor.

Each process writes to a slot of its own, so there is no lock; a scrape sums the slots. A worker
that is started again goes on in the slot of its predecessor, so no counter falls while the server
runs. Nothing is kept on disk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from holdfast.api.limits.shared_memory import COUNTERS_BYTES
from holdfast.engine import GROUP_BOUNDS

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OTHER")
CLASSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of statuses; ``gone`` is a client that left before its answer."""

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
"""Upper ends of the latency buckets, in seconds; one more bucket is for the rest."""

_BUCKETS: Final = len(BOUNDS) + 1
_METHOD_CELLS: Final = len(CLASSES)
_RECEIVED: Final = len(METHODS) * _METHOD_CELLS
_SENT: Final = _RECEIVED + 1
_NANOSECONDS: Final = _SENT + 1
_BUCKET: Final = _NANOSECONDS + 1
_ROW_CELLS: Final = _BUCKET + _BUCKETS
_METHOD_OFFSETS: Final = MappingProxyType(
    {name: at * _METHOD_CELLS for at, name in enumerate(METHODS)}
)
_OTHER_OFFSET: Final = _METHOD_OFFSETS["OTHER"]

TALLIES: Final = (
    *(f"commits_{bound}" for bound in GROUP_BOUNDS),
    "members",
    "sweep_entries",
    "sweep_files",
    "scrub_blobs",
    "scrub_bytes",
    "scrub_damaged",
    "limited_address",
    "limited_key",
    "limited_login",
    "failed_logins",
    "failed_handshakes",
    "malformed_requests",
    "refused_full",
    "refused_address",
    "audit_failures",
)
"""Counters that belong to no route."""

GAUGES: Final = ("connections",)
"""Gauges: values of this moment, in each process."""


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one route over all workers."""

    requests: Mapping[tuple[str, str], int]
    """Requests by method and class of status; those that are not zero."""

    received: int
    sent: int
    seconds: float
    buckets: Sequence[int]


class Layout:
    """The cell of each counter in a slot."""

    def __init__(self, routes: Sequence[str]) -> None:
        names = dict.fromkeys(routes)
        self.routes = {route: index * _ROW_CELLS for index, route in enumerate(names)}
        start = len(self.routes) * _ROW_CELLS
        self.tallies = {name: start + at for at, name in enumerate((*TALLIES, *GAUGES))}
        self.cells = start + len(self.tallies)
        if self.cells * 8 > COUNTERS_BYTES:
            raise ValueError("too many routes for a slot")


class Slot:
    """The counters of one process."""

    __slots__ = ("_cells", "_layout", "_routes")

    def __init__(self, cells: memoryview[int], layout: Layout) -> None:
        """Go on with the counters in ``cells``; the gauges of the process before are cleared."""
        self._cells = cells
        self._layout = layout
        self._routes = layout.routes
        for name in GAUGES:
            self.set(name, 0)

    def count(
        self, route: str, method: str, status: int, received: int, sent: int, seconds: float
    ) -> None:
        """Count a request. ``status`` 0 is a client that left before its answer."""
        cells = self._cells
        base = self._routes[route]
        cells[base + _METHOD_OFFSETS.get(method, _OTHER_OFFSET) + status // 100] += 1
        if received:
            cells[base + _RECEIVED] += received
        cells[base + _SENT] += sent
        cells[base + _NANOSECONDS] += int(seconds * 1e9)
        cells[base + _BUCKET + bisect_left(BOUNDS, seconds)] += 1

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter that belongs to no route."""
        self._cells[self._layout.tallies[name]] += count

    def set(self, name: str, value: int) -> None:
        """Set a gauge."""
        self._cells[self._layout.tallies[name]] = value


class Counters:
    """The sums over all slots."""

    def __init__(self, slots: Sequence[memoryview[int]], layout: Layout) -> None:
        self._layout = layout
        self._slots = [cells[: layout.cells] for cells in slots]

    def sums(self) -> list[int]:
        """Return the sum of each cell."""
        return [sum(cells) for cells in zip(*self._slots, strict=True)]

    def rows(self, sums: Sequence[int]) -> dict[str, Row]:
        """Return the numbers by route, of routes with requests."""
        rows = {}
        for route, base in self._layout.routes.items():
            requests = {
                (method, name): count
                for method, at in _METHOD_OFFSETS.items()
                for index, name in enumerate(CLASSES)
                if (count := sums[base + at + index])
            }
            if requests:
                rows[route] = Row(
                    requests,
                    sums[base + _RECEIVED],
                    sums[base + _SENT],
                    sums[base + _NANOSECONDS] / 1e9,
                    sums[base + _BUCKET : base + _ROW_CELLS],
                )
        return rows

    def tallies(self, sums: Sequence[int]) -> dict[str, int]:
        """Return the other counters and the gauges."""
        return {name: sums[at] for name, at in self._layout.tallies.items()}
