"""Provoke the start-up failures of docs/operating.md; compare the files that docs/data-format.md
names with those of a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rows import Row, rows_of
from support.server import ServerProcess, command, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("operating") / "data") as started:
        yield started


def refused(row: Row, data: Path, listen: str = "127.0.0.1:0") -> None:
    """The server does not start, and says in one line what the row begins with."""
    done = command("serve", f"--data={data}", f"--listen={listen}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert row.name.strip("`") in done.stderr


@pytest.mark.row("operating.md", "`is in use by another server`")
def test_a_second_server(row: Row, server: ServerProcess) -> None:
    refused(row, server.data)
    row.says(what_to_do="stop the other server, or serve another directory with `--data`")


@pytest.mark.row("operating.md", "`the port is in use`")
def test_a_port_in_use(row: Row, server: ServerProcess, tmp_path: Path) -> None:
    refused(row, tmp_path / "data", server.address)
    row.says(what_to_do="choose another port with `--listen`")


@pytest.mark.row("operating.md", "`and not a data directory`")
def test_no_data_directory(row: Row, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    refused(row, tmp_path)
    row.says(what_to_do="choose an empty directory with `--data`: this one has other files in it")


@pytest.mark.row("operating.md", "`its format is`")
def test_a_newer_format(row: Row, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data):
        pass
    (data / "FORMAT").write_text("holdfast 99\n")
    refused(row, data)
    row.says(
        what_to_do="install the newer Holdfast, or restore the snapshot from before the upgrade"
    )


def test_the_directory_has_what_the_page_says(server: ServerProcess) -> None:
    rows = {row.name.strip("`"): row.cells["what"] for row in rows_of("data-format.md", "files")}
    kinds = {path.name + "/" * path.is_dir() for path in server.data.iterdir()}
    assert set(rows) == kinds
    version = (server.data / "FORMAT").read_text().strip()
    assert f"one line: `{version}`" in rows["FORMAT"]
