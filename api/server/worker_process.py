"""The process of a worker, forked from the supervisor.

A new program would load all modules again, for each worker and at each restart: that is most of
the time until the first response. A fork starts with the supervisor's modules. It also shares
their memory, and a replacement runs the same code even if the installed files have changed.

A process must have one thread when it forks. So the supervisor starts no threads: it waits for
its workers by SIGCHLD, and closes its store before the first fork. The child closes the parent's
file descriptors, but the parent's objects in the child must not: their numbers are other files
by then. So the child never returns into the parent's frames, collects none of the parent's
garbage, and ends with ``os._exit``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from .worker_config import WorkerConfig


def prepare() -> None:
    """Import the modules of workers. Call it once, before the first fork: it takes 0.5 s."""
    with _without_ca_certificates():
        from . import worker

    worker.prepare()
    # The modules live as long as the process. A collection would write to their pages, and the
    # kernel would copy them for each worker.
    gc.collect()
    gc.freeze()
    gc.enable()


@contextmanager
def _without_ca_certificates() -> Iterator[None]:
    """Hide the system's CA certificates while aiohttp is imported.

    aiohttp loads them for its client at import, which takes 50 ms. No worker uses that client; it
    would trust no server.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class WorkerProcess:
    """A child process that serves. Create it in the main thread, with an event loop running."""

    def __init__(self, config: WorkerConfig) -> None:
        """Raises OSError if memory or the number of processes is exhausted."""
        self.returncode: int | None = None
        """Exit code, as of subprocess: negative for a signal, None while it runs."""
        self._ended = asyncio.Event()
        alive, self._alive = os.pipe()
        try:
            self.pid = _fork(config, alive)
        except BaseException:
            os.close(self._alive)
            raise
        finally:
            os.close(alive)

    def poll(self) -> None:
        """Reap the process if it has exited. Call it at each SIGCHLD."""
        if self.returncode is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
            os.close(self._alive)
            self._ended.set()

    async def wait(self) -> int:
        """Wait until the process exits. Return its exit code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing once the process is reaped.

        Its pid cannot belong to another process before that.
        """
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, which starts a drain."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _fork(config: WorkerConfig, alive: int) -> int:
    # The child never collects the garbage of the parent: collect it before the fork.
    gc.collect()
    # Until the child has reset its handlers, a signal would run those of the parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run(config, alive, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run(config: WorkerConfig, alive: int, mask: Iterable[int]) -> NoReturn:
    code = 1
    try:
        gc.freeze()
        _leave_parent(config, alive)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        from .worker import run

        code = run(config)
    except BaseException:  # noqa: BLE001 - no caller is left to handle it
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the reader has gone
                stream.flush()
        os._exit(code)


def _leave_parent(config: WorkerConfig, alive: int) -> None:
    """Drop the parent's signal handlers, and its descriptors except those in the config."""
    os.setpgid(0, 0)  # Ctrl-C reaches only the supervisor, which stops the workers in order
    signal.set_wakeup_fd(-1)
    # Ignoring a signal discards a pending one, which was sent to the parent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(alive, 0)  # the pipe whose end means that the supervisor has gone
    kept = {0, 1, 2, *config.descriptors}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in kept:
            with suppress(OSError):  # the descriptor of listdir itself is closed already
                os.close(int(name))
    with suppress(OSError):  # the process name is only a convenience
        Path("/proc/self/comm").write_text(f"holdfast-{config.index}")
