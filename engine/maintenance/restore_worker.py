"""The child process in which the copied ledger of a restore is first opened.

See ``restore`` and ``check.child_process``.

``fill SNAPSHOT DIR MAP_BYTES copy|link whole|salvage`` turns the copied ledger in DIR into
that of a store not in use, brings in the files that it names, and sends which blobs are in
quarantine. It fails at a file that is not regular; a salvage counts it as missing.
``quarantine DIR MAP_BYTES`` puts the blobs that stdin names in quarantine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from holdfast.engine.blobs import blob_rows
from holdfast.engine.check.child_process import Quarantined, Step, names, run, send
from holdfast.engine.core import SECOND
from holdfast.engine.depot.disk import ForeignDepot
from holdfast.engine.depot.disk_file import Irregular
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, Transaction, after
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.ledger.records import Blob, load
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, NotFound
from holdfast.engine.tasks.threads import Threads
from holdfast.engine.upgrade import upgrade

from .snapshot import FileTransfer, detach

_ROWS_PER_READ: Final = 1000


async def fill(snapshot: str, directory: str, map_bytes: str, how: str, what: str) -> None:
    """Complete the store of the copied ledger: rows, format and files.

    Raises NotAStore, Corrupt, StorageFull, StorageFailed.
    """
    ledger = _open(directory, map_bytes)
    threads = Threads(1, "restore")
    try:
        await detach(ledger)
        await _upgrade(ledger, snapshot)
        depot = ForeignDepot(Path(snapshot) / "files")
        transfer = depot.copy if how == "copy" else depot.link

        def place(file_id: int, target: str) -> None:
            try:
                transfer(file_id, target)
            except Irregular as error:
                if what == "salvage":
                    raise
                path = str(Path(snapshot) / "files" / error.what)
                raise Corrupt("snapshot", path, error.reason) from error

        async for done in FileTransfer(ledger, Path(directory), place, threads):
            send(Step(done.files, done.total, done.size))
        last: bytes | None = b""
        while last is not None:
            found, last = await ledger.read(quarantined, last)
            for name in found:
                send(Quarantined(name))
    finally:
        threads.close()
        await ledger.close()


async def _upgrade(ledger: Ledger, snapshot: str) -> None:
    """Upgrade the copied rows of a snapshot of an older format. Raises NotAStore, Corrupt."""

    async def step() -> upgrade.Position:
        return await ledger.transact(upgrade.advance, int(time.time() * SECOND))

    if await ledger.read(upgrade.pending):
        await upgrade.run(await step(), step, snapshot)


async def quarantined(txn: Transaction, last: bytes) -> tuple[list[str], bytes | None]:
    """Return digests of blobs in quarantine behind ``last``, and where to continue, or None."""
    rows = await txn.scan(
        layout.DAMAGED + last + b"\0", after(layout.DAMAGED), limit=_ROWS_PER_READ
    )
    return [str(Digest.sha256(key[1:])) for key, _ in rows], rows[-1][0][1:] if rows else None


async def quarantine(directory: str, map_bytes: str) -> None:
    """Put blobs that a check found damaged in quarantine. Raises Corrupt, StorageFailed."""
    ledger = _open(directory, map_bytes)
    try:
        now = int(time.time() * SECOND)
        found = await asyncio.to_thread(names)
        send(Step(changed=sum([await _quarantine(ledger, name, now) for name in found])))
    finally:
        await ledger.close()


def _open(directory: str, map_bytes: str) -> LmdbLedger:
    path = Path(directory) / "ledger"
    return LmdbLedger.open(path, map_bytes=int(map_bytes), create=False)


async def _quarantine(ledger: Ledger, name: str, now: int) -> bool:
    try:
        return await ledger.transact(quarantine_blob, Digest.parse(name).raw, now)
    except (Corrupt, NotFound):
        # Its row is missing or cannot be read: then no request gets its bytes either.
        return False


async def quarantine_blob(txn: Transaction, sha: bytes, now: int) -> bool:
    """Put a blob of ledger or file in quarantine; False if it was there. Raises NotFound."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None:
        raise NotFound("blob", str(Digest.sha256(sha)))
    return await blob_rows.quarantine(txn, sha, blob.file_id, now)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    run(fill(*arguments) if what == "fill" else quarantine(*arguments))
