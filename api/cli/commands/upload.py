"""``holdfast upload``: list and end the open uploads of a namespace."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.error_messages import is_absent
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, moment, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.errors import ApiError
from holdfast.api.management.uploads import end_upload, list_uploads
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


async def _uploads(session: Session, namespace_id: UUID) -> list[UploadAnswer]:
    pages = session.api.pages(list_uploads, namespace_id=namespace_id)
    return [item async for page in pages for item in page.uploads]


@click.group(epilog=example("upload list team"))
def upload() -> None:
    """Manage open uploads: pushes in progress and abandoned ones.

    They count in the quota of their namespace. NAMESPACE is a name or an id.
    """


@upload.command("list", epilog=example("upload list team"))
@click.argument("namespace")
@session_command
async def list_(session: Session, *, namespace: str) -> None:
    """List the open uploads of a namespace."""
    found = await session.api.namespace(namespace)
    session.show_all(await _uploads(session, found.id_), _COLUMNS)


@upload.command(
    epilog=example(
        "upload delete team 4e0c1f6a-0b5d-4c0e-9c57-2f4f0f3c8a11", "upload delete team --all"
    )
)
@click.argument("namespace")
@click.argument("ids", type=click.UUID, nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="End all open uploads.")
@yes_option
@session_command
async def delete(
    session: Session, *, namespace: str, ids: tuple[UUID, ...], every: bool, yes: bool
) -> None:
    """End open uploads. Their space is free at once; their clients have to start again."""
    if bool(ids) == every:
        raise click.UsageError("give ids of uploads, or --all")
    found = await session.api.namespace(namespace)
    ended: list[UploadAnswer] = []
    if every:
        uploads = await _uploads(session, found.id_)
        ids = tuple(item.id_ for item in uploads)
        summary = f"{len(uploads)} open uploads, {size(sum(item.size for item in uploads))}"
        confirm(f"End all uploads to {found.name} ({summary})?", yes=yes)
    else:
        confirm(f"End {len(ids)} uploads to {found.name}?", yes=yes)
    try:
        for upload_id in ids:
            try:
                path = {"namespace_id": found.id_, "upload_id": upload_id}
                ended.append(await session.api.ask(end_upload, **path))
            except (ApiError, NotFound) as error:
                # With --all, an upload may have ended since the listing; that is no failure.
                if not every or not is_absent(error):
                    raise
    finally:
        if ended:
            session.show_all(ended, _COLUMNS)
