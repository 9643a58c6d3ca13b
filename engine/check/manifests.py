"""Manifests, tags and referrers against each other."""

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


async def manifests(look: CheckContext) -> None:
    """Every manifest is of an image, lists itself first, and is with its subject's referrers."""
    async for key, row in look.records(Manifest, layout.MANIFEST):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT:]
        if image_key in look.purging:
            continue
        name = manifest_name(image_key, sha)
        image = await look.load(Image, layout.IMAGE + image_key)
        if image is None and await look.lacks(layout.IMAGE + image_key):
            look.say("manifest", name, "its image does not exist")
        elif image is not None and not image.listed:
            look.say("manifest", name, "its image is a draft")
        blob = await look.load(Blob, layout.BLOB + sha)
        # That the blob exists is told with the claim on it.
        if blob is not None and blob.size != row.size:
            look.say("manifest", name, f"it says {row.size} bytes, its blob has {blob.size}")
        await _needs(look, layout.NEEDS + image_key + sha, sha, name)
        if row.subject:
            place = layout.referrers_of(image_key, row.subject) + sha
            referrer = await look.load(Referrer, place)
            expected = Referrer(row.media_type, row.size, row.artifact_type)
            if referrer is None and await look.lacks(place):
                look.say("manifest", name, "it is missing among the referrers of its subject")
            elif referrer is not None and referrer != expected:
                look.say("manifest", name, "it stands differently among the referrers")


async def _needs(look: CheckContext, prefix: bytes, sha: bytes, name: str) -> None:
    """The list of needs is whole: parts in a row, the body first, nothing twice."""
    if look.spoiled(prefix):
        return
    needs: list[bytes] = []
    for part, (key, value) in enumerate(await look.txn.scan(prefix, after(prefix), limit=65536)):
        if key[len(prefix) :] != part.to_bytes(2, "big"):
            look.say("manifest", name, "a part of its list of needs is missing")
            return
        packed = unseal(key, value)
        needs += [packed[start : start + NEED_BYTES] for start in range(0, len(packed), NEED_BYTES)]
    if needs[:1] != [BODY + sha]:
        look.say("manifest", name, "its list of needs does not begin with itself")
    elif len(set(needs)) != len(needs):
        look.say("manifest", name, "its list of needs has something twice")


async def manifest_index(look: CheckContext) -> None:
    """Every list of needs and every referrer is of a manifest."""
    async for key, _ in look.rows(layout.NEEDS):
        if key[1:_SHA_AT] in look.purging:
            continue
        if key[-2:] == b"\0\0" and await look.lacks(layout.MANIFEST + key[1:-2]):
            name = manifest_name(key[1:_SHA_AT], key[_SHA_AT:-2])
            look.say("manifest", name, "it has needs, and does not exist")
    async for key, _ in look.rows(layout.REFERRER):
        image_key, sha = key[1:_SHA_AT], key[-SHA_BYTES:]
        if image_key in look.purging:
            continue
        row = layout.MANIFEST + image_key + sha
        manifest = await look.load(Manifest, row)
        if manifest is None and not await look.lacks(row):
            continue
        name = manifest_name(image_key, sha)
        if manifest is None:
            look.say("manifest", name, "it is a referrer, and does not exist")
        elif key != layout.referrers_of(image_key, manifest.subject) + sha:
            look.say("manifest", name, "it is a referrer of something that is not its subject")


async def tag_rows(look: CheckContext) -> None:
    """Every tag points to a manifest of its image, and is found by id and by manifest."""
    async for key, tag in look.records(Tag, layout.TAG):
        image_key = key[1:_SHA_AT]
        if image_key in look.purging:
            continue
        name = tag_name(tag)
        if await look.lacks(layout.IMAGE + image_key):
            look.say("tag", name, "its image does not exist")
        if await look.lacks(layout.MANIFEST + image_key + tag.sha):
            look.say("tag", name, f"its manifest {blob_name(tag.sha)} does not exist")
        digest = Digest.from_key(tag.digest)
        if digest.algorithm == "sha256":
            agrees = digest.raw == tag.sha
        else:
            claim = await look.load(Claim, layout.claim(image_key, tag.sha))
            agrees = claim is None or tag.digest in claim.aliases
        if not agrees:
            look.say("tag", name, f"its digest {digest} is not that of {blob_name(tag.sha)}")
        row = manifest_rows.tagged_row(image_key, tag.sha, tag.name)
        await look.expect(row, b"", "tag", name, "its row under its manifest")
        pointer = image_key + tag.name.encode()
        await look.expect(layout.TAG_ID + tag.id, pointer, "tag", name, "the row of its id")


async def tag_index(look: CheckContext) -> None:
    """Every row of a tag's id or manifest leads to that tag; images count their tags."""
    async for key, value in look.rows(layout.TAG_ID):
        tag = await look.load(Tag, layout.TAG + value)
        if tag is None and await look.lacks(layout.TAG + value):
            look.say("tag", id_name(key[1:]), "the id leads to a tag that does not exist")
        elif tag is not None and tag.id != key[1:]:
            look.say("tag", tag_name(tag), f"the id {id_name(key[1:])} leads to it")
    async for key, _ in look.rows(layout.TAGGED):
        image_key, sha = key[1:_SHA_AT], key[_SHA_AT : _SHA_AT + SHA_BYTES]
        if image_key in look.purging:
            continue
        row = layout.TAG + image_key + key[_SHA_AT + SHA_BYTES :]
        tag = await look.load(Tag, row)
        if tag is None and not await look.lacks(row):
            continue
        if tag is None or tag.sha != sha:
            text = key[_SHA_AT + SHA_BYTES :].decode("utf-8", "replace")
            look.say("tag", text, f"it stands under {blob_name(sha)}, which is not its manifest")
    async for _, image in look.records(Image, layout.IMAGE):
        if image.key in look.purging or look.spoiled(layout.TAG + image.key):
            continue
        count = 0
        async for _ in look.rows(layout.TAG + image.key):
            count += 1
        counter = layout.counter(layout.IMAGE_TAGS, image.key)
        await look.counted(counter, count, f"tags of image {image_name(image)}")


def manifest_name(image_key: bytes, sha: bytes) -> str:
    """A manifest in a report."""
    return f"{blob_name(sha)} of {id_name(image_key)}"


def tag_name(tag: Tag) -> str:
    """A tag in a report: its id and its name."""
    return f"{id_name(tag.id)} ({tag.name})"
