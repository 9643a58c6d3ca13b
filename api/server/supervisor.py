"""``holdfast serve``: checks that it can serve, then keeps its worker processes running.

The supervisor handles no request. It owns what there is once in a server: the lock on the data
directory, the ports, the owner key. A worker that dies is started again; workers outlive the
supervisor by no more than their running requests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import resource
import signal
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from holdfast.api.http.connection_limits import connections_of_process
from holdfast.api.http.regions import endpoint_of
from holdfast.api.telemetry import logs
from holdfast.engine import EngineError, Store

from .listeners import CannotListen, Listeners
from .owner_key import Owner, OwnerError, ensure_owner, given_by, is_revoked
from .server_files import (
    LOCK_FILE,
    NOTE_FILE,
    OWNER_FILE,
    DirectoryInUse,
    ServerNote,
    lock,
    write_note,
)
from .settings import Address, BadSetting, Settings
from .shared_memory import Shared
from .worker_config import READY, WorkerConfig
from .worker_process import WorkerProcess, prepare

RESTART_SECONDS_MIN: Final = 0.1
RESTART_SECONDS_MAX: Final = 10.0
STEADY_SECONDS: Final = 30.0
"""A worker that lived this long is started again without delay; a shorter life doubles the wait,
so that a worker that cannot start does not take the machine with it."""


WATCH_SECONDS: Final = 0.5
"""How often a worker's pulse is looked at."""

PRIVATE_FILES: Final = ("FORMAT", LOCK_FILE, NOTE_FILE, OWNER_FILE)

FIXED: Final = {
    "data": "data",
    "listen": "listen",
    "workers": "workers",
    "regions": "region",
    "endpoints": "endpoint",
    "unix": "unix",
    "metrics": "metrics",
}
"""Settings that a reload does not change, and what they are called: listeners hang on them."""

_log: Final = logging.getLogger(__name__)


class CannotServe(Exception):
    """The server cannot start. The text is one line."""


