"""``holdfast serve``: prepares the server, then starts and watches its worker processes.

The supervisor handles no request. It owns the resources that a server has once: the lock on the
data directory, the ports, the owner key. It restarts a worker that dies. When the supervisor
dies, the workers finish their running requests and stop.
"""

from __future__ import annotations

import asyncio
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
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.limits.worker_table import WorkerTable
from holdfast.api.telemetry import logs
from holdfast.engine import EngineError, Store

from .listeners import CannotListen, Listeners
from .owner_key import Owner, OwnerError, ensure_owner, is_revoked, read_environment
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
from .worker_config import READY, WorkerConfig
from .worker_process import WorkerProcess, prepare

RESTART_SECONDS_MIN: Final = 0.1
RESTART_SECONDS_MAX: Final = 10.0
STABLE_AFTER_SECONDS: Final = 30.0
"""Lifetime after which a dead worker is restarted without delay. A shorter life doubles the delay,
so that a worker that cannot start does not use up the machine."""

WATCHDOG_POLL_SECONDS: Final = 0.5
"""Seconds between two looks at a worker's heartbeat."""

PRIVATE_FILES: Final = ("FORMAT", LOCK_FILE, NOTE_FILE, OWNER_FILE)

_log: Final = logging.getLogger(__name__)


class CannotServe(Exception):
    """The server cannot start. The text is one line."""


