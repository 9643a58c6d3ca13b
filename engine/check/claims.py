"""Claims against a recount of the manifests' needs, and against all that follows from a claim."""

from __future__ import annotations

from collections import Counter
from typing import Final

from holdfast.engine.blobs.claims import PARTS, Owner, kinds_of
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Blob, Claim, Image
from holdfast.engine.references.manifest_rows import BODY, CHILD, CONTENT

from .context import CheckContext, blob_name, digest_name, id_name, image_name
from .rows import NEED_BYTES

_KINDS: Final = ((CONTENT, "content"), (BODY, "bodies"), (CHILD, "children"))
_INTEREST: Final = {layout.CONTENT: "content", layout.KEPT: "kept", layout.HELD: "held"}


async def recounts(look: CheckContext) -> None:
    """Claims and sizes of every image against what its manifests need, from scratch."""
    async for _, image in look.records(Image, layout.IMAGE):
        if image.key in look.purging:
            continue
        known = not look.spoiled(layout.NEEDS + image.key)
        needed = await _needed(look, image.key) if known else None
        size = 0
        async for key, _ in look.rows(layout.claimed(image.key)):
            sha = key[-SHA_BYTES:]
            claim = await look.load(Claim, layout.claim(image.key, sha))
            if claim is None:
                continue
            size += claim.size if claim.content else 0
            if needed is not None:
                _compare(look, image, sha, claim, needed)
        if look.spoiled_kind(layout.CLAIM, image.key) or look.spoiled(layout.claimed(image.key)):
            continue
        for kind, sha in needed or ():
            name = f"{blob_name(sha)} of image {image_name(image)}"
            look.say("claim", name, f"a manifest needs it ({dict(_KINDS)[kind]}), nothing says so")
        counter = layout.counter(layout.IMAGE_SIZE, image.key)
        await look.counted(counter, size, f"size of image {image_name(image)}")
        if not image.deleted:
            look.totals[layout.counter(layout.NAMESPACE_SIZE, image.namespace)] += size


async def _needed(look: CheckContext, image_key: bytes) -> Counter[tuple[bytes, bytes]]:
    """How many manifests of the image need each blob, by kind of need."""
    tally: Counter[tuple[bytes, bytes]] = Counter()
    async for _, packed in look.rows(layout.NEEDS + image_key):
        for start in range(0, len(packed), NEED_BYTES):
            need = packed[start : start + NEED_BYTES]
            tally[need[:1], need[1:]] += 1
    return tally


def _compare(
    look: CheckContext, image: Image, sha: bytes, claim: Claim, needed: Counter[tuple[bytes, bytes]]
) -> None:
    for kind, field in _KINDS:
        expected = needed.pop((kind, sha), 0)
        actual: int = getattr(claim, field)
        if actual != expected:
            name = f"{blob_name(sha)} of image {image_name(image)}"
            look.say("claim", name, f"{field} is {actual}, a recount gives {expected}")


async def claims(look: CheckContext) -> None:
    """Every claim is of a known owner on a known blob, and has exactly its other rows."""
    async for owner_key, sha, claim in look.claims():
        name = f"{blob_name(sha)} of {id_name(owner_key)}"
        look.totals[layout.counter(layout.HOLDS)] += claim.hold > 0
        blob = await look.load(Blob, layout.BLOB + sha)
        if blob is not None and blob.size != claim.size:
            look.say("claim", name, f"it says {claim.size} bytes, the blob has {blob.size}")
        elif blob is None and await look.lacks(layout.BLOB + sha):
            look.say("claim", name, "there is no such blob")
        if not (claim.content or claim.bodies or claim.children or claim.hold):
            look.say("claim", name, "it claims nothing")
        for alias in claim.aliases:
            if blob is not None and alias not in blob.aliases:
                look.say("claim", name, f"it names {digest_name(alias)}, which is no alias of it")
        owner = await look.owner(owner_key)
        if owner is None:
            if not look.lost(owner_key):
                look.say("claim", name, "its owner does not exist")
            continue
        await _follows(look, owner, sha, claim, name)


async def listed(look: CheckContext) -> None:
    """Every claim that an image lists exists."""
    async for key, _ in look.rows(layout.CLAIMED):
        owner_key, sha = key[1 : 1 + ID_BYTES], key[1 + ID_BYTES :]
        if await look.lacks(layout.claim(owner_key, sha)):
            name = f"{blob_name(sha)} of {id_name(owner_key)}"
            look.say("claim", name, "it is listed, and does not exist")


async def _follows(look: CheckContext, owner: Owner, sha: bytes, claim: Claim, name: str) -> None:
    """The rows and numbers that follow from a claim."""
    if owner.is_root:
        look.totals[layout.counter(layout.ROOT_BLOBS, owner.key)] += 1
        if (claim.content, claim.children) != (0, 0):
            look.say("claim", name, "a root has no manifests")
    else:
        row = layout.claimed(owner.key, sha)
        await look.expect(row, b"", "claim", name, "its row in the list of its image")
    for kind in kinds_of(claim):
        row = layout.reference(sha, kind, owner.project, owner.namespace, owner.key)
        await look.expect(row, b"", "claim", name, f"its reference ({_INTEREST[kind]})")
    if claim.hold:
        row = layout.expiry(claim.hold, owner.key, sha)
        place = owner.project + owner.namespace
        await look.expect(row, place, "hold", name, "the row that ends it")


