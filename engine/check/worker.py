"""The child process of a check; see ``check.check`` and ``check.child_process``.

``python -m holdfast.engine.check.worker DIR MAP_BYTES quick|deep|copy NOW``, where NOW is in
microseconds since 1970; if it is empty, the check does not compare times.
"""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast.engine import datadir
from holdfast.engine.check.child_process import Found, run, send
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.model.problem import Problem
from holdfast.engine.tasks.threads import Threads
from holdfast.engine.upgrade import upgrade

from .check import examine


def _report(problem: Problem) -> None:
    send(Found(problem.kind, problem.name, problem.reason))


async def check(directory: str, map_bytes: str, depth: str, now: str) -> None:
    """Check the directory. Raises NotAStore, Corrupt, StorageFailed."""
    path = Path(directory)
    datadir.prepare(path, create=False, unfinished=depth == "copy")
    ledger = LmdbLedger.open(path / "ledger", map_bytes=int(map_bytes), create=False)
    threads = Threads(1, "check")
    try:
        await threads.run(ledger.check_free_list)
        if await ledger.read(upgrade.pending):
            # Rows of the new format are missing still: other areas would report each of them.
            send(Found("ledger", directory, "its upgrade is not finished; run `holdfast upgrade`"))
            return
        depot = DiskDepot(path / "files")
        deep, when = depth != "quick", int(now) if now else None
        await examine(ledger, depot, threads.run, _report, deep=deep, now=when)
    finally:
        threads.close()
        await ledger.close()


if __name__ == "__main__":
    run(check(*sys.argv[1:]))