def serve(
    settings: Settings, environment: Mapping[str, str], reload: Callable[[], Settings]
) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotServe if the server cannot start.

    SIGHUP calls ``reload`` for new settings; it may raise BadSetting.
    """
    # Files that a process of the server creates are for its user only.
    os.umask(0o077)
    logs.set_up(settings.log_format, settings.log_level, bare=True)
    files = _raise_file_limit()
    listeners = Listeners(settings.workers)
    try:
        address, ports = _listen(settings, listeners)
        # A separate event loop, whose threads end with it: a process with threads must not fork.
        owner, descriptor = asyncio.run(_open(settings, read_environment(environment)))
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
    """Prepare and lock the data directory. Return its owner and the descriptor of the lock."""
    # Open the store once here: a bad directory fails with one line before any worker starts.
    async with Store.open(settings.data, settings.for_store(background=False)) as store:
        descriptor = lock(settings.data)
        try:
            _restrict_modes(settings.data)
            owner = await ensure_owner(store, settings.data, given)
            if await is_revoked(store, owner):
                _log.warning("the owner key in %s/%s is revoked", _path_text(settings), OWNER_FILE)
        except BaseException:
            os.close(descriptor)
            raise
    return owner, descriptor


def _listen(settings: Settings, listeners: Listeners) -> tuple[Address, dict[str, int]]:
    """Listen on all addresses. Return the main address and the ports by region."""
    address = listeners.listen(settings.listen)
    assert address.port is not None
    ports = {settings.regions[0]: address.port}
    for region, endpoint in settings.endpoints.items():
        if listeners.listen_too(endpoint) and endpoint.port is not None:
            ports[region] = endpoint.port
    if settings.unix is not None:
        listeners.listen_unix(settings.unix)
    if settings.metrics is not None:
        _print(f"metrics are on http://{listeners.listen_metrics(settings.metrics)}/metrics")
    if settings.public_url is None:
        # Last: a port chosen here must not be one that an option names.
        for region in settings.regions:
            if region in settings.endpoints or region in ports:
                continue
            if (port := listeners.listen_next()) is not None:
                ports[region] = port
    return address, ports


def _announce(settings: Settings, address: Address, ports: Mapping[str, int]) -> None:
    local = address.reachable()
    scheme = "http" if settings.tls_cert is None else "https"
    app_settings = settings.for_app(None, ports)
    note = ServerNote(
        listen=str(local),
        url=settings.public_url or f"{scheme}://{local}",
        registries={
            region: endpoint_of(region, str(local), scheme, app_settings)
            for region in settings.regions
        },
        tls=settings.tls_cert is not None,
    )
    write_note(settings.data, note)
    for region, port in ports.items():
        if region != settings.regions[0]:
            endpoint = settings.endpoints.get(region) or Address(address.host, port)
            _print(f"region {region} is on {endpoint}")
    data = _path_text(settings)
    key = f"owner key in {data}/{OWNER_FILE}"
    _print(f"holdfast is ready on {scheme}://{address} (data {data}, {key})")


def _path_text(settings: Settings) -> str:
    return str(settings.data) if settings.data.is_absolute() else f"./{settings.data}"


def _print(line: str) -> None:
    with suppress(BrokenPipeError):  # no reader of the output; serving goes on
        click.echo(line)


def _restrict_modes(directory: Path) -> None:
    """Remove the rights of other users on private files, and log each change."""
    for path, mode in ((directory, 0o700), *((directory / name, 0o600) for name in PRIVATE_FILES)):
        try:
            before = stat.S_IMODE(path.stat().st_mode)
            if before & 0o077:
                path.chmod(mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning(
                "cannot restrict the mode of %s: %s; other users can still access it",
                path,
                error.strerror,
            )
        else:
            if before & 0o077:
                _log.warning("%s was accessible to other users; its mode is %#o now", path, mode)


def _raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return it.

    Each connection and each open blob needs a file descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Supervisor:
    """Starts, watches, replaces and stops the worker processes of one server."""

    def __init__(
        self,
        settings: Settings,
        owner: Owner,
        listeners: Listeners,
        ports: Mapping[str, int],
        reload: Callable[[], Settings],
        files: int,
    ) -> None:
        """``files`` is the limit of open files per process."""
        self._settings = settings
        self._ports = ports
        self._connections = connections_of_process(files)
        self._owner = owner
        self._listeners = listeners
        self._reload = reload
        self._processes: set[WorkerProcess] = set()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        # Each worker has two slots, 2n and 2n + 1: its replacement at a reload runs while the old
        # one stops.
        self._shared = SharedMemory(2 * settings.workers)
        self._worker_table = WorkerTable(self._shared)
        self._slots = [2 * index for index in range(settings.workers)]
        self._reload_events = [asyncio.Event() for _ in range(settings.workers)]
        self._replace_lock = asyncio.Lock()
        self._retiring: dict[int, asyncio.Task[None]] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all workers, call ``ready`` once they serve, and run them until a signal.

        Raises CannotServe if a worker fails at its first start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGCHLD, self._on_end)
        if self._connections < self._settings.max_connections:
            _log.warning(
                "each worker accepts %d connections, not %d: half of its open file limit",
                self._connections,
                self._settings.max_connections,
            )
        first = [loop.create_future() for _ in range(self._settings.workers)]
        runners = [asyncio.create_task(self._run_worker(*each)) for each in enumerate(first)]
        for runner in runners:  # each runs until the stop, so an early end is a failure
            runner.add_done_callback(lambda _: self._stop.set())
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
            await self._end(runners)
        # Raise the error of a worker that could not start.
        await asyncio.gather(*runners)

    def _on_signal(self) -> None:
        """Stop at the first signal; at the second, do not wait for running requests."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def _on_end(self) -> None:
        for process in self._processes:
            process.poll()

    def _on_reload(self) -> None:
        """Load the new settings and replace every worker by one that has them."""
        if self._stop.is_set():
            return
        try:
            self._settings, ignored = self._settings.reloaded(self._reload())
        except BadSetting as error:
            _log.warning("reload failed: %s; the old settings stay in force", error.reason)
            return
        if ignored:
            changed = ", ".join(ignored)
            _log.warning("reload ignores changes of %s: they need a restart", changed)
        logs.set_up(self._settings.log_format, self._settings.log_level, bare=True)
        for reload_event in self._reload_events:
            reload_event.set()

    async def _wait_for_end(self, index: int, process: WorkerProcess) -> int:
        """Wait until a worker ends, or its replacement after a reload. Return the exit code.

        Kill a worker that misses its heartbeat.
        """
        reload_event = self._reload_events[index]
        while True:
            ended = asyncio.create_task(process.wait())
            reload_wait = asyncio.create_task(reload_event.wait())
            silent = asyncio.create_task(self._missed_heartbeat(self._slots[index]))
            await asyncio.wait((ended, reload_wait, silent), return_when=asyncio.FIRST_COMPLETED)
            reload_wait.cancel()
            silent.cancel()
            # A worker that has exited sends no heartbeat either: its exit code comes first.
            if not ended.done() and silent.done():
                _log.warning(
                    "worker %d had no heartbeat for %g s; killing it",
                    index,
                    self._settings.watchdog_seconds,
                )
                process.kill()
                return await ended
            if ended.done():
                return ended.result()
            ended.cancel()
            reload_event.clear()
            process = await self._replace(index, process)

    async def _missed_heartbeat(self, slot: int) -> None:
        """Return when the process of a slot had no heartbeat for ``watchdog_seconds``.

        The time is counted in polls of this loop, not by a clock: after the whole machine was
        suspended, the workers must not look dead.
        """
        heard, silence = self._worker_table.pulse(slot), 0.0
        while not (limit := self._settings.watchdog_seconds) or silence < limit:
            await asyncio.sleep(WATCHDOG_POLL_SECONDS)
            silence += WATCHDOG_POLL_SECONDS
            if (pulse := self._worker_table.pulse(slot)) != heard:
                heard, silence = pulse, 0.0

    async def _replace(self, index: int, old: WorkerProcess) -> WorkerProcess:
        """Start the replacement of a worker. Return it, or the old worker if it fails.

        Stop the old worker once the replacement serves. One worker is replaced at a time.
        """
        async with self._replace_lock:
            if index in self._retiring:  # the replacement needs its slot
                await self._retiring.pop(index)
            if self._stop.is_set() or old.returncode is not None:
                return old
            self._slots[index] ^= 1
            try:
                new, serves = await self._start(index)
            except OSError as error:
                cause = error.strerror or str(error)
            else:
                if serves:
                    slot = self._slots[index] ^ 1
                    self._retiring[index] = asyncio.create_task(self._retire(old, slot))
                    return new
                cause = _cause(await new.wait())
                # The connections in its slot would still count against the limits.
                self._worker_table.clear(self._slots[index])
            self._slots[index] ^= 1
            if not self._stop.is_set():
                _log.warning(
                    "reload of worker %d failed: %s; the old worker keeps running", index, cause
                )
            return old

    async def _retire(self, process: WorkerProcess, slot: int) -> None:
        """Stop a worker whose replacement serves; its requests get the grace period."""
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._settings.grace_seconds)
        if process.returncode is None:
            process.kill()
            await process.wait()
        self._worker_table.clear(slot)

    async def _run_worker(self, index: int, first: asyncio.Future[None]) -> None:
        """Run a worker and restart it until the stop. ``first`` is done once it serves."""
        delay = 0.0
        while True:
            begun = time.monotonic()
            try:
                process, serves = await self._start(index)
            except OSError as error:  # out of memory or processes, which may pass: retry
                if not first.done():
                    raise
                cause = error.strerror or str(error)
            else:
                if serves and not first.done():
                    first.set_result(None)
                cause = _cause(await self._wait_for_end(index, process))
                self._worker_table.clear(self._slots[index])
            if self._stop.is_set():
                return
            if not first.done():
                raise CannotServe(f"worker {index} could not start ({cause})")
            if time.monotonic() - begun >= STABLE_AFTER_SECONDS:
                delay = 0.0
            _log.warning("worker %d ended: %s; restarting it", index, cause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
                return
            delay = min(max(2 * delay, RESTART_SECONDS_MIN), RESTART_SECONDS_MAX)

    async def _start(self, index: int) -> tuple[WorkerProcess, bool]:
        """Start a worker. Return it with True once it serves, or False if it died before.

        The watchdog kills a worker that hangs. Raises OSError.
        """
        sockets = tuple(listener.fileno() for listener in self._listeners.of_worker(index))
        scrapes = [listener.fileno() for listener in self._listeners.of_metrics()]
        metrics = tuple(scrapes if index == 0 else ())
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
                shared=self._shared,
                slot=self._slots[index],
                metrics=metrics,
            )
            try:
                process = WorkerProcess(config)
            finally:
                os.close(ready_of_worker)
            # Forget processes that have exited.
            self._processes = {one for one in self._processes if one.returncode is None}
            self._processes.add(process)
            # A stop during the fork has signalled only the workers that existed before.
            if self._stop.is_set():
                process.terminate()
            # Opening the store after a crash may take long: wait as long as heartbeats arrive.
            serves = asyncio.create_task(_first_byte(ready))
            silent = asyncio.create_task(self._missed_heartbeat(self._slots[index]))
            try:
                await asyncio.wait((serves, silent), return_when=asyncio.FIRST_COMPLETED)
                if serves.done():
                    return process, serves.result() == READY
            finally:
                for waiter in (serves, silent):
                    waiter.cancel()
                await asyncio.wait((serves, silent))
            _log.warning(
                "worker %d did not start: no heartbeat for %g s; killing it",
                index,
                self._settings.watchdog_seconds,
            )
            process.kill()
            return process, False
        finally:
            os.close(ready)

    async def _end(self, runners: list[asyncio.Task[None]]) -> None:
        """Stop all workers with SIGTERM, and after the grace period with SIGKILL."""
        # Close the sockets first: without a listener a client is refused instead of left waiting.
        self._listeners.close()
        self._signal(signal.SIGTERM)
        stop_now = asyncio.create_task(self._stop_now.wait())
        all_ends = (*runners, *self._retiring.values())
        ends = asyncio.ensure_future(asyncio.gather(*all_ends, return_exceptions=True))
        either: list[asyncio.Future[Any]] = [ends, stop_now]
        grace = self._settings.grace_seconds
        await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        stop_now.cancel()
        self._signal(signal.SIGKILL)
        await ends

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)


async def _first_byte(descriptor: int) -> bytes:
    """Return the first byte from a pipe, or nothing at its end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1)


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
