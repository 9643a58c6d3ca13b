"""``holdfast namespace``: create, list, change and delete namespaces."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import click

from holdfast.api.cli.limit_options import FIELDS, fields_of, in_words, limit_options
from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, exact_size, moment, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.views import NamespaceAnswer, SettingsAnswer

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
    fields = {
        "name": name,
        "description": description,
        "is_public": is_public,
        "project_id": project_id or session.target.project_id,
    }
    session.show(await session.management.create_namespace(fields), _FIELDS)


@namespace.command("list", epilog=example("namespace list --json"))
@click.option("--project-id", type=click.UUID, help="Only namespaces of this project.")
@session_command
async def list_(session: Session, *, project_id: UUID | None) -> None:
    """List the namespaces of a region."""
    session.show_all(await session.management.namespaces(project_id=project_id), _COLUMNS)


@namespace.command(epilog=example("namespace get team"))
@click.argument("namespace")
@session_command
async def get(session: Session, *, namespace: str) -> None:
    """Show a namespace with its exact size."""
    session.show(await session.management.namespace(namespace), _FIELDS)


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
    found = await session.management.namespace(namespace)
    fields = {"description": description, "is_public": is_public}
    session.show(await session.management.update_namespace(found.id_, fields), _FIELDS)


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
    found = await session.management.namespace(namespace)
    session.show(await _settings(session, found, fields), _SETTINGS)


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
    found = await session.management.namespace(namespace)
    if fields:
        answer = await session.management.update_limits(found.id_, fields)
    else:
        answer = await session.management.limits(found.id_)
    session.show(answer, _LIMITS)


async def _settings(
    session: Session, found: NamespaceAnswer, fields: dict[str, object]
) -> SettingsAnswer:
    if fields:
        return await session.management.update_settings(found.id_, fields)
    return await session.management.settings(found.id_)


@namespace.command(epilog=example("namespace delete team --yes"))
@click.argument("namespace")
@yes_option
@session_command
async def delete(session: Session, *, namespace: str, yes: bool) -> None:
    """Delete a namespace with its images.

    You can restore it for a while: see holdfast undelete.
    """
    found = await session.management.namespace(namespace)
    summary = f"{found.image_count} images, {size(found.size)}"
    confirm(f"Delete namespace {found.name} ({summary})?", yes=yes)
    session.show(await session.management.delete_namespace(found.id_), _FIELDS)
