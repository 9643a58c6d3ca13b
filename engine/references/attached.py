"""Attached tags: names by which signatures, SBOMs and attestations belong to a manifest.

Clients without the referrers API keep what refers to a manifest under a tag that names its
digest: ``sha256-<hex>``, or ``sha512-<the first 64 hex>`` (OCI distribution-spec, "Referrers Tag
Schema"), and cosign adds ``.sig``, ``.att`` and ``.sbom``. Such a tag is no version of anything:
it is there for as long as the manifest of that digest is, whatever its own manifest is.

One that points to the very manifest that it names is a tag like any other, and so is an orphan:
one whose digest the image does not have.
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
"""Digests with the same first 64 digits that are looked at: there are never two."""


def is_name(name: str) -> bool:
    """Whether a tag of that name may belong to a manifest."""
    return _NAME.fullmatch(name) is not None


def names_itself(tag: Tag) -> bool:
    """Whether a tag names the manifest that it points to, as far as its row tells."""
    found = _NAME.fullmatch(tag.name)
    if found is None:
        return False
    start = bytes.fromhex(found[2])
    if found[1] == "sha256":
        return start == tag.sha
    return tag.digest[1:].startswith(start)


async def subject_of(txn: Transaction, image_key: bytes, tag: Tag) -> bytes | None:
    """The sha256 of the manifest of the image that a tag belongs to, or None."""
    found = _NAME.fullmatch(tag.name)
    if found is None:
        return None
    for sha in await _named(txn, image_key, found[1], bytes.fromhex(found[2])):
        if sha != tag.sha and await manifest_rows.present(txn, image_key, sha):
            return sha
    return None


async def _named(txn: Transaction, image_key: bytes, algorithm: str, start: bytes) -> list[bytes]:
    """The sha256 of what the image knows by a digest that begins so."""
    if algorithm == "sha256":
        return [start]
    prefix = layout.ALIAS + Digest("sha512", start).key
    rows = await txn.scan(prefix, after(prefix), limit=_ALIKE_MAX)
    found = [await blob_rows.canonical(txn, key[1:], image_key) for key, _ in rows]
    return [sha for sha in found if sha is not None]


async def tags_of(txn: Transaction, image_key: bytes, sha: bytes) -> list[Tag]:
    """The tags that belong to a manifest of the image."""
    found = []
    for key in await manifest_rows.names_of(txn, image_key, sha):
        digest = Digest.from_key(key)
        start = f"{digest.algorithm}-{digest.raw.hex()[:_HEX]}"
        for end in _ENDS:
            row = await load(txn, Tag, layout.TAG + image_key + (start + end).encode())
            if row is not None and row.sha != sha:
                found.append(row)
    return found
