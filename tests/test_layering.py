"""Rules of the house that the import linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

import holdfast.engine

OPENERS = {"open", "fdopen", "mkstemp", "NamedTemporaryFile", "TemporaryFile"}
PATH_OPENERS = {"read_bytes", "read_text", "write_bytes", "write_text"}
OPENING_MODULES = {"os", "io", "tempfile", "aiofiles", "builtins"}

DATA_FILES = "disk_depot.py"
"""The one module that opens the files of blobs."""

OTHER_FILES = {
    "datadir.py": "the mark of a data directory",
    "foreign_files.py": "a directory to import from",
    "incarnation.py": "the locks that tell living processes from dead ones",
    "lmdb_file.py": "the ledger's own file, before LMDB maps it",
    "oci_export.py": "a directory to export to",
    "restore.py": "the ledger's own file in a snapshot",
    "sources.py": "a file of the caller, to be stored",
    "staging.py": "the mark of a directory in the making",
}
"""Modules that open files which are no blobs, and which."""


def modules(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).glob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("folder", ["api", "bench"])
def test_the_engine_is_used_through_its_public_names(folder: str) -> None:
    public = set(holdfast.engine.__all__)
    for path, tree in modules(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "holdfast.engine":
                hidden = {alias.name for alias in node.names} - public
                assert not hidden, f"{path}:{node.lineno}: {hidden} is not in the engine's __all__"


def test_all_is_what_there_is() -> None:
    assert sorted(set(holdfast.engine.__all__)) == sorted(holdfast.engine.__all__)
    for name in holdfast.engine.__all__:
        assert hasattr(holdfast.engine, name)


def test_one_engine_module_opens_data_files() -> None:
    found = {
        f"{path.name}:{node.lineno}"
        for path, tree in modules("engine")
        if path.name not in {DATA_FILES, *OTHER_FILES}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and opens(node.func)
    }
    assert not found, f"only engine/{DATA_FILES} opens the files of blobs"
    for name in {DATA_FILES, *OTHER_FILES}:
        assert (ROOT / "engine" / name).exists(), f"{name} is gone: take it off the list"


def opens(function: ast.expr) -> bool:
    """Whether a call of this opens a file: ``open``, ``os.open``, or a method of a path."""
    if isinstance(function, ast.Name):
        return function.id in OPENERS
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr in PATH_OPENERS:
        return True
    owner = function.value
    return function.attr in OPENERS and isinstance(owner, ast.Name) and owner.id in OPENING_MODULES


def test_the_engine_loads_no_http() -> None:
    """In a fresh interpreter, for this one has loaded everything."""
    program = (
        "import sys, holdfast.engine\n"
        "print(sorted({'aiohttp', 'uvloop', 'click', 'jwt', 'holdfast.api'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
