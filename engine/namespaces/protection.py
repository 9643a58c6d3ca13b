"""Protection: refuses to delete an image or a namespace that has an immutable tag.

The check runs in the transaction that deletes, so no tag can be added in between. The part of a
pattern before its first wildcard narrows the scan, so most patterns cost one scan per image,
however many tags it has. The check is bounded all the same, since other writers wait for it.
"""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import payloads
from holdfast.engine.model.errors import Immutable, Unverified
from holdfast.engine.model.names import first_match

ROWS_SCANNED_MAX: Final = 10_000
"""Tags, images and scans that the check of one delete may cost."""

_ROWS_PER_SCAN: Final = 500


async def check_image(txn: Transaction, image_key: bytes, patterns: tuple[str, ...]) -> None:
    """Check an image's tags. Raises Immutable if one matches, Unverified past the bound."""
    await _image(txn, image_key, patterns, ROWS_SCANNED_MAX)


async def check_namespace(txn: Transaction, namespace_id: bytes, patterns: tuple[str, ...]) -> None:
    """Check the tags of all images of a namespace, as ``check_image``."""
    if not patterns:
        return
    left = ROWS_SCANNED_MAX
    start, stop = layout.IMAGE_NAME + namespace_id, after(layout.IMAGE_NAME + namespace_id)
    while rows := await txn.scan(start, stop, limit=_ROWS_PER_SCAN):
        for _, image_key in payloads(rows):
            left = await _image(txn, image_key, patterns, left)
        start = rows[-1][0] + b"\0"


async def _image(txn: Transaction, image_key: bytes, patterns: tuple[str, ...], left: int) -> int:
    """Check the tags of one image; return how much of the bound is ``left``."""
    prefix = layout.TAG + image_key
    for pattern in patterns:
        start = prefix + pattern.replace("?", "*").partition("*")[0].encode()
        stop = after(start)
        while True:
            left -= 1
            if left < 0:
                raise Unverified(pattern, ROWS_SCANNED_MAX)
            rows = await txn.scan(start, stop, limit=_ROWS_PER_SCAN)
            for key, _ in rows:
                left -= 1
                name = key[len(prefix) :].decode()
                if first_match((pattern,), name) is not None:
                    raise Immutable(name, pattern)
            if len(rows) < _ROWS_PER_SCAN:
                break
            start = rows[-1][0] + b"\0"
    return left
