"""Two regions at two ports: names that are alike, bytes that are kept once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clients import Program, Registry, serving, skopeo_in
from support.images import content_size, docker_archive, layer, layers, noise

COPY = ("copy", "--src-tls-verify=false", "--dest-tls-verify=false")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def second_endpoint() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def registry(tmp_path: Path, second_endpoint: str) -> Iterator[Registry]:
    """A server of two regions."""
    with serving(tmp_path / "data", f"--endpoint=nl-ams={second_endpoint}") as running:
        yield running


@pytest.fixture
def both(registry: Registry, second_endpoint: str, tmp_path: Path) -> Program:
    """A skopeo that is logged in to both regions."""
    program = skopeo_in(tmp_path / "skopeo")
    login = ("login", "--tls-verify=false", "--username=nologin", "--password-stdin")
    for host in (registry.host, second_endpoint):
        program(*login, host, stdin=registry.secret)
    return program


def test_a_name_is_another_one_in_another_region(
    both: Program, registry: Registry, second_endpoint: str, tmp_path: Path
) -> None:
    here = registry.namespace("team")
    there = registry.namespace("team", region="nl-ams")
    assert (here, there) == (f"{registry.host}/team", f"{second_endpoint}/team")
    base = layers("regions")
    more = layer("more.bin", noise("regions more", 400_000))
    for number, (endpoint, contents) in enumerate([(here, base), (there, [*base, more])]):
        path = tmp_path / f"{number}.tar"
        docker_archive(path, "localhost/image:v1", contents)
        both(*COPY, f"docker-archive:{path}", f"docker://{endpoint}/app:v1")

    first = registry.manifest("team/app", "v1")
    second = registry.manifest("team/app", "v1", host=second_endpoint)
    assert len(first["layers"]) == 3
    assert second["layers"][:3] == first["layers"]
    assert registry.described("team")["size"] == content_size(first)
    assert registry.described("team", "nl-ams")["size"] == content_size(second)
    assert registry.files() == sorted(
        each["size"] for each in second["layers"] if each["size"] > 65_536
    )


def test_what_is_pushed_to_one_region_is_not_in_the_other(
    both: Program, registry: Registry, second_endpoint: str, tmp_path: Path
) -> None:
    here = registry.namespace("team")
    docker_archive(tmp_path / "image.tar", "localhost/image:v1", layers("regions"))
    image = f"docker-archive:{tmp_path / 'image.tar'}"
    both(*COPY, image, f"docker://{here}/app:v1")
    there = f"docker://{second_endpoint}/team/app:v1"
    assert "name unknown" in both.refused("inspect", "--tls-verify=false", there)
    said = both.refused(*COPY, image, there)
    assert "create it with POST /registry/v1/regions/nl-ams/namespaces" in said

    registry.namespace("team", region="nl-ams")
    both(*COPY, f"docker://{here}/app:v1", there)
    assert registry.manifest("team/app", "v1", host=second_endpoint) == registry.manifest(
        "team/app", "v1"
    )
    registry.manage("DELETE", f"/namespaces/{registry.described('team')['id']}")
    assert both("inspect", "--tls-verify=false", there)
