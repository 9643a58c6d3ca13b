"""The child process that reads rows for ``dump``; see ``child_process``.

``python -m holdfast.engine.check.dump_worker DIR MAP_BYTES MARK START LIMIT``, where MARK (the
byte that marks a kind of row, or nothing) and START (a key, or nothing) are hexadecimal digits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from holdfast.engine import datadir
from holdfast.engine.ledger.lmdb import LmdbLedger

from .child_process import Row, run, send
from .dump import rows

_ROWS_PER_READ: Final = 500
"""Rows of one read transaction: short, so that a server's writer can reuse pages meanwhile."""


async def dump(directory: str, map_bytes: str, mark: str, start: str, limit: str) -> None:
    """Send every row, up to the limit. Raises NotAStore, Corrupt, StorageFailed."""
    path = Path(directory)
    datadir.prepare(path, create=False)
    ledger = LmdbLedger.open(path / "ledger", map_bytes=int(map_bytes), create=False)
    left = int(limit)
    key: bytes | None = bytes.fromhex(start) + b"\0" if start else b""
    try:
        while left and key is not None:
            found, key = await ledger.read(rows, bytes.fromhex(mark), key, _ROWS_PER_READ)
            for row in found[:left]:
                send(Row(msgspec.to_builtins(row)))
            left -= min(left, len(found))
    finally:
        await ledger.close()


if __name__ == "__main__":
    run(dump(*sys.argv[1:]))
