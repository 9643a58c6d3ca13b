"""Blob rows: publishing bytes that arrived, finding them, quarantining and removing them.

Publishing is committing the row: until then a file is nobody's, from then on it is the blob. One
copy is kept per sha256, whoever pushed it. A copy that exists is not taken on trust: a file is
verified before the new bytes are thrown away, and a damaged one is replaced by them.
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

_STEP: Final = 1000
_CONTENT_STEP: Final = 100
"""At most 6 MiB of rows."""

Outcome = Literal["stored", "kept", "recheck"]


@dataclass(frozen=True, slots=True)
class Traces:
    """What says of itself that it is a blob's: for one whose row cannot be read."""

    files: tuple[int, ...]
    """Ids of files."""
    contents: tuple[int, ...]
    """Times of content in the ledger."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes that were received and hashed, and wait to be published.

    ``content`` holds them if they are few; else the file does, once it is ``durable``. Where the
    caller verified an existing copy, they may be nowhere else.
    """

    sha256: bytes
    size: int
    checksum: bytes
    content: bytes | None
    file_id: int
    alias: bytes = b""
    """Digest key in another algorithm, if one was asked for."""
    verified: int = 0
    """File id of an existing copy that the caller has just verified, or 0."""
    durable: bool = False
    """Whether the file was synced."""
    traces: Traces | None = None
    """What is left of a blob whose row cannot be read; None: nobody has looked."""


async def find(txn: Transaction, digest_key: bytes) -> tuple[bytes, Blob] | None:
    """The sha256 and the row behind a digest of any algorithm, for the operator."""
    sha = await canonical(txn, digest_key, None)
    if sha is None:
        return None
    blob = await load(txn, Blob, layout.BLOB + sha)
    return None if blob is None else (sha, blob)


async def canonical(txn: Transaction, digest_key: bytes, owner: bytes | None) -> bytes | None:
    """The sha256 of the blob with that digest; in another algorithm only if the owner named it.

    One row for the whole store leads from an alias to its blob. What an owner is told must not
    depend on the pushes of others, so the alias has to stand in its own claim too (design §3.6).
    None stands for the operator, who may know all. Raises Corrupt, to the operator alone.
    """
    if digest_key[0] == 1:
        return digest_key[1:]
    if owner is None:
        return await get_payload(txn, layout.ALIAS + digest_key)
    try:
        sha = await get_payload(txn, layout.ALIAS + digest_key)
    except Corrupt:
        # As unknown to whoever has it as to whoever has not. A push of that digest heals it.
        return None
    claim = None if sha is None else await claims.get(txn, owner, sha)
    return sha if claim is not None and digest_key in claim.aliases else None


async def publish(txn: Transaction, arrival: Arrival, now: int) -> Outcome:
    """Make what arrived a blob, unless a good copy is there already.

    ``stored``: the arrival is the blob now. ``kept``: the existing copy is good, and the new file
    is doomed. ``recheck``: there is an existing file that the caller has not verified, or one
    that it counted on is gone, or nobody has looked for the files of a blob whose row cannot be
    read; nothing was changed. The caller gives the blob an owner in the
    same transaction.
    """
    try:
        old = await load(txn, Blob, layout.BLOB + arrival.sha256)
    except Corrupt:
        if arrival.traces is None:
            return "recheck"
        old = await _rebuilt(txn, arrival, arrival.traces, now)
    if old is not None and not old.damaged:
        if old.file_id and old.file_id == arrival.file_id:
            # By a commit that its caller did not wait for: these are the same bytes, and not two.
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
    """The rows of at most ``limit`` blobs behind a sha256, in order; none: there are no more."""
    found: Rows = []
    start = after(layout.BLOB + last) if last else layout.BLOB
    while len(found) < limit and (rows := await txn.scan(start, after(layout.BLOB), limit=limit)):
        found += [row for row in rows if layout.kind(row[0]) == layout.BLOB]
        # Behind the last group, of which there may be much more: a blob's row is the first of it.
        start = after(rows[-1][0][: layout.BLOB_KEY_BYTES])
    return found[:limit]


