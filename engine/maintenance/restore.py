"""Restoring: a verified copy of a snapshot becomes a store.

What touches the copied ledger runs in processes of its own, as a check does: a damaged page may
kill them, and whoever restores lives to tell.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final

from holdfast.engine import datadir
from holdfast.engine.check import child_process
from holdfast.engine.check.check import check_copy
from holdfast.engine.depot import instance
from holdfast.engine.depot.disk_file import (
    Irregular,
    is_there,
    open_regular,
    refused,
    require_directory,
    require_regular,
)
from holdfast.engine.ledger import lmdb_file
from holdfast.engine.model.config import StoreConfig
from holdfast.engine.model.errors import Busy, Corrupt
from holdfast.engine.model.problem import Problem
from holdfast.engine.tasks.threads import Threads

from .snapshot import Copied
from .staging import Staging

_log: Final = logging.getLogger(__name__)

_COPY_BYTES: Final = 1024 * 1024

_DIRECTORIES: Final = ("ledger", "files", "run")
_FILES: Final = ("FORMAT", f"ledger/{lmdb_file.NAME}")
"""What a restore reads of a snapshot, but for the files of blobs."""

_TOLD: Final = 3
"""Problems that the error of a failed restore names; all of them are logged."""


async def restore(
    snapshot: Path,
    target: Path,
    *,
    copy: bool = True,
    salvage: bool = False,
    config: StoreConfig | None = None,
) -> AsyncGenerator[Copied, None]:
    """Make a store in ``target`` of a snapshot, or of any closed data directory.

    The copy is checked, every blob hashed, before the target appears. With ``salvage`` it
    appears even if problems were found: blobs that are damaged are in quarantine, and the rest
    is as it was. What was in quarantine before is no new problem. ``copy`` False links the files
    where that is possible. The snapshot is only read: it may lie on a read-only file system. No
    link in it is followed, and what is no regular file is not opened: it is named in a Corrupt,
    or, with ``salvage``, its blob is taken as missing.

    Raises NotAStore, Busy for a directory in use, AlreadyExists where the target holds
    something, Corrupt where a check found problems, StorageFull, StorageFailed.
    """
    config = config or StoreConfig()
    threads = Threads(1, "restore")
    try:
        await threads.run(_look, snapshot)
        staging = await threads.acquire(Staging, target, "snapshot")
        try:
            await threads.run(datadir.mark_unfinished, staging.path)
            done = Copied(0, 0, 0)
            known: set[str] = set()
            await threads.run(_copy_ledger, snapshot, staging.path)
            how = ("copy" if copy else "link", "salvage" if salvage else "whole")
            arguments = (str(snapshot), str(staging.path), str(config.map_bytes), *how)
            async with aclosing(_work(staging, "fill", *arguments)) as messages:
                async for message in messages:
                    if isinstance(message, child_process.Step):
                        done = Copied(message.files, message.total, message.size)
                        yield done
                    elif isinstance(message, child_process.Quarantined):
                        known.add(message.name)
            problems = await _check(snapshot, staging.path, config, known)
            unusable = any(problem.kind == "ledger" for problem in problems)
            if problems and (unusable or not salvage):
                raise _refusal(snapshot, problems)
            damaged = await _quarantine(staging, config, problems) if problems else 0
            await threads.run(datadir.mark_made, staging.path)
            await threads.run(staging.publish)
        except BaseException:
            await threads.finish(staging.close)
            raise
    except OSError as error:
        raise refused(error, str(error.filename or target)) from error
    finally:
        threads.close()
    yield Copied(done.files, done.total, done.bytes, damaged)


def _look(snapshot: Path) -> None:
    """Raises NotAStore, Busy, StorageFailed."""
    try:
        _refuse_strange(snapshot)
        datadir.prepare(snapshot, create=False, oldest=datadir.OLDEST)
        if instance.any_alive(snapshot / "run"):
            raise Busy("snapshot", str(snapshot))
    except OSError as error:
        raise refused(error, str(snapshot)) from error


def _refuse_strange(snapshot: Path) -> None:
    """Raises Corrupt where a link, a pipe or the like stands where a part of a store has to be."""
    try:
        for path in _DIRECTORIES:
            if is_there(snapshot / path):
                require_directory(snapshot / path)
        for path in _FILES:
            if is_there(snapshot / path):
                require_regular(snapshot / path, str(snapshot / path))
    except Irregular as error:
        raise Corrupt("snapshot", error.what, error.reason) from error


def _copy_ledger(snapshot: Path, directory: Path) -> None:
    """Copy the ledger's file as it lies: nobody writes to it.

    Opening it with LMDB would need a lock file, which a read-only file system does not take.
    Raises NotAStore, Corrupt, StorageFull, StorageFailed.
    """
    file = snapshot / "ledger" / lmdb_file.NAME
    try:
        lmdb_file.check_header(file)
        lmdb_file.write_copy(directory / "ledger", partial(_pump, file))
    except FileNotFoundError as error:
        raise lmdb_file.damaged("it is missing") from error
    except OSError as error:
        raise refused(error, str(file)) from error


def _pump(file: Path, fd: int) -> None:
    descriptor, _ = open_regular(file, os.O_RDONLY, str(file))
    with open(descriptor, "rb") as source, os.fdopen(fd, "wb", closefd=False) as copied:
        shutil.copyfileobj(source, copied, _COPY_BYTES)


def _work(
    staging: Staging, *arguments: str, names: Iterable[str] = ()
) -> AsyncGenerator[child_process.Message, None]:
    """Let another process work on the copy; it holds the lock too, so nobody comes between."""
    fds = (staging.lock,)
    return child_process.messages(
        "maintenance.restore_worker", *arguments, names=names, pass_fds=fds
    )


async def _check(
    snapshot: Path, directory: Path, config: StoreConfig, known: set[str]
) -> list[Problem]:
    """Problems of the copy, but for blobs that were known to be damaged."""
    problems = []
    async for problem in check_copy(directory, config):
        if problem.kind == "blob" and problem.name in known:
            continue
        _log.error("snapshot %s: %s", snapshot, problem)
        problems.append(problem)
    return problems


def _refusal(snapshot: Path, problems: list[Problem]) -> Corrupt:
    told = "; ".join(str(problem) for problem in problems[:_TOLD])
    more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
    return Corrupt("snapshot", str(snapshot), told + more)


async def _quarantine(staging: Staging, config: StoreConfig, problems: list[Problem]) -> int:
    """Put blobs that a check found damaged in quarantine; says how many. Raises Corrupt."""
    names = {problem.name for problem in problems if problem.kind == "blob"}
    arguments = ("quarantine", str(staging.path), str(config.map_bytes))
    damaged = 0
    async with aclosing(_work(staging, *arguments, names=names)) as messages:
        async for message in messages:
            if isinstance(message, child_process.Step):
                damaged += message.changed
    return damaged
