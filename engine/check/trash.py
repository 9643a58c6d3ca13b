"""The trash against the rows by which its entries are found, and what they would bring back."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Image, Namespace, Trash
from holdfast.engine.references import trash_rows

from .context import CheckContext, id_name


async def entries(look: CheckContext) -> None:
    """Every entry is found by its id and its project, and its object is there and deleted."""
    async for key, entry in look.records(Trash, layout.TRASH):
        look.totals[layout.counter(layout.TRASH_LENGTH)] += 1
        if entry.purging and entry.kind == "tag":
            continue
        name = f"{id_name(entry.id)} ({entry.kind} {entry.name})"
        await look.expect(layout.TRASH_ID + entry.id, key[1:9], "trash", name, "the row of its id")
        if not entry.purging:
            row = trash_rows.project_row(entry, layout.at(key, 1))
            await look.expect(row, b"", "trash", name, "its place in the list of its project")
        if entry.kind != "tag":
            await _deleted(look, entry, name)
        elif not await look.lacks(layout.TAG_ID + entry.id):
            look.say("trash", name, "the tag is there as well")


async def _deleted(look: CheckContext, entry: Trash, name: str) -> None:
    """Tell a problem unless the namespace or image of an entry is there, and deleted."""
    row = layout.NAMESPACE + entry.id
    thing: Namespace | Image | None
    if entry.kind == "namespace":
        thing = await look.load(Namespace, row)
    else:
        row = layout.IMAGE + entry.image
        thing = await look.load(Image, row)
    if thing is None and not await look.lacks(row):
        return
    if thing is None or not thing.deleted:
        state = "does not exist" if thing is None else "is not deleted"
        look.say("trash", name, f"what it would bring back {state}")


async def index(look: CheckContext) -> None:
    """Every row of an id, and every place in the list of a project, leads to an entry."""
    async for key, when in look.rows(layout.TRASH_ID):
        if await look.lacks(layout.TRASH + when + key[1:]):
            look.say("trash", id_name(key[1:]), "the id leads to no entry")
    async for key, _ in look.rows(layout.TRASH_PROJECT):
        row = layout.TRASH + key[1 + ID_BYTES :]
        found = await look.load(Trash, row)
        if found is None and not await look.lacks(row):
            continue
        if found is None or found.purging or found.project != key[1 : 1 + ID_BYTES]:
            look.say("trash", id_name(key[-ID_BYTES:]), "a project lists it that should not")


async def manifests(look: CheckContext) -> None:
    """Every list of manifests is of a deleted tag, and whole unless that is being purged."""
    purging = await _purging(look)
    last, follows = b"", 0
    async for key, _ in look.rows(layout.TRASH_MANIFEST):
        name, place = key[1:-8], layout.at(key, len(key) - 8)
        if name in purging or look.spoiled(layout.TRASH_MANIFEST + name):
            continue
        if name != last:
            last, follows = name, 0
            if not await _has_list(look, name):
                look.say("trash", id_name(name[:ID_BYTES]), "manifests went with no such tag")
        if place != follows:
            look.say("trash", id_name(name[:ID_BYTES]), f"manifest {follows} of it is missing")
        follows = place + 1


async def attached(look: CheckContext) -> None:
    """Every tag that went with a tag is in the list of one that is in the trash."""
    purging = await _purging(look)
    async for key, _ in look.rows(layout.TRASH_ATTACHED):
        name = key[1:-ID_BYTES]
        if name not in purging and not await _has_list(look, name):
            look.say("trash", id_name(name[:ID_BYTES]), "tags went with no such tag")


async def _purging(look: CheckContext) -> set[bytes]:
    """Lists of tags that are being taken apart."""
    found = set()
    async for _, entry in look.records(Trash, layout.TRASH):
        if entry.purging and entry.kind == "tag":
            found.add(trash_rows.list_of(entry))
    return found


async def _has_list(look: CheckContext, name: bytes) -> bool:
    """Whether a tag is in the trash with that list, as far as can be told."""
    key = layout.TRASH_ID + name[:ID_BYTES]
    when = await look.value(key)
    if when is None:
        return not await look.lacks(key)
    row = layout.TRASH + when + name[:ID_BYTES]
    entry = await look.load(Trash, row)
    if entry is None:
        return not await look.lacks(row)
    return trash_rows.list_of(entry) == name
