"""Blob rows: publish received bytes, find blobs, quarantine and remove them.

Committing the row publishes the blob: until then its file belongs to no blob. The store keeps one
copy per sha256, whichever client pushed it. An existing copy is not trusted: its file is verified
before the new bytes are discarded, and the new bytes replace a damaged copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from holdfast.engine.ledger import layout, records
from holdfast.engine.ledger.interface import Rows, Transaction, after
from holdfast.engine.ledger.records import (
    INLINE,
    PLAIN,
    Blob,
    File,
    get_payload,
    load,
    put_payload,
    save,
)
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, NotFound

from . import claims

_ROWS_PER_SCAN: Final = 1000
_CONTENT_ROWS_PER_SCAN: Final = 100
"""Rows of inline content read at a time: at most 6 MiB."""

Outcome = Literal["stored", "kept", "recheck"]
"""Result of ``publish``: see there."""


@dataclass(frozen=True, slots=True)
class Traces:
    """Files and content rows that name a blob whose own row cannot be read."""

    files: tuple[int, ...]
    """Ids of files."""
    contents: tuple[int, ...]
    """Creation times of content rows in the ledger."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Received and hashed bytes that are ready to be published.

    ``content`` holds them if they are few; else the file does, once it is ``durable``. If the
    caller verified an existing copy, the file need not be durable.
    """

    sha256: bytes
    size: int
    checksum: bytes
    content: bytes | None
    file_id: int
    alias: bytes = b""
    """Digest key in another algorithm that the client used; b"" for none."""
    verified: int = 0
    """File id of an existing copy that the caller has just verified, or 0."""
    durable: bool = False
    """True once the file was synced."""
    traces: Traces | None = None
    """Traces of an existing blob whose row cannot be read; None before the caller looked."""


async def find(txn: Transaction, digest_key: bytes) -> tuple[bytes, Blob] | None:
    """Return the sha256 and the row of the blob with a digest, with the operator's rights."""
    sha = await canonical(txn, digest_key, None)
    if sha is None:
        return None
    blob = await load(txn, Blob, layout.BLOB + sha)
    return None if blob is None else (sha, blob)


async def canonical(txn: Transaction, digest_key: bytes, owner: bytes | None) -> bytes | None:
    """Return the sha256 of the blob with that digest, or None.

    One row of the whole store maps a digest of another algorithm to its blob. Answers to an owner
    must not depend on the pushes of others, so the owner's own claim must name that digest too
    (design §3.6). ``owner`` None is the operator, who may see all. Raises Corrupt for the
    operator alone.
    """
    # 1 is the key of sha256: such a digest is its own answer.
    if digest_key[0] == 1:
        return digest_key[1:]
    if owner is None:
        return await get_payload(txn, layout.ALIAS + digest_key)
    try:
        sha = await get_payload(txn, layout.ALIAS + digest_key)
    except Corrupt:
        # Unknown to every owner, so that damage reveals nothing. A push of that digest heals it.
        return None
    claim = None if sha is None else await claims.get(txn, owner, sha)
    return sha if claim is not None and digest_key in claim.aliases else None


async def publish(txn: Transaction, arrival: Arrival, now: int) -> Outcome:
    """Publish an arrival as a blob, unless the store has a good copy already.

    ``stored``: the arrival is the blob now. ``kept``: the existing copy is good, and the new file
    is scheduled for unlinking. ``recheck``: nothing was changed, because the caller has not
    verified the existing file, or the file that it verified is gone, or it has not looked for the
    traces of a blob whose row cannot be read. The caller gives the blob an owner in the same
    transaction.
    """
    try:
        old = await load(txn, Blob, layout.BLOB + arrival.sha256)
    except Corrupt:
        if arrival.traces is None:
            return "recheck"
        old = await _rebuilt(txn, arrival, arrival.traces, now)
    if old is not None and not old.damaged:
        if old.file_id and old.file_id == arrival.file_id:
            # An earlier commit, for whose answer the caller did not wait, published this file.
            await alias(txn, arrival.sha256, old, arrival.alias)
            return "stored"
        if old.place == INLINE:
            good = await inline_content(txn, arrival.sha256, old) is not None
        elif old.file_id == arrival.verified:
            good = True
        else:
            return "recheck"
        if good:
            await alias(txn, arrival.sha256, old, arrival.alias)
            await schedule_unlink(txn, arrival.file_id)
            return "kept"
    if arrival.content is None and not arrival.durable:
        return "recheck"
    await _store(txn, arrival, old, now)
    return "stored"


