"""Listings and their totals against the namespaces, images and tags that are listed."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Image, Namespace, Tag
from holdfast.engine.namespaces import listings, namespaces
from holdfast.engine.namespaces.listings import CREATED, NAME, Entry
from holdfast.engine.repositories import images, tags

from .context import CheckContext, id_name, image_name
from .names import namespace_name, scopes_of_image, scopes_of_namespace

Listed = tuple[bytes, tuple[bytes, ...], Entry]
"""Kind, scopes and sorting of an object."""


async def objects(look: CheckContext) -> None:
    """Every namespace, image and tag is in each listing that it should be in."""
    async for _, namespace in look.records(Namespace, layout.NAMESPACE):
        listed = (namespaces.KIND, scopes_of_namespace(namespace), namespaces.entry(namespace))
        await _present(look, listed, "namespace", namespace_name(namespace))
    async for _, image in look.records(Image, layout.IMAGE):
        home = await look.load(Namespace, layout.NAMESPACE + image.namespace)
        if home is not None and image.key not in look.purging:
            listed = (images.KIND, scopes_of_image(image, home), images.entry(image))
            await _present(look, listed, "image", image_name(image))
    async for key, tag in look.records(Tag, layout.TAG):
        image_key = key[1 : 1 + ID_BYTES]
        if image_key not in look.purging:
            await _present(look, _of_tag(image_key, tag), "tag", f"{id_name(tag.id)} ({tag.name})")


def _of_tag(image_key: bytes, tag: Tag) -> Listed:
    return tags.KIND, (image_key,), Entry(tag.id, tag.name)


async def _present(look: CheckContext, listed: Listed, kind: str, name: str) -> None:
    letter, scopes, entry = listed
    for scope in scopes:
        for key in listings.rows_of(letter, scope, entry):
            await look.expect(key, entry.value, kind, name, f"its place in the listing {key.hex()}")


async def rows(look: CheckContext) -> None:
    """Every row of a listing is of an object that belongs there; totals are right."""
    group, count = b"", 0
    async for key, value in look.rows(layout.LISTING):
        start = _scope_end(key)
        if start is None:
            look.say("listing", key.hex(), "a listing of no known kind")
            continue
        await _check_row(look, key, value)
        order = key[start : start + 1]
        if order not in (CREATED, NAME):
            continue
        now = key[1:start] if order == CREATED else key[1:-ID_BYTES]
        if now != group:
            await _total(look, group, count)
            group, count = now, 0
        count += 1
    await _total(look, group, count)
    prefix = layout.counter(layout.LISTED)
    async for key, _ in look.stored(prefix):
        rest = layout.LISTING + key[len(prefix) :]
        whole = _scope_end(rest) == len(rest)
        if not await look.any(rest + CREATED if whole else rest) and not _in_purge(look, rest):
            number = await look.txn.counter(key)
            look.say("counter", f"listing {rest.hex()}", f"it says {number}, a recount 0")


async def _total(look: CheckContext, group: bytes, count: int) -> None:
    row = layout.LISTING + group
    if group and not _in_purge(look, row) and not look.spoiled(row):
        await look.counted(layout.counter(layout.LISTED, group), count, f"listing {row.hex()}")


def _in_purge(look: CheckContext, row: bytes) -> bool:
    return row[1:2] == tags.KIND and row[2 : 2 + ID_BYTES] in look.purging


def _scope_end(key: bytes) -> int | None:
    """Where the order begins in the key of a listing; None where the key is of no listing."""
    kind, letter = key[1:2], key[2:3]
    if kind == tags.KIND:
        return 2 + ID_BYTES
    if kind not in (namespaces.KIND, images.KIND):
        return None
    if letter == b"n":
        return 3 + ID_BYTES
    end = key.find(b"\0", 3)
    if end < 0 or letter not in (b"r", b"p"):
        return None
    return end + 1 if letter == b"r" else end + 1 + ID_BYTES


async def _check_row(look: CheckContext, key: bytes, value: bytes) -> None:
    if _in_purge(look, key):
        return
    listed = await _listed(look, key)
    if listed is None:
        kinds = (layout.NAMESPACE, layout.IMAGE, layout.TAG, layout.TAG_ID, layout.IMAGE_ID)
        if not any(look.spoiled(kind) for kind in kinds):
            look.say("listing", key.hex(), f"{id_name(key[-ID_BYTES:])} does not exist")
        return
    letter, scopes, entry = listed
    if not any(key in listings.rows_of(letter, scope, entry) for scope in scopes):
        look.say("listing", key.hex(), f"{id_name(entry.id)} does not belong there")
    # A wrong value was told of with the object.


async def _listed(look: CheckContext, key: bytes) -> Listed | None:
    """The object that a row of a listing is about."""
    kind, found = key[1:2], key[-ID_BYTES:]
    if kind == namespaces.KIND:
        namespace = await look.load(Namespace, layout.NAMESPACE + found)
        if namespace is None:
            return None
        return kind, scopes_of_namespace(namespace), namespaces.entry(namespace)
    if kind == images.KIND:
        image_key = await look.value(layout.IMAGE_ID + found)
        image = None if image_key is None else await look.load(Image, layout.IMAGE + image_key)
        if image is None:
            return None
        home = await look.load(Namespace, layout.NAMESPACE + image.namespace)
        return None if home is None else (kind, scopes_of_image(image, home), images.entry(image))
    pointer = await look.value(layout.TAG_ID + found)
    tag = None if pointer is None else await look.load(Tag, layout.TAG + pointer)
    return None if tag is None or pointer is None else _of_tag(pointer[:ID_BYTES], tag)
