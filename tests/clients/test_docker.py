"""dockerd with the docker command: login, push, pull, refusals, deletes, an index of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from support.clients import ABSENT_SECRET, Program, Registry
from support.images import (
    DOCKER_LIST_TYPE,
    DOCKER_MANIFEST_TYPE,
    content_size,
    docker_archive,
    layer,
    layers,
    noise,
)


def load(docker: Program, name: str, contents: list[bytes]) -> str:
    """Give the daemon an image; its id."""
    path = docker.home / "image.tar"
    image_id = docker_archive(path, name, contents)
    docker("load", "--quiet", f"--input={path}")
    assert image_of(docker, name) == image_id
    return image_id


def image_of(docker: Program, name: str) -> str:
    """The id of an image that the daemon has."""
    return docker("image", "inspect", "--format={{.Id}}", name)


@pytest.fixture
def seed() -> str:
    """The daemon remembers what it pushed where: every test has layers of its own."""
    return str(uuid4())


def test_login_is_decided_by_the_secret(
    new_docker: Callable[[str], Program], registry: Registry
) -> None:
    docker = new_docker("docker")
    login = ("login", "--username=whoever", "--password-stdin", registry.host)
    assert "Login Succeeded" in docker(*login, stdin=registry.secret)
    assert registry.host in (docker.home / "config" / "config.json").read_text()

    stranger = new_docker("stranger")
    assert "unauthorized" in stranger.refused(*login, stdin=ABSENT_SECRET)
    assert "unauthorized" in stranger.refused(*login, stdin="no secret at all")
    assert registry.host not in (
        (stranger.home / "config" / "config.json").read_text()
        if (stranger.home / "config" / "config.json").exists()
        else ""
    )


def test_what_was_pushed_comes_back(docker: Program, registry: Registry, seed: str) -> None:
    name = f"{registry.namespace('team')}/web:v1"
    image_id = load(docker, name, layers(seed))
    docker("push", name)

    manifest = registry.manifest("team/web", "v1")
    assert manifest["mediaType"] == DOCKER_MANIFEST_TYPE
    assert manifest["config"]["digest"] == image_id
    assert len(manifest["layers"]) == 3
    described = registry.described("team")
    assert described["size"] == content_size(manifest)
    assert described["image_count"] == 1
    assert registry.tag("team", "web", "v1")["status"] == "ready"

    docker("image", "rm", name)
    docker.refused("image", "inspect", image_id)
    docker("pull", name)
    assert image_of(docker, name) == image_id

    docker("push", name)
    assert registry.described("team")["size"] == described["size"]


def test_two_namespaces_share_their_layers(docker: Program, registry: Registry, seed: str) -> None:
    base = layers(seed)
    one, two = (f"{registry.namespace(name)}/app:v1" for name in ("first", "second"))
    load(docker, one, base)
    other_id = load(docker, two, [*base, layer("more.bin", noise(f"{seed} more", 400_000))])
    docker("push", one)
    alone = registry.files()
    docker("push", two)

    first, second = (registry.manifest(f"{name}/app", "v1") for name in ("first", "second"))
    assert second["layers"][:3] == first["layers"]
    assert registry.described("first")["size"] == content_size(first)
    assert registry.described("second")["size"] == content_size(second)
    on_disk = [each["size"] for each in first["layers"] if each["size"] > 65_536]
    assert alone == sorted(on_disk)
    [added] = Counter(registry.files()) - Counter(alone)
    assert added == second["layers"][3]["size"]
    assert len(registry.files()) == len(on_disk) + 1

    docker("image", "rm", one, two)
    docker("pull", two)
    assert image_of(docker, two) == other_id


def test_a_public_image_is_pulled_without_login(
    docker: Program, new_docker: Callable[[str], Program], registry: Registry, seed: str
) -> None:
    name = f"{registry.namespace('open', public=True)}/app:v1"
    image_id = load(docker, name, layers(seed))
    docker("push", name)
    docker("image", "rm", name)

    anybody = new_docker("anybody")
    anybody("pull", name)
    assert image_of(anybody, name) == image_id
    assert "denied" in anybody.refused("push", name)


def test_a_private_image_is_not_pulled_without_login(
    docker: Program, new_docker: Callable[[str], Program], registry: Registry, seed: str
) -> None:
    name = f"{registry.namespace('shut')}/app:v1"
    load(docker, name, layers(seed))
    docker("push", name)
    docker("image", "rm", name)

    anybody = new_docker("anybody")
    private = anybody.refused("pull", name)
    absent = anybody.refused("pull", name.replace("/app", "/absent"))
    assert "access denied" in private
    assert private.replace("/app", "/absent") == absent


def test_a_push_into_no_namespace_says_what_to_do(
    docker: Program, registry: Registry, seed: str
) -> None:
    name = f"{registry.host}/nowhere/app:v1"
    load(docker, name, layers(seed))
    said = docker.refused("push", name)
    assert "create it with POST /registry/v1/regions/fr-par/namespaces" in said
    assert "Retrying" not in said
    assert registry.files() == []


def test_what_was_deleted_can_be_pushed_again(
    docker: Program, registry: Registry, seed: str
) -> None:
    name = f"{registry.namespace('team')}/web:v1"
    image_id = load(docker, name, layers(seed))
    docker("push", name)
    size = registry.described("team")["size"]

    for path in (
        f"/tags/{registry.tag('team', 'web', 'v1')['id']}",
        f"/images/{registry.image('team', 'web')['id']}",
        f"/namespaces/{registry.described('team')['id']}",
    ):
        registry.manage("DELETE", path)
        assert "not found" in docker.refused("pull", name)
        if path.startswith("/namespaces"):
            registry.namespace("team")
        assert registry.described("team")["size"] == 0
        docker("push", name)
        assert registry.described("team")["size"] == size

    docker("image", "rm", name)
    docker("pull", name)
    assert image_of(docker, name) == image_id


def test_an_index_of_two_architectures(docker: Program, registry: Registry, seed: str) -> None:
    name = f"{registry.namespace('team')}/web"
    for architecture in ("amd64", "arm64"):
        load(docker, f"{name}:{architecture}", layers(f"{seed} {architecture}"))
        docker("push", f"{name}:{architecture}")
    docker("manifest", "create", "--insecure", f"{name}:all", f"{name}:amd64", f"{name}:arm64")
    for architecture in ("amd64", "arm64"):
        annotate = ("manifest", "annotate", "--os=linux", f"--arch={architecture}")
        docker(*annotate, f"{name}:all", f"{name}:{architecture}")
    docker("manifest", "push", "--insecure", f"{name}:all")

    index = registry.manifest("team/web", "all")
    assert index["mediaType"] == DOCKER_LIST_TYPE
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    expected = image_of(docker, f"{name}:amd64")
    docker("image", "rm", f"{name}:amd64", f"{name}:arm64")
    docker("pull", "--platform=linux/amd64", f"{name}:all")
    assert image_of(docker, f"{name}:all") == expected


def test_an_image_is_pulled_by_its_digest(docker: Program, registry: Registry, seed: str) -> None:
    name = f"{registry.namespace('team')}/web"
    image_id = load(docker, f"{name}:v1", layers(seed))
    docker("push", f"{name}:v1")
    digest = registry.tag("team", "web", "v1")["digest"]
    docker("image", "rm", f"{name}:v1")
    docker("pull", f"{name}@{digest}")
    assert image_of(docker, f"{name}@{digest}") == image_id


def test_a_saved_image_is_the_same(
    docker: Program, registry: Registry, seed: str, tmp_path: Path
) -> None:
    """What the daemon unpacks from the registry are the very bytes that it packed."""
    name = f"{registry.namespace('team')}/web:v1"
    contents = layers(seed)
    load(docker, name, contents)
    docker("push", name)
    docker("image", "rm", name)
    docker("pull", name)
    docker("save", f"--output={tmp_path / 'saved.tar'}", name)
    saved = (tmp_path / "saved.tar").read_bytes()
    assert all(content in saved for content in contents)
