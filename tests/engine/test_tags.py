"""Tags: names that point to one manifest, moved atomically, deleted one by one."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from support.engine import (
    REGION,
    index,
    make_namespace,
    manifest,
    noise,
    put,
    raised,
    sha256,
    upload,
)

from holdfast.engine import Invalid, NotFound, Store, Tag

CONFIG, LAYER = b"{}", noise(1000)
BODY, OTHER = manifest(CONFIG, [LAYER]), manifest(CONFIG)
DAY = 24 * 3600.0


@pytest.fixture
async def store(store: Store) -> Store:
    """A store where ``app/web`` holds what the manifests of these tests need."""
    await make_namespace(store)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG, LAYER)
    return store


async def tag(store: Store, name: str) -> Tag:
    where = await store.locate(REGION, "app/web")
    assert where.image_id is not None
    (found,) = (await store.tags.list(where.image_id, name=name)).items
    return found


async def manifests(store: Store, *bodies: bytes) -> list[bool]:
    """Which of them the image has."""
    where = await store.locate(REGION, "app/web")
    there = []
    for body in bodies:
        try:
            await store.manifests.get(where, sha256(body))
            there.append(True)
        except NotFound:
            there.append(False)
    return there


async def test_readers_see_the_old_or_the_new(store: Store) -> None:
    await put(store, "app/web", BODY, "v1")
    where = await store.locate(REGION, "app/web")
    stop = asyncio.Event()

    async def look() -> set[bytes]:
        seen = set()
        while not stop.is_set():
            seen.add((await store.manifests.get(where, "v1")).body)
            await asyncio.sleep(0)
        return seen

    readers = [asyncio.create_task(look()) for _ in range(4)]
    for body in (OTHER, BODY) * 20:
        await put(store, "app/web", body, "v1")
    stop.set()
    assert set.union(*await asyncio.gather(*readers)) <= {BODY, OTHER}


async def test_a_walk_by_creation_skips_and_repeats_nothing_while_tags_come(store: Store) -> None:
    await put(store, "app/web", BODY, *[f"t{number}" for number in range(5)])
    image = (await store.locate(REGION, "app/web")).image_id
    assert image is not None
    seen: list[UUID] = []
    page = 1
    while part := (await store.tags.list(image, page=page, page_size=2)).items:
        seen += [found.id for found in part]
        if page < 4:
            await put(store, "app/web", OTHER, f"a{page}", "t1")
        page += 1
    assert len(seen) == len(set(seen)) == 8


async def test_untag_leaves_the_manifest(store: Store) -> None:
    done = await put(store, "app/web", BODY, "v1", "v2")
    where = await store.locate(REGION, "app/web")
    await store.tags.untag(where, "v1")
    with raised(NotFound, kind="tag", name="v1"):
        await store.tags.untag(where, "v1")
    with pytest.raises(Invalid):
        await store.tags.untag(where, "/")
    await store.tags.untag(where, "v2")
    assert await manifests(store, BODY) == [True]
    assert (await store.images.get(done.image_id)).size == len(CONFIG + LAYER)


async def test_delete_takes_what_nothing_else_needs(store: Store) -> None:
    done = await put(store, "app/web", BODY, "v1", "v2")
    first, second = await tag(store, "v1"), await tag(store, "v2")
    assert await store.tags.would_free(first.id) == 0
    deleted = await store.tags.delete(first.id)
    assert (deleted.id, deleted.name, deleted.status) == (first.id, "v1", "deleting")
    for call in (store.tags.get(first.id), store.tags.delete(first.id)):
        with raised(NotFound, kind="tag"):
            await call
    # A sibling of the same digest stays, and so does the manifest.
    assert (await store.tags.get(second.id)).name == "v2"
    assert await manifests(store, BODY) == [True]
    await store.tags.delete(second.id)
    assert await manifests(store, BODY) == [False]
    assert (await store.images.get(done.image_id)).size == 0


async def test_delete_takes_untagged_children_and_referrers_along(store: Store) -> None:
    children = [manifest(CONFIG, annotations={"n": str(n)}) for n in range(4)]
    for child in children:
        await put(store, "app/web", child)
    top, inner = index(children[:2]), index(children[1:])
    signature = manifest(CONFIG, subject=top)
    about_signature = manifest(CONFIG, subject=signature)
    about_child = manifest(CONFIG, subject=children[0])
    await put(store, "app/web", inner)
    everything = index([children[0], inner], annotations={"top": "yes"})
    await put(store, "app/web", everything, "all")
    await put(store, "app/web", top, "top")
    await put(store, "app/web", children[3], "child")
    for body in (signature, about_signature, about_child):
        await put(store, "app/web", body)
    tagged_signature = manifest(CONFIG, subject=top, annotations={"tagged": "yes"})
    await put(store, "app/web", tagged_signature, "signature")
    kept_by_both = [True, True]
    await store.tags.delete((await tag(store, "top")).id)
    # Both children of ``top`` are children of others too, so they stay.
    assert await manifests(store, top, signature, about_signature) == [False] * 3
    assert await manifests(store, *children[:2]) == kept_by_both
    assert await manifests(store, about_child, tagged_signature) == [True, True]
    await store.tags.delete((await tag(store, "all")).id)
    assert await manifests(store, everything, inner, *children[:3]) == [False] * 5
    assert await manifests(store, about_child) == [False]
    assert await manifests(store, children[3], tagged_signature) == [True, True]


async def test_a_child_stays_while_its_subject_does(store: Store) -> None:
    child = manifest(CONFIG, subject=BODY)
    await put(store, "app/web", BODY, "subject")
    await put(store, "app/web", child)
    await put(store, "app/web", index([child]), "all")
    found = await tag(store, "all")
    assert await store.tags.would_free(found.id) == len(index([child]))
    await store.tags.delete(found.id)
    assert await manifests(store, index([child]), child) == [False, True]
    await store.tags.delete((await tag(store, "subject")).id)
    assert await manifests(store, BODY, child) == [False, False]


async def test_a_child_stays_though_its_own_tag_goes(store: Store) -> None:
    await put(store, "app/web", BODY, "child")
    await put(store, "app/web", index([BODY]), "all")
    child = await tag(store, "child")
    assert await store.tags.would_free(child.id) == 0
    await store.tags.delete(child.id)
    assert await manifests(store, BODY) == [True]
