"""podman and buildah, which share their library and differ in their commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.clients import Program, Registry, containers, require_root
from support.common import require_tool
from support.images import content_size, docker_archive, layers

PLAIN = "--tls-verify=false"


@pytest.fixture(scope="module")
def workers() -> int:
    """One: skopeo, whose library theirs is, goes to several."""
    return 1


@pytest.fixture(params=["podman", "buildah"])
def tool(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def new_engine(tool: str, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """``new_engine("name")``: an engine with a store of its own that is not logged in anywhere."""
    require_root()

    def make(name: str) -> Program:
        home = tmp_path / name
        variables = containers(home)
        options = (f"--root={home / 'graph'}", f"--runroot={short}/{name}", "--storage-driver=vfs")
        return Program(require_tool(tool), home, options, variables)

    # podman takes at most 50 characters.
    with TemporaryDirectory(prefix="holdfast-") as short:
        yield make


@pytest.fixture
def engine(new_engine: Callable[[str], Program], registry: Registry) -> Program:
    """An engine that is logged in to the registry as its owner."""
    program = new_engine("engine")
    login = ("login", PLAIN, "--username=nologin", "--password-stdin", registry.host)
    assert "Login Succeeded" in program(*login, stdin=registry.secret)
    return program


def load(engine: Program, name: str, contents: list[bytes]) -> str:
    """Give the engine an image; its id."""
    path = engine.home / "image.tar"
    image_id = docker_archive(path, name, contents)
    assert engine("pull", "--quiet", f"docker-archive:{path}") == image_id.partition(":")[2]
    return image_id.partition(":")[2]


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_what_was_pushed_comes_back(engine: Program, registry: Registry, kind: str) -> None:
    name = f"{registry.namespace('team')}/web:v1"
    image_id = load(engine, name, layers("podman"))
    engine("push", PLAIN, f"--format={kind}", name)
    manifest = registry.manifest("team/web", "v1")
    assert ("docker" in manifest["mediaType"]) == (kind == "v2s2")
    assert registry.described("team")["size"] == content_size(manifest)
    assert registry.described("team")["image_count"] == 1

    engine("rmi", name)
    pulled = engine("pull", "--quiet", PLAIN, name)
    assert pulled == manifest["config"]["digest"].partition(":")[2]
    if kind == "v2s2":
        assert pulled == image_id


def test_an_index_of_two_images(engine: Program, registry: Registry) -> None:
    name = f"{registry.namespace('team')}/web"
    engine("manifest", "create", f"{name}:all")
    for architecture in ("amd64", "arm64"):
        load(engine, f"{name}:{architecture}", layers(architecture))
        engine("push", PLAIN, f"{name}:{architecture}")
        source = f"docker://{name}:{architecture}"
        chosen = ("--os=linux", f"--arch={architecture}")
        engine("manifest", "add", PLAIN, *chosen, f"{name}:all", source)
    engine("manifest", "push", PLAIN, "--all", f"{name}:all", f"docker://{name}:all")

    index = registry.manifest("team/web", "all")
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    children = [registry.manifest("team/web", each["digest"]) for each in index["manifests"]]
    assert registry.described("team")["size"] == content_size(*children)
    engine("manifest", "rm", f"{name}:all")
    engine("rmi", "--all", "--force")
    pulled = engine("pull", "--quiet", PLAIN, "--arch=arm64", f"{name}:all")
    assert pulled == children[1]["config"]["digest"].partition(":")[2]


@pytest.mark.parametrize("tool", ["podman"])
def test_tags_and_images_are_found(engine: Program, registry: Registry) -> None:
    name = f"{registry.namespace('team')}/web"
    load(engine, f"{name}:v1", layers("podman"))
    for tag in ("v1", "v2"):
        engine("tag", f"{name}:v1", f"{name}:{tag}")
        engine("push", PLAIN, f"{name}:{tag}")
    listed = engine("search", PLAIN, "--list-tags", name)
    assert [line.split() for line in listed.splitlines()[1:]] == [[name, "v1"], [name, "v2"]]
    found = engine("search", PLAIN, "--format={{.Name}}", f"{registry.host}/web")
    assert found.split() == [name]
