"""The trash: what was deleted comes back whole, until its time is over."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import uuid4

import pytest
from support.engine import (
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    problems,
    push,
    put,
    raised,
    read,
    sha256,
    sha512,
    upload,
)

from holdfast.engine import (
    AlreadyExists,
    Image,
    Locked,
    MissingContent,
    Namespace,
    NotFound,
    Store,
    Tag,
)
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.maintenance import dead_letters
from holdfast.engine.references import trash_rows

CONFIG, LAYER = b"{}", noise(1000)
BODY = manifest(CONFIG, [LAYER])
DAY = 24 * 3600.0


@pytest.fixture
async def store(store: Store) -> Store:
    """A store where ``app/web`` has one image under two tags."""
    await make_namespace(store)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG, LAYER)
    await put(store, "app/web", BODY, "v1", "v2")
    return store


async def image(store: Store) -> Image:
    where = await store.locate(REGION, "app/web")
    assert where.image_id is not None
    return await store.images.get(where.image_id)


async def tag(store: Store, name: str) -> Tag:
    (found,) = (await store.tags.list((await image(store)).id, name=name)).items
    return found


async def parts(store: Store) -> tuple[Namespace, Image, Tag]:
    """Return the namespace, its image, and the first tag of that."""
    space = await store.namespaces.find(REGION, "app")
    return space, await image(store), await tag(store, "v1")


async def test_what_lies_in_it(store: Store, clock: Clock) -> None:
    space, web, v1 = await parts(store)
    await store.tags.delete(v1.id)
    clock.advance(1)
    await store.images.delete(web.id)
    clock.advance(1)
    await store.namespaces.delete(space.id)
    items = (await store.trash.list()).items
    assert [(item.kind, item.id, item.name) for item in items] == [
        ("tag", v1.id, "v1"),
        ("image", web.id, "web"),
        ("namespace", space.id, "app"),
    ]
    assert {item.namespace_id for item in items} == {space.id}
    assert items[-1].purge_at.timestamp() == pytest.approx(clock.now + DAY)
    assert len((await store.trash.list(page_size=2)).items) == 2
    assert (await store.stats()).trash == 3


async def test_it_is_found_by_what_it_was_in(store: Store, clock: Clock) -> None:
    other = await make_namespace(store, "other", project=OTHER_PROJECT)
    await push(store, "other/web", "v1", [])
    theirs = await store.locate(REGION, "other/web")
    await store.tags.untag(theirs, "v1")
    v1, web = await tag(store, "v1"), await image(store)
    clock.advance(1)
    await store.tags.delete(v1.id)
    clock.advance(1)
    await store.images.delete(web.id)
    clock.advance(1)
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.delete(space.id)

    async def found(**filters: Any) -> list[str]:
        page = await store.trash.list(**filters)
        assert page.total == len(page.items)
        return [f"{item.kind} {item.namespace}/{item.image}" for item in page.items]

    ours = ["tag app/web", "image app/web", "namespace app/None"]
    assert await found(namespace="app") == await found(project_id=PROJECT) == ours
    assert await found(project_id=OTHER_PROJECT) == ["tag other/web"]
    assert await found(image="web", kind="tag") == ["tag other/web", "tag app/web"]
    assert await found(tag="v1", namespace="app") == ["tag app/web"]
    assert await found(region=REGION, kind="namespace") == ["namespace app/None"]
    assert await found(region="nl-ams") == await found(tag="app") == []
    pages = [await store.trash.list(page=number, page_size=3) for number in (1, 2, 3)]
    assert [(len(page.items), page.total) for page in pages] == [(3, 4), (1, 4), (0, 4)]
    mine = await store.trash.list(project_id=PROJECT, page=2, page_size=2)
    assert ([item.id for item in mine.items], mine.total) == ([space.id], 3)
    assert await store.trash.get(space.id) == mine.items[0]
    with pytest.raises(NotFound):
        await store.trash.get(other.id)


async def test_a_namespace_comes_back_whole(store: Store, clock: Clock) -> None:
    space = await store.namespaces.find(REGION, "app")
    web, usage = await image(store), await store.namespaces.usage(space.id)
    await store.namespaces.delete(space.id)
    clock.advance(DAY - 1)
    await store.sweeper.run()
    await store.trash.restore(space.id)
    back = await store.namespaces.get(space.id)
    assert (back.status, back.size, back.created_at) == ("ready", space.size, space.created_at)
    assert await image(store) == web
    assert await store.namespaces.usage(space.id) == usage
    assert (await store.images.list(REGION)).items == [web]
    assert (await store.trash.list()).items == []
    with pytest.raises(NotFound):
        await store.trash.restore(space.id)


async def test_an_image_comes_back_whole(store: Store, clock: Clock) -> None:
    space, web = await store.namespaces.find(REGION, "app"), await image(store)
    usage = await store.namespaces.usage(space.id)
    await store.images.delete(web.id)
    clock.advance(DAY - 1)
    await store.sweeper.run()
    await store.trash.restore(web.id)
    back = await image(store)
    assert (back.id, back.tags, back.size, back.created_at) == (
        web.id,
        web.tags,
        web.size,
        web.created_at,
    )
    assert await store.namespaces.usage(space.id) == usage
    where = await store.locate(REGION, "app/web")
    assert (await store.manifests.get(where, "v1")).body == BODY
    assert await read(store, sha256(LAYER), repository=where) == LAYER


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_tag_comes_back_with_its_manifests(
    store: Store, clock: Clock, large: bool, algorithm: str
) -> None:
    filler = {"filler": "x" * 100_000 if large else ""}
    child = manifest(CONFIG, [LAYER], artifactType="a/b", annotations=filler)
    await put(store, "app/web", child)
    inner = index([child])
    top = index([inner, child])
    signature = manifest(CONFIG, subject=top)
    await put(store, "app/web", inner)
    name = sha256(top) if algorithm == "sha256" else sha512(top)
    await put(store, "app/web", top, "top", reference=name)
    await put(store, "app/web", signature)
    before, found = await image(store), await tag(store, "top")
    await store.tags.delete(found.id)
    assert (await image(store)).tags == ("v1", "v2")
    clock.advance(DAY - 1)
    await store.sweeper.run()
    await store.trash.restore(found.id)
    back = await tag(store, "top")
    assert (back.id, back.digest, back.created_at) == (found.id, found.digest, found.created_at)
    assert (await image(store)).size == before.size
    where = await store.locate(REGION, "app/web")
    for body in (top, inner, child, signature):
        assert (await store.manifests.get(where, sha256(body))).body == body
    assert len(await store.manifests.referrers(where, sha256(top))) == 1


async def test_tags_of_a_deleted_manifest_come_back_one_by_one(store: Store) -> None:
    where = await store.locate(REGION, "app/web")
    first, second = await tag(store, "v1"), await tag(store, "v2")
    await store.manifests.delete(where, sha256(BODY))
    for found in (second, first):
        await store.trash.restore(found.id)
        assert (await store.manifests.get(where, found.name)).body == BODY
    assert (await image(store)).tags == ("v1", "v2")


async def test_an_untagged_tag_comes_back_with_its_manifest(store: Store) -> None:
    """Also where that was deleted since, with another tag."""
    where = await store.locate(REGION, "app/web")
    first, second = await tag(store, "v1"), await tag(store, "v2")
    await store.tags.untag(where, "v1")
    await store.tags.untag(where, "v2")
    await store.trash.restore(first.id)
    await store.manifests.delete(where, sha256(BODY))
    await store.trash.restore(second.id)
    assert (await store.manifests.get(where, "v2")).body == BODY
    await store.tags.untag(where, "v2")
    await store.manifests.delete(where, sha256(BODY))
    with pytest.raises(NotFound):
        await store.manifests.get(where, "v2")


async def test_a_name_that_is_taken(store: Store) -> None:
    space, web, v1 = await parts(store)
    await store.tags.delete((await tag(store, "v2")).id)
    await store.tags.delete(v1.id)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG)
    await put(store, "app/web", manifest(CONFIG), "v1")
    with raised(AlreadyExists, kind="tag", name="v1"):
        await store.trash.restore(v1.id)
    # Nothing of it came back.
    with pytest.raises(NotFound):
        await store.manifests.get(await store.locate(REGION, "app/web"), sha256(BODY))
    await store.images.delete(web.id)
    await push(store, "app/web", "v1", [])
    with raised(AlreadyExists, kind="image", name="web"):
        await store.trash.restore(web.id)
    await store.namespaces.delete(space.id)
    other = await make_namespace(store)
    with raised(AlreadyExists, kind="namespace", name="app"):
        await store.trash.restore(space.id)
    await store.namespaces.delete(other.id)
    await store.trash.restore(space.id)


async def test_what_it_belonged_to_has_to_be_there(store: Store) -> None:
    space, web, v1 = await parts(store)
    await store.tags.delete(v1.id)
    await store.images.delete(web.id)
    with raised(NotFound, kind="image", name="app/web"):
        await store.trash.restore(v1.id)
    await store.namespaces.delete(space.id)
    for item in (v1.id, web.id):
        with raised(NotFound, kind="namespace", name="app"):
            await store.trash.restore(item)
    await store.trash.restore(space.id)
    await store.trash.restore(web.id)
    await store.trash.restore(v1.id)
    assert (await image(store)).tags == ("v1", "v2")


async def test_a_locked_namespace(store: Store) -> None:
    space, web, v1 = await parts(store)
    await store.tags.delete(v1.id)
    await store.namespaces.update(space.id, locked=True)
    with pytest.raises(Locked):
        await store.trash.restore(v1.id)
    await store.namespaces.update(space.id, locked=False)
    await store.images.delete(web.id)
    await store.namespaces.update(space.id, locked=True)
    with pytest.raises(Locked):
        await store.trash.restore(web.id)


async def test_when_its_time_is_over_swept_or_not(store: Store, clock: Clock) -> None:
    space, web, v1 = await parts(store)
    await store.tags.delete(v1.id)
    await store.images.delete(web.id)
    await store.namespaces.delete(space.id)
    clock.advance(DAY)
    assert (await store.trash.list()).items == []
    for swept in (False, True):
        for item in (space.id, web.id, v1.id):
            with raised(NotFound, kind="trash", name=str(item)):
                await store.trash.restore(item)
        if not swept:
            await store.sweeper.run()
    assert (await store.stats()).trash == 0
    assert await store.blobs() == []


async def test_a_purge_that_has_begun_is_not_undone(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.delete(space.id)
    await store.sweeper.step(early=True)
    with raised(NotFound, kind="trash"):
        await store.trash.restore(space.id)
    assert (await store.trash.list()).items == []


async def test_content_that_went_since(store: Store) -> None:
    first, second = await tag(store, "v1"), await tag(store, "v2")
    await store.tags.delete(first.id)
    await store.tags.delete(second.id)
    where = await store.locate(REGION, "app/web")
    await store.remove_blob(where, sha256(LAYER))
    with raised(MissingContent, digests=(sha256(LAYER),)):
        await store.trash.restore(second.id)
    await store.remove_blob(where, sha256(BODY))
    with raised(NotFound, kind="manifest", name=sha256(BODY)):
        await store.trash.restore(second.id)
    assert (await image(store)).tags == ()


async def test_a_quota_that_came_since(store: Store) -> None:
    """What lies in the trash is kept already, so bringing it back is never refused."""
    space = await store.namespaces.find(REGION, "app")
    await store.tags.delete((await tag(store, "v1")).id)
    deleted = await store.tags.delete((await tag(store, "v2")).id)
    await store.namespaces.update(space.id, quota=100)
    before = (await store.namespaces.usage(space.id)).kept_size
    await store.trash.restore(deleted.id)
    after = await store.namespaces.usage(space.id)
    assert after.kept_size == before > 100
    assert after.size > 0


async def test_an_index_with_very_many_children_comes_back(store: Store) -> None:
    children = [manifest(CONFIG, annotations={"n": str(n)}) for n in range(300)]
    for child in children:
        await put(store, "app/web", child)
    await put(store, "app/web", index(children), "all")
    found = await tag(store, "all")
    await store.tags.delete(found.id)
    await store.trash.restore(found.id)
    where = await store.locate(REGION, "app/web")
    for child in children:
        assert (await store.manifests.get(where, sha256(child))).body == child


async def test_of_many_restores_one_wins(store: Store) -> None:
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.delete(space.id)
    restores = [store.trash.restore(space.id) for _ in range(5)]
    done = await asyncio.gather(*restores, return_exceptions=True)
    assert sum(result is None for result in done) == 1
    assert all(result is None or isinstance(result, NotFound) for result in done)


async def test_without_a_grace_period_nothing_comes_back(place: Place) -> None:
    async with place.store(trash_seconds=0) as store:
        space = await make_namespace(store)
        await push(store, "app/web", "v1", [LAYER])
        await store.namespaces.delete(space.id)
        with pytest.raises(NotFound):
            await store.trash.restore(space.id)
        await store.sweeper.run()
        assert await store.blobs() == []


class _Counting:
    """A transaction that counts the rows that are read."""

    def __init__(self, txn: Transaction) -> None:
        self.rows = 0
        self._txn = txn

    async def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return await self._txn.get(key)

    async def scan(self, *args: Any, **more: Any) -> Any:
        rows = await self._txn.scan(*args, **more)
        self.rows += len(rows)
        return rows


async def _cost(txn: Transaction, now: int, chosen: trash_rows.Filter) -> tuple[int, int]:
    """How many entries a listing finds, and how many rows it reads."""
    counting = _Counting(txn)
    _, total = await trash_rows.page_of(cast(Transaction, counting), now, chosen, 0, 10)
    return total, counting.rows


async def test_a_listing_costs_what_its_project_deleted(store: Store) -> None:
    await make_namespace(store, "other", project=OTHER_PROJECT)
    names = [f"v{number}" for number in range(300)]
    body = manifest(b"{}")
    await upload(store, await store.locate(REGION, "other/web"), b"{}")
    await put(store, "other/web", body, *names)
    theirs = await store.locate(REGION, "other/web")
    for name in names:
        await store.tags.untag(theirs, name)

    async def cost(chosen: trash_rows.Filter) -> tuple[int, int]:
        return await store.core.ledger.read(_cost, store.core.now(), chosen)

    mine, stranger = PROJECT.bytes, uuid4().bytes
    assert await cost(trash_rows.Filter(project=stranger)) == (0, 0)
    assert await cost(trash_rows.Filter(project=mine, tag="v1")) == (0, 0)
    await store.tags.delete((await tag(store, "v1")).id)
    assert await cost(trash_rows.Filter(project=mine)) == (1, 2)
    assert await cost(trash_rows.Filter(project=mine, tag="v2")) == (0, 2)
    # Behind a page, entries are counted, and not read.
    assert await cost(trash_rows.Filter(project=OTHER_PROJECT.bytes)) == (300, 310)


async def test_an_entry_set_aside_is_in_no_list_until_it_is_put_back(store: Store) -> None:
    await store.tags.delete((await tag(store, "v1")).id)
    await store.core.ledger.transact(_set_aside)
    assert (await store.trash.list(project_id=PROJECT)).total == 0
    assert [problem.kind for problem in await problems(store)] == ["aside"]
    await store.core.ledger.transact(dead_letters.requeue, b"", 10)
    assert (await store.trash.list(project_id=PROJECT)).total == 1
    assert await problems(store) == []


async def _set_aside(txn: Transaction) -> None:
    ((key, _),) = await txn.scan(layout.TRASH, after(layout.TRASH), limit=2)
    await dead_letters.park(txn, key, "its image cannot be read", 1)
