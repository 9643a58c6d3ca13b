"""What a worker measures, limits and records besides serving: made of its settings."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from holdfast.api.fast.reads import FastReads
from holdfast.api.fast.recorder import FastRecorder
from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.connection_limits import Admission, ConnectionLimits
from holdfast.api.http.site import Site
from holdfast.api.limits.bandwidth import Bandwidth
from holdfast.api.limits.rates import Limits
from holdfast.api.management.openapi import version_of_package
from holdfast.api.middleware import ROUTES, RequestMiddleware
from holdfast.api.telemetry.audit import Audit
from holdfast.api.telemetry.counters import Counters, Layout, Slot
from holdfast.api.telemetry.logs import ACCESS
from holdfast.api.telemetry.metrics import Metrics, Reporter
from holdfast.api.telemetry.tracing import Traces
from holdfast.engine import Store

from .listeners import BACKLOG
from .settings import Settings

SCRAPERS: Final = ConnectionLimits(total=64, of_address=16, of_process=64)
"""Connections to the metrics: a scraper has one."""

KEEPALIVE_SECONDS: Final = 75.0
"""Of theirs: longer than the usual interval between two scrapes."""


class Instruments:
    """Board, limits, audit log, traces and metrics of one worker.

    ``board``, ``limits`` and ``bandwidth`` are descriptors of what all workers share; there is a
    board only where there are metrics.
    """

    def __init__(
        self,
        settings: Settings,
        app_settings: AppSettings,
        store: Store,
        *,
        board: int | None,
        slot: int,
        limits: int,
        bandwidth: int,
    ) -> None:
        """Raises OSError where the audit log cannot be opened."""
        self._settings = settings
        self._app_settings = app_settings
        self._store = store
        layout = Layout(ROUTES)
        self._board = None if board is None else Counters(board, layout)
        self._slot = None if board is None else Slot(board, slot, layout)
        self._reporter = None if self._slot is None else Reporter(store, self._slot)
        self._limits = Limits(limits, settings.rates)
        rate = settings.bounds.bandwidth
        self._bandwidth = Bandwidth(bandwidth, rate) if rate else None
        self._audit = None if settings.audit_log is None else Audit(settings.audit_log)
        self._traces = (
            None if settings.traces is None else Traces(settings.traces, version_of_package())
        )
        self._task: asyncio.Task[None] | None = None
        self._scrapes: web.AppRunner | None = None

    def install(self, app: web.Application) -> None:
        """RequestMiddleware an application. Call it before the application runs."""
        watch = RequestMiddleware(
            self._app_settings,
            slot=self._slot,
            limits=self._limits,
            bandwidth=self._bandwidth,
            audit=self._audit,
            traces=self._traces,
        )
        watch.install(app)

    def tell(self, name: str) -> None:
        """Count something that belongs to no route (``board.TALLIES``)."""
        if self._slot is not None:
            self._slot.add(name)

    def lane(self) -> FastReads | None:
        """The fast lane, unless it is switched off."""
        settings = self._settings
        if not settings.fast_path:
            return None
        watch = FastRecorder(
            slot=self._slot,
            limits=self._limits if self._limits.are_active else None,
            bandwidth=self._bandwidth,
            log=logging.getLogger(ACCESS) if settings.access_log else None,
            audit=self._audit,
            traces=self._traces,
        )
        watched = (
            self._slot is not None
            or self._limits.are_active
            or self._bandwidth is not None
            or settings.access_log
            or self._audit is not None
            or self._traces is not None
        )
        return FastReads(self._store, self._app_settings, watch if watched else None)

    async def start(self, runner: web.AppRunner, sockets: Sequence[socket.socket]) -> None:
        """Begin to count what ``runner`` serves; answer scrapes on these sockets."""
        if self._reporter is None or self._board is None:
            return
        self._reporter.server = runner.server
        self._task = asyncio.create_task(self._reporter.forever(), name="metrics")
        if sockets:
            regions = self._settings.regions
            metrics = Metrics(self._store, regions, self._board, self._reporter)
            self._scrapes = web.AppRunner(
                metrics.application(), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS
            )
            await self._scrapes.setup()
            for sock in sockets:
                admission = Admission(SCRAPERS)
                await Site(self._scrapes, sock, backlog=BACKLOG, admission=admission).start()

    async def stop(self) -> None:
        """Put the last numbers on the board and let go of everything. May be called twice."""
        if self._scrapes is not None:
            await self._scrapes.cleanup()
            self._scrapes = None
        task, self._task = self._task, None
        if task is not None and self._reporter is not None and self._slot is not None:
            task.cancel()
            await asyncio.wait([task])
            self._reporter.sync()
            self._slot.set("connections", 0)
        if self._audit is not None:
            self._audit.close()
            self._audit = None
        traces, self._traces = self._traces, None
        if traces is not None:
            await traces.close()
