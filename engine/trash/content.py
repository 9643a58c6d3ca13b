"""What the deleted tags of a namespace need to come back, and giving that up.

When a tag is deleted, its image goes on holding the manifests that went with it, and what these
need. Nothing tells of a hold why it is there. So who ends holds early, of one tag or of a whole
namespace, reads the manifests of the other deleted tags first.
"""

from __future__ import annotations

from collections.abc import Sequence
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

LOOKED_AT_MAX: Final = 10_000
"""Entries of a project's trash that are looked at."""

NEEDS_MAX: Final = 50_000
"""Digests that they may need in all: some 10 MiB, and seconds of reading."""

_STEP: Final = 200

_FAR: Final = 1 << 62


@dataclass(slots=True)
class Needed:
    """What deleted tags need: by the key of their image, digest keys."""

    keys: dict[bytes, set[bytes]] = field(default_factory=dict)
    until: int = _FAR
    """Tags whose time in the trash is over from then on were not looked at."""

    def has(self, image_key: bytes, sha: bytes, claim: Claim) -> bool:
        """Whether a deleted tag may need what the image holds by that claim.

        Holds of what went with a tag last as long as its entry, at least.
        """
        if claim.hold >= self.until:
            return True
        known = self.keys.get(image_key, set())
        return any(key in known for key in (Digest.sha256(sha).key, *claim.aliases))


async def needed(core: Core, project: bytes, namespace: bytes, but: bytes = b"") -> Needed:
    """What the deleted tags of a namespace need, but for the one of that id.

    Bounded: see ``Needed.until``.
    """
    found = Needed()
    start = b""
    looked, room = 0, NEEDS_MAX
    while True:
        rows = await core.ledger.read_in_thread(_tags, project, start, _STEP)
        for key, until, entry in rows:
            if looked == LOOKED_AT_MAX:
                found.until = until
                return found
            looked += 1
            start = key + b"\0"
            if entry is None or entry.kind != "tag" or entry.namespace != namespace:
                continue
            if entry.id == but:
                continue
            keys = await of_tag(core, entry, room)
            room -= len(keys)
            if room <= 0:
                found.until = until
                return found
            found.keys.setdefault(entry.image, set()).update(keys)
        if len(rows) < _STEP:
            return found


async def _tags(
    txn: Transaction, project: bytes, start: bytes, limit: int
) -> list[tuple[bytes, int, Trash | None]]:
    """Entries of a project's trash from a key on, those due first first; None where one cannot be
    read, so that it cannot be brought back either."""
    prefix = layout.TRASH_PROJECT + project
    found = []
    for key, _ in await txn.scan(start or prefix, after(prefix), limit=limit):
        place = key[len(prefix) :]
        try:
            entry = await load(txn, Trash, layout.TRASH + place)
        except Corrupt:
            entry = None
        found.append((key, layout.at(place, 0), entry))
    return found


async def of_tag(core: Core, entry: Trash, room: int = NEEDS_MAX) -> set[bytes]:
    """Digest keys of the manifests that went with a tag, and of what they need.

    It stops once there are ``room`` of them or more.
    """
    found = {Digest.sha256(entry.sha).key}
    below = _FAR
    while len(found) < room:
        try:
            rows = await core.ledger.read(trash_rows.manifests, entry, below, _STEP)
        except Corrupt:
            # It cannot be brought back; what it held ends by itself.
            break
        for place, sha, media_type in rows:
            below = place
            found.add(Digest.sha256(sha).key)
            found |= await _needs(core, entry.image, sha, media_type)
            if len(found) >= room:
                break
        if len(rows) < _STEP:
            break
    return found


async def _needs(core: Core, image_key: bytes, sha: bytes, media_type: str) -> set[bytes]:
    """What one manifest needs; nothing where it cannot be read, and so cannot come back."""
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
            # Foreign content may have a digest of any algorithm, and is not kept then.
            continue
    return keys


def deadline(core: Core, until: int) -> int:
    """Until when a tag's deletion made holds last, whose entry is due then: later ones are of
    others."""
    config = core.config
    return max(until, until + int((config.hold_seconds - config.trash_seconds) * SECOND))


async def give_up(
    txn: Transaction,
    entry: Trash,
    keys: Sequence[bytes],
    last: int,
    others: Needed,
    now: int,
) -> None:
    """End the holds, up to ``last``, by which a tag that left the trash could have come back.

    Not what manifests or other deleted tags need. An image that was deleted meanwhile has its own
    entry.
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
    """End a hold that lasts until then at most, on what nothing needs.

    Says whether a deleted tag needs it, so that it stays; and how many bytes it was of, or -1.
    """
    try:
        claim = await claims.get(txn, owner.key, sha)
    except Corrupt:
        # The check tells of it; the hold ends by itself.
        return False, -1
    if claim is None or claim.needed or not 0 < claim.hold <= last:
        return False, -1
    if others.has(owner.key, sha, claim):
        return True, -1
    await claims.drop_hold(txn, owner, sha, now)
    return False, claim.size


async def hasten(txn: Transaction, until: int, entry: Trash, now: int) -> bytes:
    """Make an entry due now, and not to be brought back; its key. Raises Locked.

    What lies in a locked namespace stays as it is.
    """
    namespace = await load(txn, NamespaceRow, layout.NAMESPACE + entry.namespace)
    if namespace is not None:
        namespaces.check_unlocked(namespace)
    return await trash_rows.make_due(txn, until, entry, now)
