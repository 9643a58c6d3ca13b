"""The same commands against a running server and against a data directory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from support.cli import (
    LAYER,
    InProcess,
    Shell,
    add_namespace,
    data_of,
    make_directory,
    open_store,
    push,
)

from holdfast.api.server.owner_key import load_owner

ABSENT = "99999999-9999-4999-8999-999999999999"
SIZE = len(LAYER) + 2
"""Of an image: its layer and its config."""


def make_image(data: Path, name: str, *tags: str) -> None:
    """A data directory with one image in a namespace of the owner's."""

    async def fill() -> None:
        owner = await make_directory(data)
        await add_namespace(data, name.partition("/")[0], owner)
        await push(data, name, *tags)

    asyncio.run(fill())


def test_the_life_of_a_namespace(quick: InProcess) -> None:
    made = quick.json("namespace", "create", "alpha", "--description", "first", "--public")
    owner = load_owner(data_of(quick))
    assert owner is not None
    assert (made["name"], made["description"], made["is_public"]) == ("alpha", "first", True)
    assert made["project_id"] == owner.project_id
    assert made in quick.json("namespace", "list")
    assert quick.json("namespace", "get", "alpha") == made
    changed = quick.json("namespace", "update", made["id"], "--private", "--description", "")
    assert (changed["is_public"], changed["description"]) == (False, "")
    told = quick.json(
        *("namespace", "settings", "alpha", "--quota", "1MiB", "--immutable-tag", "v*", "--lock")
    )
    assert told == {
        "namespace_id": made["id"],
        "immutable_tags": ["v*"],
        "quota": 1 << 20,
        "locked": True,
        "sparse_indexes": None,
    }
    assert quick.refused(1, "namespace", "delete", "alpha", "--yes") == "namespace alpha is locked"
    told = quick.json(
        *("namespace", "settings", "alpha", "--no-quota", "--no-immutable-tags", "--unlock")
    )
    assert (told["quota"], told["immutable_tags"], told["locked"]) == (None, [], False)
    for word, value in (("yes", True), ("no", False), ("server", None)):
        told = quick.json("namespace", "settings", "alpha", "--sparse-indexes", word)
        assert told["sparse_indexes"] is value
    assert quick.refused(1, "namespace", "create", "alpha") == "namespace alpha already exists"
    assert "name" in quick.refused(2, "namespace", "create", "A")
    assert quick.json("namespace", "delete", "alpha", "--yes")["status"] == "deleting"
    assert quick.refused(3, "namespace", "get", "alpha") == "namespace alpha was not found"
    assert quick.refused(3, "namespace", "get", made["id"]).endswith("was not found")
    assert made["id"] in {item["id"] for item in quick.json("undelete")}
    quick.ok("undelete", "alpha")
    assert quick.json("namespace", "get", "alpha")["id"] == made["id"]
    assert quick.refused(3, "undelete", "alpha").endswith("was not found")


def test_images_tags_and_usage(quick: InProcess) -> None:
    made = quick.json("namespace", "create", "beta")
    digest = asyncio.run(push(data_of(quick), "beta/deep/web", "v1", "v2"))
    (image,) = quick.json("image", "list", "beta")
    assert (image["name"], image["size"], image["tags"]) == ("deep/web", SIZE, ["v1", "v2"])
    assert quick.json("image", "get", "beta/deep/web") == image
    changed = quick.json("image", "update", image["id"], "--visibility", "public")
    assert changed["visibility"] == "public"
    tags = quick.json("tag", "list", "beta/deep/web")
    assert [(tag["name"], tag["digest"]) for tag in tags] == [("v1", digest), ("v2", digest)]
    assert quick.json("tag", "get", "beta/deep/web:v2") == tags[1]
    assert quick.json("tag", "get", tags[0]["id"]) == tags[0]

    (found,) = quick.json("image", "manifests", "beta/deep/web", "--tagged")
    assert (found["digest"], found["tags"]) == (digest, ["v1", "v2"])
    assert quick.json("image", "manifests", image["id"], "--untagged") == []
    assert digest in quick.ok("image", "manifests", "beta/deep/web")

    numbers = quick.json("usage", "beta", "--would-free")
    assert (numbers["size"], numbers["image_count"]) == (SIZE, 1)
    assert numbers["would_free"] > len(LAYER)
    assert quick.json("usage", made["id"])["would_free"] is None
    assert quick.json("usage", "beta/deep/web")["tag_count"] == 2
    assert quick.json("usage", "beta/deep/web:v1") == {"tag_id": tags[0]["id"], "would_free": 0}
    assert quick.json("usage")["images"] >= 1

    assert quick.json("tag", "delete", "beta/deep/web:v1", "--yes")["status"] == "deleting"
    assert quick.refused(3, "tag", "get", "beta/deep/web:v1") == (
        "tag beta/deep/web:v1 was not found"
    )
    quick.ok("image", "delete", "beta/deep/web", "--yes")
    assert quick.refused(3, "image", "get", "beta/deep/web") == "image beta/deep/web was not found"
    quick.ok("undelete", image["id"])
    assert quick.json("image", "get", image["id"])["tags"] == ["v2"]


