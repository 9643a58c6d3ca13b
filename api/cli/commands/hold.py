"""``holdfast hold``: release the content of a namespace that no manifest needs."""

from __future__ import annotations

from typing import Final

import click

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, exact_size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.holds import release_holds
from holdfast.api.management.views import ReleasedAnswer

_FIELDS: Final[Table] = {
    "released": lambda item: item.released,
    "size": lambda item: exact_size(item.released_size),
    "kept for the trash": lambda item: item.kept,
}


@click.group(epilog=example("hold release team"))
def hold() -> None:
    """Release holds: content that an image keeps for a day although no manifest needs it.

    Uploads whose manifest was never pushed and deleted manifests leave holds behind. They count
    in the quota of their namespace. NAMESPACE is a name or an id.
    """


@hold.command(epilog=example("hold release team --yes"))
@click.argument("namespace")
@yes_option
@session_command
async def release(session: Session, *, namespace: str, yes: bool) -> None:
    """Release all holds of a namespace.

    Pushes in progress may have to start again. Content that the trash needs for an undelete is
    kept: see holdfast trash delete.
    """
    found = await session.api.namespace(namespace)
    confirm(f"Release all content that no manifest of {found.name} needs?", yes=yes)
    total = ReleasedAnswer(released=0, released_size=0, kept=0, after=None)
    async for done in session.api.pages(release_holds, namespace_id=found.id_):
        total.released += done.released
        total.released_size += done.released_size
        total.kept += done.kept
    session.show(total, _FIELDS)
