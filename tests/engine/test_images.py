"""Images: seen from their first manifest on, listed by region, project and namespace."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import pytest
from support.engine import (
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    make_namespace,
    manifest,
    noise,
    push,
    put,
    raised,
    read,
    sha256,
)

from holdfast.engine import Image, Invalid, NotFound, Order, Store

LAYER = noise(1000)
DAY = 24 * 3600.0


async def test_names(store: Store) -> None:
    await make_namespace(store)
    for name in ("app", "app/", "/web", "app/Web", "app/-", "app/a..b", "a" * 256, ""):
        with raised(Invalid, argument="name"):
            await store.locate(REGION, name)
    for region, name in ((REGION, "none/web"), ("nl-ams", "app/web")):
        with raised(NotFound, kind="namespace"):
            await store.locate(region, name)
    await push(store, "app/deep/er__name/v-1", "v1", [LAYER])
    assert [r.full_name for r in (await store.repositories(REGION))[0]] == ["app/deep/er__name/v-1"]


async def test_listings_pass_over_a_deleted_namespace(store: Store) -> None:
    one, two = await make_namespace(store, "one"), await make_namespace(store, "two")
    for name in ("one/a", "two/a", "one/b", "two/b"):
        await push(store, name, "v1", [LAYER])
    await store.namespaces.delete(one.id)
    page = await store.images.list(REGION, page_size=1)
    assert ([image.namespace_id for image in page.items], page.total) == ([two.id], 2)
    assert [r.full_name for r in (await store.repositories(REGION, limit=1))[0]] == ["two/a"]
    fresh = await make_namespace(store, "one")
    await push(store, "one/a", "v1", [LAYER])
    page = await store.images.list(REGION)
    assert [image.namespace_id for image in page.items] == [two.id, two.id, fresh.id]
    await store.sweeper.run(early=True)
    assert await store.images.list(REGION) == page


async def test_pages_beside_deleted_namespaces(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every order, with every filter, they are those of a store that never had them."""
    monkeypatch.setattr("holdfast.engine.namespaces.listings._FILTERED_ROWS_MIN", 2)
    gone = [await make_namespace(store, name) for name in ("gone1", "gone2")]
    gone.append(await make_namespace(store, "gone3", project=OTHER_PROJECT))
    await make_namespace(store, "here")
    await make_namespace(store, "there", project=OTHER_PROJECT)
    spaces = ("gone1", "here", "gone2", "gone3", "there")
    for name in "cab":
        for space in spaces if name != "b" else spaces[1:]:
            await push(store, f"{space}/{name}", "v1", [LAYER])
    ids = {space.id for space in gone}
    orders: tuple[Order, ...] = ("created_at_asc", "created_at_desc", "name_asc", "name_desc")
    for dead in gone:
        await store.namespaces.delete(dead.id)
    for project in (None, PROJECT, OTHER_PROJECT, uuid4()):
        for filtered in (None, "b", "x"):
            for order in orders:
                whole = await store.images.list(
                    REGION, order=order, project_id=project, name=filtered
                )
                assert not ids & {image.namespace_id for image in whole.items}
                wanted = {None: 2, PROJECT: 1, OTHER_PROJECT: 1}.get(project, 0)
                wanted *= {None: 3, "b": 1}.get(filtered, 0)
                assert whole.total == len(whole.items) == wanted
                assert whole.items == _in_order(whole.items, order)
                pages = [
                    await store.images.list(
                        REGION,
                        order=order,
                        project_id=project,
                        name=filtered,
                        page=page,
                        page_size=2,
                    )
                    for page in (1, 2, 3, 4)
                ]
                assert [image for page in pages for image in page.items] == whole.items
                assert {page.total for page in pages} == {wanted}


def _in_order(images: Sequence[Image], order: str) -> list[Image]:
    by_name = order.startswith("name")
    return sorted(
        images,
        key=lambda image: (image.name if by_name else "", image.id),
        reverse=order.endswith("desc"),
    )


async def test_delete(store: Store) -> None:
    space = await make_namespace(store)
    done = await push(store, "app/web", "v1", [LAYER])
    where = await store.locate(REGION, "app/web")
    deleted = await store.images.delete(done.image_id)
    assert (deleted.id, deleted.status) == (done.image_id, "deleting")
    shown = await store.namespaces.get(space.id)
    assert (shown.size, shown.image_count) == (0, 0)
    assert await store.repositories(REGION) == ([], None)
    for call in (
        store.images.get(done.image_id),
        store.images.delete(done.image_id),
        store.images.update(done.image_id, visibility="public"),
        store.images.namespace(done.image_id),
        store.images.would_free(done.image_id),
        store.tags.list(done.image_id),
        store.manifests.get(where, "v1"),
        store.tags.names(where),
    ):
        with raised(NotFound, kind="image"):
            await call
    # The name is free at once, and leads to nothing of the old image.
    where = await store.locate(REGION, "app/web")
    assert where.key is None
    assert await store.exists([sha256(LAYER)], repository=where) == set()
    again = await push(store, "app/web", "v1", [noise(10)])
    assert again.image_id != done.image_id
    await store.sweeper.run(early=True)
    assert (await store.images.get(again.image_id)).size == 12


async def test_a_handle_from_before_the_delete_reads_nothing(store: Store) -> None:
    await make_namespace(store)
    done = await push(store, "app/web", "v1", [LAYER])
    old = await store.locate(REGION, "app/web")
    await store.images.delete(done.image_id)
    with pytest.raises(NotFound):
        await store.stat(sha256(LAYER), repository=old)
    with pytest.raises(NotFound):
        await read(store, sha256(LAYER), repository=old)
    await store.trash.restore(done.image_id)
    assert await read(store, sha256(LAYER), repository=old) == LAYER
    await store.namespaces.delete((await store.namespaces.find(REGION, "app")).id)
    with pytest.raises(NotFound):
        await read(store, sha256(LAYER), repository=old)


async def test_an_image_without_manifests_stays(store: Store, clock: Clock) -> None:
    await make_namespace(store)
    done = await push(store, "app/web", "v1", [LAYER])
    where = await store.locate(REGION, "app/web")
    await store.manifests.delete(where, str(done.digest))
    clock.advance(2 * DAY)
    await store.sweeper.run()
    image = await store.images.get(done.image_id)
    assert (image.size, image.tags) == (0, ())
    assert await store.tags.names(where) == []
    assert await store.blobs() == []


async def test_updated_at_moves_with_what_is_in_it(store: Store, clock: Clock) -> None:
    space = await make_namespace(store)
    done = await push(store, "app/web", "v1", [LAYER])
    seen = [await store.images.get(done.image_id)]

    async def note() -> None:
        seen.append(await store.images.get(done.image_id))
        assert (await store.namespaces.get(space.id)).updated_at == seen[-1].updated_at
        clock.advance(1)

    clock.advance(1)
    await put(store, "app/web", manifest(b"{}"), "v2")
    await note()
    await store.tags.untag(await store.locate(REGION, "app/web"), "v2")
    await note()
    await store.tags.delete((await store.tags.list(done.image_id)).items[0].id)
    await note()
    assert [image.created_at for image in seen] == [seen[0].created_at] * 4
    times = [image.updated_at for image in seen]
    assert times == sorted(set(times))
