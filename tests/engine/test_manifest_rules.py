"""What a manifest is refused for though its content is there: preconditions and rules."""

from __future__ import annotations

import pytest
from support import engine_fixtures
from support.engine import REGION, manifest, put, raised, sha256
from support.engine_fixtures import CONFIG, LAYER, OTHER

from holdfast.engine import (
    Immutable,
    Locked,
    QuotaExceeded,
    Store,
)

store = engine_fixtures.content_store

BODY = manifest(CONFIG, [LAYER, OTHER])
DAY = 24 * 3600.0


async def test_immutable_tags(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, immutable_tags=("v*",))
    done = await put(store, "app/web", BODY, "v1", "latest")
    await put(store, "app/web", BODY, "v1")
    other = manifest(CONFIG)
    with raised(Immutable, name="v1", pattern="v*"):
        await put(store, "app/web", other, "latest", "v1")
    where = await store.locate(REGION, "app/web")
    assert (await store.manifests.get(where, "latest")).body == BODY
    await put(store, "app/web", other, "latest")
    (v1,) = (await store.tags.list(done.image_id, name="v1")).items
    for call in (
        store.tags.untag(where, "v1"),
        store.tags.delete(v1.id),
        store.manifests.delete(where, sha256(BODY)),
    ):
        with pytest.raises(Immutable):
            await call
    await store.tags.untag(where, "latest")


async def test_a_quota_holds_where_a_manifest_links(store: Store) -> None:
    """What it links is kept already; its own bytes are what is new."""
    space = await store.namespaces.find(REGION, "app")
    kept = (await store.namespaces.usage(space.id)).kept_size
    await store.namespaces.update(space.id, quota=kept + len(BODY) - 1)
    with pytest.raises(QuotaExceeded) as over:
        await put(store, "app/web", BODY, "v1")
    numbers = (over.value.resource, over.value.quota, over.value.current, over.value.asked)
    assert numbers == ("kept_size", kept + len(BODY) - 1, kept, len(BODY))
    assert (await store.namespaces.get(space.id)).image_count == 0
    await store.namespaces.update(space.id, quota=kept + len(BODY))
    await put(store, "app/web", BODY, "v1")
    # A blob that two images link counts once.
    where, source = await store.locate(REGION, "app/b"), await store.locate(REGION, "app/web")
    await store.mount(where, sha256(CONFIG), source)
    with pytest.raises(QuotaExceeded):
        await put(store, "app/b", manifest(CONFIG), "v1")


async def test_a_locked_namespace(store: Store) -> None:
    await put(store, "app/web", BODY, "v1")
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, locked=True)
    where = await store.locate(REGION, "app/web")
    for call in (put(store, "app/web", BODY), store.manifests.delete(where, sha256(BODY))):
        with raised(Locked, kind="namespace", name="app"):
            await call
    assert (await store.manifests.get(where, "v1")).body == BODY
