"""Restore: make a store from a verified copy of a snapshot.

Child processes do the work on the copied ledger, as for a check: a damaged page may kill them,
and the restoring process then reports that.
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
"""Files that a restore reads of a snapshot, besides those of blobs."""

_PROBLEMS_SHOWN_MAX: Final = 3
"""Problems that the error of a failed restore names; all of them are logged."""


async def restore(
    snapshot: Path,
    target: Path,
    *,
    copy: bool = True,
    salvage: bool = False,
    config: StoreConfig | None = None,
) -> AsyncGenerator[Copied, None]:
    """Make a store in ``target`` from a snapshot, or from any closed data directory.

    The copy is checked, every blob hashed, before the target appears. With ``salvage`` it appears
    even if the check found problems: damaged blobs are in quarantine, and the rest is unchanged.
    Blobs that were in quarantine before are not new problems. With ``copy`` False, files are linked
    where that is possible. The snapshot is only read: it may be on a read-only file system. Its
    symbolic links are not followed, and only regular files are opened: another file is named in a
    Corrupt, or, with ``salvage``, its blob counts as missing.

    Raises NotAStore, Busy for a directory in use, AlreadyExists if the target is not empty, Corrupt
    if the check found problems, StorageFull, StorageFailed.
    """
    config = config or StoreConfig()
    threads = Threads(1, "restore")
    try:
        await threads.run(_check_snapshot, snapshot)
        staging = await threads.acquire(Staging, target, "snapshot")
        try:
            await threads.run(datadir.mark_unfinished, staging.path)
            done = Copied(0, 0, 0)
            quarantined: set[str] = set()
            await threads.run(_copy_ledger, snapshot, staging.path)
            how = ("copy" if copy else "link", "salvage" if salvage else "whole")
            arguments = (str(snapshot), str(staging.path), str(config.map_bytes), *how)
            async with aclosing(_run_worker(staging, "fill", *arguments)) as messages:
                async for message in messages:
                    if isinstance(message, child_process.Step):
                        done = Copied(message.files, message.total, message.size)
                        yield done
                    elif isinstance(message, child_process.Quarantined):
                        quarantined.add(message.name)
            problems = await _check(snapshot, staging.path, config, quarantined)
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


def _check_snapshot(snapshot: Path) -> None:
    """Check that a snapshot can be read and is not in use.

    Raises NotAStore, Busy, Corrupt, StorageFailed.
    """
    try:
        _refuse_irregular(snapshot)
        datadir.prepare(snapshot, create=False, oldest=datadir.OLDEST)
        if instance.any_alive(snapshot / "run"):
            raise Busy("snapshot", str(snapshot))
    except OSError as error:
        raise refused(error, str(snapshot)) from error


def _refuse_irregular(snapshot: Path) -> None:
    """Raise Corrupt if a part of the store is a link, a pipe or the like."""
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
    """Copy the ledger's file byte by byte: no process writes to it.

    LMDB cannot open it on a read-only file system, since it needs a lock file beside it. Raises
    NotAStore, Corrupt, StorageFull, StorageFailed.
    """
    file = snapshot / "ledger" / lmdb_file.NAME
    try:
        lmdb_file.check_header(file)
        lmdb_file.write_copy(directory / "ledger", partial(_copy_to, file))
    except FileNotFoundError as error:
        raise lmdb_file.damaged("it is missing") from error
    except OSError as error:
        raise refused(error, str(file)) from error


def _copy_to(file: Path, fd: int) -> None:
    descriptor, _ = open_regular(file, os.O_RDONLY, str(file))
    with open(descriptor, "rb") as source, os.fdopen(fd, "wb", closefd=False) as copied:
        shutil.copyfileobj(source, copied, _COPY_BYTES)


def _run_worker(
    staging: Staging, *arguments: str, names: Iterable[str] = ()
) -> AsyncGenerator[child_process.Message, None]:
    """Run the restore worker on the copy, with the lock of ``staging``, and yield its messages.

    Since the worker holds the lock too, no other process can take the directory while it runs.
    """
    fds = (staging.lock,)
    return child_process.messages(
        "maintenance.restore_worker", *arguments, names=names, pass_fds=fds
    )


async def _check(
    snapshot: Path, directory: Path, config: StoreConfig, quarantined: set[str]
) -> list[Problem]:
    """Return and log the problems of the copy, except for blobs in quarantine before."""
    problems = []
    async for problem in check_copy(directory, config):
        if problem.kind == "blob" and problem.name in quarantined:
            continue
        _log.error("snapshot %s: %s", snapshot, problem)
        problems.append(problem)
    return problems


def _refusal(snapshot: Path, problems: list[Problem]) -> Corrupt:
    shown = "; ".join(str(problem) for problem in problems[:_PROBLEMS_SHOWN_MAX])
    hidden = len(problems) - _PROBLEMS_SHOWN_MAX
    more = f"; and {hidden} more" if hidden > 0 else ""
    return Corrupt("snapshot", str(snapshot), shown + more)


async def _quarantine(staging: Staging, config: StoreConfig, problems: list[Problem]) -> int:
    """Put blobs that a check found damaged in quarantine; return how many. Raises Corrupt."""
    names = {problem.name for problem in problems if problem.kind == "blob"}
    arguments = ("quarantine", str(staging.path), str(config.map_bytes))
    damaged = 0
    async with aclosing(_run_worker(staging, *arguments, names=names)) as messages:
        async for message in messages:
            if isinstance(message, child_process.Step):
                damaged += message.changed
    return damaged
