"""``holdfast key``: create, list, get, expire, revoke, end-tokens, rotate-signing-key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.options import confirm, data_option, example, yes_option
from holdfast.api.cli.output import Table, moment
from holdfast.api.cli.session import Session, data_directory, managing, opened, run
from holdfast.api.oci.tokens import LEEWAY_SECONDS, REFRESH_SECONDS
from holdfast.api.server.owner_key import ACCESS_KEY

_SPAN: Final = re.compile(r"([0-9]{1,6})([mhd])", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}

_COLUMNS: Final[Table] = {
    "access key": lambda item: item.access_key,
    "project": lambda item: item.project_id or "all",
    "permission": lambda item: item.permission,
    "expires": lambda item: moment(item.expires_at),
    "description": lambda item: item.description,
}
_FIELDS: Final[Table] = {**_COLUMNS, "created": lambda item: moment(item.created_at)}
_NEW_FIELDS: Final[Table] = {
    "access key": lambda item: item.access_key,
    "secret key": lambda item: item.secret_key,
    **_FIELDS,
}


def parse_access_key(text: str) -> str:
    """The public half of a key. For ``type=``."""
    if not ACCESS_KEY.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no access key: SCW and 17 capital letters or digits")
    return text


def parse_when(text: str) -> datetime:
    """So much from now (``90d``, ``12h``, ``30m``), or a date and time with a zone."""
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        when = None
    if when is None or when.tzinfo is None:
        raise click.BadParameter(f"{text!r} is no moment such as 90d or 2030-01-31T12:00:00Z")
    return when


def _parse_end(text: str) -> datetime | None:
    """As ``parse_when``; ``now`` too, and ``never`` (None)."""
    if text in ("now", "never"):
        return datetime.now(UTC) if text == "now" else None
    return parse_when(text)


@click.group(epilog=example("key create --read-only --expires 90d"))
def key() -> None:
    """Keys: who may push, pull and manage."""


@key.command(
    epilog=example(
        "key create --read-only --expires 90d --description 'the cluster pulls'",
    )
)
@click.option(
    "--project-id",
    type=click.UUID,
    help="The one project it is for.  [env: SCW_DEFAULT_PROJECT_ID]",
)
@click.option("--all-projects", is_flag=True, help="For all projects, as far as your own key.")
@click.option("--read-only", is_flag=True, help="It may pull and look, and change nothing.")
@click.option("--expires", type=parse_when, metavar="WHEN", help="Such as 90d, 12h, or a date.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@managing
async def create(
    session: Session,
    *,
    project_id: UUID | None,
    all_projects: bool,
    read_only: bool,
    expires: datetime | None,
    description: str,
) -> None:
    """Create a key. Its secret is printed now and never again."""
    if all_projects and project_id is not None:
        raise click.UsageError("--project-id and --all-projects exclude each other")
    if not all_projects:
        project_id = project_id or session.place.project_id
        if project_id is None:
            raise click.UsageError("which project? --project-id, or --all-projects")
    fields = {
        "project_id": project_id,
        "permission": "read" if read_only else "full",
        "expires_at": expires,
        "description": description,
    }
    session.show(await session.management.create_key(fields), _NEW_FIELDS)


@key.command("list", epilog=example("key list"))
@click.option("--project-id", type=click.UUID, help="Only those of this project.")
@managing
async def list_(session: Session, *, project_id: UUID | None) -> None:
    """List keys, without their secrets."""
    session.show_all(await session.management.keys(project_id=project_id), _COLUMNS)


@key.command(epilog=example("key get SCWXXXXXXXXXXXXXXXXX"))
@click.argument("access_key", type=parse_access_key)
@managing
async def get(session: Session, *, access_key: str) -> None:
    """Show a key, without its secret."""
    session.show(await session.management.key(access_key), _FIELDS)


@key.command(
    epilog=example(
        "key expire SCWXXXXXXXXXXXXXXXXX --at 30d", "key expire SCWXXXXXXXXXXXXXXXXX --at never"
    )
)
@click.argument("access_key", type=parse_access_key)
@click.option(
    "--at",
    "text",
    required=True,
    metavar="WHEN",
    help="Such as 30d, 12h or a date; now, or never.",
)
@managing
async def expire(session: Session, *, access_key: str, text: str) -> None:
    """Change when a key ends. It is kept, and can be given more time again."""
    fields = {"expires_at": _parse_end(text)}
    session.show(await session.management.update_key(access_key, fields), _FIELDS)


@key.command(epilog=example("key revoke SCWXXXXXXXXXXXXXXXXX --yes"))
@click.argument("access_key", type=parse_access_key)
@yes_option
@managing
async def revoke(session: Session, *, access_key: str, yes: bool) -> None:
    """Revoke a key: it is refused from now on."""
    confirm(f"Revoke key {access_key}?", yes=yes)
    session.show(await session.management.revoke_key(access_key), _FIELDS)


@key.command("end-tokens", epilog=example("key end-tokens --data data --yes"))
@data_option
@yes_option
def end_tokens(data: str, yes: bool) -> None:
    """End every token of a data directory, whoever has it and whoever signed it.

    For when somebody may have read the directory or a snapshot of it, which hold what tokens are
    signed with. A running server refuses them from then on, with all its workers. Clients log in
    again by themselves; their keys stay.
    """
    confirm("End every token?", yes=yes)
    run(_renew(data, overlap_seconds=0))
    click.echo("all tokens have ended")


@key.command("rotate-signing-key", epilog=example("key rotate-signing-key --data data"))
@data_option
def rotate_signing_key(data: str) -> None:
    """Sign tokens with another key; those given out before stay valid until they expire.

    For rotation by the calendar: no client notices. A running server signs with the new key from
    then on. Where the key may have leaked, use end-tokens.
    """
    run(_renew(data, overlap_seconds=REFRESH_SECONDS + LEEWAY_SECONDS))
    click.echo("tokens are signed with another key; older ones are valid until they expire")


async def _renew(data: str, *, overlap_seconds: int) -> None:
    async with opened(data_directory(data)) as store:
        await store.keys.renew_signing_key(overlap_seconds=overlap_seconds)
