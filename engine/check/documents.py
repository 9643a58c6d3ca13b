"""Check manifests against their bodies, the bytes that were pushed.

A body never changes, so it can be read long before it is compared with the newest rows.
"""

from __future__ import annotations

from typing import Final

from holdfast.engine.blobs import blob_rows
from holdfast.engine.depot import blob_file
from holdfast.engine.depot.interface import Depot
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import INLINE, Blob, Manifest, decode, get_payload, load
from holdfast.engine.model import documents
from holdfast.engine.model.config import MANIFEST_BYTES_MAX
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import Document
from holdfast.engine.model.errors import (
    Corrupt,
    InvalidDigest,
    InvalidManifest,
    NotFound,
    StorageFailed,
    TooLarge,
)
from holdfast.engine.model.problem import problem
from holdfast.engine.references import manifest_rows
from holdfast.engine.references.manifest_rows import BODY, CHILD, CONTENT

from .context import Report
from .files import Run
from .manifests import manifest_name

MANIFESTS_PER_READ: Final = 100
"""Manifests between two reads of the ledger: at most 6.4 MiB of bodies."""

Body = bytes | Blob
"""The bytes of a body, or the blob in whose file they are."""


async def slice_after(
    txn: Transaction, last: bytes, limit: int
) -> tuple[list[tuple[bytes, str, Body]], bytes | None]:
    """Return manifests behind ``last``, and where to continue, or None.

    Each is a key (image key, sha256), a media type and a body. Skips what cannot be read: other
    areas have reported it.
    """
    found: list[tuple[bytes, str, Body]] = []
    rows = await txn.scan(layout.MANIFEST + last + b"\0", after(layout.MANIFEST), limit=limit)
    for key, value in rows:
        sha = key[1 + ID_BYTES :]
        try:
            row = decode(Manifest, key, value)
            blob = await load(txn, Blob, layout.BLOB + sha)
            body: Body | None = blob
            if blob is not None and blob.place == INLINE:
                body = await get_payload(txn, layout.content(blob.created, sha))
        except Corrupt:
            continue
        if body is not None and blob is not None and not blob.damaged:
            found.append((key[1:], row.media_type, body))
    return found, rows[-1][0][1:] if rows else None


def _parse(depot: Depot, media_type: str, body: Body) -> Document | str | None:
    """Return the document, the reason why it is not valid, or None if it cannot be read now."""
    try:
        if isinstance(body, Blob):
            if body.size > MANIFEST_BYTES_MAX:
                return f"its body has {body.size} bytes"
            original = blob_file.open_original(depot, body)
            try:
                body = original.read(0, body.size)
            finally:
                original.close()
        return documents.parse(body, media_type, limit=MANIFEST_BYTES_MAX)
    except (NotFound, Corrupt, StorageFailed):
        # ``files.blobs`` reports that, unless the blob has just moved or been removed.
        return None
    except (InvalidManifest, TooLarge) as error:
        return str(error)


async def differences(txn: Transaction, key: bytes, document: Document) -> list[str]:
    """Return how a manifest's rows and its body disagree. Raises Corrupt."""
    image_key, sha = key[:ID_BYTES], key[ID_BYTES:]
    row = await load(txn, Manifest, layout.MANIFEST + key)
    if row is None:
        return []
    found = []
    subject = b"" if document.subject is None else Digest.parse(document.subject).key
    if row.media_type != document.media_type:
        found.append(f"its row says {row.media_type}, its body {document.media_type}")
    if row.subject != subject or row.artifact_type != (document.artifact_type or ""):
        found.append("its row has another subject or artifact type than its body")
    listed = set(await manifest_rows.needs_of(txn, image_key, sha))
    named = {(BODY, sha)}
    for need in document.needs:
        needed = await _canonical(txn, need.digest, image_key)
        kind = CHILD if need.kind == "child" else CONTENT
        if needed is not None:
            named.add((kind, needed))
        # Children of a sparse index and foreign content need not be in the store.
        if (kind, needed) not in listed and kind == CONTENT and not need.foreign:
            found.append(f"its body needs {need.digest}, its row does not")
    found += [
        f"its row needs {Digest.sha256(need)}, its body does not" for _, need in listed - named
    ]
    return found


async def _canonical(txn: Transaction, digest: str, image_key: bytes) -> bytes | None:
    try:
        return await blob_rows.canonical(txn, Digest.parse(digest).key, image_key)
    except InvalidDigest:
        return None


async def bodies(ledger: Ledger, depot: Depot, run: Run, report: Report) -> None:
    """Read the body of every manifest and compare it with the manifest's rows."""
    last: bytes | None = b""
    while last is not None:
        found, last = await ledger.read_in_thread(slice_after, last, MANIFESTS_PER_READ)
        for key, media_type, body in found:
            document = await run(_parse, depot, media_type, body)
            if isinstance(document, Document):
                reasons = await _compare(ledger, key, document)
            else:
                reasons = [] if document is None else [document]
            name = manifest_name(key[:ID_BYTES], key[ID_BYTES:])
            for reason in reasons:
                report(problem("manifest", name, reason))


async def _compare(ledger: Ledger, key: bytes, document: Document) -> list[str]:
    try:
        return await ledger.read(differences, key, document)
    except Corrupt:
        # A row of it cannot be read, which ``rows`` has reported.
        return []
