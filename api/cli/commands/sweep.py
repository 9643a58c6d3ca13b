"""``holdfast sweep``: delete unreferenced data of a store."""

from __future__ import annotations

import click

from holdfast.api.cli.options import confirm, example, require_terminal
from holdfast.api.cli.output import print_json, progress, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.upkeep import sweep_store


@click.command(epilog=example("sweep --data data", "sweep --now --yes"))
@click.option(
    "--now", is_flag=True, help="Also empty the trash; nothing can be undeleted after that."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask; only --now asks.")
@session_command
async def sweep(session: Session, *, now: bool, yes: bool) -> None:
    """Delete unreferenced data now.

    A running server does this in the background at a limited rate. With --server this needs a
    full key of all projects.
    """
    if now:
        require_terminal(yes=yes)
        confirm("Empty the trash? Nothing can be undeleted after that.", yes=yes)
    entries = files = freed = 0
    with progress("sweeping") as bar:
        finished = False
        while not finished:
            done = await session.api.ask(sweep_store, early=now)
            finished = done.finished
            entries, files = entries + done.entries, files + done.files
            freed += done.freed_bytes
            bar.show(f"swept {entries}, freed {size(freed)}")
    if session.as_json:
        print_json({"entries": entries, "files": files, "freed_bytes": freed})
    else:
        click.echo(f"swept {entries} entries, freed {size(freed)}")
