"""``holdfast upgrade``: convert a data directory of the previous format to this format."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.api.cli.options import data_option, example
from holdfast.api.cli.session import open_store, run
from holdfast.api.telemetry import logs


@click.command(epilog=example("upgrade --data data"))
@data_option
def upgrade(data: str) -> None:
    """Upgrade a data directory of the previous format in place, without serving it.

    holdfast serve does the same when it starts. An interrupted upgrade continues at the next
    run. Older versions refuse the directory as soon as the upgrade starts: take a snapshot with
    the old version first.
    """
    logs.set_up("plain", "info", bare=True)
    run(_upgrade(Path(data)))
    click.echo(f"{data} is up to date")


async def _upgrade(directory: Path) -> None:
    """Open the store, which upgrades it, and close it. Raises EngineError."""
    async with open_store(directory):
        pass
