"""``holdfast hold``: give back what no manifest of a namespace needs."""

from __future__ import annotations

from typing import Final

import click

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, exact_size
from holdfast.api.cli.session import Session, managing

_FIELDS: Final[Table] = {
    "released": lambda item: item.released,
    "size": lambda item: exact_size(item.released_size),
    "kept for the trash": lambda item: item.kept,
}


@click.group(epilog=example("hold release team"))
def hold() -> None:
    """Holds: content that an image may have though no manifest of it needs it, for a day.

    Uploads whose manifest never came leave them, and manifests that were deleted. They count in
    the quota of their namespace. NAMESPACE is a name or an id.
    """


@hold.command(epilog=example("hold release team --yes"))
@click.argument("namespace")
@yes_option
@managing
async def release(session: Session, *, namespace: str, yes: bool) -> None:
    """Give back what no manifest of a namespace needs.

    Pushes that run at this moment may have to begin again. What deleted tags need to come back
    stays: see holdfast trash delete.
    """
    found = await session.management.namespace(namespace)
    confirm(f"Give back what no manifest of {found.name} needs?", yes=yes)
    session.show(await session.management.release_holds(found.id_), _FIELDS)
