"""``holdfast sweep``: take what is due from a data directory."""

from __future__ import annotations

import click

from .cli_options import confirm, data_option, example, json_option, refuse_unasked
from .cli_output import print_json, progress, size, watched
from .cli_session import data_directory, opened, run


@click.command(epilog=example("sweep --data data", "sweep --data data --now --yes"))
@data_option
@click.option("--now", is_flag=True, help="Empty the trash too: nothing can be undeleted then.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask; --now asks.")
@json_option
def sweep(data: str, now: bool, yes: bool, as_json: bool) -> None:
    """Give back the space of all that nobody needs any more.

    A running server does it by itself, at a bounded rate; this does it at once, beside it.
    """
    if now:
        refuse_unasked(yes=yes)
        confirm("Empty the trash, so that nothing can be undeleted?", yes=yes)
    run(_sweep(data, now=now, as_json=as_json))


async def _sweep(data: str, *, now: bool, as_json: bool) -> None:
    async with opened(data_directory(data)) as store:
        sweeper = store.sweeper
        with progress("sweeping") as bar:

            def look() -> None:
                bar.show(f"swept {sweeper.total.entries}, freed {size(sweeper.total.freed_bytes)}")

            done = await watched(sweeper.run(early=now), look)
    if as_json:
        print_json({"entries": done.entries, "files": done.files, "freed_bytes": done.freed_bytes})
    else:
        click.echo(f"swept {done.entries} entries, freed {size(done.freed_bytes)}")
