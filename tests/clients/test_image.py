"""The Dockerfile builds, and the image runs as deploy/compose.yaml says and serves docker."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.base_image import ENVIRONMENT, base_image
from support.clients import Program
from support.common import ROOT
from support.images import docker_archive, layers
from support.operating import eventually
from support.server import WAIT_SECONDS

BASE, IMAGE, CONTAINER, VOLUME = "holdfast-base", "holdfast", "registry", "holdfast"
USER = 10001
BUILD_SECONDS = 400
"""It fetches, and compiles, all that Holdfast needs."""


@pytest.fixture
def docker(new_docker: Callable[[str], Program], tmp_path: Path) -> Program:
    """A docker command whose daemon has our image, on a base of this machine's files."""
    program = new_docker("docker")
    base = tmp_path / "base.tar"
    base_image(base)
    program("import", f"--change=ENV {ENVIRONMENT}", str(base), BASE)
    base.unlink()
    *arguments, place = page("build")
    assert place == "."
    more = ("--network=host", f"--build-arg=BASE={BASE}", str(ROOT))
    with program.start(*arguments, *more) as build:
        said, _ = build.communicate(timeout=BUILD_SECONDS)
    assert build.returncode == 0, said
    return program


def page(command: str) -> list[str]:
    """The arguments of docker in the one line of docs/operating.md with this command of it."""
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    (line,) = re.findall(rf"^\$ docker ({command} .*)$", text, re.MULTILINE)
    return shlex.split(line)


def compose() -> dict[str, Any]:
    """The service as the compose file has it."""
    (service,) = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"].values()
    found: dict[str, Any] = service
    return found


def run(docker: Program) -> None:
    """Start it as the page and compose do, but on ports of this machine that are free."""
    service = compose()
    arguments = page("run")
    published = arguments.index("--publish")
    del arguments[published : published + 2]
    (volume,) = service["volumes"]
    *arguments, mount, mounted, image = arguments
    assert (mount, mounted, image) == ("--volume", f"{VOLUME}:/data", IMAGE)
    assert volume.partition(":")[2] == "/data"
    assert service["read_only"] is True
    assert "--read-only" in arguments
    docker(
        *arguments,
        "--detach",
        f"--name={CONTAINER}",
        "--network=host",
        *(f"--cap-drop={each}" for each in service["cap_drop"]),
        *(f"--security-opt={each}" for each in service["security_opt"]),
        *(f"--env={each}=127.0.0.1:0" for each in service["environment"]),
        f"--volume={mounted}",
        "--health-interval=1s",
        # The image's own five seconds may be too few beside a whole test run.
        f"--health-timeout={WAIT_SECONDS}s",
        IMAGE,
        "serve",
        "--listen=127.0.0.1:0",
        "--workers=2",
    )


def inspect(docker: Program, what: str, name: str = CONTAINER) -> Any:
    return json.loads(docker("inspect", f"--format={{{{json {what}}}}}", name))


def inside(docker: Program, *command: str) -> str:
    return docker("exec", CONTAINER, *command)


def variables(docker: Program) -> dict[str, str]:
    """What ``holdfast env`` exports in there."""
    words = [CONTAINER if word == "CONTAINER" else word for word in page("exec")]
    assert words[-2:] == ["holdfast", "env"]
    said = docker(*words).splitlines()
    lines = (line.removeprefix("export ") for line in said)
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def is_healthy(docker: Program) -> bool:
    return bool(inspect(docker, ".State.Health.Status") == "healthy")


@pytest.mark.image
@pytest.mark.timeout(600)
def test_it_builds_runs_and_serves(docker: Program, tmp_path: Path) -> None:
    config = inspect(docker, ".Config", IMAGE)
    assert config["User"] == "holdfast"
    assert list(config["Volumes"]) == ["/data"]
    # Ours is what is added to the base: packages and the interpreter's links, no pip, no sources.
    size = inspect(docker, ".Size", IMAGE) - inspect(docker, ".Size", BASE)
    assert size < 120_000_000

    run(docker)
    eventually(lambda: is_healthy(docker))
    # One tree of processes below the first one, beside the health check, none of them root's.
    header, *rows = docker("top", CONTAINER, "-eo", "pid,ppid,uid,args").splitlines()
    rows = [row for row in rows if not row.endswith(" health")]
    processes = {row.split()[0]: row.split() for row in rows}
    assert header.split()[0] == "PID"
    assert {row[2] for row in processes.values()} == {str(USER)}
    roots = [row for row in processes.values() if row[1] not in processes]
    assert len(roots) == 1
    assert "serve" in roots[0]
    assert "Read-only" in docker.refused("exec", CONTAINER, "sh", "-c", "> /opt/holdfast/new")
    # The extra is there, and what installed everything is not.
    inside(
        docker,
        *("python", "-c"),
        "from importlib.util import find_spec\n"
        "from holdfast.api.telemetry.tracing import missing\n"
        "assert (missing(), find_spec('pip')) == (False, None)",
    )

    known = variables(docker)
    host = known["HOLDFAST_REGISTRY"]
    inside(docker, "holdfast", "namespace", "create", "team", "--data", "/data")
    docker("login", "--username=nologin", "--password-stdin", host, stdin=known["SCW_SECRET_KEY"])
    name = f"{host}/team/app:v1"
    archive = tmp_path / "image.tar"
    image_id = docker_archive(archive, name, layers("image"))
    docker("load", "--quiet", f"--input={archive}")
    docker("push", name)
    docker("rmi", name)
    docker("pull", "--quiet", name)
    assert docker("image", "inspect", "--format={{.Id}}", name) == image_id

    docker("stop", CONTAINER)
    assert inspect(docker, ".State.ExitCode") == 0
    said = docker("logs", CONTAINER)
    assert "Traceback" not in said
    docker("rm", CONTAINER)

    # What it kept is in the volume, and is whole.
    where = ("--network=none", "--read-only", f"--volume={VOLUME}:/data")
    shown = docker("run", "--rm", *where, IMAGE, "check", "--deep")
    assert shown == "no problems"