def test_what_was_deleted_is_gone_for_good(quick: InProcess) -> None:
    quick.ok("namespace", "create", "gone")
    asyncio.run(push(data_of(quick), "gone/web", "v1", "v2"))
    quick.ok("tag", "delete", "gone/web:v1", "--yes")
    quick.ok("tag", "delete", "gone/web:v2", "--yes")
    names = {item["name"] for item in quick.json("trash", "list") if item["namespace"] == "gone"}
    assert names == {"v1", "v2"}
    assert quick.json("hold", "release", "gone", "--yes")["released"] == 0
    assert "--yes" in quick.refused(2, "trash", "delete", "gone/web:v1")
    (told,) = quick.json("trash", "delete", "gone/web:v1", "--yes")
    assert (told["name"], told["finished"]) == ("v1", True)
    assert quick.refused(3, "trash", "delete", "gone/web:v1", "--yes").endswith("was not found")
    assert quick.refused(3, "undelete", "gone/web:v1").endswith("was not found")
    quick.ok("undelete", "gone/web:v2")
    assert "released" in quick.ok("hold", "release", "gone", "--yes")


def test_open_uploads(quick: InProcess) -> None:
    quick.ok("namespace", "create", "uploads")

    async def begin() -> list[str]:
        async with open_store(data_of(quick)) as store:
            where = await store.locate("fr-par", "uploads/web")
            return [str((await store.uploads.begin(where)).id) for _ in range(4)]

    made = asyncio.run(begin())
    listed = quick.json("upload", "list", "uploads")
    assert [item["id"] for item in listed] == sorted(made)
    assert "uploads/web" not in quick.ok("upload", "list", "uploads")
    assert "ids of uploads" in quick.refused(2, "upload", "delete", "uploads", "--yes")
    ended = quick.json("upload", "delete", "uploads", made[0], "--yes")
    assert [item["id"] for item in ended] == [made[0]]
    again = quick.refused(3, "upload", "delete", "uploads", made[0], "--yes")
    assert again == f"upload {made[0]} was not found"
    quick.ok("upload", "delete", "uploads", "--all", "--yes")
    assert quick.json("upload", "list", "uploads") == []


@pytest.mark.promise("SECURITY.md", "a key's secret, in answers")
def test_the_life_of_a_key(quick: InProcess) -> None:
    made = quick.json("key", "create", "--read-only", "--expires", "90d", "--description", "ci")
    owner = load_owner(data_of(quick))
    assert owner is not None
    assert (made["permission"], made["project_id"]) == ("read", owner.project_id)
    assert str(UUID(made["secret_key"])) == made["secret_key"]
    listed = quick.ok("key", "list", "--json")
    assert made["access_key"] in listed
    assert made["secret_key"] not in listed
    every = quick.json("key", "create", "--all-projects")
    assert every["project_id"] is None
    access_key = made["access_key"]
    ended = quick.json("key", "expire", access_key, "--at", "now")
    assert datetime.fromisoformat(ended["expires_at"]) <= datetime.now(UTC)
    assert quick.json("key", "expire", access_key, "--at", "never")["expires_at"] is None
    assert quick.json("key", "get", access_key)["expires_at"] is None
    assert "not a time" in quick.refused(2, "key", "expire", access_key, "--at", "soon")
    for wrong in ("", ".", "..", "SCW"):
        assert "not an access key" in quick.refused(2, "key", "revoke", wrong, "--yes")
    revoked = quick.ok("key", "revoke", made["access_key"], "--yes")
    assert made["secret_key"] not in revoked
    assert made["access_key"] not in quick.ok("key", "list")
    assert quick.refused(3, "key", "revoke", made["access_key"], "--yes").endswith("was not found")
    assert "not a time" in quick.refused(2, "key", "create", "--expires", "2030-01-01")


