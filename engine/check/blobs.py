"""Check blobs against their other rows: content, aliases, files, quarantine, garbage queue."""

from __future__ import annotations

from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import SHA_BYTES, number
from holdfast.engine.ledger.records import FRAMES, INLINE, Blob, File

from .context import CheckContext, Item, blob_name, digest_name, pointed

_NEXT_BLOCK = layout.counter(b"fb")


async def blobs(context: CheckContext) -> None:
    """Check that every blob has its bytes and aliases, and a reference or a place in the queue."""
    totals = context.totals
    async for key, blob in context.records(Blob, layout.BLOB):
        sha = key[1:]
        item = context.item("blob", blob_name(sha))
        totals[layout.counter(layout.BLOBS)] += 1
        totals[layout.counter(layout.BLOB_BYTES)] += blob.size
        totals[layout.counter(layout.STORED_BYTES)] += blob.stored
        await _check_content(item, sha, blob)
        for alias in blob.aliases:
            reason = f"its alias {digest_name(alias)} is missing"
            await item.expect_present(layout.ALIAS + alias, reason)
        needed = await context.has_rows(layout.references(sha))
        if needed and blob.damaged:
            item.report("it is in quarantine; push it again")
        if bool(blob.damaged) == await context.is_absent(layout.DAMAGED + sha):
            item.report("its row and the quarantine list disagree")
        if not needed and not blob.queued:
            item.report("it is unreferenced and not in the garbage queue")
        if blob.queued:
            row = layout.GARBAGE + number(blob.queued) + sha
            await item.expect_row(row, b"", "its place in the garbage queue")


async def _check_content(item: Item, sha: bytes, blob: Blob) -> None:
    context = item.context
    row = layout.content(blob.created, sha)
    if blob.place == INLINE:
        value = await context.value(row)
        if value is None:
            if not blob.damaged and await context.is_absent(row):
                item.report("its content is missing")
        elif len(value) != blob.size and not blob.damaged:
            item.report(f"its content has {len(value)} bytes, not {blob.size}")
        if blob.file_id:
            item.report("it is stored in the ledger, and its row names a file")
    else:
        await item.expect_absent(row, "it is stored in a file, and has content in the ledger")
        file = layout.FILE + number(blob.file_id)
        if not blob.file_id or await context.is_absent(file):
            item.report(f"its file {blob.file_id:x} has no row")
    if blob.place != FRAMES and blob.stored != blob.size:
        item.report(f"{blob.stored} bytes at rest for a size of {blob.size}")


async def belonging_rows(context: CheckContext) -> None:
    """Check that a blob's row confirms each row of content, alias, quarantine and queue."""
    async for key, _, blob in context.targets(layout.INLINE, Blob, _at_end):
        # ``blobs`` reports content of a blob that is in a file.
        if blob is None or blob.created != layout.at(key, 1):
            context.item("blob", blob_name(key[-SHA_BYTES:])).report("content without a blob")
    async for key, sha, blob in context.targets(layout.ALIAS, Blob, pointed(layout.BLOB)):
        if blob is None or key[1:] not in blob.aliases:
            context.item("blob", blob_name(sha)).report(
                f"{digest_name(key[1:])} is not one of its aliases"
            )
    async for key, _ in context.rows(layout.DAMAGED):
        item = context.item("blob", blob_name(key[1:]))
        row = layout.BLOB + key[1:]
        await item.expect_present(row, "it is in quarantine, and does not exist")
    await _garbage(context)


async def _garbage(context: CheckContext) -> None:
    async for key, _, blob in context.targets(layout.GARBAGE, Blob, _at_end):
        # A row whose blob cannot be read is not counted; the counter is not compared then.
        context.totals[layout.counter(layout.GARBAGE_LENGTH)] += 1
        if blob is None or blob.queued != layout.at(key, 1):
            item = context.item("blob", blob_name(key[-SHA_BYTES:]))
            item.report("the garbage queue has it at another time than its row")


def _at_end(key: bytes, _: bytes) -> bytes:
    """Return the key of the blob whose sha256 ends a key."""
    return layout.BLOB + key[-SHA_BYTES:]


async def file_rows(context: CheckContext) -> None:
    """Check that file rows and blobs name each other, and that no file id is assigned again."""
    last = 0
    async for key, file in context.records(File, layout.FILE):
        last = layout.at(key, 1)
        item = context.item("file", f"{last:x}")
        row = layout.BLOB + file.sha
        if context.is_unreadable(row):
            continue
        blob = await context.load(Blob, row)
        if blob is None or blob.file_id != last:
            item.report(f"its blob, {blob_name(file.sha)}, does not name it")
        row = layout.PENDING_UNLINK + key[1:]
        await item.expect_absent(row, "a blob uses it, and it is queued for removal")
    if not context.has_unreadable(_NEXT_BLOCK):
        # Ids are assigned by block: a file beyond the counter would get its id a second time.
        assigned = await context.txn.counter(_NEXT_BLOCK)
        async for key, _ in context.rows(layout.PENDING_UNLINK):
            last = max(last, layout.at(key, 1))
        if last // BLOCK_FILES > assigned:
            context.item("counter", "blocks of file ids").report(
                f"it is {assigned}, but file {last:x} exists"
            )
