"""Child processes for work on a ledger that may be damaged.

A damaged page can kill the process that reads it (SIGBUS). So such work runs in a child process,
``python -m holdfast.engine.<module> ARGUMENT...``. It writes one JSON message a line: its results,
and last the end of its work or the error that it failed with. The child exits when its stdin ends,
so it does not outlive its parent, however the parent ends, and the locks that it inherited are
released.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Final

import msgspec

from holdfast.engine.depot.disk_file import refused
from holdfast.engine.ledger import lmdb_file
from holdfast.engine.model.errors import (
    Corrupt,
    EngineError,
    NotAStore,
    StorageFailed,
    StorageFull,
)

_LINE_BYTES_MAX: Final = 1024 * 1024
"""A row's value has 64 KiB; as JSON, bytes take twice that and text up to six times."""
_DAMAGE_SIGNALS: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)


class Found(msgspec.Struct, frozen=True, tag="found"):
    """Message: a problem."""

    kind: str
    name: str
    reason: str


class Quarantined(msgspec.Struct, frozen=True, tag="quarantined"):
    """Message: a blob that was in quarantine before."""

    name: str


class Row(msgspec.Struct, frozen=True, tag="row"):
    """Message: a row as people read it, with the fields of a ``StoredRow``."""

    row: dict[str, Any]


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Message: progress; files so far of a total, and their bytes, or blobs that were changed."""

    files: int = 0
    total: int = 0
    size: int = 0
    changed: int = 0


class End(msgspec.Struct, frozen=True, tag="end"):
    """Message: the end of the work; after a failure, the name of the error and its fields."""

    error: tuple[str, ...] = ()


Message = Found | Quarantined | Row | Step

_DECODER: Final = msgspec.json.Decoder(Found | Quarantined | Row | Step | End)


async def messages(
    module: str, *arguments: str, names: Iterable[str] = (), pass_fds: tuple[int, ...] = ()
) -> AsyncGenerator[Message, None]:
    """Start the worker in ``module`` of the engine, and yield its messages.

    The worker gets ``names`` from its function of that name. When the caller leaves the iteration,
    the worker is killed. Raises the error that the worker failed with, Corrupt if a damaged ledger
    killed it, and StorageFailed if it cannot start or ended otherwise.
    """
    search = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        # -P: import nothing from the working directory.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", f"holdfast.engine.{module}", *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            pass_fds=pass_fds,
            env={**os.environ, "PYTHONPATH": search},
        )  # fmt: skip
    except OSError as error:
        raise StorageFailed(module, f"cannot start: {error.strerror}") from error
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A worker that ended early does not read them; its messages or status say why.
            process.stdin.writelines(f"{name}\n".encode() for name in names)
            process.stdin.write(b"\n")
            await process.stdin.drain()
        ended = False
        async for text in process.stdout:
            message = _DECODER.decode(text)
            if not isinstance(message, End):
                yield message
                continue
            ended = True
            if message.error:
                raise _error(*message.error)
        status = await process.wait()
        if not ended:
            raise _exit_error(module, status)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _exit_error(module: str, status: int) -> EngineError:
    """Return the error for a worker that exited before its ``End``."""
    if -status in _DAMAGE_SIGNALS:
        name = signal.Signals(-status).name
        return lmdb_file.damaged(f"reading it killed the process with {name}")
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return StorageFailed(module, f"its process ended {how} before it finished")


def send(message: Message | End) -> None:
    """Write a message (in the worker)."""
    data = msgspec.json.encode(message) + b"\n"
    while data:
        # A write to a pipe may take a part of the bytes only.
        data = data[os.write(1, data) :]


_names: list[str] = []
_all_named = threading.Event()


def names() -> list[str]:
    """Return the names that the parent sent (in the worker). Blocks until all have arrived."""
    _all_named.wait()
    return _names


def _read_stdin() -> None:
    """Read the names, then wait for the end of stdin: the parent closed it, or ended."""
    for line in sys.stdin:
        if name := line.strip():
            _names.append(name)
        else:
            _all_named.set()
    # Exit at once: the work may block for ever.
    os._exit(1)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Do the work and send how it ended (in the worker)."""
    threading.Thread(target=_read_stdin, daemon=True).start()
    # The parent may end first: then this process ends too, at its next message.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        asyncio.run(work)
    except EngineError as error:
        send(End(_fields(error)))
    except OSError as error:
        send(End(_fields(refused(error, str(error.filename or "worker")))))
    else:
        send(End())


_ERRORS: Final[dict[str, tuple[type[EngineError], tuple[str, ...]]]] = {
    "Corrupt": (Corrupt, ("kind", "name", "reason")),
    "NotAStore": (NotAStore, ("path", "reason")),
    "StorageFull": (StorageFull, ("what",)),
    "StorageFailed": (StorageFailed, ("what", "reason")),
}
"""Errors that a worker sends, by name: the class, and the attributes that it takes in order."""


def _fields(error: EngineError) -> tuple[str, ...]:
    """Return the name of an error and its fields; an error without a name is StorageFailed."""
    for name, (kind, attributes) in _ERRORS.items():
        if isinstance(error, kind):
            return name, *(getattr(error, attribute) for attribute in attributes)
    return "StorageFailed", "worker", str(error)


def _error(name: str, *fields: str) -> EngineError:
    kind, _ = _ERRORS[name]
    return kind(*fields)
