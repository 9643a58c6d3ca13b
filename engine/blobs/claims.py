"""Claims: an owner's right to a blob, and everything that depends on one.

An owner is an image, or a root of an embedding program. A claim counts the owner's needs of a
blob (``content``, ``bodies``, ``children``) and has the end of its hold. Every change of a claim
goes through ``change``, which compares the claim before and after and updates the rest: the
reference rows that keep the blob out of the garbage queue, the expiry of the hold, and the exact
numbers of image, namespace and project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ZERO_ID
from holdfast.engine.ledger.records import Blob, Claim, load, put_payload, save
from holdfast.engine.model.errors import Corrupt

NOTHING: Final = Claim(0)
"""The claim of an owner that has none."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of claims: an image, or a root, which has no project and no namespace."""

    key: bytes
    project: bytes = ZERO_ID
    namespace: bytes = ZERO_ID
    counted: bool = True
    """False for an image in the trash: its size left the numbers when it was deleted."""
    place: bytes = b""
    """``layout.place`` of the namespace: kept bytes are counted per namespace name."""

    def __post_init__(self) -> None:
        assert self.is_root or self.place, "kept bytes of an image are counted by name"

    @property
    def is_root(self) -> bool:
        """True for a root. A root never ends, so its claims are counted but not listed."""
        return self.namespace == ZERO_ID


async def get(txn: Transaction, owner: bytes, sha: bytes) -> Claim | None:
    """Return the owner's claim on the blob, or None. Raises Corrupt."""
    return await load(txn, Claim, layout.claim(owner, sha))


async def link(txn: Transaction, owner: Owner, sha: bytes, size: int, kind: str, now: int) -> None:
    """Count one more need (``content``, ``bodies`` or ``children``), which ends any hold."""
    before = await get(txn, owner.key, sha) or NOTHING
    need = {kind: getattr(before, kind) + 1}
    claim = msgspec.structs.replace(before, size=size, hold=0, **need)
    await change(txn, owner, sha, before, claim, now)


async def unlink(
    txn: Transaction, owner: Owner, sha: bytes, kind: str, now: int, hold_until: int
) -> None:
    """Count one need less; the last one leaves a hold until ``hold_until``. Raises Corrupt."""
    before = await get(txn, owner.key, sha)
    if before is None:
        return
    need = getattr(before, kind)
    if need <= 0:
        where = layout.about(layout.claim(owner.key, sha))
        raise Corrupt(*where, "reference count would become negative")
    rest = before.content + before.bodies + before.children - 1
    hold = before.hold if rest else max(before.hold, hold_until)
    claim = msgspec.structs.replace(before, hold=hold, **{kind: need - 1})
    await change(txn, owner, sha, before, claim, now)


async def hold(txn: Transaction, owner: Owner, sha: bytes, size: int, until: int, now: int) -> None:
    """Give the owner a hold on the blob until ``until``; never shortens a hold."""
    before = await get(txn, owner.key, sha) or NOTHING
    claim = msgspec.structs.replace(before, size=size, hold=max(before.hold, until))
    await change(txn, owner, sha, before, claim, now)


async def drop_hold(txn: Transaction, owner: Owner, sha: bytes, now: int) -> None:
    """End the owner's hold now."""
    before = await get(txn, owner.key, sha)
    if before is not None:
        await change(txn, owner, sha, before, msgspec.structs.replace(before, hold=0), now)


async def end_hold(txn: Transaction, owner: Owner, sha: bytes, until: int, now: int) -> None:
    """End the owner's hold if it ends at ``until``; keep any other hold. Raises Corrupt."""
    try:
        before = await get(txn, owner.key, sha)
    except Corrupt:
        # A claim that is only a hold can be ended without its row; a needed one cannot.
        before = msgspec.structs.replace(await implied(txn, owner, sha), hold=until)
        if before.needed:
            raise
    if before is not None and before.hold == until:
        await change(txn, owner, sha, before, msgspec.structs.replace(before, hold=0), now)


async def implied(txn: Transaction, owner: Owner, sha: bytes) -> Claim:
    """Rebuild an unreadable claim from the reference rows. Raises Corrupt.

    These show which kinds of need there are, but neither how many nor when a hold ends: enough
    to release the whole claim and keep the numbers exact.
    """

    async def has(kind: bytes) -> bool:
        row = layout.reference(sha, kind, owner.project, owner.namespace, owner.key)
        return await txn.get(row) is not None

    blob = await load(txn, Blob, layout.BLOB + sha)
    return Claim(
        size=blob.size if blob else 0,
        content=int(await has(layout.CONTENT)),
        bodies=int(await has(layout.KEPT)),
        hold=int(await has(layout.HELD)),
    )


