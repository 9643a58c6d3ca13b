"""``holdfast completion``: print the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from holdfast.api.cli.options import example

SHELLS = ("bash", "fish", "zsh")


@click.command(
    epilog=example("completion bash > ~/.local/share/bash-completion/completions/holdfast")
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script for a shell to source."""
    found = get_completion_class(shell)
    assert found is not None, f"click knows no {shell}"
    root = ctx.find_root()
    click.echo(found(root.command, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
