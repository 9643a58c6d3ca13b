"""Commands with many steps, in this process: against a running server and a data directory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.cli import LAYER, InProcess, blob_files, damage, data_of, push
from support.engine import descriptor, index, manifest
from support.layout import LAYERS, REF_NAME, Layout, contents, entries

from holdfast.engine import OCI_INDEX

pytestmark = pytest.mark.slow


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
    assert "give an id" in quick.refused(2, "undelete", "gamma", "--region", "nl-ams")
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


@pytest.mark.promise("SECURITY.md", "the operator")
def test_upkeep(quick: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep, scrub and check do the same on a server and on a directory."""
    monkeypatch.setattr("holdfast.api.management.upkeep.WORK_SECONDS", 0.0)
    quick.ok("namespace", "create", "upkeep")
    for number in range(3):
        layer = LAYER + b"upkeep" + bytes([number])
        asyncio.run(push(data_of(quick), f"upkeep/app{number}", "v1", layer=layer))
    done = quick.json("scrub")
    assert (done["finished"], done["damaged"]) == (True, [])
    assert done["bytes"] >= 3 * len(LAYER)
    assert done["blobs"] == quick.json("usage")["blobs"]
    told = quick.ok("scrub", "--budget", "1")
    assert (told.startswith("read 1 blobs"), told.endswith("the next scrub continues\n")) == (
        True,
        True,
    )
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
    assert done.stderr == "holdfast: 1 blobs are damaged and in quarantine\n"
    checked = quick.run("check", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["kind"]) == (4, "blob")
    assert quick.ok("scrub").startswith("read ")


def made_layout(path: Path) -> Layout:
    """An index of two images under two names, something that refers to it, and an image beside."""
    layout = Layout(path)
    children = [manifest(b"{}", LAYERS[:2]), manifest(b'{"os": "x"}', LAYERS[1:])]
    both = index(children)
    referring = manifest(b"{}", [], subject=descriptor(both, OCI_INDEX), artifactType="a/sbom")
    layout.add(b"{}", b'{"os": "x"}', *LAYERS, *children, both, referring)
    layout.list(both, "v1")
    layout.list(both, "registry:5000/some/app:latest")
    layout.list(referring)
    layout.list(children[0], "single")
    return layout


def test_images_go_in_and_out_as_they_are(quick: InProcess, tmp_path: Path) -> None:
    """Indexes, children, referrers and names; twice, and then nothing is copied."""
    quick.ok("namespace", "create", "copies")
    layout = made_layout(tmp_path / "made")
    done = quick.json("import", str(layout.path), "copies/deep/app")
    assert (done["tags"], done["manifests"], done["blobs"]) == (3, 4, 5)
    assert quick.json("image", "get", "copies/deep/app")["tags"] == ["latest", "single", "v1"]
    again = quick.json("import", str(layout.path), "copies/deep/app", "--reference", "single")
    assert (again["tags"], again["blobs"], again["present"]) == (1, 0, 3)

    out = tmp_path / "out"
    done = quick.json("export", "copies/deep/app", str(out))
    assert (done["tags"], done["manifests"], done["blobs"]) == (3, 4, 5)
    assert contents(out) == contents(layout.path)
    names = {(item["digest"], item.get("annotations", {}).get(REF_NAME)) for item in entries(out)}
    index_digest = layout.manifests[0]["digest"]
    assert {name for digest, name in names if digest == index_digest} == {"v1", "latest"}
    digest = quick.json("tag", "get", "copies/deep/app:single")["digest"]
    for reference in (":single", f"@{digest}"):
        few = tmp_path / f"few{len(reference)}"
        quick.ok("export", f"copies/deep/app{reference}", str(few), "--no-referrers")
        assert [item["digest"] for item in entries(few)] == [digest]
    assert "was not found" in quick.refused(3, "export", "copies/deep/app:no", str(out))
    assert "was not found" in quick.refused(3, "export", "copies/none", str(tmp_path / "none"))
    assert "absent" in quick.refused(3, "import", str(layout.path), "absent/app")


def test_an_import_that_is_refused_lists_nothing(quick: InProcess, tmp_path: Path) -> None:
    quick.ok("namespace", "create", "refused")
    layout = made_layout(tmp_path / "made")
    damage(layout.file(LAYERS[0]))
    assert "digest" in quick.refused(2, "import", str(layout.path), "refused/app").lower()
    assert quick.json("image", "list", "refused") == []
    quick.ok("namespace", "settings", "refused", "--lock")
    good = made_layout(tmp_path / "good")
    assert "locked" in quick.refused(1, "import", str(good.path), "refused/app")


def test_a_region_has_images_of_its_own(quick: InProcess, tmp_path: Path) -> None:
    layout = made_layout(tmp_path / "made")
    for region in ("fr-par", "nl-ams"):
        quick.ok("namespace", "create", "regional", "--region", region)
    quick.ok("import", str(layout.path), "regional/app", "--region", "nl-ams")
    assert quick.json("image", "list", "regional") == []
    out = str(tmp_path / "out")
    quick.ok("export", "regional/app:v1", out, "--region", "nl-ams")
    assert "was not found" in quick.refused(3, "export", "regional/app:v1", out)


def test_the_storage_of_a_registry_goes_into_a_directory(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    shell = InProcess(tmp_path, {"SCW_SECRET_KEY": "s", "HOLDFAST_SERVER": "http://127.0.0.1:1"})
    assert "--data" in shell.refused(2, "import", str(tmp_path / "old"))
