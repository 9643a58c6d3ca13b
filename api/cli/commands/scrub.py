"""``holdfast scrub``: verify the checksums of a store's blobs and quarantine damaged ones."""

from __future__ import annotations

import click

from holdfast.api.cli.errors import Damaged
from holdfast.api.cli.options import example, parse_size
from holdfast.api.cli.output import print_json, progress, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.upkeep import get_stats, scrub_store
from holdfast.api.management.views import ScrubAnswer


@click.command(epilog=example("scrub --data data", "scrub --budget 10GiB"))
@click.option("--budget", type=parse_size, metavar="SIZE", help="Stop after reading this much.")
@session_command
async def scrub(session: Session, *, budget: int | None) -> None:
    """Read all blobs, verify their checksums and quarantine damaged ones.

    A scrub continues where the last one stopped. A push of the same content repairs a damaged
    blob. With --server this needs a full key of all projects.
    """
    done = await _scrub(session, budget)
    if session.as_json:
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
        rest = "" if done.finished else "; the next scrub continues"
        click.echo(f"read {done.blobs} blobs, {size(done.bytes)}{rest}")
    if done.damaged_count:
        raise Damaged(f"{done.damaged_count} blobs are damaged and in quarantine")


async def _scrub(session: Session, budget: int | None) -> ScrubAnswer:
    """Run all steps of the scrub and return their sums."""
    total = (await session.api.ask(get_stats)).stored_bytes
    left, origin = budget, None
    whole: ScrubAnswer | None = None
    with progress("scrubbing") as bar:
        paused = True
        while paused:
            # The server keeps no state of a scrub: pass the rest of the budget and the origin.
            done = await session.api.ask(scrub_store, budget=left, origin=origin)
            paused, origin = done.paused, done.origin
            if left is not None:
                left = max(left - done.bytes, 0)
            if whole is None:
                whole = done
            else:
                whole.blobs += done.blobs
                whole.bytes += done.bytes
                whole.damaged += done.damaged
                whole.damaged_count += done.damaged_count
                whole.finished = done.finished
            found = f", {whole.damaged_count} damaged" if whole.damaged_count else ""
            bar.show(
                f"scrubbed {whole.blobs} blobs, {size(whole.bytes)}{found}",
                done=whole.bytes,
                total=total if budget is None else min(total, budget),
            )
    assert whole is not None, "there was no step"
    return whole
