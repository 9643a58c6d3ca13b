"""``holdfast key``: manage keys, tokens and the signing key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.options import confirm, data_option, example, yes_option
from holdfast.api.cli.output import Table, moment
from holdfast.api.cli.session import Session, data_directory, open_store, run, session_command
from holdfast.api.management.keys import create_key, get_key, list_keys, revoke_key, update_key
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
    """Parse an access key, for ``type=``. Raises BadParameter."""
    if not ACCESS_KEY.fullmatch(text):
        raise click.BadParameter(
            f"{text!r} is not an access key: must be SCW and 17 capital letters or digits"
        )
    return text


def parse_when(text: str) -> datetime:
    """Parse a time span from now (``90d``, ``12h``, ``30m``) or a date and time with a zone.

    Raises BadParameter.
    """
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        when = None
    if when is None or when.tzinfo is None:
        raise click.BadParameter(f"{text!r} is not a time such as 90d or 2030-01-31T12:00:00Z")
    return when


def _parse_end(text: str) -> datetime | None:
    """Parse ``now``, ``never`` (None) or any text that ``parse_when`` accepts."""
    if text in ("now", "never"):
        return datetime.now(UTC) if text == "now" else None
    return parse_when(text)


@click.group(epilog=example("key create --read-only --expires 90d"))
def key() -> None:
    """Manage keys, the credentials for pulling, pushing and managing."""


@key.command(
    epilog=example(
        "key create --read-only --expires 90d --description 'the cluster pulls'",
    )
)
@click.option(
    "--project-id",
    type=click.UUID,
    help="Project of the key.  [env: SCW_DEFAULT_PROJECT_ID]",
)
@click.option("--all-projects", is_flag=True, help="Key for all projects that your own key covers.")
@click.option("--read-only", is_flag=True, help="Allow pulls and queries, but no changes.")
@click.option(
    "--expires", type=parse_when, metavar="WHEN", help="Expiry, such as 90d, 12h or a date."
)
@click.option("--description", default="", metavar="TEXT", help="Free text.")
@session_command
async def create(
    session: Session,
    *,
    project_id: UUID | None,
    all_projects: bool,
    read_only: bool,
    expires: datetime | None,
    description: str,
) -> None:
    """Create a key. Its secret is printed only now."""
    if all_projects and project_id is not None:
        raise click.UsageError("--project-id and --all-projects exclude each other")
    if not all_projects:
        project_id = project_id or session.target.project_id
        if project_id is None:
            raise click.UsageError("no project: give --project-id or --all-projects")
    created = await session.api.ask(
        create_key,
        project_id=project_id,
        permission="read" if read_only else "full",
        expires_at=expires,
        description=description,
    )
    session.show(created, _NEW_FIELDS)


@key.command("list", epilog=example("key list"))
@click.option("--project-id", type=click.UUID, help="Only keys of this project.")
@session_command
async def list_(session: Session, *, project_id: UUID | None) -> None:
    """List keys, without their secrets."""
    pages = session.api.pages(list_keys, project_id=project_id)
    session.show_all([item async for page in pages for item in page.keys], _COLUMNS)


@key.command(epilog=example("key get SCWXXXXXXXXXXXXXXXXX"))
@click.argument("access_key", type=parse_access_key)
@session_command
async def get(session: Session, *, access_key: str) -> None:
    """Show a key, without its secret."""
    session.show(await session.api.ask(get_key, access_key=access_key), _FIELDS)


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
    help="New expiry, such as 30d, 12h or a date; now or never.",
)
@session_command
async def expire(session: Session, *, access_key: str, text: str) -> None:
    """Change the expiry of a key. An expired key is kept and can be extended."""
    changed = await session.api.ask(update_key, access_key=access_key, expires_at=_parse_end(text))
    session.show(changed, _FIELDS)


@key.command(epilog=example("key revoke SCWXXXXXXXXXXXXXXXXX --yes"))
@click.argument("access_key", type=parse_access_key)
@yes_option
@session_command
async def revoke(session: Session, *, access_key: str, yes: bool) -> None:
    """Revoke a key. The server refuses it from now on."""
    confirm(f"Revoke key {access_key}?", yes=yes)
    session.show(await session.api.ask(revoke_key, access_key=access_key), _FIELDS)


@key.command("end-tokens", epilog=example("key end-tokens --data data --yes"))
@data_option
@yes_option
def end_tokens(data: str, yes: bool) -> None:
    """Invalidate every token of a data directory.

    Use it if the directory or a snapshot of it may have leaked: both hold the signing key of
    tokens. All workers of a running server refuse the old tokens from then on. Clients log in
    again by themselves; their keys stay valid.
    """
    confirm("Invalidate every token?", yes=yes)
    run(_renew(data, overlap_seconds=0))
    click.echo("all tokens are invalid now")


@key.command("rotate-signing-key", epilog=example("key rotate-signing-key --data data"))
@data_option
def rotate_signing_key(data: str) -> None:
    """Sign tokens with a new key; earlier tokens stay valid until they expire.

    Use it for regular rotation: clients do not notice. A running server signs with the new key
    from then on. If the old key may have leaked, use end-tokens.
    """
    # The old key must outlive the refresh tokens it has signed, which live longest.
    run(_renew(data, overlap_seconds=REFRESH_SECONDS + LEEWAY_SECONDS))
    click.echo("tokens are signed with a new key; earlier ones stay valid until they expire")


async def _renew(data: str, *, overlap_seconds: int) -> None:
    async with open_store(data_directory(data)) as store:
        await store.keys.renew_signing_key(overlap_seconds=overlap_seconds)
