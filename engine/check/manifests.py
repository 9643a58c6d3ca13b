"""Check manifests, tags and referrers against each other."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import after
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Blob, Claim, Image, Manifest, Referrer, Tag, unseal
from holdfast.engine.model.digest import Digest
from holdfast.engine.references import manifest_rows
from holdfast.engine.references.manifest_rows import BODY

from .context import CheckContext, Item, blob_name, id_name, image_name, pointed
from .rows import NEED_BYTES

_SHA_AT = 1 + ID_BYTES


async def manifests(context: CheckContext) -> None:
    """Check that every manifest has an image, its list of needs and its referrer row."""
    async for key, row in context.records(Manifest, layout.MANIFEST):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT:]
        if image_key in context.purging:
            continue
        item = context.item("manifest", manifest_name(image_key, sha))
        image = await context.load(Image, layout.IMAGE + image_key)
        await item.expect_present(layout.IMAGE + image_key, "its image does not exist")
        if image is not None and not image.listed:
            item.report("its image is a draft")
        blob = await context.load(Blob, layout.BLOB + sha)
        # ``claims.claims`` reports a blob that does not exist.
        if blob is not None and blob.size != row.size:
            item.report(f"its row says {row.size} bytes, its blob has {blob.size}")
        await _needs(item, layout.NEEDS + image_key + sha, sha)
        if row.subject:
            place = layout.referrers_of(image_key, row.subject) + sha
            referrer = await context.load(Referrer, place)
            expected = Referrer(row.media_type, row.size, row.artifact_type)
            reason = "it is missing among the referrers of its subject"
            await item.expect_present(place, reason)
            if referrer is not None and referrer != expected:
                item.report("its referrer row differs from its own row")


async def _needs(item: Item, prefix: bytes, sha: bytes) -> None:
    """Check that a list of needs has all its parts, the body first and no duplicates."""
    if item.context.has_unreadable(prefix):
        return
    rows = await item.context.txn.scan(prefix, after(prefix), limit=65536)
    needs: list[bytes] = []
    for part, (key, value) in enumerate(rows):
        if key[len(prefix) :] != part.to_bytes(2, "big"):
            item.report("a part of its list of needs is missing")
            return
        packed = unseal(key, value)
        needs += [packed[start : start + NEED_BYTES] for start in range(0, len(packed), NEED_BYTES)]
    if needs[:1] != [BODY + sha]:
        item.report("its list of needs does not begin with itself")
    elif len(set(needs)) != len(needs):
        item.report("its list of needs has a duplicate")


async def manifest_index(context: CheckContext) -> None:
    """Check that every list of needs and every referrer row has its manifest."""
    async for key, _ in context.rows(layout.NEEDS):
        if key[1:_SHA_AT] in context.purging:
            continue
        if key[-2:] == b"\0\0":
            item = context.item("manifest", manifest_name(key[1:_SHA_AT], key[_SHA_AT:-2]))
            row = layout.MANIFEST + key[1:-2]
            await item.expect_present(row, "it has a list of needs, but does not exist")

    def locate(key: bytes, _: bytes) -> bytes:
        return layout.MANIFEST + key[1:_SHA_AT] + key[-SHA_BYTES:]

    async for key, _, manifest in context.targets(layout.REFERRER, Manifest, locate):
        image_key, sha = key[1:_SHA_AT], key[-SHA_BYTES:]
        if image_key in context.purging:
            continue
        item = context.item("manifest", manifest_name(image_key, sha))
        if manifest is None:
            item.report("it has a referrer row, but does not exist")
        elif key != layout.referrers_of(image_key, manifest.subject) + sha:
            item.report("its referrer row names a digest that is not its subject")


async def tag_rows(context: CheckContext) -> None:
    """Check that every tag points to a manifest of its image, and has its index rows."""
    async for key, tag in context.records(Tag, layout.TAG):
        image_key = key[1:_SHA_AT]
        if image_key in context.purging:
            continue
        item = context.item("tag", tag_name(tag))
        await item.expect_present(layout.IMAGE + image_key, "its image does not exist")
        row = layout.MANIFEST + image_key + tag.sha
        await item.expect_present(row, f"its manifest {blob_name(tag.sha)} does not exist")
        digest = Digest.from_key(tag.digest)
        if digest.algorithm == "sha256":
            agrees = digest.raw == tag.sha
        else:
            claim = await context.load(Claim, layout.claim(image_key, tag.sha))
            # ``claims`` reports a missing claim.
            agrees = claim is None or tag.digest in claim.aliases
        if not agrees:
            item.report(f"its digest {digest} is not that of {blob_name(tag.sha)}")
        row = manifest_rows.tagged_row(image_key, tag.sha, tag.name)
        await item.expect_row(row, b"", "its row under its manifest")
        pointer = image_key + tag.name.encode()
        await item.expect_row(layout.TAG_ID + tag.id, pointer, "the row of its id")


async def tag_index(context: CheckContext) -> None:
    """Check that every index row of a tag points to that tag; recount the tags of images."""
    async for key, _, tag in context.targets(layout.TAG_ID, Tag, pointed(layout.TAG)):
        if tag is None:
            context.item("tag", id_name(key[1:])).report(
                "the id points to a tag that does not exist"
            )
        elif tag.id != key[1:]:
            context.item("tag", tag_name(tag)).report(f"the id {id_name(key[1:])} points to it")

    def locate(key: bytes, _: bytes) -> bytes:
        return layout.TAG + key[1:_SHA_AT] + key[_SHA_AT + SHA_BYTES :]

    async for key, _, tag in context.targets(layout.TAGGED, Tag, locate):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT : _SHA_AT + SHA_BYTES]
        if image_key in context.purging:
            continue
        if tag is None or tag.sha != sha:
            text = key[_SHA_AT + SHA_BYTES :].decode("utf-8", "replace")
            context.item("tag", text).report(
                f"it is listed under {blob_name(sha)}, which is not its manifest"
            )
    async for image in context.images():
        if context.has_unreadable(layout.TAG + image.key):
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
