"""``holdfast bench``: runs the bench, which the registry itself never imports."""

from __future__ import annotations

import importlib

import click

HINT = "the bench is not fully installed: pip install 'holdfast[bench]'"


@click.command(
    "bench",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Benchmark registries side by side."""
    try:
        module = importlib.import_module("holdfast.bench.command")
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{HINT} ({error})") from error
    command = module.bench
    assert isinstance(command, click.Command)
    code = command.main(list(arguments), prog_name="holdfast bench", standalone_mode=False)
    if isinstance(code, int) and code:
        raise click.exceptions.Exit(code)
