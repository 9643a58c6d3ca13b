"""Check namespaces and images against the rows that index them."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.records import Image, Limits, Namespace, Trash
from holdfast.engine.namespaces import namespaces
from holdfast.engine.repositories import images

from .context import CheckContext, Item, id_name, image_name, pointed


async def namespace_rows(context: CheckContext) -> None:
    """Check that namespaces have their name row, and deleted ones their trash and deletion rows."""
    async for _, row in context.records(Namespace, layout.NAMESPACE):
        item = context.item("namespace", namespace_name(row))
        if not row.deleted:
            context.totals[layout.counter(layout.NAMESPACES)] += 1
            key = layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
            await item.expect_row(key, row.id, "the row of its name")
            await _check_limits(item, row)
            reason = "it is not deleted, but is in the list of deleted namespaces"
            await item.expect_absent(layout.DEAD + row.id, reason)
            continue
        dead = layout.DEAD + row.id
        scope = namespaces.in_project(row.region, row.project)
        await item.expect_row(dead, scope, "its place in the list of deleted namespaces")
        key = layout.TRASH_ID + row.id
        await item.expect_present(key, "it is deleted, and not in the trash")
    by_id = pointed(layout.NAMESPACE)
    async for key, value, found in context.targets(layout.NAMESPACE_NAME, Namespace, by_id):
        right = found is not None and layout.name_key(found.region, found.name) == key[1:]
        if found is None or found.deleted or not right:
            text = key[1:].replace(b"\0", b" ").decode("utf-8", "replace")
            context.item("namespace", text).report(
                f"the name points to {id_name(value)}, which has another name"
            )
    async for key, _ in context.rows(layout.DEAD):
        # The first loop reports one that exists and is not deleted.
        item = context.item("namespace", id_name(key[1:]))
        reason = "it is in the list of deleted namespaces, and does not exist"
        await item.expect_present(layout.NAMESPACE + key[1:], reason)
    async for key, _ in context.rows(layout.RETENTION):
        item = context.item("namespace", id_name(key[1:]))
        row_key = layout.NAMESPACE + key[1:]
        await item.expect_present(row_key, "it has retention rules, and does not exist")


async def _check_limits(item: Item, row: Namespace) -> None:
    """Check that the limits in a namespace's row are those of its name."""
    key = layout.LIMITS + namespaces.place(row)
    limits = await item.context.load(Limits, key)
    if row.limits != (limits or Limits()) and not item.context.is_unreadable(key):
        item.report("its limits are not those of its name")


async def catalog_rows(context: CheckContext) -> None:
    """Check that a namespace is in the catalogs that should show it, and in no others."""
    async for _, row in context.records(Namespace, layout.NAMESPACE):
        item = context.item("namespace", namespace_name(row))
        for key in await _audiences(context, row):
            await item.expect_row(key, row.id, "its place in a catalog")
    by_id = pointed(layout.NAMESPACE)
    async for key, value, found in context.targets(layout.AUDIENCE, Namespace, by_id):
        if found is None or key not in await _audiences(context, found):
            context.item("namespace", id_name(value)).report(
                "it is in a catalog that it should not be in"
            )


async def _audiences(context: CheckContext, row: Namespace) -> list[bytes]:
    """Return the keys of the rows by which catalogs find a namespace."""
    if row.deleted:
        return []
    scopes = namespaces.scopes(row)
    if row.is_public or await context.has_rows(namespaces.catalog_prefix(row.id, "public")):
        scopes = (*scopes, namespaces.in_public(row.region))
    return [namespaces.audience_row(scope, row) for scope in scopes]


def namespace_name(row: Namespace) -> str:
    """Return a namespace for a report: its id, region and name."""
    return f"{id_name(row.id)} ({row.region} {row.name})"


async def image_rows(context: CheckContext) -> None:
    """Check the index rows of images: name, id and catalog; drafts: name; deleted ones: id."""
    async for row in context.images():
        item = context.item("image", image_name(row))
        if row.listed:
            key = layout.IMAGE_ID + row.id
            await item.expect_row(key, row.key, "the row of its id")
        if row.deleted:
            await _deleted(item, row)
            continue
        key = images.name_row(row.namespace, row.name)
        await item.expect_row(key, row.key, "the row of its name")
        key = layout.NAMESPACE + row.namespace
        await item.expect_present(key, "its namespace does not exist")
        if row.listed:
            context.totals[layout.counter(layout.IMAGES)] += 1
            context.totals[layout.counter(layout.NAMESPACE_IMAGES, row.namespace)] += 1
            key = images.catalog_row(row)
            await item.expect_row(key, row.key, "its row in the catalog")
        elif not await context.has_rows(layout.claimed(row.key)):
            item.report("it is a draft without claims")


async def _deleted(item: Item, row: Image) -> None:
    context = item.context
    when = await context.value(layout.TRASH_ID + row.id)
    if when is None:
        key = layout.TRASH_ID + row.id
        await item.expect_present(key, "it is deleted, and not in the trash")
        return
    entry = await context.load(Trash, layout.TRASH + when + row.id)
    if entry is not None and (entry.image, entry.namespace) != (row.key, row.namespace):
        item.report("its entry in the trash names another object")


async def image_index(context: CheckContext) -> None:
    """Check that every row of a name, an id or the catalog points to the right image."""
    async for key, value in context.rows(layout.IMAGE_NAME):
        row = await _target(context, value, key, "name")
        if row is None or value in context.purging:
            continue
        if row.deleted or key != images.name_row(row.namespace, row.name):
            context.item("image", image_name(row)).report("a name points to it that is not its own")
    async for key, value in context.rows(layout.IMAGE_ID):
        row = await _target(context, value, key, "id")
        if row is not None and row.id != key[1:]:
            context.item("image", image_name(row)).report(f"the id {id_name(key[1:])} points to it")
    async for key, value in context.rows(layout.CATALOG):
        row = await _target(context, value, key, "row of the catalog")
        if row is None:
            continue
        if row.deleted or not row.listed or key != images.catalog_row(row):
            context.item("image", image_name(row)).report(
                "a row of the catalog points to it that should not"
            )


async def _target(context: CheckContext, image_key: bytes, key: bytes, what: str) -> Image | None:
    row = await context.load(Image, layout.IMAGE + image_key)
    if row is None and await context.is_absent(layout.IMAGE + image_key):
        text = key[1:].decode("utf-8", "backslashreplace").replace("\0", " ")
        context.item("image", text).report(f"a {what} points to an image that does not exist")
    return row


def scopes_of_namespace(row: Namespace) -> tuple[bytes, ...]:
    """Return the scopes of the listings that a namespace must be in now."""
    return () if row.deleted else namespaces.scopes(row)


def scopes_of_image(row: Image, namespace: Namespace) -> tuple[bytes, ...]:
    """Return the scopes of the listings that an image must be in now.

    It stays in them when its namespace is deleted.
    """
    return () if row.deleted or not row.listed else images.scopes(namespace)
