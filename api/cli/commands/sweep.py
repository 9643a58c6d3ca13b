"""``holdfast sweep``: take what is due from a store."""

from __future__ import annotations

import click

from holdfast.api.cli.options import confirm, example, refuse_unasked
from holdfast.api.cli.output import print_json, progress, size
from holdfast.api.cli.session import Session, managing


@click.command(epilog=example("sweep --data data", "sweep --now --yes"))
@click.option("--now", is_flag=True, help="Empty the trash too: nothing can be undeleted then.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask; --now asks.")
@managing
async def sweep(session: Session, *, now: bool, yes: bool) -> None:
    """Give back the space of all that nobody needs any more.

    A running server does it by itself, at a bounded rate; this does it at once. On a server it is
    for keys of all projects.
    """
    if now:
        refuse_unasked(yes=yes)
        confirm("Empty the trash, so that nothing can be undeleted?", yes=yes)
    entries = files = freed = 0
    with progress("sweeping") as bar:
        async for done in session.management.sweep(early=now):
            entries, files = entries + done.entries, files + done.files
            freed += done.freed_bytes
            bar.show(f"swept {entries}, freed {size(freed)}")
    if session.as_json:
        print_json({"entries": entries, "files": files, "freed_bytes": freed})
    else:
        click.echo(f"swept {entries} entries, freed {size(freed)}")
