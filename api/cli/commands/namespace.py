"""``holdfast namespace``: create, list, change and delete namespaces."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import click

from holdfast.api.cli.limit_options import FIELDS, fields_of, in_words, limit_options
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, exact_size, moment, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.limits import get_namespace_limits, update_namespace_limits
from holdfast.api.management.namespaces import (
    create_namespace,
    delete_namespace,
    list_namespaces,
    update_namespace,
)
from holdfast.api.management.settings import get_namespace_settings, update_namespace_settings

_COLUMNS: Final[Table] = {
    "name": lambda item: item.name,
    "images": lambda item: item.image_count,
    "size": lambda item: size(item.size),
    "public": lambda item: item.is_public,
    "status": lambda item: item.status,
    "id": lambda item: item.id_,
}
_FIELDS: Final[Table] = {
    "name": lambda item: item.name,
    "id": lambda item: item.id_,
    "endpoint": lambda item: item.endpoint,
    "description": lambda item: item.description,
    "region": lambda item: item.region,
    "project": lambda item: item.project_id,
    "public": lambda item: item.is_public,
    "status": lambda item: item.status,
    "images": lambda item: item.image_count,
    "size": lambda item: exact_size(item.size),
    "created": lambda item: moment(item.created_at),
    "updated": lambda item: moment(item.updated_at),
}
_SPARSE: Final = {None: "server default", True: "yes", False: "no"}
_SETTINGS: Final[Table] = {
    **FIELDS,
    "sparse indexes": lambda item: _SPARSE[item.sparse_indexes],
}

_LIMITS: Final[Table] = {**FIELDS, "in force": lambda item: in_words(item.in_force)}

_visibility = click.option(
    "--public/--private", "is_public", default=None, help="Allow pulls without a key, or not."
)
_description = click.option("--description", metavar="TEXT", help="Free text.")


@click.group(epilog=example("namespace create team"))
def namespace() -> None:
    """Manage namespaces, the groups of images.

    NAMESPACE is a name or an id.
    """


@namespace.command(epilog=example("namespace create team --description 'images of the team'"))
@click.argument("name")
@_description
@_visibility
@click.option(
    "--project-id",
    type=click.UUID,
    help="Project of the namespace.  [env: SCW_DEFAULT_PROJECT_ID]",
)
@session_command
async def create(
    session: Session,
    *,
    name: str,
    description: str | None,
    is_public: bool | None,
    project_id: UUID | None,
) -> None:
    """Create a namespace."""
    created = await session.api.ask(
        create_namespace,
        name=name,
        description=description,
        is_public=is_public,
        project_id=project_id or session.target.project_id,
    )
    session.show(created, _FIELDS)


@namespace.command("list", epilog=example("namespace list --json"))
@click.option("--project-id", type=click.UUID, help="Only namespaces of this project.")
@session_command
async def list_(session: Session, *, project_id: UUID | None) -> None:
    """List the namespaces of a region."""
    pages = session.api.pages(list_namespaces, project_id=project_id)
    session.show_all([item async for page in pages for item in page.namespaces], _COLUMNS)


@namespace.command(epilog=example("namespace get team"))
@click.argument("namespace")
@session_command
async def get(session: Session, *, namespace: str) -> None:
    """Show a namespace with its exact size."""
    session.show(await session.api.namespace(namespace), _FIELDS)


@namespace.command(epilog=example("namespace update team --public"))
@click.argument("namespace")
@_description
@_visibility
@session_command
async def update(
    session: Session, *, namespace: str, description: str | None, is_public: bool | None
) -> None:
    """Change the description or the visibility of a namespace."""
    if description is None and is_public is None:
        raise click.UsageError("nothing to change: give --description, --public or --private")
    found = await session.api.namespace(namespace)
    changed = await session.api.ask(
        update_namespace, namespace_id=found.id_, description=description, is_public=is_public
    )
    session.show(changed, _FIELDS)


@namespace.command(
    epilog=example(
        "namespace settings team",
        "namespace settings team --quota 50GiB --immutable-tag 'v*'",
    )
)
@click.argument("namespace")
@limit_options()
@click.option(
    "--sparse-indexes",
    type=click.Choice(["yes", "no", "server"]),
    help="Accept an index with missing manifests; server uses the server's default.",
)
@session_command
async def settings(
    session: Session, *, namespace: str, sparse_indexes: str | None, **given: Any
) -> None:
    """Show the settings of a namespace, or change the given ones."""
    fields = fields_of(given)
    if sparse_indexes is not None:
        fields["sparse_indexes"] = {"yes": True, "no": False}.get(sparse_indexes)
    found = await session.api.namespace(namespace)
    operation = update_namespace_settings if fields else get_namespace_settings
    session.show(await session.api.ask(operation, namespace_id=found.id_, **fields), _SETTINGS)


@namespace.command(
    epilog=example("namespace limits team", "namespace limits team --quota 50GiB --lock")
)
@click.argument("namespace")
@limit_options()
@session_command
async def limits(session: Session, *, namespace: str, **given: Any) -> None:
    """Show the limits of a namespace, or change the given ones.

    Limits apply in addition to the settings. They belong to the name and outlive the namespace.
    Changes need a key of all projects.
    """
    fields = fields_of(given)
    found = await session.api.namespace(namespace)
    operation = update_namespace_limits if fields else get_namespace_limits
    session.show(await session.api.ask(operation, namespace_id=found.id_, **fields), _LIMITS)


@namespace.command(epilog=example("namespace delete team --yes"))
@click.argument("namespace")
@yes_option
@session_command
async def delete(session: Session, *, namespace: str, yes: bool) -> None:
    """Delete a namespace with its images.

    You can restore it for a while: see holdfast undelete.
    """
    found = await session.api.namespace(namespace)
    summary = f"{found.image_count} images, {size(found.size)}"
    confirm(f"Delete namespace {found.name} ({summary})?", yes=yes)
    session.show(await session.api.ask(delete_namespace, namespace_id=found.id_), _FIELDS)