async def rows_after(txn: Transaction, last: bytes, limit: int) -> Rows:
    """Return the rows of at most ``limit`` blobs after a sha256, in order; empty at the end."""
    found: Rows = []
    start = after(layout.BLOB + last) if last else layout.BLOB
    while len(found) < limit and (rows := await txn.scan(start, after(layout.BLOB), limit=limit)):
        found += [row for row in rows if layout.kind(row[0]) == layout.BLOB]
        # Skip the rest of the last blob's group, which may be long: its blob row comes first.
        start = after(rows[-1][0][: layout.BLOB_KEY_BYTES])
    return found[:limit]


async def traces_of(txn: Transaction, sha: bytes) -> Traces:
    """Find the traces of a blob whose row cannot be read. Linear in the number of all blobs."""
    files: list[int] = []
    start = layout.FILE
    while rows := await txn.scan(start, after(layout.FILE), limit=_ROWS_PER_SCAN):
        for key, file in records.readable(File, rows):
            if file.sha == sha:
                files.append(layout.at(key, 1))
        start = rows[-1][0] + b"\0"
    contents: list[int] = []
    start = layout.INLINE
    while rows := await txn.scan(start, after(layout.INLINE), limit=_CONTENT_ROWS_PER_SCAN):
        contents += [layout.at(key, 1) for key, _ in rows if key.endswith(sha)]
        start = rows[-1][0] + b"\0"
    return Traces(tuple(files), tuple(contents))


async def _rebuilt(txn: Transaction, arrival: Arrival, traces: Traces, now: int) -> Blob:
    """Rebuild the unreadable row of an existing copy from other rows, marked as damaged.

    Its size is that of the arrival, since these are the same bytes.
    """
    sha = arrival.sha256
    times = [
        time for time in traces.contents if await txn.get(layout.content(time, sha)) is not None
    ]
    blob = Blob(
        size=arrival.size,
        checksum=b"",
        place=INLINE if times else PLAIN,
        file_id=0,
        stored=arrival.size if times else 0,
        created=times[0] if times else now,
        aliases=await _aliases(txn, sha),
        damaged=now,
    )
    for file_id in traces.files:
        file = await load(txn, File, layout.FILE + layout.number(file_id))
        if file is not None and file.sha == sha:
            blob = msgspec.structs.replace(blob, file_id=file_id, stored=file.stored)
    return blob


async def _aliases(txn: Transaction, sha: bytes) -> tuple[bytes, ...]:
    """Return digest keys by which owners know a blob: those of the first 1000 references."""
    prefix = layout.references(sha)
    found: dict[bytes, None] = {}
    for key, _ in await txn.scan(prefix, after(prefix), limit=_ROWS_PER_SCAN):
        try:
            claim = await claims.get(txn, key[-layout.ID_BYTES :], sha)
        except Corrupt:
            continue
        found.update(dict.fromkeys(claim.aliases if claim else ()))
    return tuple(found)


async def inline_content(txn: Transaction, sha: bytes, blob: Blob) -> bytes | None:
    """Return the content of an inline blob, or None if its row is missing or damaged."""
    try:
        return await get_payload(txn, layout.content(blob.created, sha))
    except Corrupt:
        return None


async def alias(txn: Transaction, sha: bytes, blob: Blob, digest_key: bytes) -> None:
    """Map a digest key in another algorithm to the blob; an empty key has no effect."""
    if not digest_key:
        return
    # Written even if the blob lists the key already: that heals a damaged row.
    await put_payload(txn, layout.ALIAS + digest_key, sha)
    if digest_key not in blob.aliases:
        aliases = (*blob.aliases, digest_key)
        await save(txn, layout.BLOB + sha, msgspec.structs.replace(blob, aliases=aliases))


async def _store(txn: Transaction, arrival: Arrival, old: Blob | None, now: int) -> None:
    """Write the rows of an arrival, in place of a damaged copy ``old`` if there is one."""
    inline = arrival.content is not None
    blob = Blob(
        size=arrival.size,
        checksum=arrival.checksum,
        place=INLINE if inline else PLAIN,
        file_id=0 if inline else arrival.file_id,
        stored=arrival.size,
        created=old.created if old else now,
        queued=old.queued if old else 0,
        aliases=old.aliases if old else (),
    )
    await save(txn, layout.BLOB + arrival.sha256, blob)
    await alias(txn, arrival.sha256, blob, arrival.alias)
    if arrival.content is not None:
        await put_payload(txn, layout.content(blob.created, arrival.sha256), arrival.content)
    else:
        file = File(arrival.sha256, arrival.size)
        await save(txn, layout.FILE + layout.number(arrival.file_id), file)
    if old is None:
        await txn.add(layout.counter(layout.BLOBS), 1)
        await txn.add(layout.counter(layout.BLOB_BYTES), arrival.size)
    else:
        await txn.delete(layout.DAMAGED + arrival.sha256)
        await schedule_unlink(txn, old.file_id)
        if old.place == INLINE and not inline:
            await txn.delete(layout.content(old.created, arrival.sha256))
    stored = blob.stored - (old.stored if old else 0)
    await txn.add(layout.counter(layout.STORED_BYTES), stored)


