"""skopeo: copies between a registry and directories, and what it asks of a registry besides."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from support.api import INDEX_TYPE
from support.clients import ABSENT_SECRET, Program, Registry, skopeo_in
from support.clients import PLAIN_COPY as COPY
from support.common import ROOT
from support.images import Layout, content_size, docker_archive, layers

OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")
PLAIN = ("--tls-verify=false",)
INDEXED = ("amd64", "arm64", "s390x")


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image as a source of a copy; its configuration's digest is in its name."""
    docker_archive(tmp_path / "image.tar", "localhost/image:v1", layers("skopeo"))
    return f"docker-archive:{tmp_path / 'image.tar'}"


@pytest.fixture
def index(tmp_path: Path) -> tuple[str, str]:
    """An index of three images as a source of a copy, and its digest."""
    layout = Layout(tmp_path / "layout")
    return f"oci:{layout.directory}:all", layout.index("all", "skopeo", INDEXED)


def digest_in(directory: Path) -> str:
    """The digest of the manifest that ``dir:`` wrote."""
    return "sha256:" + hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()


def test_login_is_decided_by_the_secret(registry: Registry, tmp_path: Path) -> None:
    program = skopeo_in(tmp_path / "skopeo")
    login = ("login", *PLAIN, "--username=whoever", "--password-stdin", registry.host)
    assert "Login Succeeded" in program(*login, stdin=registry.secret)
    stranger = skopeo_in(tmp_path / "stranger")
    assert "invalid username/password" in stranger.refused(*login, stdin=ABSENT_SECRET)


