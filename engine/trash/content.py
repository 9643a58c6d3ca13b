"""Finds the content that deleted tags need for a restore, and ends holds that none of them needs.

When a tag is deleted, its image keeps holds on the manifests that were removed with it, and on
what these need. A hold does not record its reason. Code that ends holds early, for one tag or for
a whole namespace, therefore first reads the manifests of the other deleted tags.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Claim, Trash, load
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.model import documents
from holdfast.engine.model.config import MANIFEST_BYTES_MAX
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, Invalid, NotFound
from holdfast.engine.namespaces import namespaces
from holdfast.engine.references import trash_rows
from holdfast.engine.repositories import images
from holdfast.engine.repositories.reader import BlobReader

ENTRIES_READ_MAX: Final = 10_000
"""Entries of a project's trash that one search reads."""

NEEDS_MAX: Final = 50_000
"""Digests that one search collects: about 10 MiB, and seconds of reading."""

_ROWS_PER_READ: Final = 200

_FOREVER: Final = 1 << 62


@dataclass(slots=True)
class Needed:
    """Content that deleted tags need for a restore."""

    keys: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Digest keys by image key."""
    until: int = _FOREVER
    """Time (us) from which on entries are due that a bounded search did not read."""

    def has(self, image_key: bytes, sha: bytes, claim: Claim) -> bool:
        """Return True if a deleted tag may need the blob that the claim holds.

        A hold made for a deleted tag lasts at least as long as the tag's entry, so one that ends
        before ``until`` is not for an entry that was not read.
        """
        if claim.hold >= self.until:
            return True
        known = self.keys.get(image_key, set())
        return any(key in known for key in (Digest.sha256(sha).key, *claim.aliases))


async def needed(core: Core, project: bytes, namespace: bytes, except_id: bytes = b"") -> Needed:
    """Collect what the deleted tags of a namespace need, except the one with the id ``except_id``.

    Bounded by ENTRIES_READ_MAX and NEEDS_MAX: see ``Needed.until``.
    """
    found = Needed()
    budget = NEEDS_MAX
    async for until, entry in deleted_tags(core, project):
        if entry is None:
            found.until = until
            break
        if entry.namespace != namespace or entry.id == except_id:
            continue
        keys = await of_tag(core, entry, budget)
        budget -= len(keys)
        if budget <= 0:
            found.until = until
            break
        found.keys.setdefault(entry.image, set()).update(keys)
    return found


async def deleted_tags(core: Core, project: bytes) -> AsyncIterator[tuple[int, Trash | None]]:
    """Yield time due (us) and entry of the deleted tags of a project, in order of time.

    Reads ENTRIES_READ_MAX entries of the trash. If there are more, the last pair is the time of
    the first one that was not read, and None.
    """
    prefix = start = layout.TRASH_PROJECT + project
    left = ENTRIES_READ_MAX
    while rows := await core.ledger.read_in_thread(_entries, prefix, start, _ROWS_PER_READ):
        for key, entry in rows:
            if not left:
                yield layout.at(key, len(prefix)), None
                return
            left -= 1
            if entry is not None and entry.kind == "tag":
                yield layout.at(key, len(prefix)), entry
        if len(rows) < _ROWS_PER_READ:
            return
        start = rows[-1][0] + b"\0"


async def _entries(
    txn: Transaction, prefix: bytes, start: bytes, limit: int
) -> list[tuple[bytes, Trash | None]]:
    """Return keys and entries of a project's trash from a key on.

    An entry is None if it cannot be read, so that it cannot be restored either.
    """
    found: list[tuple[bytes, Trash | None]] = []
    for key, _ in await txn.scan(start, after(prefix), limit=limit):
        try:
            found.append((key, await load(txn, Trash, layout.TRASH + key[len(prefix) :])))
        except Corrupt:
            found.append((key, None))
    return found


async def of_tag(core: Core, entry: Trash, budget: int = NEEDS_MAX) -> set[bytes]:
    """Return digest keys of the manifests removed with a tag, and of all that they need.

    Stops once it has ``budget`` keys or more.
    """
    found = {Digest.sha256(entry.sha).key}
    below = _FOREVER
    while len(found) < budget:
        try:
            rows = await core.ledger.read(trash_rows.manifests, entry, below, _ROWS_PER_READ)
        except Corrupt:
            # It cannot be restored; its holds expire.
            break
        for position, sha, media_type in rows:
            below = position
            found.add(Digest.sha256(sha).key)
            found |= await _needs(core, entry.image, sha, media_type)
            if len(found) >= budget:
                break
        if len(rows) < _ROWS_PER_READ:
            break
    return found


async def _needs(core: Core, image_key: bytes, sha: bytes, media_type: str) -> set[bytes]:
    """Return digest keys of what a manifest needs; none if it cannot be read, nor restored."""
    digest = Digest.sha256(sha)
    reader = BlobReader(core, digest, owner=image_key, offset=0, length=None, verify=False)
    try:
        async with reader:
            body = await reader.read()
        document = await core.threads.run(
            documents.parse, body, media_type, limit=MANIFEST_BYTES_MAX
        )
    except (NotFound, Corrupt, Invalid):
        return set()
    keys = set()
    for need in document.needs:
        try:
            keys.add(Digest.parse(need.digest).key)
        except Invalid:
            # Foreign content may have a digest of another algorithm; the store has none of it.
            continue
    return keys


def holds_until(core: Core, until: int) -> int:
    """Return the latest end (us) of holds that the deletion of a tag made, given when it is due.

    A hold that ends later was made for another reason.
    """
    config = core.config
    return max(until, until + int((config.hold_seconds - config.trash_seconds) * SECOND))


async def end_holds(
    txn: Transaction,
    entry: Trash,
    keys: Sequence[bytes],
    last: int,
    others: Needed,
    now: int,
) -> None:
    """End the holds, up to ``last`` (us), that were for the restore of a tag purged from the trash.

    Leaves what manifests or other deleted tags need. Does nothing if the image was deleted
    meanwhile: it has its own trash entry.
    """
    image = await images.by_key(txn, entry.image)
    namespace = await load(txn, NamespaceRow, layout.NAMESPACE + entry.namespace)
    if image is None or image.deleted or namespace is None or namespace.deleted:
        return
    owner = images.owner_of(image, namespace)
    for key in keys:
        sha = await blob_rows.canonical(txn, key, image.key)
        if sha is not None:
            await end_hold(txn, owner, sha, last, others, now)


async def end_hold(
    txn: Transaction, owner: claims.Owner, sha: bytes, last: int, others: Needed, now: int
) -> tuple[bool, int]:
    """End a hold that lasts until ``last`` (us) at most, if no manifest needs the blob.

    Returns True if a deleted tag needs it, so that it stays; and the size of the blob whose hold
    ended, in bytes, or -1.
    """
    try:
        claim = await claims.get(txn, owner.key, sha)
    except Corrupt:
        # The check reports the row; the hold expires.
        return False, -1
    if claim is None or claim.needed or not 0 < claim.hold <= last:
        return False, -1
    if others.has(owner.key, sha, claim):
        return True, -1
    await claims.drop_hold(txn, owner, sha, now)
    return False, claim.size


async def make_due(txn: Transaction, until: int, entry: Trash, now: int) -> bytes:
    """Make an entry due now, so that it cannot be restored; return its key.

    Raises Locked if its namespace is locked.
    """
    namespace = await load(txn, NamespaceRow, layout.NAMESPACE + entry.namespace)
    if namespace is not None:
        namespaces.check_unlocked(namespace)
    return await trash_rows.make_due(txn, until, entry, now)
