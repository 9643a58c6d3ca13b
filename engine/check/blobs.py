"""Check blobs against their other rows: content, aliases, files, quarantine, garbage queue."""

from __future__ import annotations

from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import SHA_BYTES, number
from holdfast.engine.ledger.records import FRAMES, INLINE, Blob, File

from .context import CheckContext, blob_name, digest_name

_NEXT_BLOCK = layout.counter(b"fb")


async def blobs(context: CheckContext) -> None:
    """Check that every blob has its bytes and aliases, and a reference or a place in the queue."""
    totals = context.totals
    async for key, blob in context.records(Blob, layout.BLOB):
        sha = key[1:]
        name = blob_name(sha)
        totals[layout.counter(layout.BLOBS)] += 1
        totals[layout.counter(layout.BLOB_BYTES)] += blob.size
        totals[layout.counter(layout.STORED_BYTES)] += blob.stored
        await _check_content(context, sha, blob, name)
        for alias in blob.aliases:
            row = layout.ALIAS + alias
            if await context.is_absent(row):
                context.report("blob", name, f"its alias {digest_name(alias)} is missing")
        needed = await context.has_rows(layout.references(sha))
        if needed and blob.damaged:
            context.report("blob", name, "it is in quarantine; push it again")
        if bool(blob.damaged) == await context.is_absent(layout.DAMAGED + sha):
            context.report("blob", name, "its row and the quarantine list disagree")
        if not needed and not blob.queued:
            context.report("blob", name, "it is unreferenced and not in the garbage queue")
        if blob.queued:
            row = layout.GARBAGE + number(blob.queued) + sha
            await context.expect_row(row, b"", "blob", name, "its place in the garbage queue")


async def _check_content(context: CheckContext, sha: bytes, blob: Blob, name: str) -> None:
    row = layout.content(blob.created, sha)
    if blob.place == INLINE:
        value = await context.value(row)
        if value is None:
            if not blob.damaged and await context.is_absent(row):
                context.report("blob", name, "its content is missing")
        elif len(value) != blob.size and not blob.damaged:
            context.report("blob", name, f"its content has {len(value)} bytes, not {blob.size}")
        if blob.file_id:
            context.report("blob", name, "it is stored in the ledger, and its row names a file")
    else:
        if not await context.is_absent(row):
            context.report("blob", name, "it is stored in a file, and has content in the ledger")
        file = layout.FILE + number(blob.file_id)
        if not blob.file_id or await context.is_absent(file):
            context.report("blob", name, f"its file {blob.file_id:x} has no row")
    if blob.place != FRAMES and blob.stored != blob.size:
        context.report("blob", name, f"{blob.stored} bytes at rest for a size of {blob.size}")


async def belonging_rows(context: CheckContext) -> None:
    """Check that a blob's row confirms each row of content, alias, quarantine and queue."""
    async for key, _ in context.rows(layout.INLINE):
        sha = key[-SHA_BYTES:]
        if context.is_unreadable(layout.BLOB + sha):
            continue
        blob = await context.load(Blob, layout.BLOB + sha)
        # ``blobs`` reports content of a blob that is in a file.
        if blob is None or blob.created != layout.at(key, 1):
            context.report("blob", blob_name(sha), "content without a blob")
    async for key, sha in context.rows(layout.ALIAS):
        if context.is_unreadable(layout.BLOB + sha):
            continue
        blob = await context.load(Blob, layout.BLOB + sha)
        if blob is None or key[1:] not in blob.aliases:
            context.report(
                "blob", blob_name(sha), f"{digest_name(key[1:])} is not one of its aliases"
            )
    async for key, _ in context.rows(layout.DAMAGED):
        if await context.is_absent(layout.BLOB + key[1:]):
            context.report("blob", blob_name(key[1:]), "it is in quarantine, and does not exist")
    await _garbage(context)


async def _garbage(context: CheckContext) -> None:
    async for key, _ in context.rows(layout.GARBAGE):
        context.totals[layout.counter(layout.GARBAGE_LENGTH)] += 1
        sha = key[-SHA_BYTES:]
        if context.is_unreadable(layout.BLOB + sha):
            continue
        blob = await context.load(Blob, layout.BLOB + sha)
        if blob is None or blob.queued != layout.at(key, 1):
            context.report(
                "blob", blob_name(sha), "the garbage queue has it at another time than its row"
            )


async def file_rows(context: CheckContext) -> None:
    """Check that file rows and blobs name each other, and that no file id is assigned again."""
    last = 0
    async for key, file in context.records(File, layout.FILE):
        last = layout.at(key, 1)
        row = layout.BLOB + file.sha
        if context.is_unreadable(row):
            continue
        blob = await context.load(Blob, row)
        if blob is None or blob.file_id != last:
            context.report(
                "file", f"{last:x}", f"its blob, {blob_name(file.sha)}, does not name it"
            )
        if not await context.is_absent(layout.PENDING_UNLINK + key[1:]):
            context.report("file", f"{last:x}", "a blob uses it, and it is queued for removal")
    if not context.has_unreadable(_NEXT_BLOCK):
        # Ids are assigned by block: a file beyond the counter would get its id a second time.
        assigned = await context.txn.counter(_NEXT_BLOCK)
        async for key, _ in context.rows(layout.PENDING_UNLINK):
            last = max(last, layout.at(key, 1))
        if last // BLOCK_FILES > assigned:
            context.report(
                "counter", "blocks of file ids", f"it is {assigned}, but file {last:x} exists"
            )