def test_copies_there_and_back(
    skopeo: Program, registry: Registry, image: str, tmp_path: Path
) -> None:
    name = f"docker://{registry.namespace('team')}/web:v1"
    skopeo(*COPY, image, name)
    manifest = registry.manifest("team/web", "v1")
    assert registry.described("team")["size"] == content_size(manifest)

    back = tmp_path / "back"
    skopeo(*COPY, name, f"dir:{back}")
    assert digest_in(back) == registry.tag("team", "web", "v1")["digest"]
    for each in (manifest["config"], *manifest["layers"]):
        content = (back / each["digest"].partition(":")[2]).read_bytes()
        assert len(content) == each["size"]
        assert each["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()

    skopeo(*COPY, f"dir:{back}", f"{name}-again")
    assert registry.manifest("team/web", "v1-again") == manifest
    assert registry.described("team")["size"] == content_size(manifest)


def test_inspect_and_list_tags(skopeo: Program, registry: Registry, image: str) -> None:
    name = f"docker://{registry.namespace('team')}/web"
    for tag in ("v2", "v10", "v1"):
        skopeo(*COPY, image, f"{name}:{tag}")
    shown = json.loads(skopeo("inspect", *PLAIN, f"{name}:v1"))
    manifest = registry.manifest("team/web", "v1")
    assert shown["Digest"] == registry.tag("team", "web", "v1")["digest"]
    assert shown["Layers"] == [each["digest"] for each in manifest["layers"]]
    assert shown["RepoTags"] == ["v1", "v10", "v2"]
    raw = json.loads(skopeo("inspect", *PLAIN, "--raw", f"{name}:v1"))
    assert raw == manifest
    assert json.loads(skopeo("inspect", *PLAIN, "--config", f"{name}:v1"))["os"] == "linux"
    assert json.loads(skopeo("list-tags", *PLAIN, name))["Tags"] == ["v1", "v10", "v2"]
    digest = shown["Digest"]
    assert json.loads(skopeo("inspect", *PLAIN, f"{name}@{digest}"))["Digest"] == digest


def test_delete_takes_every_tag_of_the_manifest(
    skopeo: Program, registry: Registry, image: str
) -> None:
    name = f"docker://{registry.namespace('team')}/web"
    skopeo(*COPY, image, f"{name}:v1")
    skopeo(*COPY, image, f"{name}:v2")
    size = registry.described("team")["size"]
    skopeo("delete", *PLAIN, f"{name}:v1")
    assert json.loads(skopeo("list-tags", *PLAIN, name))["Tags"] == []
    assert "manifest unknown" in skopeo.refused("inspect", *PLAIN, f"{name}:v2")
    assert registry.described("team")["size"] == 0

    skopeo(*COPY, image, f"{name}:v1")
    assert registry.described("team")["size"] == size


def test_an_index_with_all_its_images(
    skopeo: Program, registry: Registry, index: tuple[str, str], tmp_path: Path
) -> None:
    source, digest = index
    name = f"docker://{registry.namespace('team')}/web:all"
    skopeo(*COPY, "--all", source, name)
    pushed = registry.manifest("team/web", "all")
    assert pushed["mediaType"] == INDEX_TYPE
    assert registry.tag("team", "web", "all")["digest"] == digest
    children = [registry.manifest("team/web", each["digest"]) for each in pushed["manifests"]]
    assert len(children) == len(INDEXED)
    assert registry.described("team")["size"] == content_size(*children)
    assert registry.described("team")["image_count"] == 1

    back = tmp_path / "back"
    skopeo(*COPY, "--all", name, f"oci:{back}:all")
    assert f"blobs/sha256/{digest.partition(':')[2]}" in {
        str(path.relative_to(back)) for path in back.rglob("*")
    }
    shown = json.loads(
        skopeo("inspect", "--override-arch=s390x", "--override-os=linux", *PLAIN, name)
    )
    assert shown["Architecture"] == "s390x"


def test_two_namespaces_share_their_layers(skopeo: Program, registry: Registry, image: str) -> None:
    one, two = (f"docker://{registry.namespace(name)}/app:v1" for name in ("first", "second"))
    skopeo(*COPY, image, one)
    files = registry.files()
    skopeo(*COPY, one, two)
    assert registry.files() == files
    assert registry.manifest("first/app", "v1") == registry.manifest("second/app", "v1")
    assert registry.described("first")["size"] == registry.described("second")["size"] > 0

    registry.manage("DELETE", f"/namespaces/{registry.described('first')['id']}")
    assert skopeo("inspect", *PLAIN, two)
    assert registry.files() == files


def test_another_registry_moves_in(
    skopeo: Program, registry: Registry, index: tuple[str, str], image: str
) -> None:
    """As docs/operating.md says; here, from one namespace to another."""
    (line,) = re.findall(r"^\$ skopeo (sync .*)$", OPERATING, re.MULTILINE)
    source, digest = index
    old, new = registry.namespace("old"), registry.namespace("team")
    skopeo(*COPY, "--all", source, f"docker://{old}/web:all")
    skopeo(*COPY, image, f"docker://{old}/web:v1")
    places = {"old.example.org/team/web": f"{old}/web", "holdfast.example.org/team": new}
    words = [places.get(word, word) for word in line.split()]
    assert {*places.values()} <= {*words}
    skopeo(*words, "--src-tls-verify=false", "--dest-tls-verify=false")
    assert registry.tag("team", "web", "all")["digest"] == digest
    assert registry.manifest("team/web", "v1") == registry.manifest("old/web", "v1")


def test_sync_to_a_directory_and_back(
    skopeo: Program, registry: Registry, image: str, tmp_path: Path
) -> None:
    endpoint = registry.namespace("team")
    for tag in ("v1", "v2"):
        skopeo(*COPY, image, f"docker://{endpoint}/web:{tag}")
    target = tmp_path / "mirror"
    target.mkdir()
    sync = ("sync", "--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo(*sync, "--src=docker", "--dest=dir", f"{endpoint}/web", str(target))
    assert sorted(path.name for path in target.iterdir()) == ["web:v1", "web:v2"]
    assert digest_in(target / "web:v1") == registry.tag("team", "web", "v1")["digest"]

    mirror = registry.namespace("mirror")
    skopeo(*sync, "--src=dir", "--dest=docker", str(target), mirror)
    for tag in ("v1", "v2"):
        assert registry.manifest("mirror/web", tag) == registry.manifest("team/web", tag)
    assert registry.described("mirror")["size"] == registry.described("team")["size"]


def test_a_public_image_is_read_without_login(
    skopeo: Program, registry: Registry, image: str, tmp_path: Path
) -> None:
    opened, shut = registry.namespace("open", public=True), registry.namespace("shut")
    for endpoint in (opened, shut):
        skopeo(*COPY, image, f"docker://{endpoint}/app:v1")
    anybody = skopeo_in(tmp_path / "anybody")
    anybody(*COPY, f"docker://{opened}/app:v1", f"dir:{tmp_path / 'pulled'}")
    assert digest_in(tmp_path / "pulled") == registry.tag("open", "app", "v1")["digest"]
    assert "unauthorized" in anybody.refused(*COPY, image, f"docker://{opened}/app:v2")
    assert "unauthorized" in anybody.refused("inspect", *PLAIN, f"docker://{shut}/app:v1")


def test_a_push_into_no_namespace_says_what_to_do(
    skopeo: Program, registry: Registry, image: str
) -> None:
    said = skopeo.refused(*COPY, image, f"docker://{registry.host}/nowhere/app:v1")
    assert "create it with POST /registry/v1/regions/fr-par/namespaces" in said


@pytest.mark.parametrize(
    ("kind", "compression"), [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")]
)
def test_formats_and_compressions(
    skopeo: Program, registry: Registry, image: str, tmp_path: Path, kind: str, compression: str
) -> None:
    name = f"docker://{registry.namespace('team')}/web:v1"
    options = (f"--format={kind}", f"--dest-compress-format={compression}")
    skopeo(*COPY, *options, image, name)
    manifest = registry.manifest("team/web", "v1")
    assert ("docker" in manifest["mediaType"]) == (kind == "v2s2")
    assert all(each["mediaType"].endswith(compression) for each in manifest["layers"])
    skopeo(*COPY, name, f"dir:{tmp_path / 'back'}")
    assert digest_in(tmp_path / "back") == registry.tag("team", "web", "v1")["digest"]
