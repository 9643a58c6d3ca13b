"""Compare the pages with the code, and find the test of each promise."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from support.common import ROOT
from support.pages import BLOCKS, PAGES, block
from support.rows import Row, rows_of

from holdfast.api.server.option import ClientLimit
from holdfast.api.server.settings import OPTIONS, Settings
from holdfast.engine.check.rows import SHAPES, Shape
from holdfast.engine.ledger import layout, records
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES

EVERY = sorted([*ROOT.glob("*.md"), *PAGES.rglob("*.md")])


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, made in BLOCKS.items() for name in made]
)
def test_a_table_is_what_the_code_says(page: str, name: str) -> None:
    shown = block((PAGES / page).read_text("utf-8"), name)
    assert shown == BLOCKS[page][name](), "run make docs"
    assert shown.count("\n") > 5


def test_the_data_format_leaves_nothing_out() -> None:
    """Find constants without the comment that the tables are made from."""
    page = (PAGES / "data-format.md").read_text("utf-8")
    wanted = {value for value in vars(layout).values() if isinstance(value, bytes)}
    wanted.remove(layout.ZERO_ID)
    shown = re.findall(
        r"^\| `(..?)` \|", block(page, "rows") + block(page, "counters"), re.MULTILINE
    )
    assert len(set(shown)) == len(shown)
    assert {each.encode() for each in shown} == wanted


def records_named(text: str) -> set[str]:
    """Return the names of records in a cell."""
    return set(re.findall(r"\b[A-Z]\w+\b", text))


def width(parts: str) -> int:
    """Return the length in bytes of a key or a value whose parts have a fixed width."""
    widths = {"sha256": SHA_BYTES, "digest key": 1 + 2 * SHA_BYTES, "file id": 8}
    return sum(
        int(number) if number else widths.get(name, ID_BYTES)
        for name, number in re.findall(
            r"(sha256|digest key|image key|(?<= )id|file id|^\w+ id)|\w+\((\d+)\)", parts
        )
    )


SHAPED = [
    (row, SHAPES[row.cells["first byte"].strip("`").encode()])
    for row in rows_of("data-format.md", "rows")
    if row.cells["first byte"].strip("`").encode() in SHAPES
]
"""Rows of the page with the shapes that ``check`` requires: all rows but open uploads."""


def test_a_row_of_the_data_format_is_one_of_the_shapes() -> None:
    assert {row.cells["first byte"].strip("`").encode() for row, _ in SHAPED} == set(SHAPES)
    unshaped = {row.cells["row"] for row in rows_of("data-format.md", "rows")} - {
        row.cells["row"] for row, _ in SHAPED
    }
    # The check reads the main ledger; these rows are in the scratch ledger.
    assert all(name.startswith("session") for name in unshaped), unshaped


@pytest.mark.parametrize(("row", "shape"), SHAPED, ids=lambda each: getattr(each, "name", ""))
def test_a_row_is_what_the_check_demands(row: Row, shape: Shape) -> None:
    key, value = row.cells["rest of the key"], row.cells["value"]
    if shape.shortest == shape.longest:
        assert 1 + width(key) + ("behind" in key) == shape.longest
    if isinstance(shape.value, tuple):
        least, most = shape.value
        assert value.startswith("nothing") == (most == 0)
        assert not most or least != most or width(value) == most
    else:
        name = shape.value if isinstance(shape.value, str) else f"`{shape.value.__name__}`"
        assert value.partition(":")[0] == name


def test_records_are_named_where_they_are_and_are_what_is_named() -> None:
    tables = {mark: rows_of("data-format.md", mark) for mark in ("rows", "records")}
    known = {row.name.strip("`") for row in tables["records"]}
    assert known == {
        name
        for name, value in vars(records).items()
        if isinstance(value, type) and issubclass(value, records.Record) and value != records.Record
    }
    by_rows = {name for row in tables["rows"] for name in records_named(row.cells["value"])}
    by_fields = {name for row in tables["records"] for name in records_named(row.cells["fields"])}
    assert by_rows <= known
    assert known <= by_rows | by_fields


@cache
def all_tests() -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
    """Return all tests that CI runs."""
    found = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                soaks = any("soak" in ast.unparse(mark) for mark in node.decorator_list)
                if node.name.startswith("test_") and not soaks:
                    found.append(node)
    return tuple(found)


FACTS = {
    "README.md": {"work", "folder"},
    "ARCHITECTURE.md": {"package", "rows"},
    "CONTRIBUTING.md": {"command", "folder", "word", "you want to change"},
    "configuration.md": {"variable"},
    "distribution-api.md": {"the server was started with"},
    "measurements.md": {"work", "part", "what", "commit"},
    "operating.md": {"alert", "span", "there", "what is damaged"},
    "upgrading.md": {"version of Holdfast", "what"},
}
"""Tables without promises, by page and the head of their first column."""


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_each_table_is_made_provoked_tested_or_of_facts(page: Path) -> None:
    """Require a decision for each table: made from code, provoked, tested, or plain facts."""
    inside, above = "", ""
    for line in page.read_text("utf-8").splitlines():
        if mark := re.fullmatch(r"<!-- (/?)(\w+) -->", line):
            inside = "" if mark[1] else mark[2]
        if re.match(r"\|\s*-", line) and not inside:
            assert above.split("|")[1].strip() in FACTS.get(page.name, ()), above
        above = line


def test_layers_are_those_of_the_contracts() -> None:
    """The table of packages has the layers of pyproject.toml, from bottom to top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = [
        name.removeprefix("holdfast.").replace(".", "/")
        for contract in contracts
        if contract["type"] == "layers"
        for layer in reversed(contract["layers"])
        for name in layer.split(" | ")
    ]
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    shown = re.findall(r"^\| `((?:engine|api|bench)/\w+)(?:/|\.py)` \|", page, re.MULTILINE)
    assert shown == layers


