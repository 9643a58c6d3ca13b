"""``/metrics`` in the Prometheus text format (version 0.0.4), over all workers together.

Worker 0 answers, on a listener of its own, from the shared board and from its store. The name of
a namespace, an image, a key or a client never becomes a label.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Protocol, runtime_checkable

from aiohttp import web

from holdfast.engine import GROUP_BOUNDS, ScrubProgress, Stats, Store

from .counters import BOUNDS, Counters, Slot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SYNC_SECONDS: Final = 1.0
"""How late the other workers' commits and background work may be."""

USAGE_SECONDS: Final = 30.0
"""How old the sum over all namespaces may be: it takes a read for every hundred of them."""

_PAGE: Final = 100
_GROUPS: Final = tuple(f"commits_{bound}" for bound in GROUP_BOUNDS)


@runtime_checkable
class _Informed(Protocol):
    def info(self) -> dict[str, int]:
        """Numbers of a ledger."""


def ledger_info(store: Store) -> dict[str, int]:
    """Sizes and counts of the ledger; empty where it has none to tell."""
    ledger = store.core.ledger
    return ledger.info() if isinstance(ledger, _Informed) else {}


class Reporter:
    """Brings what one worker's store counts by itself onto the board."""

    def __init__(self, store: Store, slot: Slot) -> None:
        self._store = store
        self._slot = slot
        self._last: dict[str, int] = {}
        self.server: web.Server | None = None
        """Whose connections are counted."""

    def sync(self) -> None:
        """Add what came since the last time."""
        swept, scrubbed = self._store.sweeper.total, self._store.scrubber.total
        info = ledger_info(self._store)
        totals = {
            **{name: info.get(name, 0) for name in _GROUPS},
            "members": info.get("members", 0),
            "swept_entries": swept.entries,
            "swept_files": swept.files,
            "scrubbed_blobs": scrubbed.blobs,
            "scrubbed_bytes": scrubbed.bytes,
            "scrub_damaged": scrubbed.damaged_count,
        }
        for name, total in totals.items():
            self._slot.add(name, total - self._last.get(name, 0))
        self._last = totals
        self._slot.set("connections", len(self.server.connections) if self.server else 0)

    async def forever(self) -> None:
        """Sync until cancelled."""
        while True:
            self.sync()
            await asyncio.sleep(SYNC_SECONDS)


