"""Commands with many steps, in this process: against a running server and a data directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import LAYER, InProcess, blob_files, damage, make_directory, push
from server_support import running


def data_of(quick: InProcess) -> Path:
    return quick.directory / "data"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    place = tmp_path_factory.mktemp("served")
    with running(place / "data") as server:
        yield InProcess(place, server.variables())


@pytest.fixture(params=["server", "directory"])
def quick(request: pytest.FixtureRequest, tmp_path: Path) -> InProcess:
    if request.param == "server":
        served: InProcess = request.getfixturevalue("served")
        return served
    asyncio.run(make_directory(tmp_path / "data"))
    return InProcess(tmp_path, {"HOLDFAST_DATA": str(tmp_path / "data")})


def test_what_was_deleted_is_named_as_it_was(quick: InProcess) -> None:
    """In each region by itself, with all parts of its name."""
    quick.ok("namespace", "create", "gamma")
    elsewhere = quick.json("namespace", "create", "gamma", "--region", "nl-ams")
    for name in ("gamma/web", "gamma/deep/app"):
        asyncio.run(push(data_of(quick), name, "v1", "v2"))
    quick.ok("namespace", "delete", "gamma", "--region", "nl-ams", "--yes")
    for noun, name in (
        ("tag", "gamma/web:v1"),
        ("tag", "gamma/deep/app:v1"),
        ("image", "gamma/web"),
        ("namespace", "gamma"),
    ):
        quick.ok(noun, "delete", name, "--yes")
    listed = [line.split()[:2] for line in quick.ok("undelete").splitlines()]
    for row in (
        ["tag", "gamma/deep/app:v1"],
        ["image", "gamma/web"],
        ["namespace", "gamma"],
    ):
        assert row in listed
    assert len(quick.json("undelete", "--region", "nl-ams")) == 1
    assert quick.refused(3, "undelete", "gamma/web") == "namespace gamma was not found"
    done = quick.run("undelete", "gamma", "gamma/deep/app:v1", "gamma/app", "--json")
    assert (done.returncode, done.stderr) == (
        3,
        "holdfast: deleted image gamma/app was not found\n",
    )
    assert [item["name"] for item in json.loads(done.stdout)] == ["gamma", "v1"]
    assert quick.json("tag", "get", "gamma/deep/app:v1")["status"] == "ready"
    assert quick.refused(3, "undelete", "gamma/web:v1") == "image gamma/web was not found"
    quick.ok("undelete", "gamma/web", "gamma/web:v1")
    assert quick.json("image", "get", "gamma/web")["tags"] == ["v1", "v2"]
    assert quick.refused(3, "namespace", "get", elsewhere["id"], "--region", "nl-ams")
    quick.ok("namespace", "create", "gamma", "--region", "nl-ams")
    quick.ok("namespace", "delete", "gamma", "--region", "nl-ams", "--yes")
    assert "take an id" in quick.refused(2, "undelete", "gamma", "--region", "nl-ams")
    quick.ok("undelete", elsewhere["id"])
    assert quick.json("namespace", "get", "gamma", "--region", "nl-ams")["id"] == elsewhere["id"]


def test_retention_is_set_tried_and_applied(quick: InProcess) -> None:
    made = quick.json("namespace", "create", "kept")
    asyncio.run(push(data_of(quick), "kept/web", "v1", "v2"))
    assert quick.json("retention", "show", "kept") == {"namespace_id": made["id"], "rules": []}
    rule = ("--keep-last", "0", "--tag", "v1")
    told = quick.json("retention", "set", "kept", *rule)
    assert (told["rules"][0]["tags"], told["rules"][0]["keep_last"]) == (["v1"], 0)
    assert quick.json("retention", "show", made["id"]) == told
    assert quick.ok("retention", "show", "kept").splitlines()[1].split() == (
        ["*", "v1", "0", "-", "-", "-"]
    )
    saved = quick.directory / "rules.json"
    saved.write_text(json.dumps(told))
    quick.ok("retention", "set", "kept", "--none")
    assert quick.json("retention", "plan", "kept")["expired"] == []
    assert quick.json("retention", "set", "kept", "--file", str(saved)) == told
    planned = quick.json("retention", "plan", "kept")
    assert [(item["image"], item["tag"]) for item in planned["expired"]] == [("web", "v1")]
    assert "would free" in quick.ok("retention", "plan", "kept")
    assert "terminal" in quick.refused(2, "retention", "apply", "kept")
    assert quick.json("image", "get", "kept/web")["tags"] == ["v1", "v2"]
    assert quick.json("retention", "apply", "kept", "--yes") == planned
    assert quick.json("image", "get", "kept/web")["tags"] == ["v2"]
    assert quick.json("undelete", "kept/web:v1")[0]["name"] == "v1"
    for wrong in ((), ("--none", *rule), ("--tag", "v1"), ("--keep-last", "-1")):
        quick.refused(2, "retention", "set", "kept", *wrong)
    saved.write_bytes(b'{"rules": [\xff]}')
    assert "--file" in quick.refused(2, "retention", "set", "kept", "--file", str(saved))
    assert quick.refused(3, "retention", "show", "absent") == "namespace absent was not found"


def test_upkeep(quick: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep, scrub and check do the same on a server and on a directory."""
    monkeypatch.setattr("holdfast.api.management_upkeep.WORK_SECONDS", 0.0)
    quick.ok("namespace", "create", "upkeep")
    for number in range(3):
        layer = LAYER + b"upkeep" + bytes([number])
        asyncio.run(push(data_of(quick), f"upkeep/app{number}", "v1", layer=layer))
    done = quick.json("scrub")
    assert (done["finished"], done["damaged"]) == (True, [])
    assert done["bytes"] >= 3 * len(LAYER)
    assert done["blobs"] == quick.json("usage")["blobs"]
    told = quick.ok("scrub", "--budget", "1")
    assert (told.startswith("read 1 blobs"), told.endswith("for the next one\n")) == (True, True)
    assert quick.ok("check") == "no problems\n"
    quick.ok("namespace", "delete", "upkeep", "--yes")
    assert "terminal" in quick.refused(2, "sweep", "--now")
    quick.ok("sweep")
    assert quick.json("undelete") != []
    assert quick.json("sweep", "--now", "--yes")["freed_bytes"] >= 3 * len(LAYER)
    assert quick.json("undelete") == []
    assert "freed 0 B" in quick.ok("sweep")


def test_damage_is_told(quick: InProcess) -> None:
    quick.ok("namespace", "create", "damaged")
    before = set(blob_files(data_of(quick)))
    asyncio.run(push(data_of(quick), "damaged/app", "v1", layer=LAYER + b"damaged"))
    (file,) = set(blob_files(data_of(quick))) - before
    damage(file)
    done = quick.run("scrub", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["damaged_count"] == 1
    assert done.stderr == "holdfast: 1 blobs are damaged, and in quarantine\n"
    checked = quick.run("check", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["kind"]) == (4, "blob")
    assert quick.ok("scrub").startswith("read ")
