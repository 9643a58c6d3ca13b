"""``holdfast scrub``: read what a data directory stores, and quarantine what went bad."""

from __future__ import annotations

import click

from holdfast.engine import Scrubbed

from .cli_errors import Damaged
from .cli_options import data_option, example, json_option, parse_size
from .cli_output import print_json, progress, size
from .cli_session import data_directory, opened, run


@click.command(epilog=example("scrub --data data --budget 10GiB"))
@data_option
@click.option("--budget", type=parse_size, metavar="SIZE", help="Read at most this much, and stop.")
@json_option
def scrub(data: str, budget: int | None, as_json: bool) -> None:
    """Read blobs again, compare their checksums, quarantine what is damaged.

    It goes on where the last scrub stopped. A push of the same content heals a damaged blob.
    """
    done = run(_scrub(data, budget))
    if as_json:
        print_json(
            {
                "blobs": done.blobs,
                "bytes": done.bytes,
                "finished": done.finished,
                "damaged": done.damaged,
                "damaged_count": done.damaged_count,
            }
        )
    else:
        for digest in done.damaged:
            click.echo(f"damaged: {digest}")
        rest = "" if done.finished else ", more is left for the next one"
        click.echo(f"read {done.blobs} blobs, {size(done.bytes)}{rest}")
    if done.damaged_count:
        raise Damaged(f"{done.damaged_count} blobs are damaged, and in quarantine")


async def _scrub(data: str, budget: int | None) -> Scrubbed:
    async with opened(data_directory(data)) as store:
        with progress("scrubbing"):
            return await store.scrubber.run(budget)
