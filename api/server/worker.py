"""One worker process: a store, the application, and the sockets the supervisor made.

``worker_process`` runs it. Its standard input is a pipe that ends with the supervisor; then it
stops.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from holdfast.api.access_log import AccessLogger
from holdfast.api.app import create_app
from holdfast.api.fast.connection import FastSite
from holdfast.api.fast.reads import FastReads
from holdfast.api.http.connection_limits import Admission, ConnectionLimits
from holdfast.api.http.drain import Drain
from holdfast.api.http.origin import is_proxy
from holdfast.api.http.site import Site
from holdfast.api.http.tls import server_context
from holdfast.api.limits.addresses import is_local, network_prefix
from holdfast.api.limits.worker_table import WorkerTable
from holdfast.api.telemetry.logs import ACCESS, set_up
from holdfast.engine import EngineError, StorageFailed, Store

from .instruments import Instruments
from .listeners import BACKLOG
from .settings import Settings
from .worker_config import READY, WorkerConfig

STDIN: Final = 0
KEEPALIVE_SECONDS: Final = 75.0
"""Idle connections close after this; longer than the idle time of usual proxies, which is 60."""
LINE_BYTES_MAX: Final = 16 * 1024
"""Of a request line: a PUT of a manifest may carry a hundred tags of 128 characters."""
FIELD_BYTES_MAX: Final = 32 * 1024
"""Of a header: a token of many long scopes (``tokens.SCOPES_MAX``) is one."""
BEAT_SECONDS: Final = 0.5
"""How often a worker shows that it is alive."""
REFUSALS_MAX: Final = 4
"""Beats at which the ledger refuses itself, one after the other, before a worker gives up."""
DRAIN_SHARE: Final = 0.8
"""Of the grace period, how much running requests get."""
CANCEL_SHARE: Final = 0.05
"""How much cancelled requests get, twice; the rest is for closing the store."""
SWITCH_SECONDS: Final = 0.0005
"""How long a hashing or committing thread may keep the interpreter from the event loop. With the
default of 5 ms, small requests beside a busy thread take ten times as long."""

log = logging.getLogger("holdfast.worker")


async def serve(config: WorkerConfig) -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(STDIN, _supervisor_gone, loop, stop)
    roster = WorkerTable(config.roster)
    roster.clear(config.slot)
    heart = loop.create_task(_beat(roster, config.slot), name="heart")
    try:
        await _serve(config, roster, stop)
    finally:
        heart.cancel()


async def _beat(roster: WorkerTable, slot: int) -> None:
    while True:
        roster.beat(slot)
        await asyncio.sleep(BEAT_SECONDS)


async def watch_ledger(store: Store, stop: asyncio.Event) -> None:
    """Stop where the ledger cannot be used any more, by whatever request.

    So it is once LMDB failed to write the page that a commit ends with, until it is opened anew:
    that is for the worker that takes this one's place.
    """
    refusals = 0
    while not stop.is_set():
        await asyncio.sleep(BEAT_SECONDS)
        try:
            store.version()
        except StorageFailed as error:
            refusals += 1
            if refusals == REFUSALS_MAX:
                log.critical("the ledger cannot be used any more: %s", error)
                stop.set()
        else:
            refusals = 0


async def _serve(config: WorkerConfig, roster: WorkerTable, stop: asyncio.Event) -> None:
    settings = config.settings
    store_config = settings.for_store(background=config.index == 0)
    async with Store.open(settings.data, store_config, create=False) as store:
        app_settings = settings.for_app(UUID(config.organization_id), config.ports)
        app = create_app(store, app_settings)
        instruments = Instruments(
            settings,
            app_settings,
            store,
            board=config.board,
            slot=config.slot,
            limits=config.limits,
            bandwidth=config.bandwidth,
        )
        instruments.install(app)
        drain = Drain()
        drain.install(app)
        watch = asyncio.create_task(watch_ledger(store, stop), name="ledger")
        runner = web.AppRunner(
            app,
            access_log=logging.getLogger(ACCESS) if settings.access_log else None,
            access_log_class=AccessLogger,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
            shutdown_timeout=settings.grace_seconds * CANCEL_SHARE,
        )
        await runner.setup()
        lane = instruments.lane()
        tls = _tls(settings)
        bounds = settings.bounds
        admission = Admission(
            ConnectionLimits(bounds.connections, bounds.address_connections, config.connections),
            roster,
            config.slot,
            is_proxy=lambda host: (
                (bounds.spare_local and is_local(network_prefix(host)))
                or is_proxy(host, app_settings)
            ),
            on_event=instruments.tell,
        )
        try:
            for descriptor in config.sockets:
                sock = socket.socket(fileno=descriptor)
                await _site(runner, sock, lane, drain, admission, tls).start()
            await instruments.start(runner, [socket.socket(fileno=one) for one in config.metrics])
            # What start-up made lives as long as the process: the collector need not look at it.
            gc.collect()
            gc.freeze()
            os.write(config.ready, READY)
            os.close(config.ready)
            await stop.wait()
            if lane is not None:
                lane.close()
            for site in list(runner.sites):
                await site.stop()
            server = runner.server
            assert server is not None
            patience = settings.grace_seconds * DRAIN_SHARE
            if not await drain.wait(patience, lambda: server.connections):
                log.warning("stopping with requests that did not end")
        finally:
            watch.cancel()
            await runner.cleanup()
            await instruments.stop()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_context(settings.tls_cert, settings.tls_key)


def _site(
    runner: web.AppRunner,
    sock: socket.socket,
    lane: FastReads | None,
    drain: Drain,
    admission: Admission,
    tls: ssl.SSLContext | None,
) -> Site:
    """The unix socket has no TLS: its peer is a program of this machine."""
    if sock.family == socket.AF_UNIX:
        tls = None
    options: Any = {"backlog": BACKLOG, "admission": admission, "tls": tls}
    if lane is None:
        return Site(runner, sock, **options)
    return FastSite(runner, sock, lane, drain, **options)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, which serves about twice as many small requests; asyncio's where it is missing."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _supervisor_gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.remove_reader(STDIN)
    stop.set()


def prepare() -> None:
    """Load what is imported late."""
    with suppress(ImportError):
        import uvloop  # noqa: F401


def run(config: WorkerConfig) -> int:
    """Run one worker. Exit code 0 after a stop, 1 when it cannot serve."""
    set_up(config.settings.log_format, config.settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(serve(config))
    except (EngineError, OSError, ValueError) as error:
        log.critical("worker %d cannot serve: %s", config.index, error)
        return 1
    return 0
