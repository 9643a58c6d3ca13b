"""kill -9 of the whole server in the middle of a docker push."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.clients import Program, problems, serving
from support.crash import Gate, kill_all
from support.images import content_size, docker_archive, layers
from support.server import WAIT_SECONDS

BEFORE_THE_CRASH = 3_000_000
"""Bytes that reach the server: of the large layer, which has twice as many, not all."""


@pytest.fixture
def new_gate() -> Iterator[Callable[[int, int], Gate]]:
    """``new_gate(port, limit)``, closed at the end."""
    gates: list[Gate] = []

    def make(port: int, limit: int) -> Gate:
        gates.append(Gate(port, limit))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


def test_a_push_survives_the_death_of_the_server(
    new_docker: Callable[[str], Program],
    new_gate: Callable[[int, int], Gate],
    tmp_path: Path,
) -> None:
    docker = new_docker("docker")
    data = tmp_path / "data"
    contents = layers(str(uuid4()), large=2 * BEFORE_THE_CRASH)
    with serving(data) as registry:
        gate = new_gate(registry.port, BEFORE_THE_CRASH)
        name = f"{gate.address}/team/web:v1"
        registry.namespace("team")
        image_id = docker_archive(tmp_path / "image.tar", name, contents)
        docker("load", f"--input={tmp_path / 'image.tar'}")
        login = ("login", "--username=nologin", "--password-stdin", gate.address)
        docker(*login, stdin=registry.secret)
        push = docker.start("push", name)
        assert gate.full.wait(WAIT_SECONDS)
        assert registry.described("team")["size"] == 0
        kill_all(registry.server)
        listen = f"--listen={registry.host}"
    assert problems(data) == []

    with serving(data, listen) as registry:
        gate.open()
        # The daemon tries again by itself; should it have given up, its user does.
        push.communicate(timeout=WAIT_SECONDS)
        docker("push", name)
        manifest = registry.manifest("team/web", "v1")
        described = registry.described("team")
        assert described["size"] == content_size(manifest)
        assert described["image_count"] == 1
        docker("image", "rm", name)
        docker("pull", name)
        assert docker("image", "inspect", "--format={{.Id}}", name) == image_id
