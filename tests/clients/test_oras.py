"""oras from the Python index: artifacts, what is attached to them, and the list of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oras.oci import Subject
from oras.provider import Registry as Provider
from support.api import INDEX_TYPE, MANIFEST_TYPE
from support.clients import Registry
from support.images import content_size, noise

REPORT_TYPE = "application/vnd.example.report"


@pytest.fixture(params=["basic", "token"])
def backend(request: pytest.FixtureRequest) -> str:
    """How the library logs in."""
    name: str = request.param
    return name


@pytest.fixture
def new_client(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str | None], Any]]:
    """``new_client("basic")``: one that is the owner; ``new_client(None)``: one without login."""
    # It reads docker's configuration.
    monkeypatch.setenv("HOME", str(tmp_path))
    made = []

    def make(backend: str | None) -> Any:
        one = Provider(hostname=registry.host, insecure=True, auth_backend=backend or "token")
        if backend is not None:
            one.auth.set_basic_auth("nologin", registry.secret)
        made.append(one)
        return one

    yield make
    for each in made:
        each.session.close()


@pytest.fixture
def oras(new_client: Callable[[str | None], Any], backend: str) -> Any:
    """A client that is the owner."""
    return new_client(backend)


@pytest.fixture
def deleter(new_client: Callable[[str | None], Any]) -> Any:
    """A client that can delete: with tokens it asks for one to read, and never for a wider one."""
    return new_client("basic")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A large file and a small one."""
    made = [tmp_path / "model.bin", tmp_path / "notes.txt"]
    made[0].write_bytes(noise("oras", 700_000))
    made[1].write_text("what the model is for")
    return made


def push(oras: Any, name: str, files: list[Path], **more: Any) -> str:
    """Push an artifact; its digest."""
    answer = oras.push(
        target=name,
        files=[str(path) for path in files],
        disable_path_validation=True,
        quiet=True,
        **more,
    )
    assert answer.status_code == 201
    digest: str = answer.headers["Docker-Content-Digest"]
    return digest


def test_an_artifact_comes_back(
    oras: Any, deleter: Any, registry: Registry, files: list[Path], tmp_path: Path
) -> None:
    name = f"{registry.namespace('team')}/model:v1"
    digest = push(oras, name, files, manifest_annotations={"purpose": "a test"})
    assert registry.tag("team", "model", "v1")["digest"] == digest
    manifest = registry.manifest("team/model", "v1")
    assert manifest["annotations"] == {"purpose": "a test"}
    assert registry.described("team")["size"] == content_size(manifest)

    pulled = oras.pull(target=name, outdir=str(tmp_path / "back"))
    assert [Path(path).read_bytes() for path in pulled] == [path.read_bytes() for path in files]
    assert oras.get_tags(name) == ["v1"]
    assert deleter.delete_tag(name, "v1")
    assert registry.described("team")["size"] == 0


@pytest.mark.parametrize("backend", ["token"])
def test_an_upload_in_chunks(
    oras: Any, registry: Registry, files: list[Path], tmp_path: Path
) -> None:
    name = f"{registry.namespace('team')}/model:v1"
    push(oras, name, files, do_chunked=True, chunk_size=100_001)
    pulled = oras.pull(target=name, outdir=str(tmp_path / "back"))
    assert [Path(path).read_bytes() for path in pulled] == [path.read_bytes() for path in files]


@pytest.mark.parametrize("backend", ["token"])
def test_all_pages_of_tags(oras: Any, registry: Registry, files: list[Path]) -> None:
    name = f"{registry.namespace('team')}/model"
    tags = [f"v{number}" for number in range(12)]
    for tag in tags:
        push(oras, f"{name}:{tag}", files[1:])
    assert oras.get_tags(name, N=5) == sorted(tags)[:5]
    assert oras.get_tags(name, N=11) == sorted(tags)[:11]
    assert oras.get_tags(name) == sorted(tags)


@pytest.mark.parametrize("backend", ["token"])
def test_what_is_attached_is_listed(
    oras: Any, deleter: Any, registry: Registry, files: list[Path], tmp_path: Path
) -> None:
    name = f"{registry.namespace('team')}/model"
    digest = push(oras, f"{name}:v1", files[:1])
    size = len(registry.v2("GET", f"team/model/manifests/{digest}").body)
    subject = Subject(MANIFEST_TYPE, digest, size)
    config = tmp_path / "config.json"
    config.write_text("{}")
    attached = push(
        oras,
        f"{name}:report",
        files[1:],
        subject=subject,
        manifest_config=f"{config}:{REPORT_TYPE}",
        manifest_annotations={"verdict": "good"},
    )
    assert registry.manifest("team/model", "report")["subject"]["digest"] == digest

    def referrers(query: str = "") -> Any:
        url = f"http://{registry.host}/v2/team/model/referrers/{digest}{query}"
        answer = oras.do_request(url)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == INDEX_TYPE
        assert answer.headers.get("OCI-Filters-Applied") == ("artifactType" if query else None)
        return answer.json()["manifests"]

    [listed] = referrers()
    assert listed["digest"] == attached
    assert listed["artifactType"] == REPORT_TYPE
    assert listed["annotations"] == {"verdict": "good"}
    assert listed["size"] == len(registry.v2("GET", f"team/model/manifests/{attached}").body)
    assert referrers(f"?artifactType={REPORT_TYPE}") == [listed]
    assert referrers("?artifactType=application/vnd.example.other") == []

    pulled = oras.pull(target=f"{name}@{attached}", outdir=str(tmp_path / "back"))
    assert [Path(path).read_bytes() for path in pulled] == [files[1].read_bytes()]
    assert deleter.delete_tag(name, "report")
    assert referrers() == []


def test_a_public_artifact_is_pulled_without_login(
    new_client: Callable[[str | None], Any],
    backend: str,
    registry: Registry,
    files: list[Path],
    tmp_path: Path,
) -> None:
    opened, shut = (
        f"{registry.namespace(name, public=name == 'open')}/model:v1" for name in ("open", "shut")
    )
    for name in (opened, shut):
        push(new_client(backend), name, files)
    pulled = new_client(None).pull(target=opened, outdir=str(tmp_path / "back"))
    assert [Path(path).read_bytes() for path in pulled] == [path.read_bytes() for path in files]
    with pytest.raises(ValueError, match="Unauthorized"):
        new_client(None).pull(target=shut, outdir=str(tmp_path / "back"))
