"""Check claims against a recount of the manifests' needs, and the rows that follow from claims."""

from __future__ import annotations

from collections import Counter
from typing import Final

from holdfast.engine.blobs.claims import PARTS, Owner, kinds_of
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Blob, Claim, Image
from holdfast.engine.references.manifest_rows import BODY, CHILD, CONTENT

from .context import CheckContext, Item, blob_name, digest_name, id_name, image_name
from .rows import NEED_BYTES

_KINDS: Final = ((CONTENT, "content"), (BODY, "bodies"), (CHILD, "children"))
_INTEREST: Final = {layout.CONTENT: "content", layout.KEPT: "kept", layout.HELD: "held"}


async def recounts(context: CheckContext) -> None:
    """Compare claims and size of every image with a recount of what its manifests need."""
    async for image in context.images():
        readable = not context.has_unreadable(layout.NEEDS + image.key)
        needed = await _needed(context, image.key) if readable else None
        size = 0
        async for key, _ in context.rows(layout.claimed(image.key)):
            sha = key[-SHA_BYTES:]
            claim = await context.load(Claim, layout.claim(image.key, sha))
            if claim is None:
                continue
            size += claim.size if claim.content else 0
            if needed is not None:
                _compare(context, image, sha, claim, needed)
        if context.has_unreadable_kind(layout.CLAIM, image.key) or context.has_unreadable(
            layout.claimed(image.key)
        ):
            continue
        for kind, sha in needed or ():
            item = context.item("claim", f"{blob_name(sha)} of image {image_name(image)}")
            item.report(f"a manifest needs it ({dict(_KINDS)[kind]}), no claim says so")
        counter = layout.counter(layout.IMAGE_SIZE, image.key)
        await context.expect_counter(counter, size, f"size of image {image_name(image)}")
        if not image.deleted:
            context.totals[layout.counter(layout.NAMESPACE_SIZE, image.namespace)] += size


async def _needed(context: CheckContext, image_key: bytes) -> Counter[tuple[bytes, bytes]]:
    """Count the manifests of an image that need each blob, by kind of need."""
    tally: Counter[tuple[bytes, bytes]] = Counter()
    async for _, packed in context.rows(layout.NEEDS + image_key):
        for start in range(0, len(packed), NEED_BYTES):
            need = packed[start : start + NEED_BYTES]
            tally[need[:1], need[1:]] += 1
    return tally


def _compare(
    context: CheckContext,
    image: Image,
    sha: bytes,
    claim: Claim,
    needed: Counter[tuple[bytes, bytes]],
) -> None:
    for kind, field in _KINDS:
        expected = needed.pop((kind, sha), 0)
        actual: int = getattr(claim, field)
        if actual != expected:
            item = context.item("claim", f"{blob_name(sha)} of image {image_name(image)}")
            item.report(f"{field} is {actual}, a recount gives {expected}")


async def claims(context: CheckContext) -> None:
    """Check that every claim has an owner, a blob and exactly the rows that follow from it."""
    async for owner_key, sha, claim in context.claims():
        item = _claim(context, sha, owner_key)
        context.totals[layout.counter(layout.HOLDS)] += claim.hold > 0
        blob = await context.load(Blob, layout.BLOB + sha)
        if blob is not None and blob.size != claim.size:
            item.report(f"its claim says {claim.size} bytes, the blob has {blob.size}")
        elif blob is None and await context.is_absent(layout.BLOB + sha):
            item.report("there is no such blob")
        if not (claim.content or claim.bodies or claim.children or claim.hold):
            item.report("it claims nothing")
        for alias in claim.aliases:
            if blob is not None and alias not in blob.aliases:
                item.report(f"it names {digest_name(alias)}, which is not an alias of it")
        owner = await context.owner(owner_key)
        if owner is None:
            if not context.is_owner_unreadable(owner_key):
                item.report("its owner does not exist")
            continue
        await _check_rows(item, owner, sha, claim)


async def listed(context: CheckContext) -> None:
    """Check that every claim that an image lists exists."""
    async for key, _ in context.rows(layout.CLAIMED):
        owner_key, sha = key[1 : 1 + ID_BYTES], key[1 + ID_BYTES :]
        row, item = layout.claim(owner_key, sha), _claim(context, sha, owner_key)
        await item.expect_present(row, "it is listed, and does not exist")


async def _check_rows(item: Item, owner: Owner, sha: bytes, claim: Claim) -> None:
    """Check the rows that follow from a claim, and count it."""
    context = item.context
    if owner.is_root:
        context.totals[layout.counter(layout.ROOT_BLOBS, owner.key)] += 1
        if (claim.content, claim.children) != (0, 0):
            item.report("a root has no manifests")
    else:
        row = layout.claimed(owner.key, sha)
        await item.expect_row(row, b"", "its row in the list of its image")
    for kind in kinds_of(claim):
        row = layout.reference(sha, kind, owner.project, owner.namespace, owner.key)
        await item.expect_row(row, b"", f"its reference ({_INTEREST[kind]})")
    if claim.hold:
        row = layout.expiry(claim.hold, owner.key, sha)
        place = owner.project + owner.namespace
        await context.item("hold", item.name).expect_row(row, place, "its expiry row")


