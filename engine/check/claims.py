"""Check claims against a recount of the manifests' needs, and the rows that follow from claims."""

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


async def recounts(context: CheckContext) -> None:
    """Compare claims and size of every image with a recount of what its manifests need."""
    async for _, image in context.records(Image, layout.IMAGE):
        if image.key in context.purging:
            continue
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
            name = f"{blob_name(sha)} of image {image_name(image)}"
            context.report(
                "claim", name, f"a manifest needs it ({dict(_KINDS)[kind]}), no claim says so"
            )
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
            name = f"{blob_name(sha)} of image {image_name(image)}"
            context.report("claim", name, f"{field} is {actual}, a recount gives {expected}")


async def claims(context: CheckContext) -> None:
    """Check that every claim has an owner, a blob and exactly the rows that follow from it."""
    async for owner_key, sha, claim in context.claims():
        name = f"{blob_name(sha)} of {id_name(owner_key)}"
        context.totals[layout.counter(layout.HOLDS)] += claim.hold > 0
        blob = await context.load(Blob, layout.BLOB + sha)
        if blob is not None and blob.size != claim.size:
            context.report(
                "claim", name, f"its claim says {claim.size} bytes, the blob has {blob.size}"
            )
        elif blob is None and await context.is_absent(layout.BLOB + sha):
            context.report("claim", name, "there is no such blob")
        if not (claim.content or claim.bodies or claim.children or claim.hold):
            context.report("claim", name, "it claims nothing")
        for alias in claim.aliases:
            if blob is not None and alias not in blob.aliases:
                context.report(
                    "claim", name, f"it names {digest_name(alias)}, which is not an alias of it"
                )
        owner = await context.owner(owner_key)
        if owner is None:
            if not context.is_owner_unreadable(owner_key):
                context.report("claim", name, "its owner does not exist")
            continue
        await _check_rows(context, owner, sha, claim, name)


async def listed(context: CheckContext) -> None:
    """Check that every claim that an image lists exists."""
    async for key, _ in context.rows(layout.CLAIMED):
        owner_key, sha = key[1 : 1 + ID_BYTES], key[1 + ID_BYTES :]
        if await context.is_absent(layout.claim(owner_key, sha)):
            name = f"{blob_name(sha)} of {id_name(owner_key)}"
            context.report("claim", name, "it is listed, and does not exist")


async def _check_rows(
    context: CheckContext, owner: Owner, sha: bytes, claim: Claim, name: str
) -> None:
    """Check the rows that follow from a claim, and count it."""
    if owner.is_root:
        context.totals[layout.counter(layout.ROOT_BLOBS, owner.key)] += 1
        if (claim.content, claim.children) != (0, 0):
            context.report("claim", name, "a root has no manifests")
    else:
        row = layout.claimed(owner.key, sha)
        await context.expect_row(row, b"", "claim", name, "its row in the list of its image")
    for kind in kinds_of(claim):
        row = layout.reference(sha, kind, owner.project, owner.namespace, owner.key)
        await context.expect_row(row, b"", "claim", name, f"its reference ({_INTEREST[kind]})")
    if claim.hold:
        row = layout.expiry(claim.hold, owner.key, sha)
        place = owner.project + owner.namespace
        await context.expect_row(row, place, "hold", name, "its expiry row")


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
    name = f"{blob_name(sha)} of {id_name(owner_key)}"
    if claim is None:
        if await context.is_absent(row):
            context.report("claim", name, "a reference without a claim")
        return None
    owner = await context.owner(owner_key)
    mismatched = kind not in kinds_of(claim)
    if owner is not None:
        mismatched = mismatched or key != _reference(sha, kind, owner)
    if mismatched:
        what = _INTEREST.get(kind, kind.hex())
        context.report("claim", name, f"a reference ({what}) that does not match it")
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
    async for key, _ in context.rows(layout.EXPIRY):
        owner_key, sha = key[9 : 9 + ID_BYTES], key[9 + ID_BYTES :]
        row = layout.claim(owner_key, sha)
        if context.is_unreadable(row):
            continue
        claim = await context.load(Claim, row)
        if claim is None or claim.hold != layout.at(key, 1):
            name = f"{blob_name(sha)} of {id_name(owner_key)}"
            context.report("hold", name, "its expiry row has another time than its claim")


async def roots(context: CheckContext) -> None:
    """Check that every root claims a blob, and that its key is the one of its name.

    Runs after ``claims``, which counts the blobs of roots.
    """
    async for key, value in context.rows(layout.ROOT):
        name = value.decode("utf-8", "replace")
        if layout.root_owner(name) != key[1:]:
            context.report("root", name, "its key is not the one of its name")
        counter = layout.counter(layout.ROOT_BLOBS, key[1:])
        unreadable = context.has_unreadable_kind(layout.CLAIM, key[1:])
        if not context.totals[counter] and not unreadable:
            context.report("root", name, "it claims no blob")
