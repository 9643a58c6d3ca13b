"""Check the bytes at rest against the ledger: every blob has its file, every file has a row.

Unlike the rest of a check this area keeps no long read transaction open, since reading a whole
depot can take hours. Other processes write to the ledger meanwhile, so each fault is compared with
the newest rows before it is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, Protocol, TypeVar

from holdfast.engine.blobs.blob_rows import inline_content, rows_after
from holdfast.engine.depot import blob_file, files
from holdfast.engine.depot.interface import Depot
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, Transaction
from holdfast.engine.ledger.records import INLINE, Blob, decode
from holdfast.engine.model.digest import Digest, Hasher, Hashes
from holdfast.engine.model.errors import Corrupt, NotFound, StorageFailed
from holdfast.engine.model.problem import problem

from .context import Report, blob_name

P = ParamSpec("P")
T = TypeVar("T")

BLOBS_PER_READ: Final = 100
"""Blobs examined between two reads of the ledger: at most 6.4 MiB of inline content."""


class Run(Protocol):
    """Type of ``Threads.run``, which calls a blocking function in a thread."""

    async def __call__(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` and return its result, or raise its error."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob's row, and its content if that is in the ledger and was asked for."""

    sha: bytes
    blob: Blob
    data: bytes | None


async def slice_after(
    txn: Transaction, last: bytes, deep: bool, limit: int
) -> tuple[list[StoredBlob], bytes | None]:
    """Return blobs behind ``last`` whose bytes need a check, and where to continue, or None.

    Skips unreadable rows and blobs in quarantine: other areas have reported them.
    """
    found = []
    rows = await rows_after(txn, last, limit)
    for key, value in rows:
        stored = await _stored_blob(txn, key, value, deep)
        if stored is not None:
            found.append(stored)
    return found, rows[-1][0][1:] if rows else None


async def _stored_blob(txn: Transaction, key: bytes, value: bytes, deep: bool) -> StoredBlob | None:
    try:
        blob = decode(Blob, key, value)
    except Corrupt:
        return None
    if blob.damaged:
        return None
    if blob.place != INLINE:
        return StoredBlob(key[1:], blob, None)
    data = await inline_content(txn, key[1:], blob) if deep else None
    return None if data is None else StoredBlob(key[1:], blob, data)


async def newest(txn: Transaction, sha: bytes, deep: bool) -> StoredBlob | None:
    """Return the blob by its row of now, or None if its bytes need no check any more."""
    value = await txn.get(layout.BLOB + sha)
    if value is None:
        return None
    return await _stored_blob(txn, layout.BLOB + sha, value, deep)


async def blobs(ledger: Ledger, depot: Depot, run: Run, report: Report, *, deep: bool) -> None:
    """Check that every blob has its file in the right size; ``deep`` hashes all bytes.

    That includes inline content. Raises what ``Ledger.read_in_thread`` and ``Ledger.read`` raise.
    """
    last: bytes | None = b""
    while last is not None:
        found, last = await ledger.read_in_thread(slice_after, last, deep, BLOBS_PER_READ)
        for stored, reason in await run(_faults, depot, found, deep):
            await _confirm(ledger, depot, run, report, stored, reason, deep=deep)


async def _confirm(
    ledger: Ledger,
    depot: Depot,
    run: Run,
    report: Report,
    seen: StoredBlob,
    reason: str,
    *,
    deep: bool,
) -> None:
    """Report a fault unless the blob was removed since; examine it again if it has moved."""
    fault: str | None = reason
    while fault is not None:
        now = await ledger.read(newest, seen.sha, deep)
        if now is None:
            return
        if now.blob.file_id == seen.blob.file_id and now.blob.place == seen.blob.place:
            report(problem("blob", blob_name(seen.sha), fault))
            return
        # A heal or a recompression moved the bytes: the fault may be that of the old file.
        seen = now
        fault = await run(_fault, depot, now, deep)


def _faults(depot: Depot, found: list[StoredBlob], deep: bool) -> list[tuple[StoredBlob, str]]:
    faults = ((stored, _fault(depot, stored, deep)) for stored in found)
    return [(stored, reason) for stored, reason in faults if reason is not None]


def _fault(depot: Depot, stored: StoredBlob, deep: bool) -> str | None:
    """Return the reason why the bytes at rest are not those of the blob, or None."""
    blob = stored.blob
    algorithms = ("sha512",) if blob.aliases else ()
    hasher = Hasher(algorithms)
    if stored.data is not None:
        hasher.update(stored.data)
        return _difference(stored, hasher.result())
    try:
        original = blob_file.open_original(depot, blob)
    except (NotFound, Corrupt, StorageFailed) as error:
        return str(error)
    try:
        if not deep:
            return None
        while piece := original.read(hasher.size, blob_file.PIECE_BYTES):
            hasher.update(piece)
        return _difference(stored, hasher.result())
    except (Corrupt, StorageFailed) as error:
        return str(error)
    finally:
        original.close()


def _difference(stored: StoredBlob, hashes: Hashes) -> str | None:
    """Return how the content differs from size, digests and checksum of the row, or None."""
    if hashes.size != stored.blob.size:
        return f"its content has {hashes.size} bytes, not {stored.blob.size}"
    if hashes.sha256 != stored.sha:
        return f"its content has the digest {Digest.sha256(hashes.sha256)}"
    if hashes.checksum != stored.blob.checksum:
        return "its content is right, the checksum in its row is wrong"
    for alias in stored.blob.aliases:
        digest = Digest.from_key(alias)
        if hashes.named(digest.algorithm) != digest:
            return f"its content does not have the digest {digest}"
    return None


async def unreferenced(txn: Transaction, block: int, file_ids: tuple[int, ...]) -> list[int]:
    """Return the files of a block that should have a row, and have none.

    A file may be without a row in an open block: its process, while it lives, is about to write
    one, and after that process has died recovery examines the block.
    """
    if any(opened == block for _, opened in await files.open_blocks(txn)):
        return []
    return await files.without_row(txn, file_ids)


async def unreferenced_files(ledger: Ledger, depot: Depot, run: Run, report: Report) -> None:
    """Check that every file of the depot has a row, or is in a block that recovery examines."""
    for block in sorted(await run(_blocks, depot)):
        found = tuple(await run(_files, depot, block))
        for file_id in await ledger.read_in_thread(unreferenced, block, found):
            # The file was listed before the ledger was read: it may have been removed in between.
            if await run(_exists, depot, file_id):
                report(
                    problem("file", f"{file_id:x}", f"no row names it, block {block:x} is closed")
                )


def _blocks(depot: Depot) -> list[int]:
    return list(depot.blocks())


def _files(depot: Depot, block: int) -> list[int]:
    return list(depot.files(block))


def _exists(depot: Depot, file_id: int) -> bool:
    try:
        depot.open(file_id).close()
    except NotFound:
        return False
    return True
