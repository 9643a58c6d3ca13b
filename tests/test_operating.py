"""Run the commands of docs/operating.md in their order, against one server."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import InProcess
from support.common import ROOT
from support.engine import manifest
from support.layout import LAYERS, Layout, Registry
from support.server import ServerProcess, running

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
OLD = "/var/lib/docker-registry"
SERVE = "holdfast serve "


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a directory with what the page expects: a docker-registry's files and a layout."""
    body = manifest(b"{}", LAYERS[:1])
    old = Registry(tmp_path / "old")
    for name in ("team/web", "web", "my_team/web"):
        old.image(name, body, "v1", layers=LAYERS[:1])
    layout = Layout(tmp_path / "layout")
    layout.add(b"{}", LAYERS[0], body)
    layout.list(body, "v1")
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[ServerProcess]:
    """Start the server of the page, on a free port."""
    (line,) = [block for block in blocks("sh") if block.startswith(SERVE)]
    assert line == f"{SERVE}--data data --listen 127.0.0.1:5000\n"
    with running(place / "data") as started:
        yield started


def exports(printed: str) -> dict[str, str]:
    """Return the variables that a shell has after it evaluated the output."""
    pairs = [shlex.split(line.removeprefix("export ")) for line in printed.splitlines()]
    return dict(pair.split("=", 1) for (pair,) in pairs)


@pytest.mark.usefixtures("server")
def test_the_commands_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each line as a shell does, but in this process: starting one each is slow."""
    monkeypatch.chdir(place)
    variables: dict[str, str] = {}
    said: dict[str, str] = {}
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) > 20
    for line in lines:
        if line.startswith(SERVE):
            continue
        evaluated = re.fullmatch(r'eval "\$\((.+)\)"', line)
        program, *arguments = shlex.split((evaluated[1] if evaluated else line).replace(OLD, "old"))
        assert program == "holdfast", line
        done = InProcess(place, variables).run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), line
        if evaluated:
            variables |= exports(done.stdout)
        said[line] = done.stdout
    assert variables.keys() >= {"SCW_API_URL", "SCW_SECRET_KEY", "HOLDFAST_REGISTRY"}
    assert said["holdfast check --data data --deep"] == "no problems\n"
    assert "3 repositories would be imported" in said[next(key for key in said if "dry" in key)]
    assert said["holdfast health --data data"] == "ok\n"
