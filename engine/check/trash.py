"""Check the entries of the trash, their index rows, and the objects that they would restore."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Image, Namespace, Trash
from holdfast.engine.references import trash_rows

from .context import CheckContext, Item, id_name


async def entries(context: CheckContext) -> None:
    """Check that every entry has its index rows, and that its object exists and is deleted."""
    async for key, entry in context.records(Trash, layout.TRASH):
        context.totals[layout.counter(layout.TRASH_LENGTH)] += 1
        if entry.purging and entry.kind == "tag":
            continue
        item = context.item("trash", f"{id_name(entry.id)} ({entry.kind} {entry.name})")
        await item.expect_row(layout.TRASH_ID + entry.id, key[1:9], "the row of its id")
        if not entry.purging:
            row = trash_rows.project_row(entry, layout.at(key, 1))
            await item.expect_row(row, b"", "its place in the list of its project")
        if entry.kind != "tag":
            await _deleted(item, entry)
        else:
            await item.expect_absent(layout.TAG_ID + entry.id, "its tag still exists")


async def _deleted(item: Item, entry: Trash) -> None:
    """Report a problem unless the namespace or image of an entry exists and is deleted."""
    context = item.context
    row = layout.NAMESPACE + entry.id
    found: Namespace | Image | None
    if entry.kind == "namespace":
        found = await context.load(Namespace, row)
    else:
        row = layout.IMAGE + entry.image
        found = await context.load(Image, row)
    if found is None and not await context.is_absent(row):
        return
    if found is None or not found.deleted:
        state = "does not exist" if found is None else "is not deleted"
        item.report(f"the object that it would restore {state}")


async def index(context: CheckContext) -> None:
    """Check that every row of an id and of a project's list points to an entry."""
    async for key, when in context.rows(layout.TRASH_ID):
        item = context.item("trash", id_name(key[1:]))
        await item.expect_present(layout.TRASH + when + key[1:], "the id points to no entry")

    def locate(key: bytes, _: bytes) -> bytes:
        return layout.TRASH + key[1 + ID_BYTES :]

    async for key, _, found in context.targets(layout.TRASH_PROJECT, Trash, locate):
        if found is None or found.purging or found.project != key[1 : 1 + ID_BYTES]:
            context.item("trash", id_name(key[-ID_BYTES:])).report(
                "the list of a project has it by mistake"
            )


async def manifests(context: CheckContext) -> None:
    """Check that every list of manifests has a deleted tag, and is complete.

    Lists that a purge removes now are skipped.
    """
    purging = await _purging(context)
    last, following = b"", 0
    async for key, _ in context.rows(layout.TRASH_MANIFEST):
        name, place = key[1:-8], layout.at(key, len(key) - 8)
        item = context.item("trash", id_name(name[:ID_BYTES]))
        if name in purging or context.has_unreadable(layout.TRASH_MANIFEST + name):
            continue
        if name != last:
            last, following = name, 0
            if not await _has_list(context, name):
                item.report("a list of manifests belongs to no deleted tag")
        if place != following:
            item.report(f"manifest {following} of its list is missing")
        following = place + 1


async def attached(context: CheckContext) -> None:
    """Check that every tag deleted along with a tag is in the list of one in the trash."""
    purging = await _purging(context)
    async for key, _ in context.rows(layout.TRASH_ATTACHED):
        name = key[1:-ID_BYTES]
        if name not in purging and not await _has_list(context, name):
            context.item("trash", id_name(name[:ID_BYTES])).report(
                "a list of attached tags belongs to no deleted tag"
            )


async def _purging(context: CheckContext) -> set[bytes]:
    """Return the keys of the lists that a purge removes now."""
    found = set()
    async for _, entry in context.records(Trash, layout.TRASH):
        if entry.purging and entry.kind == "tag":
            found.add(trash_rows.list_of(entry))
    return found


async def _has_list(context: CheckContext, name: bytes) -> bool:
    """Return True if a tag in the trash has that list, or if its rows cannot be read."""
    key = layout.TRASH_ID + name[:ID_BYTES]
    when = await context.value(key)
    if when is None:
        return not await context.is_absent(key)
    row = layout.TRASH + when + name[:ID_BYTES]
    entry = await context.load(Trash, row)
    if entry is None:
        return not await context.is_absent(row)
    return trash_rows.list_of(entry) == name