def test_glossary_is_in_order_and_names_files() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Glossary")[2]
    rows = re.findall(r"^\| ([a-z ]+) \| [^|]+ \| `([^`]+)` \|$", page, re.MULTILINE)
    words = [word for word, _ in rows if word != "word"]
    assert len(words) > 30
    assert words == sorted(set(words))
    assert page.count("\n| ") == len(words) + 1
    assert [place for _, place in rows if not (ROOT / place).exists()] == []


def test_names_in_the_recipes_exist() -> None:
    """A renamed class, function or constant makes a recipe wrong."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    recipes = page.partition("## Recipe: ")[2].partition("## Glossary")[0]
    named = {each.rpartition(".")[2] for each in re.findall(r"`(_?[A-Za-z][\w.]*)`", recipes)}
    named = {name for name in named if not name.islower() or "_" in name}
    assert len(named) > 20
    paths = [path for part in ("engine", "api", "tests") for path in (ROOT / part).rglob("*.py")]
    words = {word for path in paths for word in re.findall(r"\w+", path.read_text("utf-8"))}
    assert named - words == set()


def marked(kind: str) -> Iterator[tuple[str, str]]:
    """Yield the pages and rows that marks of a kind name, on tests that CI runs."""
    for test in all_tests():
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{kind}":
                page, name = map(ast.literal_eval, mark.args)
                yield page, name


@pytest.mark.parametrize(("table", "kind"), [("provoked", "row"), ("tested", "promise")])
def test_each_row_has_a_test(table: str, kind: str) -> None:
    rows = [(page.name, row.name) for page in EVERY for row in rows_of(page.name, table)]
    assert len(rows) > 20
    assert set(rows) == set(marked(kind))


def test_rows_of_a_page_begin_differently() -> None:
    for page in EVERY:
        names = [row.name for table in ("provoked", "tested") for row in rows_of(page.name, table)]
        assert len(names) == len(set(names)), page


UNTESTED = {"Reporting", "Out of scope"}
"""Sections of SECURITY.md without promises."""


def test_every_part_of_the_threat_model_is_tested() -> None:
    _, *sections = re.split(r"^## ", (ROOT / "SECURITY.md").read_text("utf-8"), flags=re.MULTILINE)
    titles = [section.partition("\n")[0] for section in sections]
    assert set(titles) > UNTESTED
    for title, section in zip(titles, sections, strict=True):
        marked = "<!-- tested -->" in section or "<!-- provoked -->" in section
        assert marked == (title not in UNTESTED), title
        # What it claims is in tables: no list beside them.
        assert not re.search(r"^[-*] ", section, re.MULTILINE), title


LIMITS = rows_of("limits.md")
DEFAULTS = Settings.parse()
NO_LIMITS = {"workers"}
"""Options with numbers that bound nothing."""


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_a_limit_is_what_the_page_says(limit: Row) -> None:
    source = limit.source
    if source.startswith("holdfast "):
        return
    expected = of_option(source) if source in OPTIONS else of_code(source)
    if limit.cells["default"] == "none":
        assert not expected
        return
    assert limit.number == expected


def of_option(key: str) -> Any:
    """Return the value in force when an option is not set."""
    value = getattr(DEFAULTS, OPTIONS[key].name)
    return value.value if isinstance(value, ClientLimit) else value


def of_code(path: str) -> Any:
    """Return a constant, the default of a field, or the upper bound of an annotated number."""
    parts = ["holdfast", *path.split(".")]
    length = next(n for n in range(len(parts) - 1, 0, -1) if is_module(".".join(parts[:n])))
    value: Any = importlib.import_module(".".join(parts[:length]))
    for part in parts[length:]:
        fields = getattr(value, "__dataclass_fields__", {})
        value = fields[part].default if part in fields else getattr(value, part)
    return value if isinstance(value, int | float) else get_args(value)[1].le


def is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def test_every_option_that_is_a_limit_is_on_the_page() -> None:
    kinds = {"whole", "number", "size"}
    numbers = {key for key, option in OPTIONS.items() if option.kind in kinds}
    assert numbers - NO_LIMITS <= {limit.source for limit in LIMITS}
