"""Attached tags: tags that bind signatures, SBOMs and attestations to a manifest by name.

Clients without the referrers API tag a referrer with the digest of its subject:
``sha256-<hex>``, or ``sha512-<the first 64 hex>`` (OCI distribution-spec, "Referrers Tag
Schema"); cosign adds ``.sig``, ``.att`` and ``.sbom``. Such a tag is not a version of the image:
it lives as long as the manifest that it names, whatever manifest it points to.

A tag that points to the manifest that it names is an ordinary tag. So is an orphan, which names
a digest that the image does not have.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.engine.blobs import blob_rows
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Tag, load
from holdfast.engine.model.digest import Digest

from . import manifest_rows

_HEX: Final = 64
_NAME: Final = re.compile(r"(sha256|sha512)-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?", re.ASCII)
_ENDS: Final = ("", ".sig", ".att", ".sbom")
_ALIKE_MAX: Final = 4
"""Digests with the same first 64 digits that a lookup reads; in practice there is one."""


def is_name(name: str) -> bool:
    """Return True if a tag of that name may belong to a manifest."""
    return _NAME.fullmatch(name) is not None


def names_itself(tag: Tag) -> bool:
    """Return True if a tag names the manifest that it points to, judged by its row alone."""
    found = _NAME.fullmatch(tag.name)
    if found is None:
        return False
    start = bytes.fromhex(found[2])
    if found[1] == "sha256":
        return start == tag.sha
    return tag.digest[1:].startswith(start)


async def subject_of(txn: Transaction, image_key: bytes, tag: Tag) -> bytes | None:
    """Return the sha256 of the manifest that a tag of the image belongs to, or None."""
    found = _NAME.fullmatch(tag.name)
    if found is None:
        return None
    for sha in await _named(txn, image_key, found[1], bytes.fromhex(found[2])):
        if sha != tag.sha and await manifest_rows.present(txn, image_key, sha):
            return sha
    return None


async def _named(txn: Transaction, image_key: bytes, algorithm: str, start: bytes) -> list[bytes]:
    """Return the sha256s of blobs that the image knows by a digest with that beginning."""
    if algorithm == "sha256":
        return [start]
    prefix = layout.ALIAS + Digest("sha512", start).key
    rows = await txn.scan(prefix, after(prefix), limit=_ALIKE_MAX)
    found = [await blob_rows.canonical(txn, key[1:], image_key) for key, _ in rows]
    return [sha for sha in found if sha is not None]


async def tags_of(txn: Transaction, image_key: bytes, sha: bytes) -> list[Tag]:
    """Return the tags that belong to a manifest of the image."""
    found = []
    for key in await manifest_rows.names_of(txn, image_key, sha):
        digest = Digest.from_key(key)
        start = f"{digest.algorithm}-{digest.raw.hex()[:_HEX]}"
        for end in _ENDS:
            row = await load(txn, Tag, layout.TAG + image_key + (start + end).encode())
            if row is not None and row.sha != sha:
                found.append(row)
    return found
