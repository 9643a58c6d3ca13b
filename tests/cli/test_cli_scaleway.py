"""What `holdfast env` prints is all that the Scaleway package needs; so is a profile file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import environment
from support.common import require_tool
from support.server import HOLDFAST, WAIT_SECONDS, ServerProcess, running

pytestmark = pytest.mark.slow

SDK = """
import json
from scaleway import Client
from scaleway.registry.v1 import RegistryV1API
api = RegistryV1API(Client.from_config_file_and_env())
made = api.create_namespace(name={name!r}, description="", is_public=False)
listed = [item.id for item in api.list_namespaces_all()]
print(json.dumps([made.name, made.region, made.endpoint, made.project_id, made.id in listed]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("sdk") / "data") as process:
        yield process


def bash(home: Path, script: str, **variables: str) -> list[object]:
    done = subprocess.run(
        [require_tool("bash"), "-euc", script],
        env=environment(home, variables),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: list[object] = json.loads(done.stdout)
    return told


def sdk(home: Path, name: str) -> str:
    """A command that makes a namespace with the package, and lists."""
    program = home / f"{name}.py"
    program.write_text(SDK.format(name=name))
    return f"{sys.executable} {program}"


def test_eval_of_env_points_the_package_here(server: ServerProcess, tmp_path: Path) -> None:
    told = server.variables()
    env = f'eval "$({" ".join(HOLDFAST)} env --data {server.data})"\n'
    assert bash(tmp_path, env + sdk(tmp_path, "by-env")) == [
        "by-env",
        "fr-par",
        f"{told['HOLDFAST_REGISTRY']}/by-env",
        told["SCW_DEFAULT_PROJECT_ID"],
        True,
    ]


def test_one_profile_file_serves_the_package_and_the_command(
    server: ServerProcess, tmp_path: Path
) -> None:
    """A profile of it, and a variable that wins over the file."""
    told = server.variables()
    path = tmp_path / "config.yaml"
    path.write_text(
        f"access_key: {told['SCW_ACCESS_KEY']}\n"
        f"secret_key: {told['SCW_SECRET_KEY']}\n"
        f"default_organization_id: {told['SCW_DEFAULT_ORGANIZATION_ID']}\n"
        f"default_project_id: {told['SCW_DEFAULT_PROJECT_ID']}\n"
        "api_url: http://127.0.0.1:1\n"
        "profiles:\n"
        "  here:\n"
        f"    api_url: {server.url}\n"
        "    default_region: nl-ams\n"
    )
    profile = {"SCW_CONFIG_PATH": str(path), "SCW_PROFILE": "here"}
    for name, more in (("nl-ams", {}), ("pl-waw", {"SCW_DEFAULT_REGION": "pl-waw"})):
        made = bash(tmp_path, sdk(tmp_path, f"in-{name}"), **profile, **more)
        assert (made[1], made[4]) == (name, True)
        listed = bash(tmp_path, f"{' '.join(HOLDFAST)} namespace list --json", **profile, **more)
        assert [item["name"] for item in listed if isinstance(item, dict)] == [f"in-{name}"]
