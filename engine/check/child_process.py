"""Processes for work on a ledger that may be damaged.

A damaged page can kill whoever touches it (SIGBUS). So such work runs in a process of its own,
``python -m holdfast.engine.<module> ARGUMENT...``, which writes JSON lines: what it has to say,
and at last that it is done, or the error that it failed with. It does not outlive who started it,
however that ends: the end of its stdin is the end of it. So the locks that it was given go too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Final, get_args

import msgspec

from holdfast.engine.depot.disk_file import refused
from holdfast.engine.ledger import lmdb_file
from holdfast.engine.model.errors import (
    Corrupt,
    EngineError,
    Kind,
    NotAStore,
    StorageFailed,
    StorageFull,
)

_LINE_BYTES_MAX: Final = 1024 * 1024
"""A row's value has 64 KiB; as JSON, bytes take twice that and text up to six times."""
_DAMAGE_SIGNALS: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)


class Found(msgspec.Struct, frozen=True, tag="found"):
    """A problem."""

    kind: str
    name: str
    reason: str


class Known(msgspec.Struct, frozen=True, tag="known"):
    """A blob that was in quarantine before."""

    name: str


class Row(msgspec.Struct, frozen=True, tag="row"):
    """A row as people read it: the fields of a ``StoredRow``."""

    row: dict[str, Any]


class Step(msgspec.Struct, frozen=True, tag="step"):
    """How far it is: files, of so many, and their bytes; or blobs that were changed."""

    files: int = 0
    total: int = 0
    size: int = 0
    changed: int = 0


class End(msgspec.Struct, frozen=True, tag="end"):
    """It is done, or failed: with the name of an error, and its fields."""

    error: tuple[str, ...] = ()


Message = Found | Known | Row | Step

_DECODER: Final = msgspec.json.Decoder(Found | Known | Row | Step | End)


async def messages(
    module: str, *arguments: str, names: Iterable[str] = (), pass_fds: tuple[int, ...] = ()
) -> AsyncGenerator[Message, None]:
    """Start the worker in ``module`` of the engine, and yield what it says.

    It gets ``names`` (``names`` in the worker). When the iteration is left, it is killed. Raises
    what it failed with; Corrupt where the ledger killed it, StorageFailed where something else did.
    """
    search = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        # -P: nothing is imported from the working directory.
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
            # Who does not read them ended early, and is asked why below.
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
            raise _death(module, status)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _death(module: str, status: int) -> EngineError:
    """What it means that a worker ended before it was done."""
    if -status in _DAMAGE_SIGNALS:
        name = signal.Signals(-status).name
        return lmdb_file.damaged(f"reading it ended the process with {name}")
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return StorageFailed(module, f"its process ended {how} before it was done")


def say(message: Message | End) -> None:
    """In the worker: write a message."""
    data = msgspec.json.encode(message) + b"\n"
    while data:
        data = data[os.write(1, data) :]


_names: list[str] = []
_all_named = threading.Event()


def names() -> list[str]:
    """In the worker: the names that it was given. Blocks until all are there."""
    _all_named.wait()
    return _names


def _watch() -> None:
    """Read the names, and then nothing, until whoever started this process is gone."""
    for line in sys.stdin:
        if name := line.strip():
            _names.append(name)
        else:
            _all_named.set()
    # At once: what the work waits for may never come.
    os._exit(1)


def run(work: Coroutine[Any, Any, None]) -> None:
    """In the worker: do the work, and tell how it ended."""
    threading.Thread(target=_watch, daemon=True).start()
    # Whoever reads the lines may go away: then there is nobody left to tell.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        asyncio.run(work)
    except EngineError as error:
        say(End(_fields(error)))
    except OSError as error:
        say(End(_fields(refused(error, str(error.filename or "worker")))))
    else:
        say(End())


def _fields(error: EngineError) -> tuple[str, ...]:
    if isinstance(error, Corrupt):
        return "Corrupt", error.kind, error.name, error.reason
    if isinstance(error, NotAStore):
        return "NotAStore", error.path, error.reason
    if isinstance(error, StorageFull):
        return "StorageFull", error.what
    if isinstance(error, StorageFailed):
        return "StorageFailed", error.what, error.reason
    return "StorageFailed", "worker", str(error)


def _error(name: str, *fields: str) -> EngineError:
    if name == "Corrupt":
        kind: Kind = next(known for known in get_args(Kind) if known == fields[0])
        return Corrupt(kind, *fields[1:])
    if name == "NotAStore":
        return NotAStore(*fields)
    if name == "StorageFull":
        return StorageFull("depot" if fields[0] == "depot" else "ledger")
    return StorageFailed(*fields)