async def references(look: CheckContext) -> None:
    """Every reference belongs to a claim; and what namespaces link and keep, recounted."""
    group = b""
    size = 0
    kinds: dict[Owner, set[bytes]] = {}
    async for key, _ in look.of_blobs(layout.REFERENCE):
        sha = key[1 : layout.BLOB_KEY_BYTES]
        kind = key[layout.PROJECT_AT - 1 : layout.PROJECT_AT]
        if sha != group:
            _count_once(look, size, kinds)
            group, size, kinds = sha, 0, {}
        claim = await _check_reference(look, key, sha, kind)
        owner = await look.owner(key[layout.OWNER_AT :])
        if claim is not None and owner is not None and not owner.is_root:
            size = claim.size
            kinds.setdefault(owner, set()).add(kind)
    _count_once(look, size, kinds)


def _count_once(look: CheckContext, size: int, kinds: dict[Owner, set[bytes]]) -> None:
    """Add one blob to the numbers of the namespaces that refer to it (design, "Numbers")."""
    spaces: dict[tuple[bytes, bytes, bytes], set[bytes]] = {}
    for owner, refers in kinds.items():
        spaces.setdefault((owner.project, owner.namespace, owner.place), set()).update(refers)
    linked = {
        (project, namespace)
        for (project, namespace, _), refers in spaces.items()
        if layout.CONTENT in refers
    }
    _distinct(look, size, linked)
    for (project, namespace, place), refers in spaces.items():
        first = next(kind for kind in PARTS if kind in refers)
        if first != layout.CONTENT:
            look.totals[layout.counter(PARTS[first], namespace)] += size
        look.totals[layout.counter(layout.PROJECT_KEPT, project)] += size
        look.totals[layout.counter(layout.PLACE_KEPT, place)] += size


async def _check_reference(look: CheckContext, key: bytes, sha: bytes, kind: bytes) -> Claim | None:
    """The claim behind a reference, if that is a right one."""
    owner_key = key[layout.OWNER_AT :]
    row = layout.claim(owner_key, sha)
    claim = await look.load(Claim, row)
    name = f"{blob_name(sha)} of {id_name(owner_key)}"
    if claim is None:
        if await look.lacks(row):
            look.say("claim", name, "a reference without a claim")
        return None
    owner = await look.owner(owner_key)
    stray = kind not in kinds_of(claim)
    if owner is not None:
        stray = stray or key != _reference(sha, kind, owner)
    if stray:
        what = _INTEREST.get(kind, kind.hex())
        look.say("claim", name, f"a reference ({what}) that does not belong to it")
        return None
    return claim


def _reference(sha: bytes, kind: bytes, owner: Owner) -> bytes:
    return layout.reference(sha, kind, owner.project, owner.namespace, owner.key)


def _distinct(look: CheckContext, size: int, places: set[tuple[bytes, bytes]]) -> None:
    """Add one blob to the numbers of the namespaces that link it (design, "Numbers")."""
    projects = Counter(project for project, _ in places)
    for project, namespace in places:
        look.totals[layout.counter(layout.NAMESPACE_UNIQUE, namespace)] += size
        if len(places) == 1:
            look.totals[layout.counter(layout.NAMESPACE_EXCLUSIVE, namespace)] += size
        if projects[project] == 1:
            look.totals[layout.counter(layout.NAMESPACE_PROJECT_EXCLUSIVE, namespace)] += size


async def holds(look: CheckContext) -> None:
    """Every row that ends a hold belongs to one."""
    async for key, _ in look.rows(layout.EXPIRY):
        owner_key, sha = key[9 : 9 + ID_BYTES], key[9 + ID_BYTES :]
        row = layout.claim(owner_key, sha)
        if look.unreadable(row):
            continue
        claim = await look.load(Claim, row)
        if claim is None or claim.hold != layout.at(key, 1):
            name = f"{blob_name(sha)} of {id_name(owner_key)}"
            look.say("hold", name, "a row would end it at a time that it does not have")


async def roots(look: CheckContext) -> None:
    """Every root keeps something, and lies under the key that follows from its name.

    After ``claims``, which counts what roots keep.
    """
    async for key, value in look.rows(layout.ROOT):
        name = value.decode("utf-8", "replace")
        if layout.root_owner(name) != key[1:]:
            look.say("root", name, "it lies under the key of another")
        counter = layout.counter(layout.ROOT_BLOBS, key[1:])
        spoiled = look.spoiled_kind(layout.CLAIM, key[1:])
        if not look.totals[counter] and not spoiled:
            look.say("root", name, "it keeps nothing")
