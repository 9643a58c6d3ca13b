"""The closure of a tag: manifests that go with it, because nothing else needs them.

It may hold any number of manifests, so it is walked in steps, and what is left to look at is
kept as a stack: sha256s of manifests, and keys from which on referrers are still to be read. A
subject with a million referrers is one such key. With a manifest go the tags that belong to it
(``attached``), and so what they point to: chains of signatures are walked as all else is.
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

_REFERRERS: Final = 100
"""Referrers read at a time."""

_KEY_AT: Final = 1 + ID_BYTES
"""Where the length of the subject's digest key stands in the key of a referrer."""

_TAG_COST: Final = 8
"""Rows that go with a tag."""

Detach = Callable[[bytes], Awaitable[list[Tag]]]
"""Removes the tags that belong to a manifest, and may go; says which."""

Gone = tuple[tuple[bytes, str], ...]
"""Manifests that were removed, parents first: sha256 and media type."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one step did, and what is left to look at: the candidates of the next one."""

    manifests: Gone = ()
    tags: tuple[Tag, ...] = ()
    """Those that belonged to one of the manifests."""
    rest: tuple[bytes, ...] = ()


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
    """Remove those candidates that no tag and no index needs, and then what only they needed.

    Goes on until that cost about ``limit`` reads of manifests and ends of links (one manifest
    has up to ``NEEDS_MAX``). A referrer counts as needed while its subject is there, unless it
    was the one that has just been ``untagged``. What was pushed after ``since`` (of the ledger)
    stays.
    """
    gone: list[tuple[bytes, str]] = []
    tags: list[Tag] = []
    waiting = list(candidates)
    cost = 0
    while waiting and cost < limit:
        sha = waiting.pop()
        cost += 1
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
    """Some referrers of one subject, and where the next ones begin, if there are more."""
    stop = after(start[: _KEY_AT + 1 + start[_KEY_AT]])
    rows = await txn.scan(start, stop, limit=_REFERRERS)
    rest = [rows[-1][0] + b"\0"] if len(rows) == _REFERRERS else []
    return [*rest, *(key[-SHA_BYTES:] for key, _ in rows)]


async def is_needed(txn: Transaction, image_key: bytes, sha: bytes) -> bool:
    """Whether a tag or an index of the image needs the manifest."""
    claim = await claims.get(txn, image_key, sha)
    if claim is not None and claim.children:
        return True
    return bool(await manifest_rows.tags_of(txn, image_key, sha, 1))


async def take_back(
    txn: Transaction, owner: Owner, mark: bytes, shas: tuple[bytes, ...], now: int, hold_until: int
) -> None:
    """Remove those manifests (parents first) that an unfinished restore with that mark brought
    back, and that nothing needs: nobody has pushed them since."""
    for sha in shas:
        row = await load(txn, Manifest, manifest_rows.manifest_row(owner.key, sha))
        if row is None or row.unfinished != mark or await is_needed(txn, owner.key, sha):
            continue
        await manifest_rows.remove(txn, owner, sha, row, now, hold_until)
