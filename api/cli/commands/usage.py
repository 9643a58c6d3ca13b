"""``holdfast usage``: the size of resources, and the bytes that deleting them would free."""

from __future__ import annotations

from typing import Final

import click

from holdfast.api.cli.client import Named
from holdfast.api.cli.options import example
from holdfast.api.cli.output import Table, exact_size, moment
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.upkeep import get_stats
from holdfast.api.management.usage import get_image_usage, get_namespace_usage, get_tag_usage

_STORE: Final[Table] = {
    "namespaces": lambda item: item.namespaces,
    "images": lambda item: item.images,
    "blobs": lambda item: item.blobs,
    "size of blobs": lambda item: exact_size(item.blob_bytes),
    "size on disk": lambda item: exact_size(item.stored_bytes),
    "open uploads": lambda item: item.uploads,
    "trash": lambda item: item.trash,
    "garbage queue": lambda item: item.garbage,
    "oldest garbage": lambda item: None if item.garbage == 0 else moment(item.oldest_garbage),
    "set aside": lambda item: item.aside,
    "freed so far": lambda item: exact_size(item.freed_bytes),
}


def _would_free(item: object) -> str:
    count = getattr(item, "would_free", None)
    return "see --would-free" if count is None else exact_size(count)


_NAMESPACE: Final[Table] = {
    "size": lambda item: exact_size(item.size),
    "images": lambda item: item.image_count,
    "unique size": lambda item: exact_size(item.unique_size),
    "exclusive size": lambda item: exact_size(item.exclusive_size),
    "exclusive in project": lambda item: exact_size(item.project_exclusive_size),
    "kept size": lambda item: exact_size(item.kept_size),
    "  content": lambda item: exact_size(item.content),
    "  manifests": lambda item: exact_size(item.manifests),
    "  held": lambda item: exact_size(item.held),
    "  uploads": lambda item: exact_size(item.uploads),
    "  trash": lambda item: exact_size(item.trash),
    "would free": _would_free,
}
_IMAGE: Final[Table] = {
    "size": lambda item: exact_size(item.size),
    "tags": lambda item: item.tag_count,
    "would free": _would_free,
}
_TAG: Final[Table] = {"would free": _would_free}


@click.command(epilog=example("usage team --would-free", "usage team/web:v1"))
@click.argument("name", metavar="[NAMESPACE[/IMAGE[:TAG]]]", required=False)
@click.option(
    "--would-free",
    is_flag=True,
    help="Also compute the bytes that deleting a namespace would free.",
)
@session_command
async def usage(session: Session, *, name: str | None, would_free: bool) -> None:
    """Show the usage of the store, a namespace, an image or a tag.

    A namespace can also be given by id. The usage of the store needs a key of all projects.
    """
    api = session.api
    if name is None:
        session.show(await api.ask(get_stats), _STORE)
        return
    named = Named.parse(name)
    if named.tag is not None:
        tag = await api.tag_named(named)
        session.show(await api.ask(get_tag_usage, tag_id=tag.id_), _TAG)
    elif named.image is not None:
        image = await api.image_named(named)
        session.show(await api.ask(get_image_usage, image_id=image.id_), _IMAGE)
    else:
        namespace = await api.namespace(name)
        numbers = await api.ask(
            get_namespace_usage, namespace_id=namespace.id_, would_free=would_free
        )
        session.show(numbers, _NAMESPACE)
