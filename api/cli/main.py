"""The ``holdfast`` command: its subcommands, ``env``, ``health`` and the error output.

COMMANDS maps each other subcommand to its module, which is imported when the command runs:
``holdfast env`` does not pay for the HTTP server.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Final

import click

from .errors import EXIT_CODES, INTERRUPTED, Failure, Misused, printable
from .options import data_option, example, json_option

COMMANDS: Final[dict[str, str]] = {
    "bench": "bench:bench",
    "check": "check:check",
    "completion": "completion:completion",
    "config": "serve:config",
    "debug": "debug:debug",
    "export": "layout:export",
    "hold": "hold:hold",
    "image": "image:image",
    "import": "layout:import_",
    "key": "key:key",
    "namespace": "namespace:namespace",
    "project": "project:project",
    "restore": "snapshot:restore",
    "retention": "retention:retention",
    "scrub": "scrub:scrub",
    "serve": "serve:serve",
    "snapshot": "snapshot:snapshot",
    "sweep": "sweep:sweep",
    "tag": "tag:tag",
    "trash": "trash:trash",
    "undelete": "trash:undelete",
    "upgrade": "upgrade:upgrade",
    "upload": "upload:upload",
    "usage": "usage:usage",
}
"""Command name to ``module:attribute`` in ``commands``."""

HEALTH_TIMEOUT_SECONDS: Final = 5.0


class _Commands(click.Group):
    """Group that imports the module of a command in COMMANDS when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in COMMANDS:
            return found
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f".commands.{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("serve --data data", "namespace list --data data") + "\n\n" + EXIT_CODES,
)
@click.version_option(package_name="holdfast", prog_name="holdfast", message="%(prog)s %(version)s")
def holdfast() -> None:
    """Run and manage a container registry over an embedded blob engine.

    Options of serve can also be set as HOLDFAST_<NAME> in the environment and in a file
    (--config). Options override the environment, and the environment overrides the file. The
    other commands work on a running server (--server, or the SCW_ variables that holdfast env
    prints) or on a data directory (--data).
    """


@holdfast.command(epilog=example("env --data data", "env --data data --region nl-ams --json"))
@data_option
@click.option(
    "--region",
    metavar="REGION",
    help="Region of the registry.  [default: the server's first region]",
)
@json_option
def env(data: str, region: str | None, as_json: bool) -> None:
    """Print the environment variables for clients, for eval "$(holdfast env)".

    Prints the variables that Scaleway clients read, with the owner key, and HOLDFAST_REGISTRY,
    the host that docker uses for the registry of the region.
    """
    from holdfast.api.server.owner_key import OwnerError, load_owner
    from holdfast.api.server.server_files import read_note

    directory = Path(data)
    try:
        owner = load_owner(directory)
    except OwnerError as error:
        raise Failure(str(error)) from error
    note = read_note(directory)
    if owner is None or note is None:
        raise Failure(f"no server has run on {directory} yet: start one with holdfast serve")
    region = region or note.region
    if region not in note.registries:
        raise Misused(f"--region: {region!r} is not one of {', '.join(note.registries)}")
    variables = {
        "SCW_ACCESS_KEY": owner.access_key,
        "SCW_SECRET_KEY": owner.secret_key,
        "SCW_DEFAULT_PROJECT_ID": owner.project_id,
        "SCW_PROJECT_ID": owner.project_id,
        "SCW_DEFAULT_ORGANIZATION_ID": owner.organization_id,
        "SCW_ORGANIZATION_ID": owner.organization_id,
        "SCW_DEFAULT_REGION": region,
        "SCW_REGION": region,
        "SCW_API_URL": note.url,
        "HOLDFAST_REGISTRY": note.registries[region],
    }
    if as_json:
        from .output import print_json

        print_json(variables)
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@holdfast.command(epilog=example("health --data data && echo ready"))
@data_option
def health(data: str) -> None:
    """Check that the running server is ready. Exits with 0 if it is."""
    # Not aiohttp, whose import takes longer than the check.
    import http.client

    from holdfast.api.server.server_files import read_note

    note = read_note(Path(data))
    if note is None:
        raise Failure(f"no server has run on {data} yet")
    connection = http.client.HTTPConnection(note.listen, timeout=HEALTH_TIMEOUT_SECONDS)
    if note.tls:
        from holdfast.api.http.tls import loopback_context

        connection = http.client.HTTPSConnection(
            note.listen, timeout=HEALTH_TIMEOUT_SECONDS, context=loopback_context()
        )
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        # The body is one short line; do not read more from a wrong server.
        text = response.read(1000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{note.listen} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise Failure(f"{note.listen} is not ready: {text}")
    click.echo(text)


def _print_error(error: click.ClickException, hint: str = "") -> None:
    """Print the message as one line: some of click's messages have several."""
    message = printable(" ".join(error.format_message().split()))
    click.echo(f"holdfast: {message}{hint}", err=True)


def _local_only(error: click.UsageError) -> click.UsageError | None:
    """Return the error for ``--server`` on a command that takes only ``--data``, or None."""
    if not isinstance(error, click.NoSuchOption) or error.option_name != "--server":
        return None
    if error.ctx is None or not any(item.name == "data" for item in error.ctx.command.params):
        return None
    return click.UsageError(
        f"{error.ctx.info_name} works on a data directory: give --data DIR instead of --server"
    )


def main() -> None:
    """Run the command line. Print an error as one line on standard error."""
    try:
        # Outside standalone mode click raises its errors instead of printing them in several lines.
        code = holdfast.main(prog_name="holdfast", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _print_error(_local_only(error) or error, hint)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