async def traces_of(txn: Transaction, sha: bytes) -> Traces:
    """What is left of a blob whose row cannot be read. Linear in the number of all blobs."""
    files: list[int] = []
    start = layout.FILE
    while rows := await txn.scan(start, after(layout.FILE), limit=_STEP):
        for key, file in records.readable(File, rows):
            if file.sha == sha:
                files.append(layout.at(key, 1))
        start = rows[-1][0] + b"\0"
    contents: list[int] = []
    start = layout.INLINE
    while rows := await txn.scan(start, after(layout.INLINE), limit=_CONTENT_STEP):
        contents += [layout.at(key, 1) for key, _ in rows if key.endswith(sha)]
        start = rows[-1][0] + b"\0"
    return Traces(tuple(files), tuple(contents))


async def _rebuilt(txn: Transaction, arrival: Arrival, traces: Traces, now: int) -> Blob:
    """A damaged old copy, as the other rows tell of it: its own cannot be read.

    Its size is that of what arrived, since these are the same bytes.
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
    """Digest keys by which some of the owners of a blob know it."""
    prefix = layout.references(sha)
    found: dict[bytes, None] = {}
    for key, _ in await txn.scan(prefix, after(prefix), limit=_STEP):
        try:
            claim = await claims.get(txn, key[-layout.ID_BYTES :], sha)
        except Corrupt:
            continue
        found.update(dict.fromkeys(claim.aliases if claim else ()))
    return tuple(found)


async def inline_content(txn: Transaction, sha: bytes, blob: Blob) -> bytes | None:
    """The content of a small blob, or None where its row is missing or damaged."""
    try:
        return await get_payload(txn, layout.content(blob.created, sha))
    except Corrupt:
        return None


async def alias(txn: Transaction, sha: bytes, blob: Blob, digest_key: bytes) -> None:
    """Let a digest key in another algorithm lead to the blob; nothing for an empty one."""
    if not digest_key:
        return
    # Also where the blob knows of it: this is what heals a row that was damaged.
    await put_payload(txn, layout.ALIAS + digest_key, sha)
    if digest_key not in blob.aliases:
        aliases = (*blob.aliases, digest_key)
        await save(txn, layout.BLOB + sha, msgspec.structs.replace(blob, aliases=aliases))


async def _store(txn: Transaction, arrival: Arrival, old: Blob | None, now: int) -> None:
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
    """Take a file from whoever had it; it is unlinked after the commit, or by the sweep."""
    if file_id:
        await txn.delete(layout.FILE + layout.number(file_id))
        await put_payload(txn, layout.DOOMED + layout.number(file_id))


async def quarantine(txn: Transaction, sha: bytes, file_id: int, now: int) -> bool:
    """Mark a blob as damaged, if its bytes still lie where they were found bad.

    One whose row cannot be read is served to nobody as it is.
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
    """Let other bytes at rest stand for the blob, if it still lies where it was read from."""
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
    """Take a blob that nobody needs out of the ledger; its file is doomed."""
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
    """Whether anybody links or holds the blob."""
    prefix = layout.references(sha)
    return bool(await txn.scan(prefix, after(prefix), limit=1))


async def readable(txn: Transaction, digest_key: bytes, owner: bytes | None, now: int) -> bytes:
    """The sha256 behind a digest, if this owner may read it. Raises NotFound.

    An owner may read what it links, and what it holds as long as the hold lasts. None stands for
    the operator, who may read all.
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
    """Whether the owner links the blob, or holds it until after ``until``."""
    claim = await claims.get(txn, owner, sha)
    if claim is None:
        return False
    return claim.needed or claim.hold > until


async def require(txn: Transaction, sha: bytes) -> Blob:
    """The row of a blob that somebody claims. Raises Corrupt where it is missing."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None:
        raise Corrupt("blob", str(Digest.sha256(sha)), "it is claimed, and has no row")
    return blob
