"""The examples of the README and of docs/embedding.md run as they stand."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import uvloop
from readme_support import README, blocks
from support import ROOT

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