def test_a_name_with_an_empty_part_is_nobodys(tmp_path: Path) -> None:
    """As a filter an empty name matches everything, and what comes first must not be deleted."""
    data = tmp_path / "data"
    make_image(data, "left/web", "v1")
    quick = InProcess(tmp_path, {"HOLDFAST_DATA": str(data)})
    namespaces = ("", " ", "/", "/web", "left/")
    images, tags = ("", "left/", "/web"), ("", "left/:v1", "left/web:", "/web:v1")
    for noun, names in (("namespace", namespaces), ("image", images), ("tag", tags)):
        for name in names:
            assert name in quick.refused(2, noun, "delete", name, "--yes")
    for name in ("left/", "left/:v1"):
        assert name in quick.refused(2, "usage", name)
    assert quick.json("tag", "get", "left/web:v1")["name"] == "v1"


@pytest.mark.slow
def test_wrong_names_are_told(quick: InProcess) -> None:
    shell = Shell(quick.directory, quick.variables)
    assert shell.refused(3, "namespace", "get", ABSENT) == f"namespace {ABSENT} was not found"
    assert shell.refused(3, "image", "get", "absent/web") == "namespace absent was not found"
    assert "NAMESPACE/IMAGE" in shell.refused(2, "image", "get", "web")
    assert "NAMESPACE/IMAGE:TAG" in shell.refused(2, "tag", "get", "team/web")
    assert shell.json("namespace", "list", "--project-id", ABSENT) == []


@pytest.mark.slow
def test_all_pages_of_a_listing_come(tmp_path: Path) -> None:
    names = [f"v{number:03}" for number in range(201)]
    make_image(tmp_path / "data", "many/web", *names)
    listed = Shell(tmp_path, {}).json("tag", "list", "many/web")
    assert [tag["name"] for tag in listed] == names


def test_a_key_of_one_project_sees_its_own(served: InProcess) -> None:
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


def test_limits_of_a_namespace_and_its_project(quick: InProcess) -> None:
    made = quick.json("namespace", "create", "bound")
    project = made["project_id"]
    told = quick.json(
        *("namespace", "limits", "bound", "--quota", "1MiB", "--immutable-tag", "v*", "--lock")
    )
    bound = {"quota": 1 << 20, "immutable_tags": ["v*"], "locked": True}
    assert told == {"namespace_id": made["id"], **bound, "in_force": bound}
    assert quick.json("namespace", "limits", "bound") == told
    told = quick.json(
        *("namespace", "limits", "bound", "--no-quota", "--no-immutable-tags", "--unlock")
    )
    assert told["in_force"] == {"quota": None, "immutable_tags": [], "locked": False}
    told = quick.json(
        *("project", "limits", project, "--quota", "1GiB", "--default-quota", "1MiB"),
        *("--default-immutable-tag", "v*"),
    )
    defaults = {"quota": 1 << 20, "immutable_tags": ["v*"], "locked": False}
    assert told == {
        "project_id": project,
        "quota": 1 << 30,
        "defaults": defaults,
        "kept_size": told["kept_size"],
    }
    quick.json("namespace", "create", "later")
    told = quick.json("namespace", "limits", "later")
    assert (told["quota"], told["immutable_tags"]) == (1 << 20, ["v*"])
    told = quick.json(
        *("project", "limits", project, "--no-quota", "--no-default-quota"),
        "--no-default-immutable-tags",
    )
    assert (told["quota"], told["defaults"]["quota"]) == (None, None)
    for refused in (
        ("namespace", "limits", "bound", "--quota", "1", "--no-quota"),
        ("project", "limits", project, "--quota", "1", "--no-quota"),
        ("project", "limits", "bound"),
    ):
        quick.refused(2, *refused)
