"""All manifests of an image, those without a tag included, in order of their digests."""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Manifest as Row
from holdfast.engine.ledger.records import decode
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.model.values import ListedManifest, moment
from holdfast.engine.references import manifest_rows

from . import images

SCANNED_MAX: Final = 10_000
"""Manifests that one listing looks at, of which a filter may take few: some 0.1 s."""

LISTED_TAGS: Final = 100
"""Tag names shown with a manifest."""

_STEP: Final = 1000


async def listing(
    txn: Transaction, image_id: bytes, tagged: bool | None, last: bytes, limit: int
) -> tuple[list[ListedManifest], bytes | None]:
    """Manifests of an image after a sha256 that need not exist, and where to go on.

    Fewer than ``limit``, even none, where SCANNED_MAX were looked at; what is None at the end is
    the last one that was. Rows that cannot be read are left out: the check tells of them. Raises
    NotFound.
    """
    image, _ = await images.require(txn, image_id)
    prefix = layout.MANIFEST + image.key
    sha = last
    start = prefix + last + b"\0" if last else prefix
    found: list[ListedManifest] = []
    looked = 0
    while looked < SCANNED_MAX:
        step = min(_STEP, SCANNED_MAX - looked)
        rows = await txn.scan(start, after(prefix), limit=step)
        for key, value in rows:
            looked += 1
            sha = key[len(prefix) :]
            item = await _view(txn, image.key, key, value, tagged)
            if item is not None:
                if len(found) == limit:
                    return found, found[-1].digest.raw
                found.append(item)
            start = key + b"\0"
        if len(rows) < step:
            return found, None
    return found, sha


async def _view(
    txn: Transaction, image_key: bytes, key: bytes, value: bytes, tagged: bool | None
) -> ListedManifest | None:
    """A manifest as callers see it; None where it is not asked for."""
    sha = key[-layout.SHA_BYTES :]
    wanted = LISTED_TAGS + 1 if tagged is not False else 1
    names = await manifest_rows.tags_of(txn, image_key, sha, wanted)
    if tagged is not None and tagged != bool(names):
        return None
    try:
        row = decode(Row, key, value)
    except Corrupt:
        return None
    return ListedManifest(
        digest=Digest.sha256(sha),
        media_type=row.media_type,
        artifact_type=row.artifact_type or None,
        size=row.size,
        created_at=moment(row.created),
        tags=tuple(names[:LISTED_TAGS]),
        more_tags=len(names) > LISTED_TAGS,
        subject=Digest.from_key(row.subject) if row.subject else None,
    )