async def name(txn: Transaction, owner: bytes, sha: bytes, alias: bytes) -> None:
    """Add a digest key by which the owner knows a blob that it claims.

    An owner knows a blob by its sha256 and by the digests that it used itself (in a push, a
    mount, a manifest). Digests used by other owners do not count: an answer to them would reveal
    what these store.
    """
    claim = await get(txn, owner, sha)
    if alias and claim is not None and alias not in claim.aliases:
        named = msgspec.structs.replace(claim, aliases=(*claim.aliases, alias))
        await save(txn, layout.claim(owner, sha), named)


async def release(txn: Transaction, owner: Owner, sha: bytes, before: Claim, now: int) -> None:
    """End the whole claim, including its hold: for owners that are deleted."""
    await change(txn, owner, sha, before, NOTHING, now)


async def change(
    txn: Transaction, owner: Owner, sha: bytes, before: Claim, claim: Claim, now: int
) -> None:
    """Replace one claim by another, and update all rows and counters that depend on it."""
    had_kinds, kinds = kinds_of(before), kinds_of(claim)
    sole = False
    # Numbers first: they are computed from the reference rows as they were before this change.
    if had_kinds != kinds and not owner.is_root:
        sole = await _is_sole(txn, owner, sha)
        size = claim.size or before.size
        await _update_kept(txn, owner, sha, size, had_kinds, kinds, sole=sole)
    for kind in (layout.KEPT, layout.HELD):
        await _set_reference(txn, owner, sha, kind, kind in had_kinds, kind in kinds)
    if (before.content > 0) != (claim.content > 0):
        # Sets the reference of kind CONTENT too, at the right moment of its own count.
        size = claim.size or before.size
        await _update_sizes(txn, owner, sha, size, linked=claim.content > 0, sole=sole)
    if before.hold != claim.hold:
        if before.hold:
            await txn.delete(layout.expiry(before.hold, owner.key, sha))
        if claim.hold:
            key = layout.expiry(claim.hold, owner.key, sha)
            await put_payload(txn, key, owner.project + owner.namespace)
    if (before.hold > 0) != (claim.hold > 0):
        await txn.add(layout.counter(layout.HOLDS), 1 if claim.hold else -1)
    had, has = before.needed or before.hold > 0, claim.needed or claim.hold > 0
    if had != has:
        await _set_claimed(txn, owner, sha, has)
    if has:
        await save(txn, layout.claim(owner.key, sha), claim)
    else:
        await txn.delete(layout.claim(owner.key, sha))
        # After the references are gone, since it looks for any that are left.
        await enqueue_if_garbage(txn, sha, now)


def kinds_of(claim: Claim) -> set[bytes]:
    """Return the kinds of the reference rows that belong to a claim."""
    kinds = {layout.CONTENT} if claim.content else set()
    if claim.bodies or claim.children:
        kinds.add(layout.KEPT)
    if claim.hold:
        kinds.add(layout.HELD)
    return kinds


PARTS: Final = {
    layout.CONTENT: layout.NAMESPACE_UNIQUE,
    layout.KEPT: layout.NAMESPACE_MANIFESTS,
    layout.HELD: layout.NAMESPACE_HELD,
}
"""Kind of reference -> counter of the bytes that a namespace keeps for it. A blob with references
of several kinds counts once, for the first kind in this order."""


async def _is_sole(txn: Transaction, owner: Owner, sha: bytes) -> bool:
    """Return True if no other owner refers to the blob.

    That holds for most pushed blobs, and then this one scan saves several others.
    """
    prefix = layout.references(sha)
    # An owner has at most one reference per kind, so one more row is another owner's.
    rows = await txn.scan(prefix, after(prefix), limit=len(PARTS) + 1)
    return all(key.endswith(owner.key) for key, _ in rows)


async def _update_kept(
    txn: Transaction,
    owner: Owner,
    sha: bytes,
    size: int,
    had: set[bytes],
    has: set[bytes],
    *,
    sole: bool,
) -> None:
    """Update the counters of kept bytes of namespace, name and project for a changed claim.

    The claim's reference rows must still be those from before the change. ``sole``: no other
    owner refers to the blob.
    """
    others: dict[bytes, bool] = dict.fromkeys(PARTS, False) if sole else {}

    async def first(own: set[bytes]) -> bytes | None:
        for kind in PARTS:
            if kind in own:
                return kind
            if kind not in others:
                others[kind] = await _referred(txn, owner, sha, kind)
            if others[kind]:
                return kind
        return None

    before, after_it = await first(had), await first(has)
    if before == after_it:
        return
    for kind, delta in ((before, -size), (after_it, size)):
        # ``_update_sizes`` counts a namespace's distinct content, with its exclusive sizes.
        if kind is not None and kind != layout.CONTENT:
            await txn.add(layout.counter(PARTS[kind], owner.namespace), delta)
    if before is None or after_it is None:
        delta = size if before is None else -size
        await txn.add(layout.counter(layout.PLACE_KEPT, owner.place), delta)
        await txn.add(layout.counter(layout.PROJECT_KEPT, owner.project), delta)


