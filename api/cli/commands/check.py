"""``holdfast check``: verify the promises of a store."""

from __future__ import annotations

from collections.abc import Callable

import click

from holdfast.api.cli.errors import Damaged, Misused, printable
from holdfast.api.cli.options import example
from holdfast.api.cli.output import print_json_line, progress
from holdfast.api.cli.session import Target, management_of, placed, run
from holdfast.engine import Problem, check_directory


@click.command(epilog=example("check --data data --deep", "check --server http://127.0.0.1:5000"))
@click.option("--deep", is_flag=True, help="Of a directory: read and hash all bytes too.")
@placed
def check(where: Callable[[], Target], *, deep: bool, as_json: bool) -> None:
    """Find everything that is wrong with a data directory. It may be in use.

    Each problem is a line (with --json, an object on a line) as soon as it is found. A server is
    asked to check its own directory, and answers at the end; that is for keys of all projects.
    """
    place = where()
    if deep and place.url is not None:
        raise Misused("--deep needs --data: a server reads its bytes again with holdfast scrub")
    count = run(_check(place, deep=deep, as_json=as_json))
    if count:
        raise Damaged(f"{count} problems")
    if not as_json:
        click.echo("no problems")


async def _check(place: Target, *, deep: bool, as_json: bool) -> int:
    count = 0
    with progress("checking") as bar:
        if place.url is not None:
            async with management_of(place) as management:
                answer = await management.check()
            for told in answer.problems:
                _tell(Problem(told.kind, told.name, told.reason), as_json=as_json)
            return answer.problem_count
        async for problem in check_directory(place.directory, deep=deep):
            count += 1
            bar.show(f"checking, {count} problems")
            _tell(problem, as_json=as_json)
    return count


def _tell(problem: Problem, *, as_json: bool) -> None:
    if as_json:
        print_json_line(problem)
    else:
        click.echo(printable(str(problem)))
