"""Restoring: a verified copy of a snapshot becomes a store."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Final

from . import blobs, datadir, incarnation, layout, lmdb_file
from .check import check_directory
from .config import StoreConfig
from .core import SECOND
from .digest import Digest
from .disk_depot import DiskDepot
from .disk_file import refused
from .errors import Busy, Corrupt, NotFound
from .ledger import Ledger, Transaction
from .lmdb_ledger import LmdbLedger
from .offload import Threads
from .problem import Problem
from .records import Blob, load
from .snapshot import Copied, Filled, Filling, detach
from .staging import Staging

_log: Final = logging.getLogger(__name__)

_COPY_BYTES: Final = 1024 * 1024

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
    where that is possible. The snapshot is only read: it may lie on a read-only file system.

    Raises NotAStore, Busy for a directory in use, AlreadyExists where the target holds
    something, Corrupt where a check found problems, StorageFull, StorageFailed.
    """
    config = config or StoreConfig()
    threads = Threads(1, "restore")
    try:
        await threads.run(_look, snapshot)
        staging = await threads.run(Staging, target, "snapshot")
        try:
            done = Filled()
            known: frozenset[str] = frozenset()
            await threads.run(_copy_ledger, snapshot, staging.path)
            ledger = _open(staging.path, config)
            try:
                await detach(ledger)
                depot = DiskDepot(snapshot / "files")
                place = depot.copy if copy else depot.link
                async for done in Filling(ledger, staging.path, place, threads):
                    yield Copied(done.files, done.total, done.size)
                known = await ledger.read_aside(quarantined)
            finally:
                await ledger.close()
            await threads.run(datadir.mark_made, staging.path)
            problems = await _check(snapshot, staging.path, config, known)
            if problems and not salvage:
                raise _refusal(snapshot, problems)
            damaged = await _quarantine(staging.path, config, problems) if problems else 0
            await threads.run(staging.publish)
        except BaseException:
            await threads.run(staging.abandon)
            raise
    finally:
        threads.close()
    yield Copied(done.files, done.total, done.size, damaged)


def _look(snapshot: Path) -> None:
    """Raises NotAStore, Busy, StorageFailed."""
    try:
        datadir.prepare(snapshot, create=False)
        if incarnation.any_alive(snapshot / "run"):
            raise Busy("snapshot", str(snapshot))
    except OSError as error:
        raise refused(error, str(snapshot)) from error


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
    with file.open("rb") as source, os.fdopen(fd, "wb", closefd=False) as copied:
        shutil.copyfileobj(source, copied, _COPY_BYTES)


def _open(directory: Path, config: StoreConfig) -> LmdbLedger:
    return LmdbLedger.open(directory / "ledger", map_bytes=config.map_bytes, create=False)


async def quarantined(txn: Transaction) -> frozenset[str]:
    """Digests of the blobs in quarantine."""
    found: set[str] = set()
    start = layout.DAMAGED
    while rows := await txn.scan(start, layout.DAMAGED + b"\xff" * 33, limit=1000):
        found.update(str(Digest.sha256(key[1:])) for key, _ in rows)
        start = rows[-1][0] + b"\0"
    return frozenset(found)


async def _check(
    snapshot: Path, directory: Path, config: StoreConfig, known: frozenset[str]
) -> list[Problem]:
    """Problems of the copy, but for blobs that were known to be damaged."""
    problems = []
    async for problem in check_directory(directory, deep=True, config=config):
        if problem.kind == "blob" and problem.name in known:
            continue
        _log.error("snapshot %s: %s", snapshot, problem)
        problems.append(problem)
    return problems


def _refusal(snapshot: Path, problems: list[Problem]) -> Corrupt:
    told = "; ".join(str(problem) for problem in problems[:_TOLD])
    more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
    return Corrupt("snapshot", str(snapshot), told + more)


async def _quarantine(directory: Path, config: StoreConfig, problems: list[Problem]) -> int:
    """Put blobs that a check found damaged in quarantine; says how many. Raises Corrupt."""
    ledger = _open(directory, config)
    try:
        now = int(time.time() * SECOND)
        names = {problem.name for problem in problems if problem.kind == "blob"}
        return sum([await _give_up(ledger, name, now) for name in names])
    finally:
        await ledger.close()


async def _give_up(ledger: Ledger, name: str, now: int) -> bool:
    try:
        return await ledger.transact(quarantine_blob, Digest.parse(name).raw, now)
    except (Corrupt, NotFound):
        # Its row is not there, or cannot be read: then it is served to nobody.
        return False


async def quarantine_blob(txn: Transaction, sha: bytes, now: int) -> bool:
    """Put a blob in quarantine, wherever it lies; says whether it was not. Raises NotFound."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None:
        raise NotFound("blob", str(Digest.sha256(sha)))
    return await blobs.quarantine(txn, sha, blob.file_id, now)
