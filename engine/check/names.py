"""Namespaces and images against the rows by which they are found."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.records import Image, Limits, Namespace, Trash
from holdfast.engine.namespaces import namespaces
from holdfast.engine.repositories import images

from .context import CheckContext, id_name, image_name


async def namespace_rows(look: CheckContext) -> None:
    """A living namespace has its name; a deleted one is in the trash and among the dead."""
    async for _, row in look.records(Namespace, layout.NAMESPACE):
        name = namespace_name(row)
        if not row.deleted:
            look.totals[layout.counter(layout.NAMESPACES)] += 1
            key = layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
            await look.expect(key, row.id, "namespace", name, "the row of its name")
            await _limited(look, row, name)
            if not await look.lacks(layout.DEAD + row.id):
                look.say("namespace", name, "it lives, and is among the dead")
            continue
        dead = layout.DEAD + row.id
        scope = namespaces.in_project(row.region, row.project)
        await look.expect(dead, scope, "namespace", name, "its place among the dead")
        if await look.lacks(layout.TRASH_ID + row.id):
            look.say("namespace", name, "it is deleted, and not in the trash")
    async for key, value in look.rows(layout.NAMESPACE_NAME):
        found = await look.load(Namespace, layout.NAMESPACE + value)
        if found is None and not await look.lacks(layout.NAMESPACE + value):
            continue
        right = found is not None and layout.name_key(found.region, found.name) == key[1:]
        if found is None or found.deleted or not right:
            text = key[1:].replace(b"\0", b" ").decode("utf-8", "replace")
            look.say(
                "namespace", text, f"the name leads to {id_name(value)}, which is not so named"
            )
    async for key, _ in look.rows(layout.DEAD):
        found = await look.load(Namespace, layout.NAMESPACE + key[1:])
        # A living one was told of already.
        if found is None and await look.lacks(layout.NAMESPACE + key[1:]):
            look.say("namespace", id_name(key[1:]), "it is among the dead, and does not exist")
    async for key, _ in look.rows(layout.RETENTION):
        if await look.lacks(layout.NAMESPACE + key[1:]):
            look.say("namespace", id_name(key[1:]), "it has retention rules, and does not exist")


async def _limited(look: CheckContext, row: Namespace, name: str) -> None:
    """The limits in a namespace's row are those of its name."""
    key = layout.LIMITS + namespaces.place(row)
    limits = await look.load(Limits, key)
    if row.limits != (limits or Limits()) and not look.unreadable(key):
        look.say("namespace", name, "its limits are not those of its name")


async def catalog_rows(look: CheckContext) -> None:
    """A namespace is in the catalogs of those who may see something in it, and in no others."""
    async for _, row in look.records(Namespace, layout.NAMESPACE):
        for key in await _audiences(look, row):
            name = namespace_name(row)
            await look.expect(key, row.id, "namespace", name, "its place in a catalog")
    async for key, value in look.rows(layout.AUDIENCE):
        found = await look.load(Namespace, layout.NAMESPACE + value)
        if found is None and not await look.lacks(layout.NAMESPACE + value):
            continue
        if found is None or key not in await _audiences(look, found):
            look.say("namespace", id_name(value), "it is in a catalog that it should not be in")


async def _audiences(look: CheckContext, row: Namespace) -> list[bytes]:
    """The rows by which catalogs find a namespace."""
    if row.deleted:
        return []
    scopes = namespaces.scopes(row)
    if row.is_public or await look.any(namespaces.catalog_prefix(row.id, "public")):
        scopes = (*scopes, namespaces.in_public(row.region))
    return [namespaces.audience_row(scope, row) for scope in scopes]


def namespace_name(row: Namespace) -> str:
    """A namespace in a report: its id and its name."""
    return f"{id_name(row.id)} ({row.region} {row.name})"


async def image_rows(look: CheckContext) -> None:
    """A living image is found by name, id and catalog; a draft by name; a deleted one by id."""
    async for _, row in look.records(Image, layout.IMAGE):
        if row.key in look.purging:
            continue
        name = image_name(row)
        if row.listed:
            key = layout.IMAGE_ID + row.id
            await look.expect(key, row.key, "image", name, "the row of its id")
        if row.deleted:
            await _deleted(look, row, name)
            continue
        key = images.name_row(row.namespace, row.name)
        await look.expect(key, row.key, "image", name, "the row of its name")
        namespace = await look.load(Namespace, layout.NAMESPACE + row.namespace)
        if namespace is None and await look.lacks(layout.NAMESPACE + row.namespace):
            look.say("image", name, "its namespace does not exist")
        if row.listed:
            look.totals[layout.counter(layout.IMAGES)] += 1
            look.totals[layout.counter(layout.NAMESPACE_IMAGES, row.namespace)] += 1
            key = images.catalog_row(row)
            await look.expect(key, row.key, "image", name, "its row in the catalog")
        elif not await look.any(layout.claimed(row.key)):
            look.say("image", name, "a draft that nothing belongs to")


async def _deleted(look: CheckContext, row: Image, name: str) -> None:
    when = await look.value(layout.TRASH_ID + row.id)
    if when is None:
        if await look.lacks(layout.TRASH_ID + row.id):
            look.say("image", name, "it is deleted, and not in the trash")
        return
    entry = await look.load(Trash, layout.TRASH + when + row.id)
    if entry is not None and (entry.image, entry.namespace) != (row.key, row.namespace):
        look.say("image", name, "its entry in the trash is about another")


async def image_index(look: CheckContext) -> None:
    """Every row of a name, an id or the catalog leads to the image that it should."""
    async for key, value in look.rows(layout.IMAGE_NAME):
        row = await _target(look, value, key, "name")
        if row is None or value in look.purging:
            continue
        if row.deleted or key != images.name_row(row.namespace, row.name):
            look.say("image", image_name(row), "a name leads to it that is not its own")
    async for key, value in look.rows(layout.IMAGE_ID):
        row = await _target(look, value, key, "id")
        if row is not None and row.id != key[1:]:
            look.say("image", image_name(row), f"the id {id_name(key[1:])} leads to it")
    async for key, value in look.rows(layout.CATALOG):
        row = await _target(look, value, key, "row of the catalog")
        if row is None:
            continue
        if row.deleted or not row.listed or key != images.catalog_row(row):
            look.say("image", image_name(row), "a row of the catalog leads to it that should not")


async def _target(look: CheckContext, image_key: bytes, key: bytes, what: str) -> Image | None:
    row = await look.load(Image, layout.IMAGE + image_key)
    if row is None and await look.lacks(layout.IMAGE + image_key):
        text = key[1:].decode("utf-8", "backslashreplace").replace("\0", " ")
        look.say("image", text, f"a {what} leads to an image that does not exist")
    return row


def scopes_of_namespace(row: Namespace) -> tuple[bytes, ...]:
    """Listings that a namespace has to be in now."""
    return () if row.deleted else namespaces.scopes(row)


def scopes_of_image(row: Image, namespace: Namespace) -> tuple[bytes, ...]:
    """Listings that an image has to be in now: also where its namespace was deleted."""
    return () if row.deleted or not row.listed else images.scopes(namespace)
