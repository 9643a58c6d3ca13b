"""Images in from another registry's storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_support import (
    ORGANIZATION,
    PROJECT,
    REGION,
    index,
    manifest,
    read,
    sha256,
)
from layout_support import (
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
    Store,
    import_registry,
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
    steps = await migrate(store, old.top, default_namespace="library", untagged=False)
    assert sum(step.done.blobs for step in steps if step.done is not None) <= 1
    assert await store.tags.names(await store.locate(REGION, "library/lonely")) == ["y"]


async def test_no_registry_at_all(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await migrate(store, tmp_path)
