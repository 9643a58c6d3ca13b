"""``holdfast image``: list, get, update and delete images. A push creates them."""

from __future__ import annotations

from typing import Final

import click

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, exact_size, moment, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.images import delete_image, list_images, update_image
from holdfast.api.management.manifests import list_manifests

TAGS_SHOWN: Final = 8
"""Tags of an image that a table shows; ``holdfast tag list`` shows all."""

_COLUMNS: Final[Table] = {
    "name": lambda item: item.name,
    "size": lambda item: size(item.size),
    "visibility": lambda item: item.visibility,
    "tags": lambda item: _tags(item.tags),
    "updated": lambda item: moment(item.updated_at),
    "id": lambda item: item.id_,
}
_FIELDS: Final[Table] = {
    "name": lambda item: item.name,
    "id": lambda item: item.id_,
    "namespace": lambda item: item.namespace_id,
    "visibility": lambda item: item.visibility,
    "status": lambda item: item.status,
    "size": lambda item: exact_size(item.size),
    "tags": lambda item: _tags(item.tags),
    "created": lambda item: moment(item.created_at),
    "updated": lambda item: moment(item.updated_at),
}
_MANIFESTS: Final[Table] = {
    "digest": lambda item: item.digest,
    "type": lambda item: item.artifact_type or item.media_type,
    "size": lambda item: size(item.size),
    "created": lambda item: moment(item.created_at),
    "tags": lambda item: _tags(item.tags),
    "subject": lambda item: item.subject,
}


def _tags(names: list[str]) -> str:
    more = f" and {len(names) - TAGS_SHOWN} more" if len(names) > TAGS_SHOWN else ""
    return " ".join(names[:TAGS_SHOWN]) + more


@click.group(epilog=example("image list team"))
def image() -> None:
    """Manage images, which OCI calls repositories.

    IMAGE is NAMESPACE/IMAGE or an id.
    """


@image.command(epilog=example("image manifests team/web", "image manifests team/web --untagged"))
@click.argument("image")
@click.option(
    "--tagged/--untagged", default=None, help="Only manifests with a tag, or only those without."
)
@session_command
async def manifests(session: Session, *, image: str, tagged: bool | None) -> None:
    """List the manifests of an image, including untagged ones."""
    found = await session.api.image(image)
    pages = session.api.pages(list_manifests, image_id=found.id_, tagged=tagged)
    session.show_all([item async for page in pages for item in page.manifests], _MANIFESTS)


@image.command("list", epilog=example("image list team"))
@click.argument("namespace", required=False)
@session_command
async def list_(session: Session, *, namespace: str | None) -> None:
    """List the images of a namespace, or of all namespaces."""
    namespace_id = None
    if namespace is not None:
        namespace_id = (await session.api.namespace(namespace)).id_
    pages = session.api.pages(list_images, namespace_id=namespace_id)
    session.show_all([item async for page in pages for item in page.images], _COLUMNS)


@image.command(epilog=example("image get team/web"))
@click.argument("image")
@session_command
async def get(session: Session, *, image: str) -> None:
    """Show an image with its exact size."""
    session.show(await session.api.image(image), _FIELDS)


@image.command(epilog=example("image update team/web --visibility public"))
@click.argument("image")
@click.option(
    "--visibility",
    type=click.Choice(["inherit", "public", "private"]),
    required=True,
    help="Visibility of the image; inherit follows the namespace.",
)
@session_command
async def update(session: Session, *, image: str, visibility: str) -> None:
    """Change the visibility of an image."""
    found = await session.api.image(image)
    changed = await session.api.ask(update_image, image_id=found.id_, visibility=visibility)
    session.show(changed, _FIELDS)


@image.command(epilog=example("image delete team/web --yes"))
@click.argument("image")
@yes_option
@session_command
async def delete(session: Session, *, image: str, yes: bool) -> None:
    """Delete an image with its tags.

    You can restore it for a while: see holdfast undelete.
    """
    found = await session.api.image(image)
    confirm(f"Delete image {found.name} ({size(found.size)})?", yes=yes)
    session.show(await session.api.ask(delete_image, image_id=found.id_), _FIELDS)
