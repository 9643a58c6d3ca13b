"""Check a store: promises 3 to 7 of the design, on a live or a closed data directory.

    3  no reference dangles: an image claims what its manifests need, and what is claimed exists
    4  every counter equals a recount from scratch
    5  unreferenced blobs are in the garbage queue, and referenced blobs have their bytes
    6  each right to a blob follows from the image's manifests or from a hold
    7  every name points to one object, and that object has the name

A child process checks a directory: a damaged page of the ledger may kill the process that reads
it (SIGBUS), and the parent then reports that.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from holdfast.engine.check import child_process
from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot.interface import Depot
from holdfast.engine.ledger.interface import Ledger, Transaction
from holdfast.engine.model.config import StoreConfig
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.model.problem import Problem

from . import blobs, claims, documents, files, listings, manifests, names, rest, rows, times, trash
from .context import CheckContext, Report, find_purging
from .files import Run

_AREAS: Final = (
    rows.rows,
    find_purging,
    claims.recounts,
    claims.claims,
    claims.listed,
    claims.references,
    claims.holds,
    claims.roots,
    blobs.blobs,
    blobs.belonging_rows,
    blobs.file_rows,
    names.namespace_rows,
    names.catalog_rows,
    names.image_rows,
    names.image_index,
    manifests.manifests,
    manifests.manifest_index,
    manifests.tag_rows,
    manifests.tag_index,
    listings.objects,
    listings.rows,
    trash.entries,
    trash.index,
    trash.manifests,
    trash.attached,
    rest.keys,
    rest.counters,
    times.times,
)
"""Areas in the order of their run: rows first, since the others skip unreadable ones; the areas
that compare recounts come after those that fill ``CheckContext.totals``."""


async def rows_and_rules(txn: Transaction, report: Report, now: int | None) -> None:
    """Check one consistent state of the ledger. Raises Corrupt if it cannot be read in order."""
    context = CheckContext(txn, report, now=now)
    for area in _AREAS:
        await area(context)


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
    Calls ``report`` for each problem, from several threads, one after the other. Raises
    StorageFailed, Closed.
    """
    try:
        await ledger.read_in_thread(rows_and_rules, report, now)
        await files.blobs(ledger, depot, run, report, deep=deep)
        await files.unreferenced_files(ledger, depot, run, report)
        if deep:
            await documents.bodies(ledger, depot, run, report)
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
    is reported as a problem, and so are times later than ``now`` (microseconds since 1970;
    None: the time of this machine's clock). Raises NotAStore, StorageFailed.
    """
    depth = "deep" if deep else "quick"
    when = int(time.time() * SECOND) if now is None else now
    return _check(Path(path), depth, config or StoreConfig(), str(when))


def check_copy(path: Path, config: StoreConfig) -> AsyncGenerator[Problem, None]:
    """Check an unfinished copy of a data directory deeply, without a comparison of times."""
    return _check(path, "copy", config, "")


async def _check(
    path: Path, depth: str, config: StoreConfig, now: str
) -> AsyncGenerator[Problem, None]:
    arguments = (str(path), str(config.map_bytes), depth, now)
    try:
        async with aclosing(child_process.messages("check.worker", *arguments)) as found:
            async for message in found:
                if isinstance(message, child_process.Found):
                    yield Problem(message.kind, message.name, message.reason)
    except Corrupt as error:
        yield Problem("ledger", error.name, error.reason)


async def check_open(core: Core, *, deep: bool = False) -> AsyncGenerator[Problem, None]:
    """Check a store in the memory of this process. Its transactions wait until the check ends."""
    found: list[Problem] = []
    run, now = core.threads.run, core.now()
    await examine(core.ledger, core.depot, run, found.append, deep=deep, now=now)
    for problem in found:
        yield problem
