"""Checking a store: promises 3 to 7 of the design, on a live or a closed data directory.

    3  nothing dangles: what a manifest needs is claimed by its image, what is claimed exists
    4  every counter equals a recount from scratch
    5  what nobody needs is in the garbage queue, and what is needed is there
    6  a right to a blob is one that its image's manifests, or a hold, account for
    7  every name leads to one thing, and that thing bears the name

A directory is checked in a process of its own: a damaged page of the ledger may kill whoever
touches it (SIGBUS), and then the check is the one that survives to tell.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from . import (
    check_blobs,
    check_claims,
    check_documents,
    check_files,
    check_listings,
    check_manifests,
    check_names,
    check_rest,
    check_rows,
    check_times,
    check_trash,
    worker,
)
from .check_files import Run
from .check_look import Look, Report, find_purging
from .config import StoreConfig
from .core import SECOND, Core
from .depot import Depot
from .errors import Corrupt
from .ledger import Ledger, Transaction
from .problem import Problem

_AREAS: Final = (
    check_rows.rows,
    find_purging,
    check_claims.recounts,
    check_claims.claims,
    check_claims.listed,
    check_claims.references,
    check_claims.holds,
    check_claims.roots,
    check_blobs.blobs,
    check_blobs.belongings,
    check_blobs.file_rows,
    check_names.namespace_rows,
    check_names.catalog_rows,
    check_names.image_rows,
    check_names.image_index,
    check_manifests.manifests,
    check_manifests.manifest_index,
    check_manifests.tag_rows,
    check_manifests.tag_index,
    check_listings.objects,
    check_listings.rows,
    check_trash.entries,
    check_trash.index,
    check_trash.manifests,
    check_trash.attached,
    check_rest.keys,
    check_rest.counters,
    check_times.times,
)
"""In this order: rows first, since the others pass over what cannot be read; counters last."""


async def rows_and_rules(txn: Transaction, report: Report, now: int | None) -> None:
    """Check one consistent state of the ledger. Raises Corrupt where it cannot be walked."""
    look = Look(txn, report, now=now)
    for area in _AREAS:
        await area(look)


async def examine(
    ledger: Ledger,
    depot: Depot,
    run: Run,
    report: Report,
    *,
    deep: bool = False,
    now: int | None = None,
) -> None:
    """Check an open ledger and its depot; ``deep`` reads and hashes all bytes at rest.

    Times are compared with ``now`` (microseconds since 1970), unless that is None.
    ``report`` is called for each problem, from several threads, one after the other. Raises
    StorageFailed, Closed.
    """
    try:
        await ledger.read_aside(rows_and_rules, report, now)
        await check_files.blobs(ledger, depot, run, report, deep=deep)
        await check_files.strays(ledger, depot, run, report)
        if deep:
            await check_documents.bodies(ledger, depot, run, report)
    except Corrupt as error:
        report(Problem("ledger", error.name, error.reason))


def check_directory(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    config: StoreConfig | None = None,
    now: int | None = None,
) -> AsyncGenerator[Problem, None]:
    """Check a data directory, which may be in use, and yield every problem as it is found.

    ``deep`` reads and hashes all bytes at rest. A ledger that kills the process that reads it
    is a problem like others, and so are times that are later than ``now`` (microseconds since
    1970; None: by this machine's clock). Raises NotAStore, StorageFailed.
    """
    depth = "deep" if deep else "quick"
    when = int(time.time() * SECOND) if now is None else now
    return _check(Path(path), depth, config or StoreConfig(), str(when))


def check_copy(path: Path, config: StoreConfig) -> AsyncGenerator[Problem, None]:
    """As ``check_directory``, ``deep``, of a copy that is not finished; whatever its times."""
    return _check(path, "copy", config, "")


async def _check(
    path: Path, depth: str, config: StoreConfig, now: str
) -> AsyncGenerator[Problem, None]:
    arguments = (str(path), str(config.map_bytes), depth, now)
    try:
        async with aclosing(worker.messages("check_worker", *arguments)) as found:
            async for message in found:
                if isinstance(message, worker.Found):
                    yield Problem(message.kind, message.name, message.reason)
    except Corrupt as error:
        yield Problem("ledger", error.name, error.reason)


async def check_open(core: Core, *, deep: bool = False) -> AsyncGenerator[Problem, None]:
    """Check a store that lies in this process: in memory. Its transactions wait meanwhile."""
    found: list[Problem] = []
    run, now = core.threads.run, core.now()
    await examine(core.ledger, core.depot, run, found.append, deep=deep, now=now)
    for problem in found:
        yield problem
