"""Run the examples of the README and of docs/embedding.md, and compare the README's figures."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import uvloop
from support.common import ROOT
from support.readme import README, blocks

MEASUREMENTS = (ROOT / "docs" / "measurements.md").read_text("utf-8")
EMBEDDING = (ROOT / "docs" / "embedding.md").read_text("utf-8")


@pytest.mark.parametrize("page", [README, EMBEDDING], ids=["readme", "embedding"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_store(loop: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [block for block in blocks("python", page) if "asyncio.run" in block]
    monkeypatch.chdir(tmp_path)
    if loop == "uvloop":
        monkeypatch.setattr(asyncio, "run", uvloop.run)
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - ours
    assert (tmp_path / "data" / "FORMAT").exists()


@pytest.mark.slow
def test_the_registry_inside_another_application(tmp_path: Path) -> None:
    (source,) = [block for block in blocks("python") if "add_domain" in block]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = source.replace("port=8080", f"port={port}, host='127.0.0.1'")
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", source], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "Running on" in process.stdout.readline()
        request = Request(
            f"http://127.0.0.1:{port}/healthz", headers={"Host": f"registry.localhost:{port}"}
        )
        with urlopen(request, timeout=10) as answer:  # noqa: S310
            assert answer.read() == b"ok\n"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def figures(page: str) -> dict[str, dict[str, str]]:
    """Return the rows of the table of figures in a page: work to cells by their headings."""
    (lines,) = re.findall(r"^\| work \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    (head,) = re.findall(r"^(\| work \|.*)$", page, re.MULTILINE)
    names = cells(head)
    rows = (dict(zip(names, cells(line), strict=True)) for line in lines.splitlines())
    return {row["work"]: row for row in rows}


def cells(line: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_figures_are_those_of_the_dated_page() -> None:
    short, full = figures(README), figures(MEASUREMENTS)
    assert 4 <= len(short) < len(full)
    for work, row in short.items():
        assert row == {name: full[work][name] for name in row}
    # The table in short keeps rows in which Holdfast loses.
    assert any(_ratio(row["against docker-registry"]) < 1 for row in short.values())
    assert _section(README, "How fast").count(_date(MEASUREMENTS)) == 1


def _ratio(text: str) -> float:
    (number,) = re.findall(r"[\d.]+", text)
    return float(number)


def _section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _date(page: str) -> str:
    """Return the day of the run that the table is from."""
    return _section(page, "Against docker-registry and nginx").strip().partition(",")[0]
