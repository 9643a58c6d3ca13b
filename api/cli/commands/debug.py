"""``holdfast debug``: look into a data directory."""

from __future__ import annotations

from contextlib import aclosing

import click

from holdfast.api.cli.errors import printable
from holdfast.api.cli.options import data_option, example, json_option
from holdfast.api.cli.output import print_json_line
from holdfast.api.cli.session import run
from holdfast.engine import ROW_KINDS, StoredRow, read_rows


@click.group(epilog=example("debug rows --data data --kind tag"))
def debug() -> None:
    """Look into a data directory, for a report of a fault or out of curiosity."""


@debug.command(
    epilog=example(
        "debug rows --data data", "debug rows --data data --kind namespace", "debug rows --json"
    )
)
@data_option
@click.option(
    "--kind",
    type=click.Choice(sorted(ROW_KINDS)),
    default=None,
    metavar="KIND",
    help=f"Print rows of one kind only: {', '.join(sorted(ROW_KINDS))}.",
)
@click.option("--after", default="", metavar="KEY", help="Begin after this key, as printed.")
@click.option(
    "--limit",
    type=int,
    default=100,
    show_default=True,
    help="Print at most this many rows, up to 1000000.",
)
@json_option
def rows(data: str, *, kind: str | None, after: str, limit: int, as_json: bool) -> None:
    """Print rows of the ledger as people read them. The directory may be in use.

    Each row has a key, a kind, what it is about, and its value. docs/data-format.md explains the
    kinds. Secrets, settings and the content of small blobs are not shown. With --json each row is
    an object on a line; its form may change with any version.
    """
    run(_rows(data, kind or "", after, limit, as_json=as_json))


async def _rows(data: str, kind: str, after: str, limit: int, *, as_json: bool) -> None:
    async with aclosing(read_rows(data, kind=kind, after=after, limit=limit)) as found:
        async for row in found:
            if as_json:
                print_json_line(row)
            else:
                click.echo(printable(_line(row)))


def _line(row: StoredRow) -> str:
    """Return a row as one line: key, kind, what it is about, and its value."""
    text = f"{row.key or '-'}  {row.kind}  {row.about}"
    if row.damage:
        return f"{text}  DAMAGED: {row.damage}"
    match row.value:
        case None:
            return text
        case dict():
            shown = " ".join(f"{name}={value}" for name, value in row.value.items())
            return f"{text}  {shown}"
        case _:
            return f"{text}  {row.value}"
