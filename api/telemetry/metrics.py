"""Serves ``/metrics`` in the Prometheus text format (version 0.0.4), over all workers together.

Worker 0 answers on a listener of its own, from the shared counters and from its store. The name of
a namespace, an image, a key or a client never becomes a label.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import accumulate
from typing import Final, Protocol, runtime_checkable

from aiohttp import web

from holdfast.engine import GROUP_BOUNDS, Store

from .counters import BOUNDS, Counters, Slot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SYNC_SECONDS: Final = 1.0
"""Longest delay in seconds of the other workers' commits and background work."""

USAGE_SECONDS: Final = 30.0
"""Longest age in seconds of the sum over all namespaces: it takes a read for every hundred."""

_PAGE_SIZE: Final = 100
_Samples = Mapping[str, float] | float
"""Samples by what follows the name of the metric (its labels), or one sample without labels."""

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
            **{name: info.get(name, 0) for name in (*_GROUPS, "members")},
            "sweep_entries": swept.entries,
            "sweep_files": swept.files,
            "scrub_blobs": scrubbed.blobs,
            "scrub_bytes": scrubbed.bytes,
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
        stats, progress = await self._store.stats(), await self._store.scrubber.progress()
        namespace_bytes, blob_bytes = self._namespace_bytes, stats.blob_bytes
        sources: dict[str, _Samples] = {
            **asdict(stats),
            **{f"ledger_{name}": size for name, size in ledger_info(self._store).items()},
            **_counted(self._counters),
            "namespace_bytes": namespace_bytes,
            "dedupe_ratio": namespace_bytes / blob_bytes if blob_bytes else 1.0,
            "garbage_oldest_seconds": _age(stats.oldest_garbage),
            "scrub_walk_ratio": progress.part,
            "scrub_walk_age_seconds": _age(progress.ended),
        }
        body = "".join(_lines(sources))
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


def _age(since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, time.time() - since.timestamp())


def _counted(counters: Counters) -> dict[str, _Samples]:
    """Return the sums over all workers."""
    sums = counters.sums()
    tallies = counters.tallies(sums)
    rows = {f'route="{route}"': row for route, row in counters.rows(sums).items()}
    groups = [*(tallies[name] for name in _GROUPS), 0]
    return {
        **tallies,
        "requests": {
            f'{{{route},method="{method}",status="{status}"}}': count
            for route, row in rows.items()
            for (method, status), count in row.requests.items()
        },
        "received_bytes": {f"{{{route}}}": row.received for route, row in rows.items()},
        "sent_bytes": {f"{{{route}}}": row.sent for route, row in rows.items()},
        "request_seconds": {
            end: value
            for route, row in rows.items()
            for end, value in _histogram(BOUNDS, row.buckets, row.seconds, route)
        },
        "ledger_commit_members": dict(_histogram(GROUP_BOUNDS, groups, tallies["members"])),
        "limited_requests": {f'{{limit="{kind}"}}': tallies[f"limited_{kind}"] for kind in _LIMITS},
        "refused_connections": {
            f'{{reason="{why}"}}': tallies[f"refused_{why}"] for why in _REFUSALS
        },
    }


def _histogram(
    bounds: Sequence[float], counts: Sequence[int], total: float, label: str = ""
) -> Iterator[tuple[str, float]]:
    """Yield the samples of a histogram.

    ``counts`` has the values up to each bound and above the one before, and last those beyond all.
    """
    first, braced = (f"{label},", f"{{{label}}}") if label else ("", "")
    summed = list(accumulate(counts))
    for bound, count in zip((*map(str, bounds), "+Inf"), summed, strict=True):
        yield f'_bucket{{{first}le="{bound}"}}', count
    yield f"_sum{braced}", total
    yield f"_count{braced}", summed[-1]


def _lines(sources: Mapping[str, _Samples]) -> Iterator[str]:
    """Yield a scrape, metric by metric."""
    for name, text in METRICS.items():
        source = _SOURCES.get(name, name.removesuffix("_total"))
        # A ledger in memory has no sizes.
        if source.startswith("ledger_") and source not in sources:
            continue
        kind = "counter" if name.endswith("_total") else _KINDS.get(name, "gauge")
        yield f"# HELP holdfast_{name} {text}\n# TYPE holdfast_{name} {kind}\n"
        samples = sources[source]
        for end, value in (samples if isinstance(samples, Mapping) else {"": samples}).items():
            yield f"holdfast_{name}{end} {value}\n"


METRICS: Final = {
    "namespaces": "Namespaces.",
    "images": "Images.",
    "namespace_bytes": "Sum of the sizes of all namespaces.",
    "blobs": "Blobs, each once.",
    "blob_bytes": "Sum of the sizes of all blobs, each once.",
    "stored_bytes": "Bytes of all blobs on disk.",
    "dedupe_ratio": "holdfast_namespace_bytes over holdfast_blob_bytes.",
    "open_uploads": "Open upload sessions.",
    "holds": "Holds on blobs that no manifest references yet, or any more.",
    "trash_entries": "Deleted objects that can be restored.",
    "garbage_entries": "Length of the garbage queue.",
    "aside_entries": "Queue entries parked after they met a damaged row.",
    "garbage_oldest_seconds": "Time since the head of the garbage queue became due.",
    "freed_bytes_total": "Bytes freed by the sweep since the store was created.",
    "scrub_walk_ratio": "Part of all blobs read by the current scrub walk; 0 between walks.",
    "scrub_walk_age_seconds": (
        "Time since the last scrub walk ended, or since the store was created."
    ),
    "ledger_map_bytes": "Address space of the ledger.",
    "ledger_used_bytes": "Size of the ledger's file in use; it never shrinks.",
    "ledger_live_bytes": "Bytes of the ledger's file that rows take.",
    "ledger_entries": "Rows of the ledger.",
    "ledger_readers": "Reader slots in use.",
    "ledger_transactions_total": "Transactions of all processes since the ledger was created.",
    "requests_total": "Requests by route, method and class of status (gone: the client left).",
    "received_bytes_total": "Bytes of request bodies.",
    "sent_bytes_total": "Bytes of answers' bodies.",
    "request_seconds": "Time until an answer is ready, or streamed.",
    "ledger_commit_members": "Changes in a commit of the ledger.",
    "sweep_entries_total": "Queue entries processed by the sweep.",
    "sweep_files_total": "Files removed by the sweep.",
    "scrub_blobs_total": "Blobs checked by the scrub.",
    "scrub_bytes_total": "Bytes read by the scrub.",
    "scrub_damaged_total": "Damaged blobs found by the scrub.",
    "failed_handshakes_total": "Failed TLS handshakes.",
    "malformed_requests_total": "Malformed requests; each ends its connection.",
    "failed_logins_total": "Requests with a secret that belongs to no key.",
    "audit_failures_total": "Audit log lines that could not be written.",
    "limited_requests_total": "Requests answered 429.",
    "refused_connections_total": "Refused connections: too many in all, or from one address.",
    "connections": "Open connections.",
}
"""Metrics and their help. Counters, and no others, end in ``_total``."""

_KINDS: Final = {"request_seconds": "histogram", "ledger_commit_members": "histogram"}
"""Kinds of the metrics that are neither counter nor gauge."""

_SOURCES: Final = {
    "open_uploads": "uploads",
    "trash_entries": "trash",
    "garbage_entries": "garbage",
    "aside_entries": "aside",
    "ledger_transactions_total": "ledger_last_txn",
}
"""Sources of metrics that are not called as the metric without ``_total``."""

_LIMITS: Final = ("address", "key", "login")
_REFUSALS: Final = ("full", "address")
