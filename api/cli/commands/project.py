"""``holdfast project``: show and change the limits of a project."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import click

from holdfast.api.cli.limit_options import fields_of, in_words, limit_options, quota_field
from holdfast.api.cli.options import example, parse_size
from holdfast.api.cli.output import Table, exact_size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.limits import get_project_limits, update_project_limits

_FIELDS: Final[Table] = {
    "quota": lambda item: "none" if item.quota is None else exact_size(item.quota),
    "kept size": lambda item: exact_size(item.kept_size),
    "new namespaces": lambda item: in_words(item.defaults),
}


@click.group(epilog=example("project limits 11111111-1111-4111-8111-111111111111"))
def project() -> None:
    """Manage projects, the owners of namespaces."""


@project.command(
    epilog=example(
        "project limits 11111111-1111-4111-8111-111111111111 --quota 1TiB --default-quota 50GiB"
    )
)
@click.argument("project_id", type=click.UUID)
@click.option(
    "--quota", type=parse_size, metavar="SIZE", help="Maximum stored size of the project."
)
@click.option("--no-quota", is_flag=True, help="Remove the quota of the project.")
@limit_options("default-")
@session_command
async def limits(session: Session, *, project_id: UUID, **given: Any) -> None:
    """Show the limits of a project, or change the given ones.

    Options that begin with --default set the limits of namespaces created from now on. Changes
    need a key of all projects.
    """
    fields = quota_field(given)
    if defaults := fields_of(given, "default-"):
        fields["defaults"] = defaults
    operation = update_project_limits if fields else get_project_limits
    session.show(await session.api.ask(operation, project_id=project_id, **fields), _FIELDS)
