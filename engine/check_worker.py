"""The process that a check runs in: one JSON line for each problem, and one at the end.

``python -m holdfast.engine.check_worker DIR MAP_BYTES quick|deep``; see ``check``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from . import datadir
from .check import Line, examine
from .disk_depot import DiskDepot
from .errors import Closed, Corrupt, NotAStore, StorageFailed, StorageFull
from .lmdb_ledger import LmdbLedger
from .offload import Threads
from .problem import Problem


def _write(line: Line) -> None:
    data = msgspec.json.encode(line) + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _report(problem: Problem) -> None:
    _write(Line(problem=(problem.kind, problem.name, problem.reason)))


async def _check(path: Path, map_bytes: int, *, deep: bool) -> Line:
    try:
        datadir.prepare(path, create=False)
        ledger = LmdbLedger.open(path / "ledger", map_bytes=map_bytes, create=False)
    except Corrupt as error:
        _report(Problem("ledger", error.name, error.reason))
        return Line(done=True)
    threads = Threads(1, "check")
    try:
        await examine(ledger, DiskDepot(path / "files"), threads.run, _report, deep=deep)
    finally:
        threads.close()
        await ledger.close()
    return Line(done=True)


def main() -> None:
    """Check the directory that the arguments name."""
    # Whoever reads the lines may go away: then there is nobody left to tell.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    path, map_bytes, depth = sys.argv[1:]
    try:
        last = asyncio.run(_check(Path(path), int(map_bytes), deep=depth == "deep"))
    except NotAStore as error:
        last = Line(not_a_store=(error.path, error.reason))
    except StorageFailed as error:
        last = Line(failed=(error.what, error.reason))
    except (StorageFull, Closed, OSError) as error:
        last = Line(failed=("check", str(error)))
    _write(last)


if __name__ == "__main__":
    main()