def serve(
    settings: Settings, environment: Mapping[str, str], reload: Callable[[], Settings]
) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotServe when the server cannot start.

    SIGHUP asks ``reload`` for other settings, which may raise BadSetting.
    """
    # Whatever any process of the server makes is its owner's alone.
    os.umask(0o077)
    logs.set_up(settings.log_format, settings.log_level, bare=True)
    files = _raise_file_limit()
    listeners = Listeners(settings.workers)
    try:
        address, ports = _listen(settings, listeners)
        # A loop of its own: its threads end with it, and processes with threads may not fork.
        owner, descriptor = asyncio.run(_open(settings, given_by(environment)))
        try:
            prepare()
            supervisor = Supervisor(settings, owner, listeners, ports, reload, files)
            asyncio.run(supervisor.run(ready=lambda: _announce(settings, address, ports)))
        finally:
            os.close(descriptor)
    except (CannotListen, DirectoryInUse, EngineError, OwnerError) as error:
        raise CannotServe(str(error)) from error
    except OSError as error:
        raise CannotServe(f"{error.filename or settings.data}: {error.strerror}") from error
    finally:
        listeners.close()


async def _open(settings: Settings, given: Mapping[str, str]) -> tuple[Owner, int]:
    """Make the directory what a server needs; its owner, and the descriptor that locks it."""
    # Opened once here, so that a bad directory is told in one line and workers find it made.
    async with Store.open(settings.data, settings.for_store(background=False)) as store:
        descriptor = lock(settings.data)
        try:
            _close_to_others(settings.data)
            owner = await ensure_owner(store, settings.data, given)
            if await is_revoked(store, owner):
                _log.warning("the owner key in %s/%s was revoked", _shown(settings), OWNER_FILE)
        except BaseException:
            os.close(descriptor)
            raise
    return owner, descriptor


def _listen(settings: Settings, listeners: Listeners) -> tuple[Address, dict[str, int]]:
    """Listen everywhere; the main address, and the ports that belong to one region each."""
    address = listeners.listen(settings.listen)
    assert address.port is not None
    ports = {settings.regions[0]: address.port}
    for region, endpoint in settings.endpoints.items():
        if listeners.listen_too(endpoint) and endpoint.port is not None:
            ports[region] = endpoint.port
    if settings.unix is not None:
        listeners.listen_unix(settings.unix)
    if settings.metrics is not None:
        _tell(f"metrics are on http://{listeners.listen_metrics(settings.metrics)}/metrics")
    if settings.public_url is None:
        # Last, so that no port is taken that was asked for by its number.
        for region in settings.regions:
            if region in settings.endpoints or region in ports:
                continue
            if (port := listeners.listen_next()) is not None:
                ports[region] = port
    return address, ports


def _announce(settings: Settings, address: Address, ports: Mapping[str, int]) -> None:
    here = address.reachable()
    scheme = "http" if settings.tls_cert is None else "https"
    places = settings.for_app(None, ports)
    note = ServerNote(
        listen=str(here),
        url=settings.public_url or f"{scheme}://{here}",
        registries={
            region: endpoint_of(region, str(here), scheme, places) for region in settings.regions
        },
        tls=settings.tls_cert is not None,
    )
    write_note(settings.data, note)
    for region, port in ports.items():
        if region != settings.regions[0]:
            place = settings.endpoints.get(region) or Address(address.host, port)
            _tell(f"region {region} is on {place}")
    data = _shown(settings)
    key = f"owner key in {data}/{OWNER_FILE}"
    _tell(f"holdfast is ready on {scheme}://{address} (data {data}, {key})")


def _shown(settings: Settings) -> str:
    return str(settings.data) if settings.data.is_absolute() else f"./{settings.data}"


def _tell(line: str) -> None:
    with suppress(BrokenPipeError):  # nobody reads; that is no reason to stop serving
        click.echo(line)


def _close_to_others(directory: Path) -> None:
    """Take from others what an older umask, or a careful hand, gave them; say so."""
    for path, mode in ((directory, 0o700), *((directory / name, 0o600) for name in PRIVATE_FILES)):
        try:
            before = stat.S_IMODE(path.stat().st_mode)
            if before & 0o077:
                path.chmod(mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("%s is open to others, and stays so: %s", path, error.strerror)
        else:
            if before & 0o077:
                _log.warning("%s was open to others: its mode is %#o now", path, mode)


def _raise_file_limit() -> int:
    """Connections and open blobs are files: allow as many as the system lets us, and say how many
    that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Supervisor:
    """The worker processes of one server."""

    def __init__(
        self,
        settings: Settings,
        owner: Owner,
        listeners: Listeners,
        ports: Mapping[str, int],
        reload: Callable[[], Settings],
        files: int,
    ) -> None:
        """``files`` is how many a process may have open."""
        self._settings = settings
        self._ports = ports
        self._connections = connections_of_process(files)
        self._owner = owner
        self._listeners = listeners
        self._reload = reload
        self._processes: set[WorkerProcess] = set()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._shared = Shared(settings)
        self._renewals = [asyncio.Event() for _ in range(settings.workers)]
        self._renewing = asyncio.Lock()
        self._retiring: dict[int, asyncio.Task[None]] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all workers, call ``ready`` when they serve, keep them running until a signal.

        Raises CannotServe when a worker cannot start the first time.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGCHLD, self._on_end)
        if self._connections < self._settings.bounds.connections:
            _log.warning(
                "a worker takes %d connections, not %d: it may have twice as many open files only",
                self._connections,
                self._settings.bounds.connections,
            )
        first = [loop.create_future() for _ in range(self._settings.workers)]
        keepers = [asyncio.create_task(self._keep(*each)) for each in enumerate(first)]
        for keeper in keepers:  # they end with the stop only, so an early end is a fault
            keeper.add_done_callback(lambda _: self._stop.set())
        stop = asyncio.create_task(self._stop.wait())
        all_serve = asyncio.ensure_future(asyncio.gather(*first))
        try:
            await asyncio.wait([stop, all_serve], return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                ready()
            await stop
        finally:
            all_serve.cancel()
            with suppress(asyncio.CancelledError):
                await all_serve
            self._stop.set()
            await self._end(keepers)
            self._shared.close()
        await asyncio.gather(*keepers)

    def _on_signal(self) -> None:
        """The first signal stops; a second one does not wait for running requests."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_end(self) -> None:
        for process in self._processes:
            process.look()

    def _on_reload(self) -> None:
        """Take other settings, and let every worker be followed by one that has them."""
        if self._stop.is_set():
            return
        try:
            self._settings = _changed(self._settings, self._reload())
        except BadSetting as error:
            _log.warning("nothing is reloaded: %s", error.reason)
            return
        logs.set_up(self._settings.log_format, self._settings.log_level, bare=True)
        for renewal in self._renewals:
            renewal.set()

    async def _attend(self, index: int, process: WorkerProcess) -> int:
        """Wait for the end of a worker, or of whichever follows it at a reload; its exit code."""
        renewal = self._renewals[index]
        while True:
            ended = asyncio.create_task(process.wait())
            renewed = asyncio.create_task(renewal.wait())
            silent = asyncio.create_task(self._silence(self._shared.slots[index]))
            await asyncio.wait((ended, renewed, silent), return_when=asyncio.FIRST_COMPLETED)
            renewed.cancel()
            silent.cancel()
            if not ended.done() and silent.done():
                _log.warning("worker %d is not heard of any more, and is ended", index)
                process.kill()
                return await ended
            if ended.done():
                return ended.result()
            ended.cancel()
            renewal.clear()
            process = await self._renew(index, process)

    async def _silence(self, slot: int) -> None:
        """Return when nothing was heard of the process of a slot for too long.

        Its silence is counted in rests of ours: a machine that slept, or stood still as a whole,
        is no reason to end anybody.
        """
        heard, silence = self._shared.workers.pulse(slot), 0.0
        while not (limit := self._settings.watchdog_seconds) or silence < limit:
            await asyncio.sleep(WATCH_SECONDS)
            silence += WATCH_SECONDS
            if (pulse := self._shared.workers.pulse(slot)) != heard:
                heard, silence = pulse, 0.0

    async def _renew(self, index: int, old: WorkerProcess) -> WorkerProcess:
        """Start a worker that follows another one; when it serves, stop the old one.

        One at a time. One that cannot serve is given up, and the old one stays.
        """
        async with self._renewing:
            if index in self._retiring:  # its slot is the next one's
                await self._retiring.pop(index)
            if self._stop.is_set() or old.returncode is not None:
                return old
            self._shared.turn(index)
            try:
                new, serves = await self._start(index)
            except OSError as error:
                cause = error.strerror or str(error)
            else:
                if serves:
                    slot = self._shared.other(index)
                    self._retiring[index] = asyncio.create_task(self._retire(old, slot))
                    return new
                cause = _cause(await new.wait())
                self._shared.workers.clear(self._shared.slots[index])
            self._shared.turn(index)
            if not self._stop.is_set():
                _log.warning("worker %d stays as it was: its follower failed (%s)", index, cause)
            return old

    async def _retire(self, process: WorkerProcess, slot: int) -> None:
        """Stop a worker whose follower serves; its running requests get the grace period."""
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._settings.grace_seconds)
        if process.returncode is None:
            process.kill()
            await process.wait()
        self._shared.workers.clear(slot)

    async def _keep(self, index: int, first: asyncio.Future[None]) -> None:
        """Run one worker, again and again until the stop. ``first`` is done once it serves."""
        delay = 0.0
        while True:
            begun = time.monotonic()
            try:
                process, serves = await self._start(index)
            except OSError as error:  # no memory or processes left, perhaps not for long
                if not first.done():
                    raise
                cause = error.strerror or str(error)
            else:
                if serves and not first.done():
                    first.set_result(None)
                cause = _cause(await self._attend(index, process))
                self._shared.workers.clear(self._shared.slots[index])
            if self._stop.is_set():
                return
            if not first.done():
                raise CannotServe(f"worker {index} could not start ({cause})")
            if time.monotonic() - begun >= STEADY_SECONDS:
                delay = 0.0
            _log.warning("worker %d ended (%s) and is started again", index, cause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
                return
            delay = min(max(2 * delay, RESTART_SECONDS_MIN), RESTART_SECONDS_MAX)

    async def _start(self, index: int) -> tuple[WorkerProcess, bool]:
        """Start one worker; return when it serves (True), or when it died before (False), of
        the watchdog perhaps."""
        sockets = tuple(listener.fileno() for listener in self._listeners.of_worker(index))
        scrapes = [listener.fileno() for listener in self._listeners.of_metrics()]
        metrics = tuple(scrapes if index == 0 else ())
        shared = self._shared
        ready, ready_of_worker = os.pipe()
        try:
            config = WorkerConfig(
                index=index,
                sockets=sockets,
                ready=ready_of_worker,
                organization_id=self._owner.organization_id,
                settings=self._settings,
                ports=self._ports,
                connections=self._connections,
                slot=shared.slots[index],
                limits=shared.limits,
                bandwidth=shared.bandwidth,
                roster=shared.roster,
                board=shared.board,
                metrics=metrics,
            )
            try:
                process = WorkerProcess(config)
            finally:
                os.close(ready_of_worker)
            self._processes = {one for one in self._processes if one.returncode is None}
            self._processes.add(process)
            if self._stop.is_set():  # it came while the others were stopped
                process.terminate()
            # It is alive before it serves: to open a store after a crash may take its time.
            serves = asyncio.create_task(_readable(ready))
            silent = asyncio.create_task(self._silence(shared.slots[index]))
            try:
                await asyncio.wait((serves, silent), return_when=asyncio.FIRST_COMPLETED)
                if serves.done():
                    return process, serves.result() == READY
            finally:
                for waiter in (serves, silent):
                    waiter.cancel()
                await asyncio.wait((serves, silent))
            _log.warning("worker %d does not begin to serve, and is ended", index)
            process.kill()
            return process, False
        finally:
            os.close(ready)

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        """Stop all workers: politely, then, when the grace period is over, at once."""
        # First our copies of the sockets: a port without a listener refuses, and does not hang.
        self._listeners.close()
        self._signal(signal.SIGTERM)
        hurry = asyncio.create_task(self._hurry.wait())
        all_ends = (*keepers, *self._retiring.values())
        ends = asyncio.ensure_future(asyncio.gather(*all_ends, return_exceptions=True))
        either: list[asyncio.Future[Any]] = [ends, hurry]
        patience = self._settings.grace_seconds
        await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        self._signal(signal.SIGKILL)
        await ends

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)


def _changed(old: Settings, new: Settings) -> Settings:
    """The new settings, but for those that only a restart changes; they are told."""
    kept = {name: getattr(old, name) for name in FIXED if getattr(old, name) != getattr(new, name)}
    if (old.tls_cert is None) != (new.tls_cert is None):
        kept |= {"tls_cert": old.tls_cert, "tls_key": old.tls_key}
    if kept:
        names = ", ".join(FIXED.get(name, name.replace("_", "-")) for name in kept)
        _log.warning("changes at the next start only: %s", names)
    return dataclasses.replace(new, **kept)


async def _readable(descriptor: int) -> bytes:
    """What a pipe has to say: its first byte, or nothing at its end."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1)


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
