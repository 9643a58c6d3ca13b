"""Pushes of what is there already: no commit of their own, and in the end the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from support.engine import REGION, Clock, Function, Hooks, Place, make_namespace, manifest, push

from holdfast.engine import (
    ALWAYS,
    ANY,
    Condition,
    Digest,
    Locked,
    RetentionRule,
    StorageFailed,
    Store,
)
from holdfast.engine.ledger import change_log, layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import (
    Blob,
    Image,
    Manifest,
    Namespace,
    Record,
    Tag,
    decode,
    load,
)
from holdfast.engine.manifests import manifest_put
from holdfast.engine.model.documents import OCI_MANIFEST
from holdfast.engine.repositories import deferred_writes

BODY = manifest(b"{}", (b"layer",))
OTHER = manifest(b"{}")
DAY = 24 * 3600

Rows = dict[bytes, bytes]


class Pushed:
    """A store with one image, and what is committed in it."""

    def __init__(self, store: Store, hooks: Hooks, clock: Clock) -> None:
        self.store = store
        self.hooks = hooks
        self.clock = clock
        self.commits: list[Function] = []

        async def before(work: Function) -> None:
            self.commits.append(work)

        hooks.before = before

    async def rows(self) -> Rows:
        return await self.store.core.ledger.read(everything)

    async def put(self, *tags: str, body: bytes = BODY, **more: object) -> list[Function]:
        """Push to the image; what that committed."""
        self.commits.clear()
        where = await self.store.locate(REGION, "app/web")
        options: dict[str, object] = {"media_type": OCI_MANIFEST, "tags": tags, **more}
        await self.store.manifests.put(where, body, **options)  # type: ignore[arg-type]
        return self.commits.copy()

    async def flush(self) -> None:
        await self.store.manifests.deferred_times.flush()


async def everything(txn: Transaction) -> Rows:
    rows = dict(await txn.scan(b"", b"\xff" * 500, limit=1_000_000))
    rows.pop(change_log.KEY, None)
    return rows


@pytest.fixture
async def pushed(place: Place, clock: Clock) -> AsyncIterator[Pushed]:
    store, hooks = place.gated()
    async with store:
        # What is gathered is written when the test says so.
        await store.manifests.deferred_times.background.stop()
        await make_namespace(store)
        await push(store, "app/web", "v1", [b"layer"])
        yield Pushed(store, hooks, clock)


def moved(before: Rows, after: Rows, now: float) -> set[bytes]:
    """First bytes of the keys of rows that changed; records only in when they were updated."""
    assert before.keys() == after.keys()
    kinds: dict[bytes, tuple[type[Record], str, int]] = {
        layout.TAG: (Tag, "updated", 0),
        layout.MANIFEST: (Manifest, "renewed", 0),
        layout.IMAGE: (Image, "updated", 1),
        layout.NAMESPACE: (Namespace, "updated", 1),
    }
    changed = [key for key in after if after[key] != before[key]]
    for key in changed:
        if key[:1] in kinds:
            kind, name, later = kinds[key[:1]]
            was, became = decode(kind, key, before[key]), decode(kind, key, after[key])
            then = int(now * 1_000_000) + later
            assert became == msgspec.structs.replace(was, **{name: then})
    return {key[:1] for key in changed}


async def test_it_ends_like_a_push_that_commits(pushed: Pushed) -> None:
    every = {layout.TAG, layout.MANIFEST, layout.IMAGE, layout.NAMESPACE, layout.SETTING}
    pushed.clock.advance(10)
    before = await pushed.rows()
    assert await pushed.put("v1", only_if=Condition(match=frozenset((ANY,)))) == [manifest_put.put]
    waited = await pushed.rows()
    assert moved(before, waited, pushed.clock.now) == every
    pushed.clock.advance(10)
    assert await pushed.put("v1") == []
    assert await pushed.rows() == waited, "all that a crash finds"
    await pushed.flush()
    assert moved(waited, await pushed.rows(), pushed.clock.now) == every


async def test_pushes_to_many_tags_are_one_commit(pushed: Pushed) -> None:
    await pushed.put("v2")
    await pushed.put("v3", "v4")
    pushed.clock.advance(10)
    for tags in (("v1",), ("v2", "v3"), ("v2",), ()):
        assert await pushed.put(*tags) == []
    before = await pushed.rows()
    await pushed.flush()
    assert pushed.commits == [deferred_writes.write]
    after = await pushed.rows()
    names = {
        key.rpartition(b"v")[2] for key in after if after[key] != before[key] and key[:1] == b"g"
    }
    assert names == {b"1", b"2", b"3"}
    await pushed.flush()
    assert await pushed.rows() == after, "written once"


async def test_what_changes_more_is_committed(pushed: Pushed) -> None:
    put = [manifest_put.put]
    assert await pushed.put("v2") == put, "a new tag"
    assert await pushed.put("v1", "v3") == put, "one of several is new"
    assert await pushed.put("v1", body=OTHER) == put, "another manifest"
    assert await pushed.put("v1") == put, "the tag was elsewhere"
    assert await pushed.put("v1", only_if=ALWAYS) == []
    pushed.clock.advance(DAY - 1)
    assert await pushed.put("v1") == []
    pushed.clock.advance(2)
    assert await pushed.put("v1") == put, "the time of update would be a loss"
    pushed.clock.advance(-DAY - 1)
    assert await pushed.put("v1") == put, "a clock that was ahead left a time of the future"


async def test_where_retention_looks_at_times_they_are_committed(pushed: Pushed) -> None:
    space = (await pushed.store.locate(REGION, "app/web")).namespace_id
    await pushed.store.retention.set(space, [RetentionRule(keep_last=1)])
    assert await pushed.put("v1") == [manifest_put.put]
    await pushed.store.retention.set(space, [])
    assert await pushed.put("v1") == []


async def test_a_lock_refuses_it_and_a_quota_does_not(pushed: Pushed) -> None:
    """What is pushed again adds nothing to what is kept."""
    space = (await pushed.store.locate(REGION, "app/web")).namespace_id
    await pushed.store.namespaces.update(space, quota=1)
    await pushed.put("v1")
    await pushed.store.namespaces.update(space, quota=None, locked=True)
    with pytest.raises(Locked):
        await pushed.put("v1")


async def spoil(txn: Transaction, sha: bytes) -> None:
    blob = await load(txn, Blob, layout.BLOB + sha)
    assert blob is not None
    await txn.put(layout.content(blob.created, sha), b"spoiled")


async def test_a_damaged_body_is_healed(pushed: Pushed) -> None:
    await pushed.store.core.ledger.transact(spoil, Digest.of(BODY).raw)
    assert await pushed.put("v1") == [manifest_put.put]
    assert await pushed.put("v1") == []


async def test_a_tag_that_went_meanwhile_stays_away(pushed: Pushed) -> None:
    where = await pushed.store.locate(REGION, "app/web")
    await pushed.put("v1")
    await pushed.store.tags.untag(where, "v1")
    await pushed.flush()
    assert await pushed.store.tags.names(where) == []
    assert await pushed.put("v1") == [manifest_put.put], "not taken for what it was"


async def test_a_new_tag_of_that_name_is_another_one(pushed: Pushed) -> None:
    where = await pushed.store.locate(REGION, "app/web")
    await pushed.put("v1")
    await pushed.store.tags.untag(where, "v1")
    await pushed.put("v1")
    before = await pushed.rows()
    pushed.clock.advance(1)
    await pushed.flush()
    after = await pushed.rows()
    assert not [key for key in after if key[:1] == layout.TAG and after[key] != before[key]]


@pytest.mark.parametrize("what", ["image", "namespace"])
async def test_what_was_deleted_meanwhile_is_left_alone(pushed: Pushed, what: str) -> None:
    where = await pushed.store.locate(REGION, "app/web")
    assert where.image_id is not None
    await pushed.put("v1")
    if what == "image":
        await pushed.store.images.delete(where.image_id)
    else:
        await pushed.store.namespaces.delete(where.namespace_id)
    before = await pushed.rows()
    await pushed.flush()
    assert await pushed.rows() == before


async def test_what_cannot_be_written_is_kept(pushed: Pushed) -> None:
    pushed.clock.advance(5)
    await pushed.put("v1")

    async def refuse(work: Function) -> None:
        raise StorageFailed("ledger", work.__name__)

    before, pushed.hooks.before = pushed.hooks.before, refuse
    with pytest.raises(StorageFailed):
        await pushed.flush()
    pushed.hooks.before = before
    rows = await pushed.rows()
    await pushed.flush()
    assert layout.TAG in {key[:1] for key, row in (await pushed.rows()).items() if rows[key] != row}


async def test_beyond_the_bound_each_commits(
    pushed: Pushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_writes, "GATHERED_NOTES_MAX", 2)
    assert await pushed.put("v1") == [manifest_put.put]


async def test_it_is_written_soon_and_at_the_end(place: Place, clock: Clock) -> None:
    store, hooks = place.gated()
    written = asyncio.Event()

    async def after(work: Function) -> None:
        if work is deferred_writes.write:
            written.set()

    hooks.after = after
    async with store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [b"layer"])
        again = Pushed(store, hooks, clock)
        await again.put("v1")
        async with asyncio.timeout(30):
            await written.wait()
        store.manifests.deferred_times.interval_seconds = 600
        await asyncio.sleep(0)
        written.clear()
        await again.put("v1")
    assert written.is_set()