async def references(context: CheckContext) -> None:
    """Check that every reference has its claim, and recount what namespaces link and keep."""
    group = b""
    size = 0
    kinds: dict[Owner, set[bytes]] = {}
    async for key, _ in context.blob_rows(layout.REFERENCE):
        sha = key[1 : layout.BLOB_KEY_BYTES]
        kind = key[layout.PROJECT_AT - 1 : layout.PROJECT_AT]
        # References are sorted by blob: each group is counted when the next one begins.
        if sha != group:
            _count_blob(context, size, kinds)
            group, size, kinds = sha, 0, {}
        claim = await _check_reference(context, key, sha, kind)
        owner = await context.owner(key[layout.OWNER_AT :])
        if claim is not None and owner is not None and not owner.is_root:
            size = claim.size
            kinds.setdefault(owner, set()).add(kind)
    _count_blob(context, size, kinds)


def _count_blob(context: CheckContext, size: int, kinds: dict[Owner, set[bytes]]) -> None:
    """Add one blob to the counters of the namespaces that refer to it (design, "Numbers")."""
    spaces: dict[tuple[bytes, bytes, bytes], set[bytes]] = {}
    for owner, refers in kinds.items():
        spaces.setdefault((owner.project, owner.namespace, owner.place), set()).update(refers)
    linked = {
        (project, namespace)
        for (project, namespace, _), refers in spaces.items()
        if layout.CONTENT in refers
    }
    _count_linked(context, size, linked)
    for (project, namespace, place), refers in spaces.items():
        first = next(kind for kind in PARTS if kind in refers)
        if first != layout.CONTENT:
            context.totals[layout.counter(PARTS[first], namespace)] += size
        context.totals[layout.counter(layout.PROJECT_KEPT, project)] += size
        context.totals[layout.counter(layout.PLACE_KEPT, place)] += size


async def _check_reference(
    context: CheckContext, key: bytes, sha: bytes, kind: bytes
) -> Claim | None:
    """Return the claim of a reference, or None (and report it) if that does not match."""
    owner_key = key[layout.OWNER_AT :]
    row = layout.claim(owner_key, sha)
    claim = await context.load(Claim, row)
    item = _claim(context, sha, owner_key)
    if claim is None:
        await item.expect_present(row, "a reference without a claim")
        return None
    owner = await context.owner(owner_key)
    mismatched = kind not in kinds_of(claim)
    if owner is not None:
        mismatched = mismatched or key != _reference(sha, kind, owner)
    if mismatched:
        what = _INTEREST.get(kind, kind.hex())
        item.report(f"a reference ({what}) that does not match it")
        return None
    return claim


def _reference(sha: bytes, kind: bytes, owner: Owner) -> bytes:
    return layout.reference(sha, kind, owner.project, owner.namespace, owner.key)


def _count_linked(context: CheckContext, size: int, places: set[tuple[bytes, bytes]]) -> None:
    """Add one blob to the counters of the namespaces that link it (design, "Numbers")."""
    projects = Counter(project for project, _ in places)
    for project, namespace in places:
        context.totals[layout.counter(layout.NAMESPACE_UNIQUE, namespace)] += size
        if len(places) == 1:
            context.totals[layout.counter(layout.NAMESPACE_EXCLUSIVE, namespace)] += size
        if projects[project] == 1:
            context.totals[layout.counter(layout.NAMESPACE_PROJECT_EXCLUSIVE, namespace)] += size


async def holds(context: CheckContext) -> None:
    """Check that every expiry row belongs to a hold of that time."""

    def locate(key: bytes, _: bytes) -> bytes:
        return layout.claim(key[9 : 9 + ID_BYTES], key[9 + ID_BYTES :])

    async for key, _, claim in context.targets(layout.EXPIRY, Claim, locate):
        if claim is None or claim.hold != layout.at(key, 1):
            name = f"{blob_name(key[9 + ID_BYTES :])} of {id_name(key[9 : 9 + ID_BYTES])}"
            context.item("hold", name).report("its expiry row has another time than its claim")


def _claim(context: CheckContext, sha: bytes, owner_key: bytes) -> Item:
    """Return a claim for reports: the digest of its blob and the id of its owner."""
    return context.item("claim", f"{blob_name(sha)} of {id_name(owner_key)}")


async def roots(context: CheckContext) -> None:
    """Check that every root claims a blob, and that its key is the one of its name.

    Runs after ``claims``, which counts the blobs of roots.
    """
    async for key, value in context.rows(layout.ROOT):
        name = value.decode("utf-8", "replace")
        item = context.item("root", name)
        if layout.root_owner(name) != key[1:]:
            item.report("its key is not the one of its name")
        counter = layout.counter(layout.ROOT_BLOBS, key[1:])
        unreadable = context.has_unreadable_kind(layout.CLAIM, key[1:])
        if not context.totals[counter] and not unreadable:
            item.report("it claims no blob")
