"""``holdfast check``: verify the promises of a store on its data directory."""

from __future__ import annotations

import click

from holdfast.engine import check_directory

from .cli_errors import Damaged, printable
from .cli_options import data_option, example, json_option
from .cli_output import print_json_line, progress
from .cli_session import data_directory, run


@click.command(epilog=example("check --data data --deep"))
@data_option
@click.option("--deep", is_flag=True, help="Read and hash all bytes too.")
@json_option
def check(data: str, deep: bool, as_json: bool) -> None:
    """Find everything that is wrong with a data directory. It may be in use.

    Each problem is a line (with --json, an object on a line) as soon as it is found.
    """
    count = run(_check(data, deep=deep, as_json=as_json))
    if count:
        raise Damaged(f"{count} problems")
    if not as_json:
        click.echo("no problems")


async def _check(data: str, *, deep: bool, as_json: bool) -> int:
    count = 0
    with progress("checking") as bar:
        async for problem in check_directory(data_directory(data), deep=deep):
            count += 1
            bar.show(f"checking, {count} problems")
            if as_json:
                print_json_line(problem)
            else:
                click.echo(printable(str(problem)))
    return count
