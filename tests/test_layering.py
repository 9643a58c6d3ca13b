"""Rules of the house that the import linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.common import ROOT

import holdfast.engine

OPENERS = {"open", "fdopen", "mkstemp", "NamedTemporaryFile", "TemporaryFile"}
PATH_OPENERS = {"read_bytes", "read_text", "write_bytes", "write_text"}
NO_FILES = {"Store", "LmdbLedger", "lmdb", "depot", "files"}
"""What else has a method ``open``."""

DATA_FILES = "depot/disk.py"
"""The one module that opens the files of blobs."""

OTHER_FILES = {
    "datadir.py": "the mark of a data directory",
    "ledger/disk_room.py": "the ledger's own file, for room behind its end",
    "depot/disk_file.py": "a regular file for those that read all of one",
    "transfer/untrusted_files.py": "a directory to import from",
    "depot/gate.py": "locks of the directory",
    "depot/instance.py": "the locks that tell living processes from dead ones",
    "ledger/lmdb_file.py": "the ledger's own file, before LMDB maps it",
    "transfer/oci_export.py": "a directory to export to",
    "maintenance/restore.py": "the ledger's own file in a snapshot",
    "blobs/sources.py": "a file of the caller, to be stored",
    "maintenance/staging.py": "the mark of a directory in the making",
}
"""Modules of the engine that open files which are no blobs, and which."""

ELSEWHERE = {
    "api": {
        "app.py": "a directory that is the caller's",
        "telemetry/audit.py": "the audit log",
        "cli/profile.py": "the clients' profile file",
        "cli/commands/snapshot.py": "the owner key of a snapshot",
        "cli/config_file.py": "the configuration",
        "server/server_files.py": "the locks and notes of a server",
        "server/owner_key.py": "the owner key",
        "http/tls.py": "a certificate and its key",
        "server/worker_process.py": "the name of a process",
    },
    "bench": {
        "command.py": "the report",
        "targets/machine_limits.py": "files of its own that it measures the disk with",
        "load/process.py": "/proc",
        "suites/pulls.py": "a file for nginx to serve",
        "report/results.py": "results",
        "run.py": "/proc",
        "targets/servers.py": "configurations and logs of the servers",
        "suites/syncs.py": "what strace wrote",
        "load/trace.py": "a trace to replay",
        "targets/wrk.py": "a script for wrk",
    },
}
"""The same of the other folders, which have no business in the engine's files at all."""


def modules(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("folder", ["api", "bench"])
def test_the_engine_is_used_through_its_public_names(folder: str) -> None:
    public = set(holdfast.engine.__all__)
    for path, tree in modules(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "holdfast.engine":
                hidden = {alias.name for alias in node.names} - public
                assert not hidden, f"{path}:{node.lineno}: {hidden} is not in the engine's __all__"


MODULES_MAX = 26
"""Modules of one folder, its ``__init__`` included: what a newcomer can take in at once."""


@pytest.mark.parametrize("folder", ["engine", "api", "bench"])
def test_no_folder_is_too_large(folder: str) -> None:
    counts = Counter(path.parent for path, _ in modules(folder))
    assert not {str(place): count for place, count in counts.items() if count > MODULES_MAX}


def arrows(folder: str) -> dict[str, set[str]]:
    """Which modules each module of a folder imports, for types and in functions too."""
    trees = {
        ".".join(("holdfast", *path.relative_to(ROOT).with_suffix("").parts)): tree
        for path, tree in modules(folder)
    }
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        package = name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) + 1 - node.level] if node.level else []
            target = ".".join((*base, *([node.module] if node.module else [])))
            for alias in node.names:
                within = f"{target}.{alias.name}"
                found[name].add(within if within in trees else target)
        found[name] &= trees.keys()
    return found


@pytest.mark.parametrize("folder", ["engine", "api", "bench"])
def test_no_imports_run_in_a_circle(folder: str) -> None:
    """import-linter's layers hold packages apart; this holds modules of one package."""
    left = arrows(folder)
    assert any(left.values())
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, "each of these leads into a circle"


def test_all_is_what_there_is() -> None:
    assert sorted(set(holdfast.engine.__all__)) == sorted(holdfast.engine.__all__)
    for name in holdfast.engine.__all__:
        assert hasattr(holdfast.engine, name)


OPENING = {"engine": {DATA_FILES: "blobs", **OTHER_FILES}, **ELSEWHERE}


@pytest.mark.parametrize("folder", OPENING)
def test_few_modules_open_files(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT / folder)): f"{path}:{node.lineno}"
        for path, tree in modules(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and opens(node.func)
    }
    others = {place for name, place in found.items() if name not in OPENING[folder]}
    assert not others, f"only engine/{DATA_FILES} opens the files of blobs"
    assert not OPENING[folder].keys() - found.keys(), "off the list with it"


def opens(function: ast.expr) -> bool:
    """Whether a call of this opens a file, whoever the method belongs to."""
    if isinstance(function, ast.Name):
        return function.id in OPENERS
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return function.attr in PATH_OPENERS or (
        function.attr in OPENERS and name.lstrip("_") not in NO_FILES
    )


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


def test_a_health_check_loads_neither_engine_nor_server() -> None:
    """It runs every few seconds, for as long as the server does."""
    program = (
        "import sys, atexit\n"
        "heavy = {'aiohttp', 'asyncio', 'uvloop', 'lmdb', 'holdfast.engine', 'opentelemetry'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "from holdfast.api.cli.main import main\n"
        "sys.argv = ['holdfast', 'health', '--data', '/nonexistent']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n"
    assert done.stderr == "holdfast: no server has run on /nonexistent yet\n"
    assert done.returncode == 1
