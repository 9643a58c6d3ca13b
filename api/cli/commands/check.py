"""``holdfast check``: verify the integrity of a store."""

from __future__ import annotations

from collections.abc import Callable

import click

from holdfast.api.cli.errors import Damaged, Misused, printable
from holdfast.api.cli.options import example
from holdfast.api.cli.output import print_json_line, progress
from holdfast.api.cli.session import Target, management_of, run, target_options
from holdfast.api.management.upkeep import check_store
from holdfast.engine import Problem, check_directory


@click.command(epilog=example("check --data data --deep", "check --server http://127.0.0.1:5000"))
@click.option("--deep", is_flag=True, help="Also read and hash all bytes; for a directory only.")
@target_options
def check(get_target: Callable[[], Target], *, deep: bool, as_json: bool) -> None:
    """Verify a data directory and list its problems. It may be in use.

    Prints each problem on a line (with --json, an object per line) as soon as it is found. With
    --server, the server checks its own directory and reports at the end; this needs a full key
    of all projects.
    """
    target = get_target()
    if deep and target.url is not None:
        raise Misused(
            "--deep needs --data; to read the bytes of a running server use holdfast scrub"
        )
    count = run(_check(target, deep=deep, as_json=as_json))
    if count:
        raise Damaged(f"{count} problems")
    if not as_json:
        click.echo("no problems")


async def _check(target: Target, *, deep: bool, as_json: bool) -> int:
    count = 0
    with progress("checking") as bar:
        if target.url is not None:
            async with management_of(target) as api:
                answer = await api.ask(check_store)
            for item in answer.problems:
                _print_problem(Problem(item.kind, item.name, item.reason), as_json=as_json)
            return answer.problem_count
        async for problem in check_directory(target.directory, deep=deep):
            count += 1
            bar.show(f"checking, {count} problems")
            _print_problem(problem, as_json=as_json)
    return count


def _print_problem(problem: Problem, *, as_json: bool) -> None:
    if as_json:
        print_json_line(problem)
    else:
        click.echo(printable(str(problem)))
