"""Moving in from a docker-registry: what skopeo pushed there is pulled here, byte for byte."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cli import Shell, make_directory
from support.clients import PLAIN_COPY, Registry, problems, serving, skopeo_in
from support.common import require_tool
from support.images import MANIFEST_TYPES, Layout, docker_archive, layers
from support.server import HOLDFAST, WAIT_SECONDS

ARCHITECTURES = ("amd64", "arm64")


class OldRegistry:
    """A docker-registry with its files in ``storage``."""

    def __init__(self, storage: Path, address: str) -> None:
        self.storage = storage
        self.address = address

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            method=method,
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
        )
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:  # noqa: S310 - ours
            return answer.status, dict(answer.headers), answer.read()

    def tags(self, name: str) -> list[str]:
        listed: list[str] = json.loads(self.ask(f"/v2/{name}/tags/list")[2])["tags"]
        return sorted(listed)


@contextmanager
def old_registry(home: Path) -> Iterator[OldRegistry]:
    """A docker-registry that is stopped at the end of the block."""
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = home / "config.yml"
    settings.write_text(
        "version: 0.1\n"
        "log: {level: error}\n"
        "storage:\n"
        f"  filesystem: {{rootdirectory: {home / 'storage'}}}\n"
        "  delete: {enabled: true}\n"
        f"http: {{addr: {address}}}\n"
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [require_tool("docker-registry"), "serve", str(settings)], stdout=log, stderr=log
        )
    registry = OldRegistry(home / "storage", address)
    try:
        while True:
            assert process.poll() is None, (home / "log").read_text()
            try:
                registry.ask("/v2/")
            except urllib.error.URLError:
                continue
            break
        yield registry
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[OldRegistry]:
    """A docker-registry with images, an index, names of one component, and what is deleted."""
    with old_registry(tmp_path / "old") as registry:
        skopeo = skopeo_in(tmp_path / "skopeo")
        for name, seed in (("one", "first"), ("two", "second")):
            docker_archive(tmp_path / f"{name}.tar", "localhost/x:y", layers(seed))
        layout = Layout(tmp_path / "layout")
        layout.index("all", "index", ARCHITECTURES)
        one, two = (f"docker-archive:{tmp_path / name}.tar" for name in ("one", "two"))
        for source, target in (
            (one, "team/web:v1"),
            (two, "team/web:v2"),
            (two, "team/web:moved"),
            (one, "team/web:moved"),
            (one, "team/deep/er/api:v1"),
            (one, "lonely:v1"),
            (two, "my_team/app:v1"),
            (two, "team/gone:v1"),
        ):
            skopeo(*PLAIN_COPY, source, f"docker://{registry.address}/{target}")
        skopeo(
            *PLAIN_COPY, "--all", f"oci:{layout.directory}:all",
            f"docker://{registry.address}/team/web:all",
        )  # fmt: skip
        skopeo("delete", "--tls-verify=false", f"docker://{registry.address}/team/gone:v1")
        yield registry


RULES = ("--namespace", "library", "--rename", "my_team=my-team")
BECOMES = {
    "lonely": "library/lonely",
    "my_team/app": "my-team/app",
    "team/deep/er/api": "team/deep/er/api",
    "team/web": "team/web",
}


def compare(old: OldRegistry, new: Registry) -> None:
    """Every tag, manifest and blob of the old registry is the same in the new one."""
    layers_seen: set[str] = set()

    def same(there: str, here: str, kind: str, reference: str) -> bytes:
        _, headers, body = old.ask(f"/v2/{there}/{kind}/{reference}")
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        answer = new.v2("GET", f"{here}/{kind}/{reference}", headers=accept)
        assert (answer.status, answer.body) == (200, body), (here, reference)
        if kind == "manifests":
            assert answer.headers["Content-Type"] == headers["Content-Type"]
        return body

    for there, here in BECOMES.items():
        listed = json.loads(new.v2("GET", f"{here}/tags/list").body)["tags"]
        assert listed == old.tags(there)
        for tag in listed:
            top: Any = json.loads(same(there, here, "manifests", tag))
            children = [child["digest"] for child in top.get("manifests", ())]
            images = [json.loads(same(there, here, "manifests", each)) for each in children]
            for image in images or [top]:
                same(there, here, "blobs", image["config"]["digest"])
                for blob in image["layers"]:
                    same(there, here, "blobs", blob["digest"])
                    layers_seen.add(blob["digest"])
    assert len(layers_seen) == 3 + 3 + 1 + len(ARCHITECTURES)


def test_everything_is_brought_over(old: OldRegistry, tmp_path: Path) -> None:
    data = tmp_path / "data"
    asyncio.run(make_directory(data))
    shell = Shell(tmp_path, {})
    arguments = ("import", str(old.storage), *RULES)

    # First only look: nothing is done, and it is told what cannot be done.
    told = shell.ok(*arguments, "--dry-run").splitlines()
    assert told[0] == "lonely -> library/lonely: 1 tags, 1 manifests"
    assert told[-1] == "5 repositories would be imported; nothing was done"
    assert "team/web -> team/web: 4 tags, 5 manifests" in told
    done = shell.run("import", str(old.storage), "--dry-run")
    assert done.returncode == 4
    assert "lonely: name: a name of one component has no namespace" in done.stdout
    assert shell.json("namespace", "list", "--data", "data") == []

    told = shell.ok(*arguments).splitlines()
    assert told[-1].startswith("imported 7 tags, 8 manifests, ")
    again = shell.ok(*arguments)
    assert again.startswith("imported 0 tags, 0 manifests, 0 blobs (0 B); 8 manifests were")
    assert problems(data) == []
    with serving(data) as new:
        compare(old, new)
        names = {space["name"] for space in new.manage("GET", "/namespaces")["namespaces"]}
        assert names == {"library", "my-team", "team"}
        skopeo = skopeo_in(tmp_path / "puller")
        login = ("login", "--tls-verify=false", "--username=nologin", "--password-stdin", new.host)
        skopeo(*login, stdin=new.secret)
        skopeo(*PLAIN_COPY, f"docker://{new.host}/library/lonely:v1", f"dir:{tmp_path / 'pulled'}")


def test_an_import_that_was_killed_goes_on(old: OldRegistry, tmp_path: Path) -> None:
    data = tmp_path / "data"
    asyncio.run(make_directory(data))
    arguments = ("import", str(old.storage), *RULES, "--data", str(data), "--json")
    counts = []
    # Beside the server that is to take over.
    with serving(data) as new:
        for steps in (1, 3):
            process = subprocess.Popen([*HOLDFAST, *arguments], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            for _ in range(steps):
                assert json.loads(process.stdout.readline())["error"] is None
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=WAIT_SECONDS)
        done = Shell(tmp_path, {}).ok(*arguments)
        counts = [json.loads(line)["blobs"] for line in done.splitlines()]
        # What came before the kills was not copied once more.
        assert counts[0] == 0
        assert sum(counts) > 0
        compare(old, new)


def test_what_is_broken_is_named_and_the_rest_comes(old: OldRegistry, tmp_path: Path) -> None:
    """A layer that was collected, one that rotted, a link that a crash left empty."""
    data = tmp_path / "data"
    asyncio.run(make_directory(data))
    shell = Shell(tmp_path, {})
    top = old.storage / "docker" / "registry" / "v2"

    def layer(name: str, tag: str, number: int) -> Path:
        document = json.loads(old.ask(f"/v2/{name}/manifests/{tag}")[2])
        digest: str = document["layers"][number]["digest"]
        encoded = digest.partition(":")[2]
        return top / "blobs" / "sha256" / encoded[:2] / encoded / "data"

    layer("team/web", "v1", 0).unlink()
    rotten = layer("my_team/app", "v1", 1)
    rotten.write_bytes(b"x" + rotten.read_bytes()[1:])
    (top / "repositories/team/web/_manifests/tags/all/current/link").write_bytes(b"")
    done = shell.run("import", str(old.storage), *RULES)
    assert done.returncode == 4, done
    assert done.stderr == "holdfast: 6 items were left out\n"
    left_out = {line.partition(": ")[0] for line in done.stdout.splitlines()[:-1]}
    assert left_out == {
        "lonely (v1)",
        "my_team/app (v1)",
        "team/deep/er/api (v1)",
        "team/web (all)",
        "team/web (moved, v1)",
        "team/web (v2)",
    }
    assert problems(data) == []


def test_options_of_the_other_kind(tmp_path: Path) -> None:
    asyncio.run(make_directory(tmp_path / "data"))
    shell = Shell(tmp_path, {})
    layout = Layout(tmp_path / "layout")
    layout.index("all", "index", ARCHITECTURES)
    assert "NAMESPACE/IMAGE" in shell.refused(2, "import", "layout")
    assert "--dry-run" in shell.refused(2, "import", "layout", "team/web", "--dry-run")
    assert "--reference" in shell.refused(2, "import", "layout", "--reference", "v1")
    assert "OLD=NEW" in shell.refused(2, "import", "absent", "--rename", "a")
    assert "was not found" in shell.refused(3, "import", "absent")
    (tmp_path / "new").mkdir()
    assert "no owner key" in shell.refused(1, "import", str(tmp_path), "--data", "new")
