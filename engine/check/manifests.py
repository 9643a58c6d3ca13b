"""Check manifests, tags and referrers against each other."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import after
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Blob, Claim, Image, Manifest, Referrer, Tag, unseal
from holdfast.engine.model.digest import Digest
from holdfast.engine.references import manifest_rows
from holdfast.engine.references.manifest_rows import BODY

from .context import CheckContext, blob_name, id_name, image_name
from .rows import NEED_BYTES

_SHA_AT = 1 + ID_BYTES


async def manifests(context: CheckContext) -> None:
    """Check that every manifest has an image, its list of needs and its referrer row."""
    async for key, row in context.records(Manifest, layout.MANIFEST):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT:]
        if image_key in context.purging:
            continue
        name = manifest_name(image_key, sha)
        image = await context.load(Image, layout.IMAGE + image_key)
        if image is None and await context.is_absent(layout.IMAGE + image_key):
            context.report("manifest", name, "its image does not exist")
        elif image is not None and not image.listed:
            context.report("manifest", name, "its image is a draft")
        blob = await context.load(Blob, layout.BLOB + sha)
        # ``claims.claims`` reports a blob that does not exist.
        if blob is not None and blob.size != row.size:
            context.report(
                "manifest", name, f"its row says {row.size} bytes, its blob has {blob.size}"
            )
        await _needs(context, layout.NEEDS + image_key + sha, sha, name)
        if row.subject:
            place = layout.referrers_of(image_key, row.subject) + sha
            referrer = await context.load(Referrer, place)
            expected = Referrer(row.media_type, row.size, row.artifact_type)
            if referrer is None and await context.is_absent(place):
                context.report("manifest", name, "it is missing among the referrers of its subject")
            elif referrer is not None and referrer != expected:
                context.report("manifest", name, "its referrer row differs from its own row")


async def _needs(context: CheckContext, prefix: bytes, sha: bytes, name: str) -> None:
    """Check that a list of needs has all its parts, the body first and no duplicates."""
    if context.has_unreadable(prefix):
        return
    needs: list[bytes] = []
    for part, (key, value) in enumerate(await context.txn.scan(prefix, after(prefix), limit=65536)):
        if key[len(prefix) :] != part.to_bytes(2, "big"):
            context.report("manifest", name, "a part of its list of needs is missing")
            return
        packed = unseal(key, value)
        needs += [packed[start : start + NEED_BYTES] for start in range(0, len(packed), NEED_BYTES)]
    if needs[:1] != [BODY + sha]:
        context.report("manifest", name, "its list of needs does not begin with itself")
    elif len(set(needs)) != len(needs):
        context.report("manifest", name, "its list of needs has a duplicate")


async def manifest_index(context: CheckContext) -> None:
    """Check that every list of needs and every referrer row has its manifest."""
    async for key, _ in context.rows(layout.NEEDS):
        if key[1:_SHA_AT] in context.purging:
            continue
        if key[-2:] == b"\0\0" and await context.is_absent(layout.MANIFEST + key[1:-2]):
            name = manifest_name(key[1:_SHA_AT], key[_SHA_AT:-2])
            context.report("manifest", name, "it has a list of needs, but does not exist")
    async for key, _ in context.rows(layout.REFERRER):
        image_key, sha = key[1:_SHA_AT], key[-SHA_BYTES:]
        if image_key in context.purging:
            continue
        row = layout.MANIFEST + image_key + sha
        manifest = await context.load(Manifest, row)
        if manifest is None and not await context.is_absent(row):
            continue
        name = manifest_name(image_key, sha)
        if manifest is None:
            context.report("manifest", name, "it has a referrer row, but does not exist")
        elif key != layout.referrers_of(image_key, manifest.subject) + sha:
            context.report(
                "manifest", name, "its referrer row names a digest that is not its subject"
            )


async def tag_rows(context: CheckContext) -> None:
    """Check that every tag points to a manifest of its image, and has its index rows."""
    async for key, tag in context.records(Tag, layout.TAG):
        image_key = key[1:_SHA_AT]
        if image_key in context.purging:
            continue
        name = tag_name(tag)
        if await context.is_absent(layout.IMAGE + image_key):
            context.report("tag", name, "its image does not exist")
        if await context.is_absent(layout.MANIFEST + image_key + tag.sha):
            context.report("tag", name, f"its manifest {blob_name(tag.sha)} does not exist")
        digest = Digest.from_key(tag.digest)
        if digest.algorithm == "sha256":
            agrees = digest.raw == tag.sha
        else:
            claim = await context.load(Claim, layout.claim(image_key, tag.sha))
            # ``claims`` reports a missing claim.
            agrees = claim is None or tag.digest in claim.aliases
        if not agrees:
            context.report("tag", name, f"its digest {digest} is not that of {blob_name(tag.sha)}")
        row = manifest_rows.tagged_row(image_key, tag.sha, tag.name)
        await context.expect_row(row, b"", "tag", name, "its row under its manifest")
        pointer = image_key + tag.name.encode()
        await context.expect_row(layout.TAG_ID + tag.id, pointer, "tag", name, "the row of its id")


async def tag_index(context: CheckContext) -> None:
    """Check that every index row of a tag points to that tag; recount the tags of images."""
    async for key, value in context.rows(layout.TAG_ID):
        tag = await context.load(Tag, layout.TAG + value)
        if tag is None and await context.is_absent(layout.TAG + value):
            context.report("tag", id_name(key[1:]), "the id points to a tag that does not exist")
        elif tag is not None and tag.id != key[1:]:
            context.report("tag", tag_name(tag), f"the id {id_name(key[1:])} points to it")
    async for key, _ in context.rows(layout.TAGGED):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT : _SHA_AT + SHA_BYTES]
        if image_key in context.purging:
            continue
        row = layout.TAG + image_key + key[_SHA_AT + SHA_BYTES :]
        tag = await context.load(Tag, row)
        if tag is None and not await context.is_absent(row):
            continue
        if tag is None or tag.sha != sha:
            text = key[_SHA_AT + SHA_BYTES :].decode("utf-8", "replace")
            context.report(
                "tag", text, f"it is listed under {blob_name(sha)}, which is not its manifest"
            )
    async for _, image in context.records(Image, layout.IMAGE):
        if image.key in context.purging or context.has_unreadable(layout.TAG + image.key):
            continue
        count = 0
        async for _ in context.rows(layout.TAG + image.key):
            count += 1
        counter = layout.counter(layout.IMAGE_TAGS, image.key)
        await context.expect_counter(counter, count, f"tags of image {image_name(image)}")


def manifest_name(image_key: bytes, sha: bytes) -> str:
    """Return a manifest for a report: its digest and the id of its image."""
    return f"{blob_name(sha)} of {id_name(image_key)}"


def tag_name(tag: Tag) -> str:
    """Return a tag for a report: its id and its name."""
    return f"{id_name(tag.id)} ({tag.name})"
