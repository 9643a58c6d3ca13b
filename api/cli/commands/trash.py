"""``holdfast trash`` and ``holdfast undelete``: list, purge and restore deleted resources."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.client import Named, id_of
from holdfast.api.cli.errors import not_found
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, moment
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.trash import delete_from_trash, list_trash, restore_from_trash
from holdfast.api.management.views import PurgedAnswer, TrashItemAnswer


def _full_name(item: TrashItemAnswer) -> str:
    """Return the name that restores an item: ``NAMESPACE[/IMAGE[:TAG]]``."""
    tag = item.name if item.kind == "tag" else None
    return str(Named(item.namespace, item.image, tag))


_COLUMNS: Final[Table] = {
    "kind": lambda item: item.kind,
    "name": _full_name,
    "until": lambda item: moment(item.purge_at),
    "id": lambda item: item.id_,
}

_GONE: Final[Table] = {
    "kind": lambda item: item.kind,
    "name": _full_name,
    "finished": lambda item: item.finished,
    "id": lambda item: item.id_,
}


async def _items(session: Session, **filters: str | None) -> list[TrashItemAnswer]:
    """List the trash of the region; the item that is purged next comes first."""
    pages = session.api.pages(list_trash, region=session.target.region, **filters)
    return [item async for page in pages for item in page.items]


@click.group(epilog=example("trash list"))
def trash() -> None:
    """Manage the trash: deleted resources that you can still restore, see holdfast undelete.

    Items in the trash count in the quota of their namespace.
    """


@trash.command("list", epilog=example("trash list"))
@session_command
async def list_(session: Session) -> None:
    """List the trash of a region."""
    session.show_all(await _items(session), _COLUMNS)


@trash.command(epilog=example("trash delete team/web:v1 --yes"))
@click.argument("names", metavar="NAMESPACE[/IMAGE[:TAG]]|ID...", nargs=-1, required=True)
@yes_option
@session_command
async def delete(session: Session, *, names: tuple[str, ...], yes: bool) -> None:
    """Delete items from the trash, for good.

    If several items have the same name, give the id of one.
    """
    ids = [id_of(name) or await _find(session, Named.parse(name)) for name in names]
    confirm(f"Delete {', '.join(names)} for good?", yes=yes)
    gone: list[PurgedAnswer] = []
    # Print the items that are gone even if a later one fails.
    try:
        for item_id in ids:
            gone += [await session.api.ask(delete_from_trash, item_id=item_id)]
    finally:
        if gone:
            session.show_all(gone, _GONE)


@click.command(epilog=example("undelete", "undelete team/web:v1", "undelete team --region nl-ams"))
@click.argument("names", metavar="[NAMESPACE[/IMAGE[:TAG]]|ID]...", nargs=-1)
@session_command
async def undelete(session: Session, *, names: tuple[str, ...]) -> None:
    """Restore items from the trash; without a name, list the trash of a region.

    An image is restored into its namespace, a tag into its image: these must exist, or come
    earlier in the list of names. If several items have the same name, give the id of one.
    """
    if not names:
        session.show_all(await _items(session), _COLUMNS)
        return
    back: list[TrashItemAnswer] = []
    # One after the other: an image may need the namespace before it in the list.
    try:
        for name in names:
            item_id = id_of(name) or await _find(session, Named.parse(name))
            back.append(await session.api.ask(restore_from_trash, item_id=item_id))
    finally:
        if back:
            session.show_all(back, _COLUMNS)


async def _find(session: Session, name: Named) -> UUID:
    """Return the id of the item with this name. Raises Missing or UsageError."""
    kind = "namespace" if name.image is None else "image" if name.tag is None else "tag"
    filters = {"namespace": name.namespace, "image": name.image, "tag": name.tag}
    # Compare the whole name too: a purge must not depend on the filters of the API alone.
    found = [
        item
        for item in await _items(session, kind=kind, **filters)
        if _full_name(item) == str(name)
    ]
    if not found:
        raise not_found(f"deleted {kind}", str(name))
    if len(found) > 1:
        raise click.UsageError(f"{len(found)} deleted {kind}s are named {name}: give an id")
    return found[0].id_
