"""Output of commands: JSON for programs, tables for people, progress bars on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from .errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from holdfast.engine import Transferred

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_PLAIN_WIDTH: Final = 10_000
"""Columns of output that goes to no terminal: wide enough that no line wraps."""

T = TypeVar("T")
Table = Mapping[str, Callable[[Any], object]]
"""Column name to the function that returns the cell of a row."""


def size(count: int) -> str:
    """Format bytes in the largest unit that fits: ``1.5 MiB``."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{number:.1f} {UNITS[unit]}"


def exact_size(count: int) -> str:
    """Format bytes exactly and rounded: ``1572864 (1.5 MiB)``."""
    return str(count) if count < 1024 else f"{count} ({size(count)})"


def copied(done: Transferred) -> str:
    """Format what an import or export copied."""
    content = f"{done.manifests} manifests, {done.blobs} blobs ({size(done.bytes)})"
    return f"{done.tags} tags, {content}"


def moment(text: str | None) -> str:
    """Format a timestamp of the API to the second; ``never`` for None."""
    if text is None:
        return "never"
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)))


def print_json_line(value: object) -> None:
    """Print a value as one line of a JSON stream."""
    click.echo(msgspec.json.encode(value))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else printable(str(value))


def print_rows(rows: Sequence[object], columns: Table) -> None:
    """Print a table, one line per row; only the head if there are no rows."""
    _print_table([name.upper() for name in columns], [
        [_cell(get(row)) for get in columns.values()] for row in rows
    ])  # fmt: skip


def print_fields(value: object, columns: Table) -> None:
    """Print an object, one line per field."""
    _print_table(None, [[name, _cell(get(value))] for name, get in columns.items()])


def _print_table(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    # Imported late: commands that print no table start faster.
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, show_header=head is not None)
    for name in head or ("name", "value"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _PLAIN_WIDTH, highlight=False, markup=False)
    if terminal:
        console.print(table)
        return
    # Rich pads lines to the width of the console: strip that for pipes and files.
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


class Bar:
    """Progress bar on standard error; does nothing if that is not a terminal."""

    def __init__(self, bars: Bars | None, task: TaskID | None) -> None:
        self._bars = bars
        self._task = task

    def show(self, text: str, *, done: int | None = None, total: int | None = None) -> None:
        """Show the progress; without a total, only that work goes on."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=text, completed=done, total=total)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Bar]:
    """Show a progress bar inside the context."""
    if not sys.stderr.isatty():  # control sequences must not get into a log
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bar(bars, bars.add_task(text, total=None))


async def follow(text: str, steps: AsyncIterator[T], describe: Callable[[Bar, T], None]) -> T:
    """Run all steps below a progress bar, call ``describe`` with each, and return the last one."""
    last: T | None = None
    with progress(text) as bar:
        async for last in steps:
            describe(bar, last)
    assert last is not None, "there was no step"
    return last
