"""``holdfast upload``: list the open uploads of a namespace, delete those that were left behind."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.error_messages import is_absent
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, moment, size
from holdfast.api.cli.session import Session, managing
from holdfast.api.management.errors import ApiError
from holdfast.api.management.views import UploadAnswer
from holdfast.engine import NotFound

_COLUMNS: Final[Table] = {
    "id": lambda item: item.id_,
    "image": lambda item: item.image,
    "size": lambda item: size(item.size),
    "begun": lambda item: moment(item.created_at),
    "last byte": lambda item: None if item.last_byte_at is None else moment(item.last_byte_at),
    "expires": lambda item: moment(item.expires_at),
}


@click.group(epilog=example("upload list team"))
def upload() -> None:
    """Open uploads: pushes that run, and pushes that were left behind.

    They count in the quota of their namespace. NAMESPACE is a name or an id.
    """


@upload.command("list", epilog=example("upload list team"))
@click.argument("namespace")
@managing
async def list_(session: Session, *, namespace: str) -> None:
    """List the open uploads of a namespace."""
    found = await session.management.namespace(namespace)
    session.show_all(await session.management.uploads(found.id_), _COLUMNS)


@upload.command(
    epilog=example(
        "upload delete team 4e0c1f6a-0b5d-4c0e-9c57-2f4f0f3c8a11", "upload delete team --all"
    )
)
@click.argument("namespace")
@click.argument("ids", type=click.UUID, nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All that are open.")
@yes_option
@managing
async def delete(
    session: Session, *, namespace: str, ids: tuple[UUID, ...], every: bool, yes: bool
) -> None:
    """End open uploads: their bytes are free at once, and their clients have to begin again."""
    if bool(ids) == every:
        raise click.UsageError("give the ids of uploads, or --all")
    management = session.management
    found = await management.namespace(namespace)
    ended: list[UploadAnswer] = []
    if every:
        opened = await management.uploads(found.id_)
        ids = tuple(item.id_ for item in opened)
        told = f"{len(opened)} open uploads, {size(sum(item.size for item in opened))}"
        confirm(f"End all uploads to {found.name} ({told})?", yes=yes)
    else:
        confirm(f"End {len(ids)} uploads to {found.name}?", yes=yes)
    try:
        for upload_id in ids:
            try:
                ended += [await management.end_upload(found.id_, upload_id)]
            except (ApiError, NotFound) as error:
                # Of those that were listed a moment ago, some may have come to their end since.
                if not every or not is_absent(error):
                    raise
    finally:
        if ended:
            session.show_all(ended, _COLUMNS)
