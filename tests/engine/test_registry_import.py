"""Images in from another registry's storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.engine import (
    ORGANIZATION,
    PROJECT,
    REGION,
    index,
    manifest,
    read,
    sha256,
)
from support.layout import (
    LAYERS,
    Registry,
    is_listed,
)

from holdfast.engine import (
    Invalid,
    InvalidDigest,
    Migrated,
    MissingContent,
    NotFound,
    Renames,
    Store,
    import_registry,
    list_registry,
)


async def migrate(store: Store, path: Path, **more: Any) -> list[Migrated]:
    steps = import_registry(
        store, path, region=REGION, project_id=PROJECT, organization_id=ORGANIZATION, **more
    )
    return [step async for step in steps]


async def test_another_registry_is_brought_over(store: Store, tmp_path: Path) -> None:
    old = Registry(tmp_path)
    first, second = manifest(b"{}", LAYERS[:1]), manifest(b"{}", LAYERS[1:])
    both = index([first, second])
    old.image("team/app/api", first, layers=LAYERS[:1])
    old.image("team/app/api", second, "v2", layers=LAYERS[1:])
    old.image("team/app/api", both, "latest", "v1")
    old.image("team/app", manifest(b"{}", []), "x")
    old.image("lonely", manifest(b"{}", [], annotations={"a": "b"}), "y")
    old.image("Bad_/name", manifest(b"{}", []), "z")
    gone = manifest(b"{}", [b"collected"])
    old.image("team/app", gone, "broken", layers=[b"collected"])
    old.blob(b"collected").unlink()
    old.link("team/app", "_manifests/tags/empty/current", gone).write_bytes(b"")
    (old.top / "repositories/team/app/_manifests/tags/deleted").mkdir()
    # Content of others is not taken for one's own.
    old.image("team/thief", manifest(b"{}", LAYERS[:1]), "t")

    steps = await migrate(store, tmp_path)
    refused = {(step.repository, step.tags): type(step.error) for step in steps if step.error}
    assert refused == {
        ("Bad_/name", ()): Invalid,
        ("lonely", ()): Invalid,
        ("team/app", ("broken",)): MissingContent,
        ("team/app", ("empty",)): InvalidDigest,
        ("team/thief", ("t",)): MissingContent,
    }
    api = await store.locate(REGION, "team/app/api")
    assert await store.tags.names(api) == ["latest", "v1", "v2"]
    assert (await store.manifests.get(api, "v1")).body == both
    assert (await store.manifests.get(api, sha256(first))).body == first
    assert await read(store, sha256(LAYERS[1]), repository=api) == LAYERS[1]
    app = await store.locate(REGION, "team/app")
    assert await store.tags.names(app) == ["x"]
    assert not await is_listed(store, "team/thief")
    # Again, with a place for the lonely: the rest is there.
    steps = await migrate(store, old.top, renames=Renames("library"), untagged=False)
    assert sum(step.done.blobs for step in steps if step.done is not None) <= 1
    assert await store.tags.names(await store.locate(REGION, "library/lonely")) == ["y"]


async def test_what_would_be_imported(tmp_path: Path) -> None:
    old = Registry(tmp_path)
    body = manifest(b"{}", LAYERS[:1])
    old.image("app", body, "v1", "v2")
    old.image("team/app", body)
    old.image("a_b/app", body, "v1")
    old.image("a_b/other/app", body, "v1")
    old.image("UPPER/app", body, "v1")

    async def listed(renames: Renames) -> dict[str, tuple[str, int, int, bool]]:
        return {
            each.repository: (each.name, each.tags, each.manifests, each.error is None)
            async for each in list_registry(tmp_path, renames=renames)
        }

    assert await listed(Renames()) == {
        "UPPER/app": ("", 1, 1, False),
        "a_b/app": ("", 1, 1, False),
        "a_b/other/app": ("", 1, 1, False),
        "app": ("", 2, 1, False),
        "team/app": ("team/app", 0, 1, True),
    }
    # The longest rule counts, and what is left goes to the default namespace.
    renames = Renames.parse(["a_b=ab", "a_b/other=team/others", "UPPER=upper"], "library")
    assert await listed(renames) == {
        "UPPER/app": ("upper/app", 1, 1, True),
        "a_b/app": ("ab/app", 1, 1, True),
        "a_b/other/app": ("team/others/app", 1, 1, True),
        "app": ("library/app", 2, 1, True),
        "team/app": ("team/app", 0, 1, True),
    }
    # Two that would become one are both left out, whichever comes first.
    assert {name: each[3] for name, each in (await listed(Renames("team"))).items()} == {
        "UPPER/app": False,
        "a_b/app": True,
        "a_b/other/app": True,
        "app": False,
        "team/app": False,
    }


async def test_two_names_that_would_become_one_change_nothing(store: Store, tmp_path: Path) -> None:
    old = Registry(tmp_path)
    old.image("app", manifest(b"{}", LAYERS[:1]), "v1", layers=LAYERS[:1])
    old.image("team/app", manifest(b"{}", LAYERS[1:]), "v1", layers=LAYERS[1:])
    steps = await migrate(store, tmp_path, renames=Renames("team"))
    assert [(step.repository, type(step.error)) for step in steps] == [
        ("app", Invalid),
        ("team/app", Invalid),
    ]
    with pytest.raises(NotFound):
        await store.locate(REGION, "team/app")


async def test_an_empty_repository_makes_no_namespace(store: Store, tmp_path: Path) -> None:
    (Registry(tmp_path).top / "repositories/team/app/_manifests/tags").mkdir(parents=True)
    assert await migrate(store, tmp_path) == []
    with pytest.raises(NotFound):
        await store.locate(REGION, "team/app")


async def test_tags_that_moved_there_move_here_too(store: Store, tmp_path: Path) -> None:
    old = Registry(tmp_path)
    first, second = manifest(b"{}", LAYERS[:1]), manifest(b"{}", LAYERS[1:])
    old.image("team/app", first, "v1", layers=LAYERS[:1])
    await migrate(store, tmp_path)
    old.image("team/app", second, "v1", layers=LAYERS[1:])
    await migrate(store, tmp_path)
    app = await store.locate(REGION, "team/app")
    assert (await store.manifests.get(app, "v1")).body == second
    assert (await store.manifests.get(app, sha256(first))).body == first


@pytest.mark.parametrize(
    "rules", [["a"], ["=b"], ["/a=bb"], ["a/=bb"], ["a=B"], ["a=bb/"], ["a=bb", "a=cc"], ["a="]]
)
def test_rules_that_cannot_work(rules: list[str]) -> None:
    with pytest.raises(Invalid):
        Renames.parse(rules)


def test_a_default_that_is_no_namespace() -> None:
    with pytest.raises(Invalid):
        Renames("Library")


async def test_no_registry_at_all(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await migrate(store, tmp_path)
