"""Servers and clients for the tests with real clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.clients import Program, Registry, daemon, require_root, serving, skopeo_in
from support.common import require_tool


@pytest.fixture(scope="module")
def workers() -> int:
    """How many workers the server has; requests of one client are spread over them."""
    return 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, workers: int) -> Iterator[Registry]:
    """A server for the tests of one file."""
    with serving(tmp_path_factory.mktemp("server") / "data", workers=workers) as running:
        yield running


@pytest.fixture
def registry(server: Registry) -> Iterator[Registry]:
    """The server with nothing in it: what a test leaves is deleted, and no file of it may stay."""
    yield server
    server.clear()
    assert server.files() == []


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a Docker daemon of our own, which touches no network and nothing of the
    machine's own one."""
    require_root()
    # A socket's path must be short.
    home = tmp_path_factory.mktemp("dockerd")
    socket = home / "socket"
    settings = home / "daemon.json"
    settings.write_text("{}")
    program = Program(
        require_tool("dockerd"),
        home,
        (
            f"--host=unix://{socket}",
            f"--data-root={home / 'data'}",
            f"--exec-root={home / 'run'}",
            f"--pidfile={home / 'pid'}",
            f"--config-file={settings}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ),
        {"TMPDIR": str(home)},
    )
    client = Program(require_tool("docker"), home, (f"--host=unix://{socket}",))
    with daemon(program, home / "log", client, "version"):
        yield socket


@pytest.fixture
def new_docker(dockerd: Path, tmp_path: Path) -> Callable[[str], Program]:
    """``new_docker("name")``: a docker command that is not logged in anywhere."""

    def make(name: str) -> Program:
        home = tmp_path / name
        home.mkdir()
        options = (f"--host=unix://{dockerd}", f"--config={home / 'config'}")
        return Program(require_tool("docker"), home, options)

    return make


@pytest.fixture
def docker(new_docker: Callable[[str], Program], registry: Registry) -> Program:
    """A docker command that is logged in to the registry as its owner."""
    program = new_docker("docker")
    program("login", "--username=nologin", "--password-stdin", registry.host, stdin=registry.secret)
    return program


@pytest.fixture
def skopeo(tmp_path: Path, registry: Registry) -> Program:
    """A skopeo that is logged in to the registry as its owner."""
    program = skopeo_in(tmp_path / "skopeo")
    program(
        "login", "--tls-verify=false", "--username=nologin", "--password-stdin", registry.host,
        stdin=registry.secret,
    )  # fmt: skip
    return program
