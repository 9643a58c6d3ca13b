"""docs/operating.md works: its commands run, in their order, against one server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import environment
from engine_support import manifest
from layout_support import LAYERS, Layout, Registry
from server_support import WAIT_SECONDS, ServerProcess, running
from support import ROOT, require_tool

PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
OLD = "/var/lib/docker-registry"
SERVE = "holdfast serve "


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with what the page takes for given: a docker-registry's files, a layout."""
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
    """What the page starts: its own options, on a free port."""
    (line,) = [block for block in blocks("sh") if block.startswith(SERVE)]
    assert line == f"{SERVE}--data data --listen 127.0.0.1:5000\n"
    with running(place / "data") as started:
        yield started


def test_the_commands_run(place: Path, server: ServerProcess) -> None:
    bash = require_tool("bash")
    commands = place / "bin"
    commands.mkdir()
    (commands / "holdfast").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m holdfast.api.cli "$@"\n'
    )
    (commands / "holdfast").chmod(0o755)
    script = ["set -eu"]
    for block in blocks("sh"):
        if not block.startswith(SERVE):
            script += [f"echo '+++ {line}'\n{line}" for line in block.strip().splitlines()]
    done = subprocess.run(
        [bash, "-c", "\n".join(script).replace(OLD, str(place / "old"))],
        cwd=place,
        env=environment(place) | {"PATH": f"{commands}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = dict(re.findall(r"\+\+\+ (.+)\n((?:(?!\+\+\+).*\n)*)", done.stdout))
    assert said["holdfast check --data data --deep"] == "no problems\n"
    assert "3 repositories would be imported" in said[next(key for key in said if "dry" in key)]
    assert said["holdfast health --data data"] == "ok\n"