async def _referred(txn: Transaction, owner: Owner, sha: bytes, kind: bytes) -> bool:
    """Return True if another owner in the namespace has a reference of that kind."""
    prefix = layout.references(sha, kind) + owner.project + owner.namespace
    rows = await txn.scan(prefix, after(prefix), limit=2)
    return any(key[layout.OWNER_AT :] != owner.key for key, _ in rows)


async def _set_claimed(txn: Transaction, owner: Owner, sha: bytes, has: bool) -> None:
    """Add a claim to the index of its owner's claims, or remove it; for a root, count it."""
    if owner.is_root:
        await txn.add(layout.counter(layout.ROOT_BLOBS, owner.key), 1 if has else -1)
    elif has:
        await put_payload(txn, layout.claimed(owner.key, sha))
    else:
        await txn.delete(layout.claimed(owner.key, sha))


async def _set_reference(
    txn: Transaction, owner: Owner, sha: bytes, kind: bytes, had: bool, has: bool
) -> None:
    if had == has:
        return
    key = layout.reference(sha, kind, owner.project, owner.namespace, owner.key)
    if has:
        await put_payload(txn, key)
    else:
        await txn.delete(key)


async def _update_sizes(
    txn: Transaction, owner: Owner, sha: bytes, size: int, *, linked: bool, sole: bool
) -> None:
    """Update the size counters when the owner's first content link comes or its last one goes.

    ``sole``: no other owner refers to the blob.
    """
    delta = size if linked else -size
    if owner.counted:
        await txn.add(layout.counter(layout.IMAGE_SIZE, owner.key), delta)
        await txn.add(layout.counter(layout.NAMESPACE_SIZE, owner.namespace), delta)
    # The scans below must see only the links of others: remove the own one before them, or add
    # it after them.
    if not linked:
        await _set_reference(txn, owner, sha, layout.CONTENT, had=True, has=False)
    every = layout.references(sha, layout.CONTENT)
    own_project = every + owner.project
    own = own_project + owner.namespace
    if sole:
        for name in _DISTINCT:
            await txn.add(layout.counter(name, owner.namespace), delta)
    elif not await txn.scan(own, after(own), limit=1):
        await txn.add(layout.counter(layout.NAMESPACE_UNIQUE, owner.namespace), delta)
        for name, links in (
            (layout.NAMESPACE_EXCLUSIVE, every),
            (layout.NAMESPACE_PROJECT_EXCLUSIVE, own_project),
        ):
            others = await _first_namespaces(txn, links)
            if not others:
                await txn.add(layout.counter(name, owner.namespace), delta)
            elif len(others) == 1:
                # The one other namespace gains or loses its exclusive use of the blob.
                await txn.add(layout.counter(name, others[0]), -delta)
    if linked:
        await _set_reference(txn, owner, sha, layout.CONTENT, had=False, has=True)


_DISTINCT: Final = (
    layout.NAMESPACE_UNIQUE,
    layout.NAMESPACE_EXCLUSIVE,
    layout.NAMESPACE_PROJECT_EXCLUSIVE,
)
"""Counters of a namespace that include a blob to which only one owner refers."""


async def _first_namespaces(txn: Transaction, prefix: bytes) -> list[bytes]:
    """Return the first namespaces with a content link under ``prefix``, at most two."""
    start, stop = prefix, after(prefix)
    found: list[bytes] = []
    while len(found) < 2 and (rows := await txn.scan(start, stop, limit=1)):
        key = rows[0][0]
        found.append(key[layout.NAMESPACE_AT : layout.OWNER_AT])
        start = after(key[: layout.OWNER_AT])
    return found


async def enqueue_if_garbage(txn: Transaction, sha: bytes, now: int) -> None:
    """Put a blob into the garbage queue unless an owner still refers to it."""
    prefix = layout.references(sha)
    if await txn.scan(prefix, after(prefix), limit=1):
        return
    row = layout.BLOB + sha
    try:
        blob = await load(txn, Blob, row)
    except Corrupt:
        # Queue it all the same: the sweep moves an entry with an unreadable blob row aside.
        pass
    else:
        if blob is None or blob.queued:
            return
        await save(txn, row, msgspec.structs.replace(blob, queued=now))
    await put_payload(txn, layout.GARBAGE + layout.number(now) + sha)
    await txn.add(layout.counter(layout.GARBAGE_LENGTH), 1)
