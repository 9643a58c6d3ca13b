"""The examples of the README and of docs/embedding.md run as they stand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import uvloop
from server_support import running
from support import ROOT, require_tool

README = (ROOT / "README.md").read_text("utf-8")
EMBEDDING = (ROOT / "docs" / "embedding.md").read_text("utf-8")
CLI = f"{sys.executable} -m holdfast.api.cli"


def blocks(language: str, page: str = README) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("page", [README, EMBEDDING], ids=["readme", "embedding"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_store(loop: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [block for block in blocks("python", page) if "asyncio.run" in block]
    monkeypatch.chdir(tmp_path)
    if loop == "uvloop":
        monkeypatch.setattr(asyncio, "run", uvloop.run)
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - ours
    assert (tmp_path / "data" / "FORMAT").exists()


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


def test_the_quick_start(tmp_path: Path) -> None:
    bash, _ = require_tool("bash"), require_tool("curl")
    shell = blocks("sh")
    env, create, usage = (
        next(block for block in shell if word in block)
        for word in ("holdfast env", "-X POST", "?name=")
    )
    with running(tmp_path / "data"):
        script = "\n".join(
            ("set -eu", env.replace(".venv/bin/holdfast", CLI), create, "echo", usage)
        )
        done = subprocess.run(
            [bash, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PS1": ""},
        )
    created, listed = (json.loads(line) for line in done.stdout.splitlines())
    assert created["name"] == "namespace1"
    assert created["endpoint"].endswith("/namespace1")
    assert created["is_public"] is False
    assert listed == {"namespaces": [created], "total_count": 1}