class Metrics:
    """What a scrape is answered from."""

    def __init__(
        self, store: Store, regions: Iterable[str], board: Counters, reporter: Reporter
    ) -> None:
        self._store = store
        self._regions = tuple(regions)
        self._board = board
        self._reporter = reporter
        self._namespace_bytes = 0
        self._usage_at = -USAGE_SECONDS

    def application(self) -> web.Application:
        """An application with ``/metrics`` only."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        return app

    async def _answer(self, _request: web.Request) -> web.Response:
        self._reporter.sync()
        if time.monotonic() - self._usage_at >= USAGE_SECONDS:
            self._namespace_bytes = await self._usage()
            self._usage_at = time.monotonic()
        stats = await self._store.stats()
        lines = (
            *_store_lines(stats, self._namespace_bytes),
            *_scrub_lines(await self._store.scrubber.progress()),
            *_ledger_lines(ledger_info(self._store)),
            *_board_lines(self._board),
        )
        body = "\n".join(lines) + "\n"
        return web.Response(body=body.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _usage(self) -> int:
        """The sum of the sizes of all namespaces, in bytes."""
        total = 0
        for region in self._regions:
            number = 1
            while True:
                page = await self._store.namespaces.list(region, page=number, page_size=_PAGE)
                total += sum(namespace.size for namespace in page.items)
                if len(page.items) < _PAGE:
                    break
                number += 1
                await asyncio.sleep(0)  # other requests get their turn
        return total


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP holdfast_{name} {text}"
    yield f"# TYPE holdfast_{name} {kind}"


def _histogram(
    name: str, bounds: Sequence[float], counts: Sequence[int], total: float, label: str = ""
) -> Iterator[str]:
    """Samples of one histogram: ``counts`` is how many are up to each bound but not to the one
    before, and how many beyond the last."""
    first, braced = (f"{label},", f"{{{label}}}") if label else ("", "")
    summed = list(accumulate(counts))
    for bound, count in zip((*map(str, bounds), "+Inf"), summed, strict=True):
        yield f'holdfast_{name}_bucket{{{first}le="{bound}"}} {count}'
    yield f"holdfast_{name}_sum{braced} {total}"
    yield f"holdfast_{name}_count{braced} {summed[-1]}"


def _family(name: str, kind: str, text: str, samples: Mapping[str, float] | float) -> Iterator[str]:
    """One metric. ``samples`` are values by their labels, or one value without labels."""
    yield from _head(name, kind, text)
    if isinstance(samples, Mapping):
        for labels, value in samples.items():
            yield f"holdfast_{name}{{{labels}}} {value}"
    else:
        yield f"holdfast_{name} {samples}"


def _store_lines(stats: Stats, namespace_bytes: int) -> Iterator[str]:
    oldest = stats.oldest_garbage
    age = max(0.0, time.time() - oldest.timestamp()) if oldest is not None else 0.0
    ratio = namespace_bytes / stats.blob_bytes if stats.blob_bytes else 1.0
    gauges: tuple[tuple[str, str, float], ...] = (
        ("namespaces", "Namespaces.", stats.namespaces),
        ("images", "Images.", stats.images),
        ("namespace_bytes", "Sum of the sizes of all namespaces.", namespace_bytes),
        ("blobs", "Blobs, each once.", stats.blobs),
        ("blob_bytes", "Sum of the sizes of all blobs, each once.", stats.blob_bytes),
        ("stored_bytes", "What all blobs take on disk.", stats.stored_bytes),
        ("dedupe_ratio", "holdfast_namespace_bytes over holdfast_blob_bytes.", ratio),
        ("open_uploads", "Upload sessions that are open.", stats.uploads),
        ("holds", "Rights to blobs that no manifest needs yet, or any more.", stats.holds),
        ("trash_entries", "Deleted things that can be brought back.", stats.trash),
        ("garbage_entries", "Length of the garbage queue.", stats.garbage),
        ("aside_entries", "Entries of queues that met a damaged row, and wait.", stats.aside),
        ("garbage_oldest_seconds", "How long the head of the queue has been due.", age),
    )
    for name, text, value in gauges:
        yield from _family(name, "gauge", text, value)
    text = "Bytes that sweeping gave back since the store was made."
    yield from _family("freed_bytes_total", "counter", text, stats.freed_bytes)


def _scrub_lines(progress: ScrubProgress) -> Iterator[str]:
    age = max(0.0, time.time() - progress.ended.timestamp()) if progress.ended is not None else 0.0
    text = "How much of all blobs the present walk of the scrub has read; 0 between two walks."
    yield from _family("scrub_walk_ratio", "gauge", text, progress.part)
    text = "Time since the last walk over all blobs ended; at first, since the store was made."
    yield from _family("scrub_walk_age_seconds", "gauge", text, age)


def _ledger_lines(info: Mapping[str, int]) -> Iterator[str]:
    texts = {
        "map_bytes": "Address space of the ledger.",
        "used_bytes": "Size of the ledger's file in use; it never shrinks.",
        "live_bytes": "What rows take of it.",
        "entries": "Rows of the ledger.",
        "readers": "Slots of readers taken.",
    }
    for name, text in texts.items():
        if name in info:
            yield from _family(f"ledger_{name}", "gauge", text, info[name])
    if "last_txn" in info:
        text = "Transactions since the ledger was made, of whatever process."
        yield from _family("ledger_transactions_total", "counter", text, info["last_txn"])


_TALLIES: Final = {
    "swept_entries": ("sweep_entries_total", "Entries that the sweep took."),
    "swept_files": ("sweep_files_total", "Files that the sweep removed."),
    "scrubbed_blobs": ("scrub_blobs_total", "Blobs that the scrub looked at."),
    "scrubbed_bytes": ("scrub_bytes_total", "Bytes that the scrub read."),
    "scrub_damaged": ("scrub_damaged_total", "Blobs that the scrub found damaged."),
    "failed_handshakes": ("failed_handshakes_total", "TLS handshakes that came to nothing."),
    "malformed_requests": (
        "malformed_requests_total",
        "What came in place of a request; the rest of its connection is not read.",
    ),
    "failed_logins": ("failed_logins_total", "Requests with a secret that belongs to no key."),
    "audit_failed": ("audit_failures_total", "Lines that the audit log could not take."),
}
_LIMITS: Final = ("address", "key", "login")
_REFUSALS: Final = ("full", "address")


def _board_lines(board: Counters) -> Iterator[str]:
    sums = board.sums()
    tallies = board.tallies(sums)
    rows = board.rows(sums)
    requests = {
        f'route="{route}",method="{method}",status="{status}"': count
        for route, row in rows.items()
        for (method, status), count in row.requests.items()
    }
    text = "Requests by route, method and class of status (gone: the client left)."
    yield from _family("requests_total", "counter", text, requests)
    received = {f'route="{route}"': row.received for route, row in rows.items()}
    yield from _family("received_bytes_total", "counter", "Bytes of request bodies.", received)
    sent = {f'route="{route}"': row.sent for route, row in rows.items()}
    yield from _family("sent_bytes_total", "counter", "Bytes of answers' bodies.", sent)
    yield from _head("request_seconds", "histogram", "Time until an answer is ready, or streamed.")
    for route, row in rows.items():
        label = f'route="{route}"'
        yield from _histogram("request_seconds", BOUNDS, row.buckets, row.seconds, label)
    yield from _head("ledger_commit_members", "histogram", "Changes in a commit of the ledger.")
    groups = [*(tallies[name] for name in _GROUPS), 0]
    yield from _histogram("ledger_commit_members", GROUP_BOUNDS, groups, tallies["members"])
    for tally, (name, text) in _TALLIES.items():
        yield from _family(name, "counter", text, tallies[tally])
    limited = {f'limit="{kind}"': tallies[f"limited_{kind}"] for kind in _LIMITS}
    yield from _family("limited_requests_total", "counter", "Requests answered 429.", limited)
    refused = {f'reason="{why}"': tallies[f"refused_{why}"] for why in _REFUSALS}
    text = "Connections that were not taken: too many in all, or of one address."
    yield from _family("refused_connections_total", "counter", text, refused)
    yield from _family("connections", "gauge", "Open connections.", tallies["connections"])
