"""Serves ``/metrics`` in the Prometheus text format (version 0.0.4), over all workers together.

Worker 0 answers on a listener of its own, from the shared counters and from its store. The name of
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
"""Longest delay in seconds of the other workers' commits and background work."""

USAGE_SECONDS: Final = 30.0
"""Longest age in seconds of the sum over all namespaces: it takes a read for every hundred."""

_PAGE_SIZE: Final = 100
_GROUPS: Final = tuple(f"commits_{bound}" for bound in GROUP_BOUNDS)


@runtime_checkable
class _LedgerInfo(Protocol):
    def info(self) -> dict[str, int]:
        """Return sizes and counts of a ledger."""


def ledger_info(store: Store) -> dict[str, int]:
    """Return sizes and counts of the ledger; empty if its backend has none."""
    ledger = store.core.ledger
    return ledger.info() if isinstance(ledger, _LedgerInfo) else {}


class Reporter:
    """Copies the totals that one worker's store keeps into the worker's counters."""

    def __init__(self, store: Store, slot: Slot) -> None:
        self._store = store
        self._slot = slot
        self._last: dict[str, int] = {}
        self.server: web.Server | None = None
        """Server whose connections are counted."""

    def sync(self) -> None:
        """Add the growth of the totals since the last call."""
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
    """The sources of a scrape."""

    def __init__(
        self, store: Store, regions: Iterable[str], counters: Counters, reporter: Reporter
    ) -> None:
        self._store = store
        self._regions = tuple(regions)
        self._counters = counters
        self._reporter = reporter
        self._namespace_bytes = 0
        self._usage_time = -USAGE_SECONDS

    def application(self) -> web.Application:
        """Return an application with ``/metrics`` only."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        return app

    async def _answer(self, _request: web.Request) -> web.Response:
        self._reporter.sync()
        if time.monotonic() - self._usage_time >= USAGE_SECONDS:
            self._namespace_bytes = await self._usage()
            self._usage_time = time.monotonic()
        stats = await self._store.stats()
        lines = (
            *_store_lines(stats, self._namespace_bytes),
            *_scrub_lines(await self._store.scrubber.progress()),
            *_ledger_lines(ledger_info(self._store)),
            *_counter_lines(self._counters),
        )
        body = "\n".join(lines) + "\n"
        return web.Response(body=body.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _usage(self) -> int:
        """Return the sum of the sizes of all namespaces, in bytes."""
        total = 0
        for region in self._regions:
            number = 1
            while True:
                page = await self._store.namespaces.list(region, page=number, page_size=_PAGE_SIZE)
                total += sum(namespace.size for namespace in page.items)
                if len(page.items) < _PAGE_SIZE:
                    break
                number += 1
                await asyncio.sleep(0)  # let other requests run between pages
        return total


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP holdfast_{name} {text}"
    yield f"# TYPE holdfast_{name} {kind}"


def _histogram(
    name: str, bounds: Sequence[float], counts: Sequence[int], total: float, label: str = ""
) -> Iterator[str]:
    """Yield the samples of a histogram.

    ``counts`` has the values up to each bound and above the one before, and last those beyond all.
    """
    first, braced = (f"{label},", f"{{{label}}}") if label else ("", "")
    summed = list(accumulate(counts))
    for bound, count in zip((*map(str, bounds), "+Inf"), summed, strict=True):
        yield f'holdfast_{name}_bucket{{{first}le="{bound}"}} {count}'
    yield f"holdfast_{name}_sum{braced} {total}"
    yield f"holdfast_{name}_count{braced} {summed[-1]}"


def _family(name: str, kind: str, text: str, samples: Mapping[str, float] | float) -> Iterator[str]:
    """Yield one metric. ``samples`` are values by their labels, or one value without labels."""
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
        ("stored_bytes", "Bytes of all blobs on disk.", stats.stored_bytes),
        ("dedupe_ratio", "holdfast_namespace_bytes over holdfast_blob_bytes.", ratio),
        ("open_uploads", "Open upload sessions.", stats.uploads),
        ("holds", "Holds on blobs that no manifest references yet, or any more.", stats.holds),
        ("trash_entries", "Deleted objects that can be restored.", stats.trash),
        ("garbage_entries", "Length of the garbage queue.", stats.garbage),
        ("aside_entries", "Queue entries parked after they met a damaged row.", stats.aside),
        ("garbage_oldest_seconds", "Time since the head of the garbage queue became due.", age),
    )
    for name, text, value in gauges:
        yield from _family(name, "gauge", text, value)
    text = "Bytes freed by the sweep since the store was created."
    yield from _family("freed_bytes_total", "counter", text, stats.freed_bytes)


def _scrub_lines(progress: ScrubProgress) -> Iterator[str]:
    age = max(0.0, time.time() - progress.ended.timestamp()) if progress.ended is not None else 0.0
    text = "Part of all blobs read by the current scrub walk; 0 between walks."
    yield from _family("scrub_walk_ratio", "gauge", text, progress.part)
    text = "Time since the last scrub walk ended, or since the store was created."
    yield from _family("scrub_walk_age_seconds", "gauge", text, age)


def _ledger_lines(info: Mapping[str, int]) -> Iterator[str]:
    texts = {
        "map_bytes": "Address space of the ledger.",
        "used_bytes": "Size of the ledger's file in use; it never shrinks.",
        "live_bytes": "Bytes of the ledger's file that rows take.",
        "entries": "Rows of the ledger.",
        "readers": "Reader slots in use.",
    }
    for name, text in texts.items():
        if name in info:
            yield from _family(f"ledger_{name}", "gauge", text, info[name])
    if "last_txn" in info:
        text = "Transactions of all processes since the ledger was created."
        yield from _family("ledger_transactions_total", "counter", text, info["last_txn"])


_TALLIES: Final = {
    "swept_entries": ("sweep_entries_total", "Queue entries processed by the sweep."),
    "swept_files": ("sweep_files_total", "Files removed by the sweep."),
    "scrubbed_blobs": ("scrub_blobs_total", "Blobs checked by the scrub."),
    "scrubbed_bytes": ("scrub_bytes_total", "Bytes read by the scrub."),
    "scrub_damaged": ("scrub_damaged_total", "Damaged blobs found by the scrub."),
    "failed_handshakes": ("failed_handshakes_total", "Failed TLS handshakes."),
    "malformed_requests": (
        "malformed_requests_total",
        "Malformed requests; each ends its connection.",
    ),
    "failed_logins": ("failed_logins_total", "Requests with a secret that belongs to no key."),
    "audit_failed": ("audit_failures_total", "Audit log lines that could not be written."),
}
_LIMITS: Final = ("address", "key", "login")
_REFUSALS: Final = ("full", "address")


def _counter_lines(counters: Counters) -> Iterator[str]:
    sums = counters.sums()
    tallies = counters.tallies(sums)
    rows = counters.rows(sums)
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
    text = "Refused connections: too many in all, or from one address."
    yield from _family("refused_connections_total", "counter", text, refused)
    yield from _family("connections", "gauge", "Open connections.", tallies["connections"])
