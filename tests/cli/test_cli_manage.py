"""The same commands against a running server and against a data directory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from cli_support import LAYER, Shell, add_namespace, make_directory, push
from server_support import running

from holdfast.api.owner import load_owner

ABSENT = "99999999-9999-4999-8999-999999999999"
SIZE = len(LAYER) + 2
"""Of an image: its layer and its config."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Commands that reach a running server through the Scaleway variables."""
    place = tmp_path_factory.mktemp("served")
    with running(place / "data") as server:
        (place / "elsewhere").mkdir()
        yield Shell(place / "elsewhere", server.variables())


@pytest.fixture(params=["server", "directory"])
async def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    if request.param == "server":
        served: Shell = request.getfixturevalue("served")
        return served
    await make_directory(tmp_path / "data")
    return Shell(tmp_path, {"HOLDFAST_DATA": "data"})


def data_of(shell: Shell) -> Path:
    data = shell.directory / "data"
    return data if data.exists() else shell.directory.parent / "data"


async def test_the_life_of_a_namespace(shell: Shell) -> None:
    made = shell.json("namespace", "create", "alpha", "--description", "first", "--public")
    owner = load_owner(data_of(shell))
    assert owner is not None
    assert (made["name"], made["description"], made["is_public"]) == ("alpha", "first", True)
    assert made["project_id"] == owner.project_id
    assert made in shell.json("namespace", "list")
    assert shell.json("namespace", "get", "alpha") == made
    changed = shell.json("namespace", "update", made["id"], "--private", "--description", "")
    assert (changed["is_public"], changed["description"]) == (False, "")
    told = shell.json(
        *("namespace", "settings", "alpha", "--quota", "1MiB", "--immutable-tag", "v*", "--lock")
    )
    assert told == {
        "namespace_id": made["id"],
        "immutable_tags": ["v*"],
        "quota": 1 << 20,
        "locked": True,
    }
    assert shell.refused(1, "namespace", "delete", "alpha", "--yes") == "namespace alpha is locked"
    told = shell.json(
        *("namespace", "settings", "alpha", "--no-quota", "--no-immutable-tags", "--unlock")
    )
    assert (told["quota"], told["immutable_tags"], told["locked"]) == (None, [], False)
    assert shell.refused(1, "namespace", "create", "alpha") == "namespace alpha already exists"
    assert "name" in shell.refused(2, "namespace", "create", "A")
    assert shell.json("namespace", "delete", "alpha", "--yes")["status"] == "deleting"
    assert shell.refused(3, "namespace", "get", "alpha") == "namespace alpha was not found"
    assert shell.refused(3, "namespace", "get", made["id"]).endswith("was not found")
    assert made["id"] in {item["id"] for item in shell.json("undelete")}
    shell.ok("undelete", "alpha")
    assert shell.json("namespace", "get", "alpha")["id"] == made["id"]
    assert shell.refused(3, "undelete", "alpha").endswith("was not found")


async def test_images_tags_and_usage(shell: Shell) -> None:
    made = shell.json("namespace", "create", "beta")
    digest = await push(data_of(shell), "beta/deep/web", "v1", "v2")
    (image,) = shell.json("image", "list", "beta")
    assert (image["name"], image["size"], image["tags"]) == ("deep/web", SIZE, ["v1", "v2"])
    assert shell.json("image", "get", "beta/deep/web") == image
    changed = shell.json("image", "update", image["id"], "--visibility", "public")
    assert changed["visibility"] == "public"
    tags = shell.json("tag", "list", "beta/deep/web")
    assert [(tag["name"], tag["digest"]) for tag in tags] == [("v1", digest), ("v2", digest)]
    assert shell.json("tag", "get", "beta/deep/web:v2") == tags[1]
    assert shell.json("tag", "get", tags[0]["id"]) == tags[0]

    numbers = shell.json("usage", "beta", "--would-free")
    assert (numbers["size"], numbers["image_count"]) == (SIZE, 1)
    assert numbers["would_free"] > len(LAYER)
    assert shell.json("usage", made["id"])["would_free"] is None
    assert shell.json("usage", "beta/deep/web")["tag_count"] == 2
    assert shell.json("usage", "beta/deep/web:v1") == {"tag_id": tags[0]["id"], "would_free": 0}
    assert shell.json("usage")["images"] >= 1

    assert shell.json("tag", "delete", "beta/deep/web:v1", "--yes")["status"] == "deleting"
    assert shell.refused(3, "tag", "get", "beta/deep/web:v1") == (
        "tag beta/deep/web:v1 was not found"
    )
    shell.ok("image", "delete", "beta/deep/web", "--yes")
    assert shell.refused(3, "image", "get", "beta/deep/web") == "image beta/deep/web was not found"
    shell.ok("undelete", image["id"])
    assert shell.json("image", "get", image["id"])["tags"] == ["v2"]


