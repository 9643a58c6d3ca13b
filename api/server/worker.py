"""A worker process: an open store, the application, and sockets from the supervisor.

``worker_process`` runs it. Standard input is a pipe whose other end the supervisor holds: when
the supervisor ends, the worker reads the end of the pipe and stops.
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
from holdfast.api.middleware import AccessLogger
from holdfast.api.telemetry.logs import ACCESS, set_up
from holdfast.engine import EngineError, StorageFailed, Store

from .instruments import Instruments
from .listeners import BACKLOG
from .settings import Settings
from .worker_config import READY, WorkerConfig

STDIN: Final = 0
KEEPALIVE_SECONDS: Final = 75.0
"""Idle time in seconds after which a connection closes; proxies usually close theirs after 60."""
LINE_BYTES_MAX: Final = 16 * 1024
"""Limit of a request line: a PUT of a manifest may have 100 tags of 128 characters."""
FIELD_BYTES_MAX: Final = 32 * 1024
"""Limit of a header field: a token with many long scopes (``tokens.SCOPES_MAX``) must fit."""
HEARTBEAT_SECONDS: Final = 0.5
"""Seconds between two heartbeats."""
LEDGER_FAILURES_MAX: Final = 4
"""Failed ledger checks in a row after which a worker stops; it checks once per heartbeat."""
DRAIN_SHARE: Final = 0.8
"""Share of the grace period for running requests."""
CANCEL_SHARE: Final = 0.05
"""Share for cancelled requests, used twice; the rest of the period is for closing the store."""
SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""Longest time that a hashing or committing thread holds the GIL while the event loop waits.

With the default of 5 ms, small requests take ten times as long beside a busy thread.
"""

log = logging.getLogger("holdfast.worker")


async def serve(config: WorkerConfig) -> None:
    """Serve until SIGTERM, or until the supervisor ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(STDIN, _supervisor_gone, loop, stop)
    worker_table = WorkerTable(config.shared)
    worker_table.clear(config.slot)
    heartbeat = loop.create_task(_send_heartbeats(worker_table, config.slot), name="heartbeat")
    try:
        await _serve(config, worker_table, stop)
    finally:
        heartbeat.cancel()


async def _send_heartbeats(worker_table: WorkerTable, slot: int) -> None:
    while True:
        worker_table.beat(slot)
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def watch_ledger(store: Store, stop: asyncio.Event) -> None:
    """Set ``stop`` when the ledger has failed for good.

    After LMDB fails to write the last page of a commit, every call fails until the environment is
    opened again. The worker that replaces this one does that.
    """
    failures = 0
    while not stop.is_set():
        await asyncio.sleep(HEARTBEAT_SECONDS)
        try:
            store.version()
        except StorageFailed as error:
            failures += 1
            if failures == LEDGER_FAILURES_MAX:
                log.critical("ledger failed: %s; stopping the worker", error)
                stop.set()
        else:
            failures = 0


async def _serve(config: WorkerConfig, worker_table: WorkerTable, stop: asyncio.Event) -> None:
    settings = config.settings
    store_config = settings.for_store(background=config.index == 0)
    async with Store.open(settings.data, store_config, create=False) as store:
        app_settings = settings.for_app(UUID(config.organization_id), config.ports)
        app = create_app(store, app_settings)
        instruments = Instruments(
            settings,
            app_settings,
            store,
            shared=config.shared,
            slot=config.slot,
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
        fast_reads = instruments.fast_reads()
        tls = _tls(settings)
        per_address = settings.max_connections_per_address
        admission = Admission(
            ConnectionLimits(settings.max_connections, per_address.value, config.connections),
            worker_table,
            config.slot,
            is_proxy=lambda host: (
                (per_address.spare_local and is_local(network_prefix(host)))
                or is_proxy(host, app_settings)
            ),
            on_event=instruments.count_event,
        )
        try:
            for descriptor in config.sockets:
                sock = socket.socket(fileno=descriptor)
                await _site(runner, sock, fast_reads, drain, admission, tls).start()
            await instruments.start(runner, [socket.socket(fileno=one) for one in config.metrics])
            # Objects from the start live as long as the process: exempt them from collections.
            gc.collect()
            gc.freeze()
            # All sockets are served now: the supervisor may announce the server.
            os.write(config.ready, READY)
            os.close(config.ready)
            await stop.wait()
            # Stop accepting before the drain: new connections wait for the replacement, if any.
            if fast_reads is not None:
                fast_reads.close()
            for site in list(runner.sites):
                await site.stop()
            server = runner.server
            assert server is not None
            timeout = settings.grace_seconds * DRAIN_SHARE
            if not await drain.wait(timeout, lambda: server.connections):
                log.warning("drain timed out after %g s; cancelling the running requests", timeout)
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
    fast_reads: FastReads | None,
    drain: Drain,
    admission: Admission,
    tls: ssl.SSLContext | None,
) -> Site:
    """Return the site of a socket. A unix socket has no TLS: its peer runs on this machine."""
    if sock.family == socket.AF_UNIX:
        tls = None
    options: Any = {"backlog": BACKLOG, "admission": admission, "tls": tls}
    if fast_reads is None:
        return Site(runner, sock, **options)
    return FastSite(runner, sock, fast_reads, drain, **options)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, or asyncio's if uvloop is not installed.

    uvloop serves about twice as many small requests.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _supervisor_gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.remove_reader(STDIN)
    stop.set()


def prepare() -> None:
    """Import the modules that are otherwise imported late."""
    with suppress(ImportError):
        import uvloop  # noqa: F401


def run(config: WorkerConfig) -> int:
    """Run a worker. Return exit code 0 after a stop, 1 if it cannot serve."""
    set_up(config.settings.log_format, config.settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(serve(config))
    except (EngineError, OSError, ValueError) as error:
        log.critical("worker %d cannot serve: %s", config.index, error)
        return 1
    return 0
