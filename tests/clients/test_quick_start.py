"""The README's quick start, line by line, with a real docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.clients import Program, Registry
from support.common import require_tool
from support.images import content_size, docker_archive, layers
from support.readme import blocks
from support.server import WAIT_SECONDS

FETCH = "docker pull hello-world:latest\n"
"""The one line that needs the world: an image of ours has that name already."""


def test_the_quick_start(
    new_docker: Callable[[str], Program], registry: Registry, tmp_path: Path
) -> None:
    docker = new_docker("docker")
    archive = tmp_path / "image.tar"
    image_id = docker_archive(archive, "hello-world:latest", layers("quick start"))
    docker("load", "--quiet", f"--input={archive}")

    script = "".join(block + "echo\n" for block in blocks("sh"))
    assert script.count(FETCH) == 1
    script = script.replace(FETCH, "").replace(
        ".venv/bin/holdfast env --data data",
        f"{sys.executable} -m holdfast.api.cli.main env --data {registry.data}",
    )
    host, config = (option.partition("=")[2] for option in docker.options)
    done = subprocess.run(
        [require_tool("bash"), "-euc", script],
        cwd=tmp_path,
        env={**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": config},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    created, listed = (json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{")
    assert (created["name"], created["status"]) == ("namespace1", "ready")
    assert (created["size"], created["image_count"], created["is_public"]) == (0, 0, False)
    assert created["endpoint"] == f"{registry.host}/namespace1"
    [namespace] = listed["namespaces"]
    assert namespace["image_count"] == listed["total_count"] == 1
    assert namespace["size"] == content_size(registry.manifest("namespace1/hello", "v1"))

    name = f"{registry.host}/namespace1/hello:v1"
    assert docker("image", "inspect", "--format={{.Id}}", name) == image_id
    docker("image", "rm", name)
