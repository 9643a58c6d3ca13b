"""Read rows of tables in the pages, and write answers in the words of a row.

A table between ``<!-- provoked -->`` and ``<!-- /provoked -->`` is a table of answers. Each row has
a test that is marked with the page and the row's first cell, takes the fixture ``row``, makes a
server give that answer, and holds the row against it::

    @pytest.mark.row("limits.md", "a blob")
    def test_a_blob(row: Row, server: Server) -> None:
        row.says(beyond=said(server.push(bytes(row.limit(server.options) + 1))))

A table between ``<!-- tested -->`` and ``<!-- /tested -->`` is a table of promises. Each row has
one or more tests with the mark ``promise``, which takes the same arguments.

``tests/test_pages.py`` compares the marks of all tests with the rows of all pages: a row without a
test fails there, and so does a mark without a row. A cell that a test has not compared fails in the
fixture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from support.common import ROOT

UNITS: Final = {
    "": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "KiB": 1 << 10, "MiB": 1 << 20,
    "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip

ELSEWHERE: Final = frozenset(("default", "set by"))
"""Columns that ``test_pages`` compares with the code."""


class Reply(Protocol):
    """An answer, as each client of the tests returns it."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


@dataclass
class Row:
    """A row of a table."""

    page: str
    cells: dict[str, str]
    said: set[str] = field(default_factory=set)
    """Columns that a test has compared."""

    @property
    def name(self) -> str:
        """First cell; unique in its page."""
        return next(iter(self.cells.values()))

    @property
    def number(self) -> float:
        """Number at the start of the column ``default``, in bytes, seconds or items."""
        text, _, unit = self.cells["default"].partition(",")[0].partition(" ")
        return float(text) * UNITS[unit]

    @property
    def source(self) -> str:
        """Option or constant in the column ``set by``."""
        return self.cells["set by"].strip("`")

    def limit(self, options: Mapping[str, Any] | None = None) -> int:
        """Return the limit in force: the option as a server got it, or the number of the page."""
        return int(self.number) if options is None else int(options[self.source])

    def says(self, **columns: str) -> None:
        """Compare cells; a column's name has ``_`` for blanks."""
        for column, text in columns.items():
            name = column.replace("_", " ")
            assert self.cells[name] == text, (self.page, self.name, name)
            self.said.add(name)

    def unsaid(self) -> set[str]:
        """Return the columns that no test has compared."""
        return {*list(self.cells)[1:]} - self.said - ELSEWHERE


def rows_of(page: str, mark: str = "provoked") -> list[Row]:
    """Return the rows of a page's tables between marks of that name, in order."""
    (path,) = [*ROOT.glob(page), *(ROOT / "docs").rglob(page)]
    rows = []
    for part in path.read_text("utf-8").split(f"<!-- {mark} -->")[1:]:
        head, _, *lines = map(_cells, part.partition(f"<!-- /{mark} -->")[0].strip().splitlines())
        rows += [Row(page, dict(zip(head, cells, strict=True))) for cells in lines]
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row_of(page: str, name: str) -> Row:
    """Return the row with that first cell."""
    (row,) = [row for row in rows_of(page) if row.name == name]
    return row


def said(*replies: Reply) -> str:
    """Write answers in the words of the pages: ``413 SIZE_INVALID``, ``429 TOOMANYREQUESTS with
    `Retry-After```. OCI codes stand as they are, types of the management API in backquotes."""
    codes: dict[int, list[str]] = {}
    retried: dict[int, bool] = {}
    for reply in replies:
        retry = any(name.lower() == "retry-after" for name in reply.headers)
        known = codes.setdefault(reply.status, [])
        code = _code(reply)
        if code not in known:
            known.append(code)
        assert retried.setdefault(reply.status, retry) == retry, replies
    return "; ".join(
        f"{status} {', '.join(known)}".rstrip() + " with `Retry-After`" * retried[status]
        for status, known in codes.items()
    )


def _code(reply: Reply) -> str:
    """Return the code or type of an error; empty for a success."""
    if reply.status < 400 or not reply.body:
        return ""
    document = json.loads(reply.body)
    return document["errors"][0]["code"] if "errors" in document else f"`{document['type']}`"
