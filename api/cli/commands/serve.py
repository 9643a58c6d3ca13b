"""``holdfast serve`` and ``holdfast config``: the options of the server and their sources.

Options override the environment, and the environment overrides the file given as ``--config``.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from holdfast.api.cli.config_file import BadFile, options_of, read, size
from holdfast.api.cli.options import F, data_option, example

if TYPE_CHECKING:
    from holdfast.api.server.settings import Settings

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
        try:
            ctx.default_map = read(Path(value), ctx.command.params)
        except BadFile as error:
            raise click.UsageError(str(error)) from error
    return value


_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option(
        "--config",
        envvar="HOLDFAST_CONFIG",
        metavar="FILE",
        is_eager=True,  # the file has the defaults of the options parsed after it
        callback=_read_file,
        expose_value=False,
        help="TOML file of options; its keys are option names without the leading hyphens.",
    ),
    data_option,
    click.option(
        "--listen",
        envvar="HOLDFAST_LISTEN",
        default="127.0.0.1:5000",
        show_default=True,
        metavar="HOST:PORT",
        help="Address to listen on; port 0 picks a free port.",
    ),
    click.option(
        "--workers",
        envvar="HOLDFAST_WORKERS",
        type=int,
        metavar="N",
        help="Number of worker processes.  [default: one per core]",
    ),
    click.option(
        "--region",
        "regions",
        envvar="HOLDFAST_REGION",
        type=_Texts(),
        multiple=True,
        metavar="REGION",
        help="Region to serve, repeatable; the first is the default.  "
        "[default: fr-par nl-ams pl-waw]",
    ),
    click.option(
        "--endpoint",
        "endpoints",
        envvar="HOLDFAST_ENDPOINT",
        type=_Texts(),
        multiple=True,
        metavar="REGION=HOST[:PORT]",
        help="Address of a region's registry for clients, repeatable; the server also listens on "
        "it if it is a free port of this machine.",
    ),
    click.option(
        "--public-url",
        envvar="HOLDFAST_PUBLIC_URL",
        metavar="URL",
        help="External URL when behind a proxy.",
    ),
    click.option(
        "--create-namespaces/--no-create-namespaces",
        envvar="HOLDFAST_CREATE_NAMESPACES",
        default=False,
        help="Create a missing namespace on push.",
    ),
    click.option(
        "--trusted-proxy",
        "trusted_proxies",
        envvar="HOLDFAST_TRUSTED_PROXY",
        type=_Texts(),
        multiple=True,
        metavar="NETWORK",
        help="Network (CIDR) of proxies whose X-Forwarded headers are trusted, repeatable; unix "
        "trusts all clients of the unix socket.",
    ),
    click.option(
        "--token-seconds",
        envvar="HOLDFAST_TOKEN_SECONDS",
        type=int,
        default=300,
        show_default=True,
        metavar="SECONDS",
        help="Lifetime of a bearer token.",
    ),
    click.option(
        "--fast-path/--no-fast-path",
        envvar="HOLDFAST_FAST_PATH",
        default=True,
        help="Serve small reads and pushes without the full HTTP stack.  [default: on]",
    ),
    click.option(
        "--compression",
        envvar="HOLDFAST_COMPRESSION",
        type=click.Choice(("auto", "never")),
        default="never",
        show_default=True,
        help="auto compresses suitable blobs with zstd in the background: less disk, slower pulls.",
    ),
    click.option(
        "--max-connections",
        envvar="HOLDFAST_MAX_CONNECTIONS",
        type=int,
        default=10_000,
        show_default=True,
        metavar="N",
        help="Maximum open connections, over all workers; further clients get 503.",
    ),
    click.option(
        "--max-connections-per-address",
        envvar="HOLDFAST_MAX_CONNECTIONS_PER_ADDRESS",
        type=int,
        metavar="N",
        help="Maximum open connections from one address; 0 means no limit.  [default: 2000, and "
        "no limit for this machine]",
    ),
    click.option(
        "--max-blob",
        envvar="HOLDFAST_MAX_BLOB",
        type=size,
        default="1TiB",
        show_default=True,
        metavar="SIZE",
        help="Largest blob accepted.",
    ),
    click.option(
        "--max-manifest",
        envvar="HOLDFAST_MAX_MANIFEST",
        type=size,
        default="4MiB",
        show_default=True,
        metavar="SIZE",
        help="Largest manifest accepted; at most 4 MiB.",
    ),
    click.option(
        "--max-json",
        envvar="HOLDFAST_MAX_JSON",
        type=size,
        default="64KiB",
        show_default=True,
        metavar="SIZE",
        help="Largest request body accepted by the management API.",
    ),
    click.option(
        "--max-uploads",
        envvar="HOLDFAST_MAX_UPLOADS",
        type=int,
        default=1000,
        show_default=True,
        metavar="N",
        help="Maximum open upload sessions per namespace.",
    ),
    click.option(
        "--bandwidth",
        envvar="HOLDFAST_BANDWIDTH",
        type=size,
        default="0",
        metavar="SIZE",
        help="Maximum bytes of content per second, in and out, over all workers, shared fairly by "
        "namespaces; at least 64KiB, 0 means no limit.  [default: 0]",
    ),
    click.option(
        "--sparse-indexes/--no-sparse-indexes",
        envvar="HOLDFAST_SPARSE_INDEXES",
        default=False,
        help="Accept an index with missing manifests, as mirrors need.",
    ),
    click.option(
        "--watchdog",
        "watchdog_seconds",
        envvar="HOLDFAST_WATCHDOG",
        type=float,
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Kill a worker without a heartbeat for this long; 0 means never.",
    ),
    click.option(
        "--grace",
        "grace_seconds",
        envvar="HOLDFAST_GRACE",
        type=float,
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time that a stop waits for running requests.",
    ),
    click.option(
        "--access-log/--no-access-log",
        envvar="HOLDFAST_ACCESS_LOG",
        default=False,
        help="Log each request to standard error.",
    ),
    click.option(
        "--unix",
        envvar="HOLDFAST_UNIX",
        metavar="PATH",
        help="Also listen on a unix socket (mode 0660, without TLS).",
    ),
    click.option(
        "--tls-cert",
        envvar="HOLDFAST_TLS_CERT",
        metavar="FILE",
        help="Certificate chain in PEM; enables HTTPS.",
    ),
    click.option(
        "--tls-key", envvar="HOLDFAST_TLS_KEY", metavar="FILE", help="Private key in PEM."
    ),
    click.option(
        "--metrics",
        envvar="HOLDFAST_METRICS",
        metavar="HOST:PORT",
        help="Address that serves /metrics for Prometheus, without TLS or a key.",
    ),
    click.option(
        "--log-format",
        envvar="HOLDFAST_LOG_FORMAT",
        type=click.Choice(("plain", "json")),
        default="plain",
        show_default=True,
        help="Format of the log on standard error.",
    ),
    click.option(
        "--log-level",
        envvar="HOLDFAST_LOG_LEVEL",
        type=click.Choice(("debug", "info", "warning", "error")),
        default="info",
        show_default=True,
        help="Minimum level to log.",
    ),
    click.option(
        "--audit-log",
        envvar="HOLDFAST_AUDIT_LOG",
        metavar="FILE",
        help="File that gets a line of JSON per change; - is standard output.",
    ),
    click.option(
        "--traces",
        envvar="HOLDFAST_TRACES",
        metavar="URL",
        help="OpenTelemetry collector that gets a span per request, by OTLP over HTTP, such as "
        "http://127.0.0.1:4318.",
    ),
    click.option(
        "--rate-address",
        envvar="HOLDFAST_RATE_ADDRESS",
        type=float,
        metavar="N",
        help="Maximum requests per second from one address, over all workers; 0 means no limit.  "
        "[default: 5000, and no limit for this machine]",
    ),
    click.option(
        "--rate-key",
        envvar="HOLDFAST_RATE_KEY",
        type=float,
        metavar="N",
        help="Maximum requests per second with one key, over all workers; 0 means no limit.  "
        "[default: 5000, and no limit for this machine]",
    ),
    click.option(
        "--login-failures",
        envvar="HOLDFAST_LOGIN_FAILURES",
        type=float,
        default=60.0,
        show_default=True,
        metavar="N",
        help="Maximum failed logins per minute from one address; 0 means no limit.",
    ),
)


def _serve_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _settings(values: Mapping[str, Any]) -> Settings:
    from holdfast.api.server.settings import BadSetting, Settings

    try:
        return Settings.parse(**values)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error


@click.command(cls=_Command, epilog=example("serve --data /srv/holdfast --listen 0.0.0.0:5000"))
@_serve_options
@click.pass_context
def serve(ctx: click.Context, /, **values: Any) -> None:
    """Serve a data directory, which the first start creates.

    The first start also creates the owner key in DIR/owner.json. It uses HOLDFAST_ACCESS_KEY,
    HOLDFAST_SECRET_KEY, HOLDFAST_PROJECT_ID and HOLDFAST_ORGANIZATION_ID if they are set.

    SIGHUP reloads the --config file and the certificate.
    """
    gc.disable()  # loaded modules stay in memory; collections take a tenth of the start
    from holdfast.api.server.settings import BadSetting
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


@click.command(cls=_Command, epilog=example("config --config /etc/holdfast.toml"))
@_serve_options
@click.pass_context
def config(ctx: click.Context, /, **values: Any) -> None:
    """Print the configuration that serve would use, with the source of each value.

    The output is a valid file for --config. Options that are not set are comments.
    """
    from holdfast.api.server.owner_key import VARIABLES

    settings = _settings(values)
    shown = {
        **values,
        "workers": settings.workers,
        "regions": list(settings.regions),
    }
    for key, option in options_of(ctx.command.params).items():
        assert option.name is not None
        source = ctx.get_parameter_source(option.name)
        origin = _SOURCES.get(source, "default") if source is not None else "default"
        value = shown[option.name]
        if value is None:
            click.echo(f"# {key} is not set")
            continue
        text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        click.echo(f"{key} = {text}  # {origin}")
    for field, variable in VARIABLES.items():
        given = os.environ.get(variable)
        if given:
            click.echo(f"# {variable} = {_MASK if field == 'secret_key' else given}  # environment")
