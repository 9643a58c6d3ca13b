"""Whatever SECURITY.md promises in a table has a test that exists and runs in CI."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from support import ROOT

PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def rows() -> list[str]:
    """The lines of all tables that say how they are tested."""
    found = []
    for part in PAGE.split("<!-- tested -->")[1:]:
        lines = part.partition("<!-- /tested -->")[0].strip().splitlines()
        found += lines[2:]
    return found


@cache
def functions() -> set[str]:
    """Names of all tests, those that only soak left out."""
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                soaks = any("soak" in ast.unparse(mark) for mark in node.decorator_list)
                if node.name.startswith("test_") and not soaks:
                    names.add(node.name)
    return names


def test_there_are_promises() -> None:
    assert len(rows()) > 12


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_promise_is_tested(row: str) -> None:
    named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
    assert named, row
    assert set(named) <= functions(), row
