"""Check listings and their totals against the namespaces, images and tags that they list."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Image, Namespace, Tag
from holdfast.engine.namespaces import listings, namespaces
from holdfast.engine.namespaces.listings import CREATED, NAME, Entry
from holdfast.engine.repositories import images, tags

from .context import CheckContext, Item, id_name, image_name
from .manifests import tag_name
from .names import namespace_name, scopes_of_image, scopes_of_namespace

Listed = tuple[bytes, tuple[bytes, ...], Entry]
"""Kind, scopes and sort keys of an object."""


async def objects(context: CheckContext) -> None:
    """Check that every namespace, image and tag is in each listing that it belongs to."""
    async for _, namespace in context.records(Namespace, layout.NAMESPACE):
        listed = (namespaces.KIND, scopes_of_namespace(namespace), namespaces.entry(namespace))
        await _present(context.item("namespace", namespace_name(namespace)), listed)
    async for image in context.images():
        home = await context.load(Namespace, layout.NAMESPACE + image.namespace)
        if home is not None:
            listed = (images.KIND, scopes_of_image(image, home), images.entry(image))
            await _present(context.item("image", image_name(image)), listed)
    async for key, tag in context.records(Tag, layout.TAG):
        image_key = key[1 : 1 + ID_BYTES]
        if image_key not in context.purging:
            await _present(context.item("tag", tag_name(tag)), _of_tag(image_key, tag))


def _of_tag(image_key: bytes, tag: Tag) -> Listed:
    return tags.KIND, (image_key,), Entry(tag.id, tag.name)


async def _present(item: Item, listed: Listed) -> None:
    letter, scopes, entry = listed
    for scope in scopes:
        for key in listings.rows_of(letter, scope, entry):
            await item.expect_row(key, entry.value, f"its place in the listing {key.hex()}")


async def rows(context: CheckContext) -> None:
    """Check that every row of a listing has an object that belongs there, and all totals."""
    group, count = b"", 0
    async for key, value in context.rows(layout.LISTING):
        start = _scope_end(key)
        if start is None:
            context.item("listing", key.hex()).report("its key has no known kind")
            continue
        await _check_row(context, key, value)
        order = key[start : start + 1]
        if order not in (CREATED, NAME):
            continue
        now = key[1:start] if order == CREATED else key[1:-ID_BYTES]
        if now != group:
            await _total(context, group, count)
            group, count = now, 0
        count += 1
    await _total(context, group, count)
    prefix = layout.counter(layout.LISTED)
    async for key, _ in context.stored_rows(prefix):
        rest = layout.LISTING + key[len(prefix) :]
        whole = _scope_end(rest) == len(rest)
        if not await context.has_rows(rest + CREATED if whole else rest) and not _in_purge(
            context, rest
        ):
            number = await context.txn.counter(key)
            context.item("counter", f"listing {rest.hex()}").report(
                f"it is {number}, a recount gives 0"
            )


async def _total(context: CheckContext, group: bytes, count: int) -> None:
    row = layout.LISTING + group
    if group and not _in_purge(context, row) and not context.has_unreadable(row):
        await context.expect_counter(
            layout.counter(layout.LISTED, group), count, f"listing {row.hex()}"
        )


def _in_purge(context: CheckContext, row: bytes) -> bool:
    return row[1:2] == tags.KIND and row[2 : 2 + ID_BYTES] in context.purging


def _scope_end(key: bytes) -> int | None:
    """Return the index of the order in a listing's key; None if the key is not of a listing."""
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


async def _check_row(context: CheckContext, key: bytes, value: bytes) -> None:
    if _in_purge(context, key):
        return
    listed = await _listed(context, key)
    if listed is None:
        kinds = (layout.NAMESPACE, layout.IMAGE, layout.TAG, layout.TAG_ID, layout.IMAGE_ID)
        if not any(context.has_unreadable(kind) for kind in kinds):
            context.item("listing", key.hex()).report(f"{id_name(key[-ID_BYTES:])} does not exist")
        return
    letter, scopes, entry = listed
    if not any(key in listings.rows_of(letter, scope, entry) for scope in scopes):
        context.item("listing", key.hex()).report(f"{id_name(entry.id)} does not belong there")
    # ``objects`` reports a wrong value.


async def _listed(context: CheckContext, key: bytes) -> Listed | None:
    """Return the object that a row of a listing points to, or None."""
    kind, found = key[1:2], key[-ID_BYTES:]
    if kind == namespaces.KIND:
        namespace = await context.load(Namespace, layout.NAMESPACE + found)
        if namespace is None:
            return None
        return kind, scopes_of_namespace(namespace), namespaces.entry(namespace)
    if kind == images.KIND:
        image_key = await context.value(layout.IMAGE_ID + found)
        image = None if image_key is None else await context.load(Image, layout.IMAGE + image_key)
        if image is None:
            return None
        home = await context.load(Namespace, layout.NAMESPACE + image.namespace)
        return None if home is None else (kind, scopes_of_image(image, home), images.entry(image))
    pointer = await context.value(layout.TAG_ID + found)
    tag = None if pointer is None else await context.load(Tag, layout.TAG + pointer)
    return None if tag is None or pointer is None else _of_tag(pointer[:ID_BYTES], tag)
