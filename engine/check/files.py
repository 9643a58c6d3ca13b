"""The bytes at rest against the ledger: every blob has its file, every file somebody.

Unlike the rest of a check this holds no long read open, since reading a depot through can take
hours. The ledger goes on meanwhile, so whatever looks wrong is compared with the newest rows
before it is told.
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

STEP: Final = 100
"""Blobs looked at between two reads of the ledger: at most 6.4 MiB of inline content."""


class Run(Protocol):
    """Calls a function that blocks, in a thread: ``Threads.run``."""

    async def __call__(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``fn`` returns, or raises."""


@dataclass(frozen=True, slots=True)
class Resting:
    """A blob's row, and its content where that is in the ledger."""

    sha: bytes
    blob: Blob
    data: bytes | None


async def slice_after(
    txn: Transaction, last: bytes, deep: bool, limit: int
) -> tuple[list[Resting], bytes | None]:
    """Blobs behind ``last`` whose bytes are to be looked at, and where to go on, or None.

    Rows that cannot be read, and what is in quarantine, were told of already.
    """
    found = []
    rows = await rows_after(txn, last, limit)
    for key, value in rows:
        resting = await _resting(txn, key, value, deep)
        if resting is not None:
            found.append(resting)
    return found, rows[-1][0][1:] if rows else None


async def _resting(txn: Transaction, key: bytes, value: bytes, deep: bool) -> Resting | None:
    try:
        blob = decode(Blob, key, value)
    except Corrupt:
        return None
    if blob.damaged:
        return None
    if blob.place != INLINE:
        return Resting(key[1:], blob, None)
    data = await inline_content(txn, key[1:], blob) if deep else None
    return None if data is None else Resting(key[1:], blob, data)


async def newest(txn: Transaction, sha: bytes, deep: bool) -> Resting | None:
    """The blob as it stands now, if its bytes are to be looked at."""
    value = await txn.get(layout.BLOB + sha)
    if value is None:
        return None
    return await _resting(txn, layout.BLOB + sha, value, deep)


async def blobs(ledger: Ledger, depot: Depot, run: Run, report: Report, *, deep: bool) -> None:
    """The file of every blob is there, in its size; ``deep`` hashes all bytes, inline ones too.

    Raises what reading the ledger raises.
    """
    last: bytes | None = b""
    while last is not None:
        found, last = await ledger.read_aside(slice_after, last, deep, STEP)
        for resting, reason in await run(_faults, depot, found, deep):
            await _confirm(ledger, depot, run, report, resting, reason, deep=deep)


async def _confirm(
    ledger: Ledger,
    depot: Depot,
    run: Run,
    report: Report,
    seen: Resting,
    reason: str,
    *,
    deep: bool,
) -> None:
    """Tell of a fault, unless the blob has moved or gone since; follow it where it moved."""
    fault: str | None = reason
    while fault is not None:
        now = await ledger.read(newest, seen.sha, deep)
        if now is None:
            return
        if now.blob.file_id == seen.blob.file_id and now.blob.place == seen.blob.place:
            report(problem("blob", blob_name(seen.sha), fault))
            return
        seen = now
        fault = await run(_fault, depot, now, deep)


def _faults(depot: Depot, found: list[Resting], deep: bool) -> list[tuple[Resting, str]]:
    faults = ((resting, _fault(depot, resting, deep)) for resting in found)
    return [(resting, reason) for resting, reason in faults if reason is not None]


def _fault(depot: Depot, resting: Resting, deep: bool) -> str | None:
    """Why the bytes at rest are not the blob's, or None."""
    blob = resting.blob
    algorithms = ("sha512",) if blob.aliases else ()
    hasher = Hasher(algorithms)
    if resting.data is not None:
        hasher.update(resting.data)
        return _difference(resting, hasher.result())
    try:
        original = blob_file.open_original(depot, blob)
    except (NotFound, Corrupt, StorageFailed) as error:
        return str(error)
    try:
        if not deep:
            return None
        while piece := original.read(hasher.size, blob_file.PIECE_BYTES):
            hasher.update(piece)
        return _difference(resting, hasher.result())
    except (Corrupt, StorageFailed) as error:
        return str(error)
    finally:
        original.close()


def _difference(resting: Resting, hashes: Hashes) -> str | None:
    """Which of its names the content does not have, or None."""
    if hashes.size != resting.blob.size:
        return f"its content has {hashes.size} bytes, not {resting.blob.size}"
    if hashes.sha256 != resting.sha:
        return f"its content has the digest {Digest.sha256(hashes.sha256)}"
    if hashes.checksum != resting.blob.checksum:
        return "its content is right, the checksum in its row is not"
    for alias in resting.blob.aliases:
        digest = Digest.from_key(alias)
        if hashes.named(digest.algorithm) != digest:
            return f"its content has not the digest {digest}"
    return None


async def nameless(txn: Transaction, block: int, file_ids: tuple[int, ...]) -> list[int]:
    """Those files of a block that nothing in the ledger accounts for.

    A file may be without a row in an open block: while its process lives it is about to get
    one, and after that process died recovery looks there.
    """
    if any(opened == block for _, opened in await files.open_blocks(txn)):
        return []
    return await files.without_row(txn, file_ids)


async def strays(ledger: Ledger, depot: Depot, run: Run, report: Report) -> None:
    """Every file in the depot is named by the ledger, or lies where recovery would find it."""
    for block in sorted(await run(_blocks, depot)):
        found = tuple(await run(_files, depot, block))
        for file_id in await ledger.read_aside(nameless, block, found):
            # It was listed before the ledger was asked: it may have been removed in between.
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
