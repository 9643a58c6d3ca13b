"""containerd's own client: push and pull through its resolver, the one that Kubernetes uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.api import INDEX_TYPE
from support.clients import ABSENT_SECRET, Program, Registry, daemon, require_root
from support.common import require_tool
from support.images import DOCKER_MANIFEST_TYPE, Layout, content_size, docker_archive, layers

SETTINGS = """version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{home}/socket"
"""
NATIVE = "--snapshotter=native"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a containerd of our own."""
    require_root()
    home = tmp_path_factory.mktemp("containerd")
    settings = home / "config.toml"
    settings.write_text(SETTINGS.format(home=home))
    program = Program(require_tool("containerd"), home, (f"--config={settings}",))
    client = Program(require_tool("ctr"), home, (f"--address={home / 'socket'}",))
    with daemon(program, home / "log", client, "version"):
        yield home / "socket"


@pytest.fixture
def new_ctr(containerd: Path, tmp_path: Path) -> Callable[[str], Program]:
    """``new_ctr("name")``: a client that sees images of its own only."""

    def make(name: str) -> Program:
        home = tmp_path / name
        home.mkdir()
        options = (f"--address={containerd}", f"--namespace={tmp_path.name}-{name}")
        return Program(require_tool("ctr"), home, options)

    return make


@pytest.fixture
def ctr(new_ctr: Callable[[str], Program]) -> Program:
    return new_ctr("ctr")


def owner(registry: Registry) -> tuple[str, ...]:
    """Options of a push or pull by the owner."""
    return ("--plain-http", f"--user=nologin:{registry.secret}")


def load(ctr: Program, name: str, contents: list[bytes]) -> str:
    """Give containerd an image; its id."""
    path = ctr.home / "image.tar"
    image_id = docker_archive(path, name, contents)
    ctr("images", "import", "--no-unpack", str(path))
    return image_id


def digests(ctr: Program) -> dict[str, str]:
    """Name -> digest of the images that the client sees."""
    lines = [line.split() for line in ctr("images", "list").splitlines()[1:]]
    return {line[0]: line[2] for line in lines}


def test_what_was_pushed_comes_back(
    ctr: Program, new_ctr: Callable[[str], Program], registry: Registry
) -> None:
    name = f"{registry.namespace('team')}/web:v1"
    image_id = load(ctr, name, layers("containerd"))
    ctr("images", "push", *owner(registry), name)
    manifest = registry.manifest("team/web", "v1")
    assert manifest["mediaType"] == DOCKER_MANIFEST_TYPE
    assert manifest["config"]["digest"] == image_id
    assert registry.described("team")["size"] == content_size(manifest)
    assert digests(ctr)[name] == registry.tag("team", "web", "v1")["digest"]

    other = new_ctr("other")
    other("images", "pull", *owner(registry), NATIVE, name)
    assert digests(other) == digests(ctr)
    assert "complete" in other("images", "check", NATIVE)
    ctr("images", "push", *owner(registry), name)
    assert registry.described("team")["size"] == content_size(manifest)


def test_an_index_with_all_its_images(
    ctr: Program, new_ctr: Callable[[str], Program], registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.namespace('team')}/web"
    layout = Layout(tmp_path / "layout")
    digest = layout.index("all", "containerd", ("amd64", "arm64"))
    archive = layout.archive(tmp_path / "layout.tar")
    ctr("images", "import", "--no-unpack", "--all-platforms", f"--base-name={name}", str(archive))
    assert digests(ctr) == {f"{name}:all": digest}
    ctr("images", "push", *owner(registry), f"{name}:all")

    index = registry.manifest("team/web", "all")
    assert index["mediaType"] == INDEX_TYPE
    children = [registry.manifest("team/web", each["digest"]) for each in index["manifests"]]
    assert registry.described("team")["size"] == content_size(*children)

    other = new_ctr("other")
    everything = ("--all-platforms", NATIVE)
    other("images", "pull", *owner(registry), *everything, f"{name}:all")
    assert digests(other) == {f"{name}:all": digest}


def test_two_namespaces_share_their_layers(ctr: Program, registry: Registry) -> None:
    one, two = (f"{registry.namespace(name)}/app:v1" for name in ("first", "second"))
    load(ctr, one, layers("containerd"))
    ctr("images", "push", *owner(registry), one)
    files = registry.files()
    ctr("images", "tag", one, two)
    ctr("images", "push", *owner(registry), two)
    assert registry.files() == files
    assert registry.manifest("first/app", "v1") == registry.manifest("second/app", "v1")
    assert registry.described("first")["size"] == registry.described("second")["size"] > 0


def test_who_may_do_what(
    ctr: Program, new_ctr: Callable[[str], Program], registry: Registry
) -> None:
    opened, shut = (
        f"{registry.namespace(name, public=name == 'open')}/app:v1" for name in ("open", "shut")
    )
    load(ctr, opened, layers("containerd"))
    ctr("images", "tag", opened, shut)
    for name in (opened, shut):
        ctr("images", "push", *owner(registry), name)

    anybody = new_ctr("anybody")
    anybody("images", "pull", "--plain-http", NATIVE, opened)
    assert digests(anybody)[opened] == digests(ctr)[opened]
    wrong = f"--user=nologin:{ABSENT_SECRET}"
    pull = ("images", "pull", NATIVE, "--plain-http")
    assert "authorization failed" in anybody.refused(*pull, shut)
    assert "401 Unauthorized" in anybody.refused(*pull, wrong, shut)
    # Of what is there already, it would send nothing.
    anybody("images", "tag", opened, f"{opened}-again")
    # It says why, or that it could not send all, whichever it notices first.
    anybody.refused("images", "push", "--plain-http", f"{opened}-again")
    assert registry.v2("HEAD", "open/app/manifests/v1-again").status == 404
