"""What commands print: JSON for programs, tables for people, progress on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from .errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_POLL_SECONDS: Final = 0.2
"""How often a bar asks how far the work is."""

_PLAIN_WIDTH: Final = 10_000
"""Where no terminal says how wide it is, nothing is wrapped."""

T = TypeVar("T")
Table = Mapping[str, Callable[[Any], object]]
"""Column to how a row gives its cell."""


def size(count: int) -> str:
    """Bytes as people read them: ``1.5 MiB``."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{number:.1f} {UNITS[unit]}"


def exact_size(count: int) -> str:
    """Bytes for people and for comparing: ``1572864 (1.5 MiB)``."""
    return str(count) if count < 1024 else f"{count} ({size(count)})"


def moment(text: str | None) -> str:
    """A timestamp of the API to the second."""
    if text is None:
        return "never"
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")


def print_json(value: object) -> None:
    """A document, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)))


def print_json_line(value: object) -> None:
    """One document on one line, of a stream of them."""
    click.echo(msgspec.json.encode(value))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else printable(str(value))


def print_rows(rows: Sequence[object], columns: Table) -> None:
    """A table with one line a row; only its head where there are none."""
    _print_table([name.upper() for name in columns], [
        [_cell(get(row)) for get in columns.values()] for row in rows
    ])  # fmt: skip


def print_fields(value: object, columns: Table) -> None:
    """One object, a line a field."""
    _print_table(None, [[name, _cell(get(value))] for name, get in columns.items()])


def _print_table(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
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
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


class Bar:
    """A bar on standard error; nothing at all where that is no terminal."""

    def __init__(self, bars: Bars | None, task: TaskID | None) -> None:
        self._bars = bars
        self._task = task

    def show(self, text: str, *, done: int | None = None, total: int | None = None) -> None:
        """How far it is; without a total, only that it moves."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=text, completed=done, total=total)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Bar]:
    """A bar for as long as the context lasts."""
    if not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bar(bars, bars.add_task(text, total=None))


async def watched(work: Coroutine[Any, Any, T], look: Callable[[], None]) -> T:
    """The result of the work; ``look`` is called now and then while it goes on."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
            look()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return task.result()


async def last_of(steps: AsyncIterator[T], look: Callable[[T], None]) -> T:
    """Go through all steps of something; the last one."""
    last: T | None = None
    async for last in steps:
        look(last)
    assert last is not None, "it told nothing"
    return last
