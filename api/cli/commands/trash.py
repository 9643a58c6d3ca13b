"""``holdfast undelete`` and ``holdfast trash``: what was deleted, brought back or gone for good."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.client import Named, id_of
from holdfast.api.cli.errors import not_found
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, moment
from holdfast.api.cli.session import Session, managing
from holdfast.api.management.views import PurgedAnswer, TrashItemAnswer


def _full_name(item: TrashItemAnswer) -> str:
    """The name that brings it back: ``NAMESPACE[/IMAGE[:TAG]]``."""
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


@click.group(epilog=example("trash list"))
def trash() -> None:
    """What was deleted, and can be brought back for a while: see holdfast undelete.

    Until then it counts in the quota of its namespace.
    """


@trash.command("list", epilog=example("trash list"))
@managing
async def list_(session: Session) -> None:
    """List what was deleted in a region and can be brought back."""
    session.show_all(await session.management.trash(session.place.region), _COLUMNS)


@trash.command(epilog=example("trash delete team/web:v1 --yes"))
@click.argument("names", metavar="NAMESPACE[/IMAGE[:TAG]]|ID...", nargs=-1, required=True)
@yes_option
@managing
async def delete(session: Session, *, names: tuple[str, ...], yes: bool) -> None:
    """Delete for good what was deleted before: it cannot be brought back any more.

    A name that several deleted things had needs the id of one of them.
    """
    ids = [id_of(name) or await _find(session, Named.parse(name)) for name in names]
    confirm(f"Delete {', '.join(names)} for good?", yes=yes)
    gone: list[PurgedAnswer] = []
    try:
        for item_id in ids:
            gone += [await session.management.purge(item_id)]
    finally:
        if gone:
            session.show_all(gone, _GONE)


@click.command(epilog=example("undelete", "undelete team/web:v1", "undelete team --region nl-ams"))
@click.argument("names", metavar="[NAMESPACE[/IMAGE[:TAG]]|ID]...", nargs=-1)
@managing
async def undelete(session: Session, *, names: tuple[str, ...]) -> None:
    """List what was deleted in a region and can be brought back; bring back what is named.

    An image comes back into its namespace, a tag into its image: these have to be there, or to be
    named before. A name that several deleted things had needs the id of one of them.
    """
    if not names:
        session.show_all(await session.management.trash(session.place.region), _COLUMNS)
        return
    back: list[TrashItemAnswer] = []
    try:
        for name in names:
            item_id = id_of(name) or await _find(session, Named.parse(name))
            back.append(await session.management.undelete(item_id))
    finally:
        if back:
            session.show_all(back, _COLUMNS)


async def _find(session: Session, name: Named) -> UUID:
    """The id of the deleted thing of that name."""
    kind = "namespace" if name.image is None else "image" if name.tag is None else "tag"
    found = await session.management.trash(
        session.place.region, kind=kind, namespace=name.namespace, image=name.image, tag=name.tag
    )
    found = [item for item in found if _full_name(item) == str(name)]
    if not found:
        raise not_found(f"deleted {kind}", str(name))
    if len(found) > 1:
        raise click.UsageError(f"{len(found)} deleted {kind}s are named {name}: take an id")
    return found[0].id_
