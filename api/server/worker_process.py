"""The process of a worker, made by a fork of the supervisor.

A program of its own would load, for each worker and at each restart, what the supervisor has
loaded: that is most of the time until the first request is answered. A fork also shares the
memory, and a worker that follows another runs the same code, whatever was installed meanwhile.

Only a process with one thread may fork, so the supervisor has no other: it waits for its workers
by SIGCHLD, and has closed its store before the first of them. What the parent had open is closed
in the child, but never given back by the objects that had it: they would close the numbers, which
are other files then. So the child does not return into the parent's frames, collects none of its
garbage, and ends by ``os._exit``.
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
    """Load what workers need. Call it once, before the first of them: it takes half a second."""
    with _no_authorities():
        from . import worker

    worker.prepare()
    # It lives as long as the process. Not looked at by the collector, it also stays shared.
    gc.collect()
    gc.freeze()
    gc.enable()


@contextmanager
def _no_authorities() -> Iterator[None]:
    """aiohttp reads the system's certificates for its client when it is loaded, which takes a
    twentieth of a second. No worker is a client; one that was would trust nobody."""
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
    """A child process that serves. Make it in the main thread, with an event loop running."""

    def __init__(self, config: WorkerConfig) -> None:
        """Raises OSError when there is no memory for it, or no process more is allowed."""
        self.returncode: int | None = None
        """As of subprocess: negative for a signal, None while it runs."""
        self._ended = asyncio.Event()
        alive, self._alive = os.pipe()
        try:
            self.pid = _fork(config, alive)
        except BaseException:
            os.close(self._alive)
            raise
        finally:
            os.close(alive)

    def look(self) -> None:
        """See whether it has ended: to be called at each SIGCHLD."""
        if self.returncode is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
            os.close(self._alive)
            self._ended.set()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended: its number is nobody else's before it is seen."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _fork(config: WorkerConfig, alive: int) -> int:
    # What is garbage now would be the child's forever.
    gc.collect()
    # A signal that comes in between would run the parent's handlers in the child.
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
    except BaseException:  # noqa: BLE001 - there is nobody above to tell
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads
                stream.flush()
        os._exit(code)


def _leave_parent(config: WorkerConfig, alive: int) -> None:
    """Keep nothing of the parent's but what the worker is told of."""
    os.setpgid(0, 0)  # Ctrl-C is for the supervisor alone: it stops the workers in order
    signal.set_wakeup_fd(-1)
    # To ignore a signal drops what is pending: it was for the parent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(alive, 0)
    kept = {0, 1, 2, *config.descriptors}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in kept:
            with suppress(OSError):  # the one that listed them
                os.close(int(name))
    with suppress(OSError):  # a name to find it by is nice to have
        Path("/proc/self/comm").write_text(f"holdfast-{config.index}")
