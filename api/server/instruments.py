"""Counters, rate limits, audit log, traces and metrics of a worker, built from its settings."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from holdfast.api.fast.reads import FastReads
from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.connection_limits import Admission, ConnectionLimits
from holdfast.api.http.site import Site
from holdfast.api.limits.bandwidth import Bandwidth
from holdfast.api.limits.rates import Limits
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.management.openapi import version_of_package
from holdfast.api.middleware import ROUTES, RequestMiddleware
from holdfast.api.recorder import Recorder
from holdfast.api.telemetry.audit import Audit
from holdfast.api.telemetry.counters import Counters, Layout, Slot
from holdfast.api.telemetry.logs import ACCESS
from holdfast.api.telemetry.metrics import Metrics, Reporter
from holdfast.api.telemetry.tracing import Traces
from holdfast.engine import Store

from .listeners import BACKLOG
from .settings import Settings

SCRAPE_CONNECTIONS: Final = ConnectionLimits(total=64, of_address=16, of_process=64)
"""Limits of connections to the metrics; a scraper needs one."""

KEEPALIVE_SECONDS: Final = 75.0
"""Idle time in seconds of a scraper's connection, longer than the usual scrape interval."""


class Instruments:
    """Counters, limits, audit log, traces and metrics of one worker.

    ``shared`` is the memory that all workers share, ``slot`` this process's place in it.
    """

    def __init__(
        self,
        settings: Settings,
        app_settings: AppSettings,
        store: Store,
        *,
        shared: SharedMemory,
        slot: int,
    ) -> None:
        """Raises OSError if the audit log cannot be opened."""
        self._settings = settings
        self._app_settings = app_settings
        self._store = store
        layout = Layout(ROUTES)
        self._counters = Counters(shared.counters, layout)
        # Without metrics no process counts: each request is spared the time.
        self._slot = None if settings.metrics is None else Slot(shared.counters[slot], layout)
        self._reporter = None if self._slot is None else Reporter(store, self._slot)
        rate, collector = settings.bandwidth, settings.traces
        self._recorder = Recorder(
            slot=self._slot,
            limits=Limits(shared, settings.rates),
            bandwidth=Bandwidth(shared, rate) if rate else None,
            audit=None if settings.audit_log is None else Audit(settings.audit_log),
            log=logging.getLogger(ACCESS) if settings.access_log else None,
            traces=None if collector is None else Traces(collector, version_of_package()),
        )
        self._task: asyncio.Task[None] | None = None
        self._scrapes: web.AppRunner | None = None

    def install(self, app: web.Application) -> None:
        """Add the middleware to an application. Call it before the application runs."""
        RequestMiddleware(self._app_settings, self._recorder).install(app)

    def count_event(self, name: str) -> None:
        """Count an event that belongs to no route (``counters.TALLIES``)."""
        if self._slot is not None:
            self._slot.add(name)

    def fast_reads(self) -> FastReads | None:
        """Return the fast path, or None if it is switched off."""
        if not self._settings.fast_path:
            return None
        return FastReads(self._store, self._app_settings, self._recorder)

    async def start(self, runner: web.AppRunner, sockets: Sequence[socket.socket]) -> None:
        """Start counting the connections of ``runner``, and serve scrapes on the sockets."""
        if self._reporter is None:
            return
        self._reporter.server = runner.server
        self._task = asyncio.create_task(self._reporter.forever(), name="metrics")
        if sockets:
            regions = self._settings.regions
            metrics = Metrics(self._store, regions, self._counters, self._reporter)
            self._scrapes = web.AppRunner(
                metrics.application(), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS
            )
            await self._scrapes.setup()
            for sock in sockets:
                admission = Admission(SCRAPE_CONNECTIONS)
                await Site(self._scrapes, sock, backlog=BACKLOG, admission=admission).start()

    async def stop(self) -> None:
        """Write the last counts and close everything. May be called twice."""
        if self._scrapes is not None:
            await self._scrapes.cleanup()
            self._scrapes = None
        task, self._task = self._task, None
        if task is not None and self._reporter is not None and self._slot is not None:
            task.cancel()
            await asyncio.wait([task])
            self._reporter.sync()
            self._slot.set("connections", 0)
        await self._recorder.close()
