"""Pruning: removes manifests that nothing needs, and then those that only they needed.

A deleted tag may leave any number of manifests, so the walk runs in steps. Its state is a stack:
sha256s of manifests, and keys from which referrers are still to be read. A subject with a million
referrers is one such key. Removing a manifest also removes the tags that belong to it
(``attached``), and so the manifests that they point to: the walk follows chains of signatures
like all other references.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.engine.blobs import claims
from holdfast.engine.blobs.claims import Owner
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Manifest, Tag, load

from . import manifest_rows
from .manifest_rows import CHILD

_REFERRERS_PER_SCAN: Final = 100
"""Referrers read at a time."""

_KEY_AT: Final = 1 + ID_BYTES
"""Offset, in the key of a referrer, of the length of the subject's digest key."""

_TAG_COST: Final = 8
"""Rows deleted with a tag."""

Detach = Callable[[bytes], Awaitable[list[Tag]]]
"""Removes those tags of a manifest that may be deleted, and returns them."""

Gone = tuple[tuple[bytes, str], ...]
"""Removed manifests, parents first: sha256 and media type."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """Result of one step: what it removed, and the candidates of the next step."""

    manifests: Gone = ()
    tags: tuple[Tag, ...] = ()
    """Removed tags: each belonged to one of the manifests."""
    rest: tuple[bytes, ...] = ()
    """Candidates of the next step; empty when the walk is complete."""


async def prune_unneeded(
    txn: Transaction,
    owner: Owner,
    candidates: tuple[bytes, ...],
    now: int,
    hold_until: int,
    limit: int,
    *,
    detach: Detach,
    untagged: bytes = b"",
    since: int | None = None,
) -> Pruned:
    """Remove the candidates that no tag and no index needs, then what only they needed.

    Stops after about ``limit`` reads of manifests and removed links (one manifest has up to
    ``NEEDS_MAX``). A referrer is needed while its subject exists, unless it is the manifest that
    was just ``untagged``. Manifests pushed after ``since`` (in ledger time) stay.
    """
    gone: list[tuple[bytes, str]] = []
    tags: list[Tag] = []
    waiting = list(candidates)
    cost = 0
    while waiting and cost < limit:
        sha = waiting.pop()
        cost += 1
        # Longer than a sha256: a key from which to read the next referrers.
        if len(sha) > SHA_BYTES:
            waiting += await _referrers(txn, sha)
            continue
        row = await load(txn, Manifest, manifest_rows.manifest_row(owner.key, sha))
        if row is None or await is_needed(txn, owner.key, sha):
            continue
        if since is not None and row.fresh > since:
            continue
        if sha != untagged and await manifest_rows.has_subject(txn, owner.key, sha, frozenset()):
            continue
        names = await manifest_rows.names_of(txn, owner.key, sha)
        detached = await detach(sha)
        needs = await manifest_rows.remove(txn, owner, sha, row, now, hold_until)
        waiting += [needed for kind, needed in needs if kind == CHILD]
        waiting += [layout.referrers_of(owner.key, name) for name in names]
        waiting += [tag.sha for tag in detached]
        cost += len(needs) + _TAG_COST * len(detached)
        gone.append((sha, row.media_type))
        tags += detached
    return Pruned(tuple(gone), tuple(tags), tuple(waiting))


async def _referrers(txn: Transaction, start: bytes) -> list[bytes]:
    """Return some referrers of one subject, after the key where the next ones begin, if any.

    The key comes first, so that the stack is worked off before more referrers are read.
    """
    stop = after(start[: _KEY_AT + 1 + start[_KEY_AT]])
    rows = await txn.scan(start, stop, limit=_REFERRERS_PER_SCAN)
    rest = [rows[-1][0] + b"\0"] if len(rows) == _REFERRERS_PER_SCAN else []
    return [*rest, *(key[-SHA_BYTES:] for key, _ in rows)]


async def is_needed(txn: Transaction, image_key: bytes, sha: bytes) -> bool:
    """Return True if a tag or an index of the image needs the manifest."""
    claim = await claims.get(txn, image_key, sha)
    if claim is not None and claim.children:
        return True
    return bool(await manifest_rows.tags_of(txn, image_key, sha, 1))


async def take_back(
    txn: Transaction, owner: Owner, mark: bytes, shas: tuple[bytes, ...], now: int, hold_until: int
) -> None:
    """Remove manifests (parents first) that an unfinished restore with that mark brought back.

    Manifests that something needs stay, and so do those that were pushed since.
    """
    for sha in shas:
        row = await load(txn, Manifest, manifest_rows.manifest_row(owner.key, sha))
        # A push clears the mark: such a manifest belongs to its pusher now.
        if row is None or row.unfinished != mark or await is_needed(txn, owner.key, sha):
            continue
        await manifest_rows.remove(txn, owner, sha, row, now, hold_until)