async def test_the_life_of_a_key(shell: Shell) -> None:
    made = shell.json("key", "create", "--read-only", "--expires", "90d", "--description", "ci")
    owner = load_owner(data_of(shell))
    assert owner is not None
    assert (made["permission"], made["project_id"]) == ("read", owner.project_id)
    assert str(UUID(made["secret_key"])) == made["secret_key"]
    listed = shell.ok("key", "list", "--json")
    assert made["access_key"] in listed
    assert made["secret_key"] not in listed
    every = shell.json("key", "create", "--all-projects")
    assert every["project_id"] is None
    access_key = made["access_key"]
    ended = shell.json("key", "expire", access_key, "--at", "now")
    assert datetime.fromisoformat(ended["expires_at"]) <= datetime.now(UTC)
    assert shell.json("key", "expire", access_key, "--at", "never")["expires_at"] is None
    assert shell.json("key", "get", access_key)["expires_at"] is None
    assert "no moment" in shell.refused(2, "key", "expire", access_key, "--at", "soon")
    for wrong in ("", ".", "..", "SCW"):
        assert "no access key" in shell.refused(2, "key", "revoke", wrong, "--yes")
    revoked = shell.ok("key", "revoke", made["access_key"], "--yes")
    assert made["secret_key"] not in revoked
    assert made["access_key"] not in shell.ok("key", "list")
    assert shell.refused(3, "key", "revoke", made["access_key"], "--yes").endswith("was not found")
    assert "no moment" in shell.refused(2, "key", "create", "--expires", "2030-01-01")


async def test_a_name_with_an_empty_part_is_nobodys(tmp_path: Path) -> None:
    """As a filter an empty name matches everything, and what comes first must not be deleted."""
    data = tmp_path / "data"
    await add_namespace(data, "left", await make_directory(data))
    await push(data, "left/web", "v1")
    shell = Shell(tmp_path, {"HOLDFAST_DATA": "data"})
    namespaces = ("", " ", "/", "/web", "left/")
    images, tags = ("", "left/", "/web"), ("", "left/:v1", "left/web:", "/web:v1")
    for noun, names in (("namespace", namespaces), ("image", images), ("tag", tags)):
        for name in names:
            assert name in shell.refused(2, noun, "delete", name, "--yes")
    for name in ("left/", "left/:v1"):
        assert name in shell.refused(2, "usage", name)
    assert shell.json("tag", "get", "left/web:v1")["name"] == "v1"


async def test_wrong_names_are_told(shell: Shell) -> None:
    assert shell.refused(3, "namespace", "get", ABSENT) == f"namespace {ABSENT} was not found"
    assert shell.refused(3, "image", "get", "absent/web") == "namespace absent was not found"
    assert "NAMESPACE/IMAGE" in shell.refused(2, "image", "get", "web")
    assert "NAMESPACE/IMAGE:TAG" in shell.refused(2, "tag", "get", "team/web")
    assert shell.json("namespace", "list", "--project-id", ABSENT) == []


async def test_all_pages_of_a_listing_come(tmp_path: Path) -> None:
    data = tmp_path / "data"
    owner = await make_directory(data)
    await add_namespace(data, "many", owner)
    names = [f"v{number:03}" for number in range(201)]
    await push(data, "many/web", *names)
    listed = Shell(tmp_path, {}).json("tag", "list", "many/web")
    assert [tag["name"] for tag in listed] == names


async def test_a_key_of_one_project_sees_its_own(served: Shell) -> None:
    served.ok("namespace", "create", "ours")
    fields = ("namespace", "create", "theirs", "--project-id", ABSENT)
    served.ok(*fields)
    key = served.json("key", "create", "--project-id", ABSENT, "--read-only")
    theirs = {"SCW_SECRET_KEY": key["secret_key"], "SCW_DEFAULT_PROJECT_ID": ABSENT}
    assert [item["name"] for item in served.json("namespace", "list", **theirs)] == ["theirs"]
    assert served.refused(3, "namespace", "get", "ours", **theirs)
    refusal = served.refused(1, "namespace", "create", "more", **theirs)
    assert refusal == "the key may not write (registry)"
    assert served.refused(1, "usage", **theirs) == "the key may not administrate (registry)"
