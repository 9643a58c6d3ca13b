"""What the commands say of themselves, and of options that are another command's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.cli import InProcess

from holdfast.api.cli.main import holdfast


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of a command and of all below it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, *path, name)


def test_every_help_shows_an_example(tmp_path: Path) -> None:
    shell = InProcess(tmp_path, {})
    told = {path: shell.ok(*path, "--help") for path in commands(holdfast)}
    assert ("namespace", "list") in told
    without = [
        path
        for path, text in told.items()
        if " ".join(("Example: holdfast", *path)) not in " ".join(text.split())
    ]
    assert without == []


@pytest.mark.parametrize(
    "words",
    [("snapshot", "copy"), ("restore", "copy")],
    ids=lambda words: words[0],
)
def test_what_works_on_a_directory_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    told = InProcess(tmp_path, {}).refused(2, *words, "--server", "http://127.0.0.1:5000")
    assert told == (
        f"{words[0]} works on a data directory: give --data DIR instead of --server "
        f"(see holdfast {words[0]} --help)"
    )
    assert list(tmp_path.iterdir()) == []
