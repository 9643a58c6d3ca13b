"""Blobs against the rows that belong to them: content, aliases, files, quarantine, garbage."""

from __future__ import annotations

from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import SHA_BYTES, number
from holdfast.engine.ledger.records import FRAMES, INLINE, Blob, File

from .context import CheckContext, blob_name, digest_name

_NEXT_BLOCK = layout.counter(b"fb")


async def blobs(look: CheckContext) -> None:
    """Every blob has its bytes, its aliases, and somebody who needs it, or a place in the queue."""
    totals = look.totals
    async for key, blob in look.records(Blob, layout.BLOB):
        sha = key[1:]
        name = blob_name(sha)
        totals[layout.counter(layout.BLOBS)] += 1
        totals[layout.counter(layout.BLOB_BYTES)] += blob.size
        totals[layout.counter(layout.STORED_BYTES)] += blob.stored
        await _place(look, sha, blob, name)
        for alias in blob.aliases:
            row = layout.ALIAS + alias
            if await look.lacks(row):
                look.say("blob", name, f"its alias {digest_name(alias)} is missing")
        needed = await look.any(layout.references(sha))
        if needed and blob.damaged:
            look.say("blob", name, "it is in quarantine; push it again")
        if bool(blob.damaged) == await look.lacks(layout.DAMAGED + sha):
            look.say("blob", name, "its row and the list of the damaged disagree")
        if not needed and not blob.queued:
            look.say("blob", name, "nobody needs it, and it is not in the garbage queue")
        if blob.queued:
            row = layout.GARBAGE + number(blob.queued) + sha
            await look.expect(row, b"", "blob", name, "its place in the garbage queue")


async def _place(look: CheckContext, sha: bytes, blob: Blob, name: str) -> None:
    row = layout.content(blob.created, sha)
    if blob.place == INLINE:
        value = await look.value(row)
        if value is None:
            if not blob.damaged and await look.lacks(row):
                look.say("blob", name, "its content is missing")
        elif len(value) != blob.size and not blob.damaged:
            look.say("blob", name, f"its content has not the {blob.size} bytes of its row")
        if blob.file_id:
            look.say("blob", name, "it lies in the ledger, and names a file")
    else:
        if not await look.lacks(row):
            look.say("blob", name, "it lies in a file, and has content in the ledger")
        file = layout.FILE + number(blob.file_id)
        if not blob.file_id or await look.lacks(file):
            look.say("blob", name, f"its file {blob.file_id:x} has no row")
    if blob.place != FRAMES and blob.stored != blob.size:
        look.say("blob", name, f"{blob.stored} bytes at rest for a size of {blob.size}")


async def belongings(look: CheckContext) -> None:
    """Every row that belongs to a blob has one that says so too."""
    async for key, _ in look.rows(layout.INLINE):
        sha = key[-SHA_BYTES:]
        if look.unreadable(layout.BLOB + sha):
            continue
        blob = await look.load(Blob, layout.BLOB + sha)
        # A blob in a file was told of its content already.
        if blob is None or blob.created != layout.at(key, 1):
            look.say("blob", blob_name(sha), "content without a blob")
    async for key, sha in look.rows(layout.ALIAS):
        if look.unreadable(layout.BLOB + sha):
            continue
        blob = await look.load(Blob, layout.BLOB + sha)
        if blob is None or key[1:] not in blob.aliases:
            look.say("blob", blob_name(sha), f"{digest_name(key[1:])} is not one of its aliases")
    async for key, _ in look.rows(layout.DAMAGED):
        if await look.lacks(layout.BLOB + key[1:]):
            look.say("blob", blob_name(key[1:]), "it is in quarantine, and does not exist")
    await _garbage(look)


async def _garbage(look: CheckContext) -> None:
    async for key, _ in look.rows(layout.GARBAGE):
        look.totals[layout.counter(layout.GARBAGE_LENGTH)] += 1
        sha = key[-SHA_BYTES:]
        if look.unreadable(layout.BLOB + sha):
            continue
        blob = await look.load(Blob, layout.BLOB + sha)
        if blob is None or blob.queued != layout.at(key, 1):
            look.say("blob", blob_name(sha), "in the garbage queue at a time it does not know of")


async def file_rows(look: CheckContext) -> None:
    """Every file row and its blob name each other, and no id will be given out again."""
    last = 0
    async for key, file in look.records(File, layout.FILE):
        last = layout.at(key, 1)
        row = layout.BLOB + file.sha
        if look.unreadable(row):
            continue
        blob = await look.load(Blob, row)
        if blob is None or blob.file_id != last:
            look.say("file", f"{last:x}", f"its blob, {blob_name(file.sha)}, does not name it")
        if not await look.lacks(layout.DOOMED + key[1:]):
            look.say("file", f"{last:x}", "it is a blob's, and is doomed")
    if not look.spoiled(_NEXT_BLOCK):
        given = await look.txn.counter(_NEXT_BLOCK)
        async for key, _ in look.rows(layout.DOOMED):
            last = max(last, layout.at(key, 1))
        if last // BLOCK_FILES > given:
            look.say("counter", "blocks of file ids", f"it says {given}, and file {last:x} exists")
