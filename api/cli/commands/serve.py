"""``holdfast serve`` and ``holdfast config``: the options of the server and their sources.

Options override the environment, and the environment overrides the file given as ``--config``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from holdfast.api.cli.config_file import read, size
from holdfast.api.cli.options import example
from holdfast.api.server.option import Option
from holdfast.api.server.settings import OPTIONS, BadSetting, Settings

_ARGUMENTS: Final = "holdfast.arguments"
_MASK: Final = "***"
_SOURCES: Final = {
    ParameterSource.COMMANDLINE: "option",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


class _Texts(click.types.StringParamType):
    """Type of a repeatable string option; its variable separates values by commas or blanks."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return rv.replace(",", " ").split()


class _Command(click.Command):
    """Command that keeps its arguments, so that a reload can parse them again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def _read_file(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Use the values of the file as the defaults of the options. Raises UsageError."""
    if value is not None:
        ctx.default_map = read(Path(value))
    return value


_TYPES: Final = {"texts": _Texts(), "whole": int, "number": float, "size": size}
"""Types that click converts values to, by kind of the option; a string needs none."""


def _click_option(declared: Option) -> click.Option:
    """Return the option as click has it."""
    key, default = declared.key, declared.default_text
    choice = click.Choice(declared.choices) if declared.choices else None
    return click.Option(
        [f"--{key}/--no-{key}" if declared.kind == "flag" else f"--{key}", declared.name],
        envvar=declared.variable,
        type=choice or _TYPES.get(declared.kind),
        multiple=declared.kind == "texts",
        default=declared.default,
        metavar=declared.placeholder,
        help=f"{declared.help}  [default: {default}]" if default else declared.help,
    )


_PARAMETERS: Final[list[click.Parameter]] = [
    click.Option(
        ["--config"],
        envvar="HOLDFAST_CONFIG",
        metavar="FILE",
        is_eager=True,  # the file has the defaults of the options parsed after it
        callback=_read_file,
        expose_value=False,
        help="TOML file of options; its keys are option names without the leading hyphens.",
    ),
    *map(_click_option, OPTIONS.values()),
]
"""Parameters of both commands. They hold no state."""


def _settings(values: Mapping[str, Any]) -> Settings:
    try:
        return Settings.parse(**values)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error


@click.command(
    cls=_Command,
    params=_PARAMETERS,
    epilog=example("serve --data /srv/holdfast --listen 0.0.0.0:5000"),
)
@click.pass_context
def serve(ctx: click.Context, /, **values: Any) -> None:
    """Serve a data directory, which the first start creates.

    The first start also creates the owner key in DIR/owner.json. It uses HOLDFAST_ACCESS_KEY,
    HOLDFAST_SECRET_KEY, HOLDFAST_PROJECT_ID and HOLDFAST_ORGANIZATION_ID if they are set.

    SIGHUP reloads the --config file and the certificate.
    """
    gc.disable()  # loaded modules stay in memory; collections take a tenth of the start
    from holdfast.api.server.supervisor import CannotServe
    from holdfast.api.server.supervisor import serve as run

    arguments = ctx.meta[_ARGUMENTS]

    def reload() -> Settings:
        try:
            # Parsing the arguments again also reads the file and the environment again.
            again = ctx.command.make_context(ctx.info_name, list(arguments), parent=ctx.parent)
            return _settings(again.params)
        except click.ClickException as error:
            raise BadSetting("", error.format_message()) from error

    try:
        run(_settings(values), os.environ, reload)
    except CannotServe as error:
        raise click.ClickException(str(error)) from error


@click.command(
    cls=_Command, params=_PARAMETERS, epilog=example("config --config /etc/holdfast.toml")
)
@click.pass_context
def config(ctx: click.Context, /, **values: Any) -> None:
    """Print the configuration that serve would use, with the source of each value.

    The output is a valid file for --config. Options that are not set are comments.
    """
    import json

    from holdfast.api.server.owner_key import VARIABLES

    settings = _settings(values)
    shown = {
        **values,
        "workers": settings.workers,
        "regions": settings.regions,
    }
    for key, declared in OPTIONS.items():
        source = ctx.get_parameter_source(declared.name)
        origin = _SOURCES.get(source, "default") if source is not None else "default"
        value = shown[declared.name]
        if value is None:
            click.echo(f"# {key} is not set")
            continue
        text = json.dumps(value, ensure_ascii=False)
        click.echo(f"{key} = {text}  # {origin}")
    for field, variable in VARIABLES.items():
        given = os.environ.get(variable)
        if given:
            click.echo(f"# {variable} = {_MASK if field == 'secret_key' else given}  # environment")
