"""Make the tables of docs/ that come from the code, between ``<!-- name -->`` and
``<!-- /name -->``. Run it to write the tables."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from holdfast.api.management.operation import SCALEWAY, AnyOperation
from holdfast.api.management.operations import OPERATIONS
from holdfast.api.server.option import Option
from holdfast.api.server.settings import OPTIONS
from support.common import ROOT

PAGES: Final = ROOT / "docs"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def block(text: str, name: str) -> str:
    """Return the text between the marks of that name."""
    return _around(text, name)[1]


def _around(text: str, name: str) -> tuple[str, str, str]:
    """Return the text before, between and after the marks; the outer parts have the marks."""
    start, end = f"<!-- {name} -->\n\n", f"\n<!-- /{name} -->"
    assert text.count(start) == text.count(end) == 1, name
    before, _, rest = text.partition(start)
    inner, _, after = rest.partition(end)
    return before + start, inner, end + after


def options() -> str:
    """Return the table of all options of ``serve``: key, variable, default and meaning."""
    rows = [
        (
            f"`{key}`",
            f"`{option.variable}`",
            form_of(option),
            option.default_text or default_of(option),
            "restart" if option.fixed else "reload",
            option.help,
        )
        for key, option in OPTIONS.items()
    ]
    return table(("key", "variable", "value", "default", "takes", "meaning"), rows)


def form_of(option: Option) -> str:
    """Return the form of an option's value."""
    if option.kind == "flag":
        return "true, false"
    if option.choices:
        return ", ".join(option.choices)
    text = option.placeholder or "TEXT"
    return f"list of {text}" if option.kind == "texts" else text


def default_of(option: Option) -> str:
    """Return the text of a default that the help leaves out."""
    return {"flag": "false", "texts": "none"}.get(option.kind, "not set")


def operations(*, scaleway: bool) -> str:
    """Return the table of Scaleway's operations, or of the others."""
    rows = [
        (
            f"`{operation.method} {path_of(operation)}`",
            f"`{operation.id}`",
            need_of(operation),
            operation.summary,
        )
        for operation in OPERATIONS
        if operation.path.startswith(SCALEWAY) == scaleway
    ]
    return table(("request", "operation", "key", "what"), rows)


def path_of(operation: AnyOperation) -> str:
    return operation.path.removeprefix(SCALEWAY)


def need_of(operation: AnyOperation) -> str:
    """Return the least key that an operation takes."""
    if operation.owner:
        return "all projects, full" if operation.writes else "all projects"
    return "full" if operation.writes else "any"


def rows_of_the_ledger() -> str:
    """Return the table of key shapes, from their comments."""
    source = (ROOT / "engine" / "ledger" / "layout.py").read_text("utf-8")
    shape = re.compile(r'^([A-Z_]+): Final = (?:\(\n    )?b"(.)"  # (.+?)(?:\n\))?$', re.MULTILINE)
    rows = []
    for name, prefix, comment in shape.findall(source):
        key, _, value = comment.partition(" -> ")
        value = re.sub(r"records\.(\w+)", r"`\1`", value).replace("'' :", "nothing:")
        value = value.replace("''", "nothing")
        rows.append((f"`{prefix}`", name.lower().replace("_", " "), key, value))
    return table(("first byte", "row", "rest of the key", "value"), rows)


def counters() -> str:
    """Return the table of counters, from their comments."""
    source = (ROOT / "engine" / "ledger" / "layout.py").read_text("utf-8")
    shape = re.compile(r'^([A-Z_]+): Final = b"(..)"(?:  # (.+))?$', re.MULTILINE)
    scope, rows = "", []
    for name, letters, comment in shape.findall(source):
        scope = comment.partition(", as all of the next")[0] or scope
        rows.append((f"`{letters}`", name.lower().replace("_", " "), scope))
    return table(("name", "counts", "of"), rows)


def records() -> str:
    """Return the table of records, with their fields in stored order."""
    tree = ast.parse((ROOT / "engine" / "ledger" / "records.py").read_text("utf-8"))
    rows = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and ast.unparse(node.bases[0]) == "Record":
            fields = [
                f"`{item.target.id}` {ast.unparse(item.annotation)}"
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            text = textwrap.dedent(ast.get_docstring(node) or "").replace("\n", " ")
            rows.append((f"`{node.name}`", text, ", ".join(fields)))
    return table(("record", "what", "fields"), rows)


BLOCKS: Final[dict[str, dict[str, Callable[[], str]]]] = {
    "configuration.md": {"options": options},
    "management-api.md": {
        "scaleway": lambda: operations(scaleway=True),
        "beyond": lambda: operations(scaleway=False),
    },
    "data-format.md": {"rows": rows_of_the_ledger, "counters": counters, "records": records},
}
"""Page to the names of its tables and the functions that make them."""


def write(page: Path, made: dict[str, Callable[[], str]]) -> None:
    """Write the tables of a page."""
    text = page.read_text("utf-8")
    for name, make in made.items():
        before, _, after = _around(text, name)
        text = before + make() + after
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    for page, made in BLOCKS.items():
        write(PAGES / page, made)