async def schedule_unlink(txn: Transaction, file_id: int) -> None:
    """Detach a file from its blob or writer, to be unlinked after the commit or by the sweep."""
    if file_id:
        await txn.delete(layout.FILE + layout.number(file_id))
        await put_payload(txn, layout.PENDING_UNLINK + layout.number(file_id))


async def quarantine(txn: Transaction, sha: bytes, file_id: int, now: int) -> bool:
    """Mark a blob as damaged if its bytes are still in the file that was found bad.

    Returns False without a change if they are not, or if the row cannot be read: such a blob is
    not served anyway.
    """
    row = layout.BLOB + sha
    try:
        blob = await load(txn, Blob, row)
    except Corrupt:
        return False
    if blob is None or blob.damaged or blob.file_id != file_id:
        return False
    await save(txn, row, msgspec.structs.replace(blob, damaged=now))
    await put_payload(txn, layout.DAMAGED + sha)
    return True


async def swap(
    txn: Transaction, sha: bytes, old_file: int, new_file: int, place: int, stored: int, now: int
) -> bool:
    """Replace the file of a blob by another form of the same bytes (``place``, ``stored`` bytes).

    Returns False, with the new file scheduled for unlinking, if the blob is no longer in the file
    that was read, or is damaged.
    """
    row = layout.BLOB + sha
    blob = await load(txn, Blob, row)
    if blob is None or blob.file_id != old_file or blob.damaged:
        await schedule_unlink(txn, new_file)
        return False
    moved = msgspec.structs.replace(blob, file_id=new_file, place=place, stored=stored, probed=now)
    await save(txn, row, moved)
    await save(txn, layout.FILE + layout.number(new_file), File(sha, stored))
    await schedule_unlink(txn, old_file)
    await txn.add(layout.counter(layout.STORED_BYTES), stored - blob.stored)
    return True


async def remove(txn: Transaction, sha: bytes, blob: Blob) -> None:
    """Remove a blob without references from the ledger, and schedule its file for unlinking."""
    await txn.delete(layout.BLOB + sha)
    await txn.delete(layout.DAMAGED + sha)
    for alias in blob.aliases:
        await txn.delete(layout.ALIAS + alias)
    if blob.place == INLINE:
        await txn.delete(layout.content(blob.created, sha))
    await schedule_unlink(txn, blob.file_id)
    await txn.add(layout.counter(layout.BLOBS), -1)
    await txn.add(layout.counter(layout.BLOB_BYTES), -blob.size)
    await txn.add(layout.counter(layout.STORED_BYTES), -blob.stored)


async def needed(txn: Transaction, sha: bytes) -> bool:
    """Return True if an owner links or holds the blob."""
    prefix = layout.references(sha)
    return bool(await txn.scan(prefix, after(prefix), limit=1))


async def readable(txn: Transaction, digest_key: bytes, owner: bytes | None, now: int) -> bytes:
    """Return the sha256 of the blob with a digest, if the owner may read it. Raises NotFound.

    An owner may read what it links, and what it holds while the hold lasts. ``owner`` None is the
    operator, who may read all.
    """
    sha = await canonical(txn, digest_key, owner)
    if sha is not None:
        if owner is None:
            if await txn.get(layout.BLOB + sha) is not None:
                return sha
        elif await claimed(txn, owner, sha, now):
            return sha
    raise NotFound("blob", str(Digest.from_key(digest_key)))


async def claimed(txn: Transaction, owner: bytes, sha: bytes, until: int) -> bool:
    """Return True if the owner links the blob, or holds it beyond ``until``."""
    claim = await claims.get(txn, owner, sha)
    if claim is None:
        return False
    return claim.needed or claim.hold > until


async def require(txn: Transaction, sha: bytes) -> Blob:
    """Return the row of a claimed blob. Raises Corrupt, also if the row is missing."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None:
        raise Corrupt("blob", str(Digest.sha256(sha)), "it is claimed but has no row")
    return blob
