"""``holdfast tag``: list, get and delete tags. A push creates and moves them."""

from __future__ import annotations

from typing import Final

import click

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, moment
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.tags import delete_tag, list_tags

_COLUMNS: Final[Table] = {
    "name": lambda item: item.name,
    "digest": lambda item: item.digest,
    "updated": lambda item: moment(item.updated_at),
    "id": lambda item: item.id_,
}
_FIELDS: Final[Table] = {
    "name": lambda item: item.name,
    "id": lambda item: item.id_,
    "image": lambda item: item.image_id,
    "status": lambda item: item.status,
    "digest": lambda item: item.digest,
    "created": lambda item: moment(item.created_at),
    "updated": lambda item: moment(item.updated_at),
}


@click.group(epilog=example("tag list team/web"))
def tag() -> None:
    """Manage tags of images.

    TAG is NAMESPACE/IMAGE:TAG or an id; IMAGE is NAMESPACE/IMAGE or an id.
    """


@tag.command("list", epilog=example("tag list team/web"))
@click.argument("image")
@session_command
async def list_(session: Session, *, image: str) -> None:
    """List the tags of an image."""
    found = await session.api.image(image)
    pages = session.api.pages(list_tags, image_id=found.id_)
    session.show_all([item async for page in pages for item in page.tags], _COLUMNS)


@tag.command(epilog=example("tag get team/web:v1"))
@click.argument("tag")
@session_command
async def get(session: Session, *, tag: str) -> None:
    """Show a tag and the digest it points to."""
    session.show(await session.api.tag(tag), _FIELDS)


@tag.command(epilog=example("tag delete team/web:v1 --yes"))
@click.argument("tag")
@yes_option
@session_command
async def delete(session: Session, *, tag: str, yes: bool) -> None:
    """Delete a tag, and its manifest if nothing else refers to that.

    You can restore it for a while: see holdfast undelete.
    """
    found = await session.api.tag(tag)
    confirm(f"Delete tag {found.name} ({found.digest})?", yes=yes)
    session.show(await session.api.ask(delete_tag, tag_id=found.id_), _FIELDS)
