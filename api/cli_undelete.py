"""``holdfast undelete``: what lies in the trash, and bringing it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from .cli_errors import not_found
from .cli_management import id_of
from .cli_options import example
from .cli_output import Table, moment, print_rows
from .cli_session import Session, managing
from .management_views import TrashItemAnswer

_COLUMNS: Final[Table] = {
    "kind": lambda item: item.kind,
    "name": lambda item: item.name,
    "until": lambda item: moment(item.purge_at),
    "namespace": lambda item: item.namespace_id,
    "id": lambda item: item.id_,
}


@click.command(epilog=example("undelete", "undelete team"))
@click.argument("names", metavar="[NAME_OR_ID]...", nargs=-1)
@managing
async def undelete(session: Session, *, names: tuple[str, ...]) -> None:
    """List what was deleted and can be brought back; bring back what is named.

    A name has to be that of one thing only; else take the id. Needs a key of all projects.
    """
    trash = await session.management.trash()
    if not names:
        session.show_all(trash, _COLUMNS)
        return
    chosen = [_choose(trash, name) for name in names]
    for item in chosen:
        await session.management.undelete(item.id_)
    if session.as_json:
        session.show_all(chosen, _COLUMNS)
    else:
        print_rows(chosen, {name: _COLUMNS[name] for name in ("kind", "name", "id")})


def _choose(trash: Sequence[TrashItemAnswer], text: str) -> TrashItemAnswer:
    item_id = id_of(text)
    found = [item for item in trash if item.id_ == item_id or item.name == text]
    if not found:
        raise not_found("deleted object", text)
    if len(found) > 1:
        raise click.UsageError(f"{len(found)} deleted things are named {text}: take an id")
    return found[0]
