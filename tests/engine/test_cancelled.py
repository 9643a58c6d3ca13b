"""Every public call, cancelled where it waits: nothing is left open, locked or half done.

What a call has done by then may stand or not, since its transaction may have committed; the check
finds nothing wrong, nobody finds a session in use, and the same call can be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from support.copies import names
from support.depot import descriptors, descriptors_before
from support.engine import (
    ORGANIZATION,
    PROJECT,
    REGION,
    Clock,
    Place,
    make_namespace,
    manifest,
    noise,
    once,
    problems_after_sweep,
    push,
    put,
    read,
    sha256,
    upload,
)

from holdfast.engine import NotFound, Repository, RetentionRule, Store, export_layout, import_layout

pytestmark = pytest.mark.slow

LAYER: Final = noise(50_000, "layer")
SMALL: Final = b"small"
TEXT: Final = b"all work and no play makes a layer compress\n" * 3_000
UPLOADS_MAX: Final = 3
LONG: Final = noise(1_300_000, "long")
"""Several batches."""


class Cut:
    """Work whose task is cancelled in the moment when it waits for the ``at``-th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        error: BaseException | None = None
        while True:
            try:
                future = inner.send(None) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            self.waits += 1
            if self.waits == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield future
            except BaseException as thrown:  # noqa: BLE001 - handed on to the work
                error = thrown


async def cancelled(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Run the work and cancel it then; says whether it came to that."""
    cut = Cut(work, at)

    async def run() -> None:
        await cut

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return cut.waits >= at


class Scene:
    """An open store with things in it, new ones for each time."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.number = 0

    async def image(self) -> Repository:
        return await self.store.locate(REGION, f"app/i{self.number}")

    async def pushed(self, *layers: bytes) -> Repository:
        await push(self.store, f"app/i{self.number}", "v1", layers or (LAYER, SMALL))
        return await self.image()

    def content(self, size: int = 60_000) -> bytes:
        return noise(size, self.number)


Call = Callable[[], Coroutine[Any, Any, Any]]
CALLS: Final[dict[str, Callable[[Scene], Awaitable[Call]]]] = {}
"""What prepares a call, and gives it."""


def call(prepare: Callable[[Scene], Awaitable[Call]]) -> Callable[[Scene], Awaitable[Call]]:
    CALLS[prepare.__name__] = prepare
    return prepare


async def drained(source: AsyncGenerator[Any, None]) -> None:
    async with aclosing(source) as steps:
        async for _ in steps:
            pass


@call
async def put_small(scene: Scene) -> Call:
    return lambda: scene.store.put(scene.content(100))


@call
async def put_of_a_stream(scene: Scene) -> Call:
    whole = scene.content(len(LONG))
    return lambda: scene.store.put(once(whole[:700_000], whole[700_000:]))


@call
async def put_of_a_path(scene: Scene) -> Call:
    path = scene.path / "source"
    path.write_bytes(scene.content())
    return lambda: scene.store.put(path)


@call
async def put_of_what_is_there(scene: Scene) -> Call:
    return lambda: scene.store.put(LAYER, root=f"r{scene.number}")


@call
async def get(scene: Scene) -> Call:
    await scene.store.put(LONG)
    return lambda: read(scene.store, sha256(LONG))


@call
async def get_verified(scene: Scene) -> Call:
    await scene.store.put(LONG)
    return lambda: read(scene.store, sha256(LONG), verify=True)


@call
async def get_compressed(scene: Scene) -> Call:
    await scene.store.put(TEXT)
    await scene.store.recompressor.run()
    return lambda: read(scene.store, sha256(TEXT))


@call
async def delete(scene: Scene) -> Call:
    await scene.store.put(scene.content())
    return lambda: scene.store.delete(sha256(scene.content()))


@call
async def upload_in_one(scene: Scene) -> Call:
    where = await scene.image()
    return lambda: upload(scene.store, where, scene.content())


@call
async def upload_in_parts(scene: Scene) -> Call:
    whole = scene.content(len(LONG))

    async def parts() -> None:
        uploads = scene.store.uploads
        session = await uploads.begin(await scene.image())
        where = await scene.image()
        try:
            await uploads.append(where, session.id, once(whole[:600_000]))
            await uploads.append(where, session.id, once(whole[600_000:700_000]))
            await uploads.finish(where, session.id, sha256(whole), once(whole[700_000:]))
        except asyncio.CancelledError:
            # Whoever was cancelled can go on from where it stands, at once.
            with suppress(NotFound):
                stands = (await uploads.get(where, session.id)).offset
                rest = once(whole[stands:])
                await uploads.finish(where, session.id, sha256(whole), rest, offset=stands)
                assert await read(scene.store, sha256(whole), repository=where) == whole
            raise

    return parts


@call
async def abort_an_upload(scene: Scene) -> Call:
    session = await scene.store.uploads.begin(await scene.image())
    where = await scene.image()
    await scene.store.uploads.append(where, session.id, once(scene.content()))
    return lambda: scene.store.uploads.abort(where, session.id)


@call
async def dismiss_an_upload(scene: Scene) -> Call:
    where = await scene.image()
    session = await scene.store.uploads.begin(where)
    await scene.store.uploads.append(where, session.id, once(scene.content(600_000)))
    return lambda: scene.store.uploads.dismiss(where.namespace_id, session.id)


@call
async def make_an_upload_give_way(scene: Scene) -> Call:
    where = await scene.image()
    for _ in range(UPLOADS_MAX):
        session = await scene.store.uploads.begin(where)
        await scene.store.uploads.append(where, session.id, once(scene.content(600_000)))
    return lambda: scene.store.uploads.begin(where)


@call
async def mount(scene: Scene) -> Call:
    source = await scene.pushed()
    target = await scene.store.locate(REGION, "app/target")
    return lambda: scene.store.mount(target, sha256(LAYER), source)


@call
async def put_a_manifest(scene: Scene) -> Call:
    await upload(scene.store, await scene.image(), b"{}", LAYER)
    body = manifest(b"{}", [LAYER], annotations={"number": "x" * 40_000})
    return lambda: put(scene.store, f"app/i{scene.number}", body, "v1")


@call
async def get_a_manifest(scene: Scene) -> Call:
    await upload(scene.store, await scene.image(), b"{}", LAYER)
    body = manifest(b"{}", [LAYER], annotations={"number": "x" * 40_000})
    await put(scene.store, f"app/i{scene.number}", body, "v1")
    where = await scene.image()
    return lambda: scene.store.manifests.get(where, "v1")


@call
async def delete_a_manifest(scene: Scene) -> Call:
    where = await scene.pushed()
    found = await scene.store.manifests.get(where, "v1")
    return lambda: scene.store.manifests.delete(where, str(found.digest))


@call
async def delete_a_tag(scene: Scene) -> Call:
    where = await scene.pushed()
    assert where.image_id is not None
    (tag,) = (await scene.store.tags.list(where.image_id)).items
    return lambda: scene.store.tags.delete(tag.id)


@call
async def delete_an_image(scene: Scene) -> Call:
    image_id = (await scene.pushed()).image_id
    assert image_id is not None
    return lambda: scene.store.images.delete(image_id)


@call
async def undelete(scene: Scene) -> Call:
    image_id = (await scene.pushed()).image_id
    assert image_id is not None
    await scene.store.images.delete(image_id)
    return lambda: scene.store.trash.restore(image_id)


@call
async def purge_a_tag(scene: Scene) -> Call:
    where = await scene.pushed()
    assert where.image_id is not None
    (tag,) = (await scene.store.tags.list(where.image_id)).items
    await scene.store.tags.delete(tag.id)
    return lambda: scene.store.trash.purge(tag.id)


@call
async def release_holds(scene: Scene) -> Call:
    where = await scene.pushed()
    await upload(scene.store, where, scene.content())
    return lambda: scene.store.holds.release(where.namespace_id)


@call
async def namespaces(scene: Scene) -> Call:
    async def all_of_it() -> None:
        made = await make_namespace(scene.store, f"n{scene.number}")
        await scene.store.namespaces.update(made.id, is_public=True, quota=10**9)
        await scene.store.namespaces.would_free(made.id)
        await scene.store.namespaces.delete(made.id)

    return all_of_it


@call
async def keys(scene: Scene) -> Call:
    async def all_of_it() -> None:
        key, _ = await scene.store.keys.create(
            project_id=PROJECT, default_project_id=PROJECT, organization_id=ORGANIZATION
        )
        await scene.store.keys.revoke(key.access_key)

    return all_of_it


@call
async def retention(scene: Scene) -> Call:
    await scene.pushed()
    namespace = await scene.store.namespaces.find(REGION, "app")
    await scene.store.retention.set(namespace.id, [RetentionRule(keep_last=1)])
    return lambda: scene.store.retention.apply(namespace.id)


@call
async def sweep(scene: Scene) -> Call:
    image_id = (await scene.pushed(scene.content(), SMALL)).image_id
    assert image_id is not None
    await scene.store.images.delete(image_id)
    return lambda: scene.store.sweeper.run(early=True)


@call
async def scrub(scene: Scene) -> Call:
    await scene.pushed()
    return scene.store.scrubber.run


@call
async def recompress(scene: Scene) -> Call:
    await scene.store.put(TEXT + scene.content(100))
    return scene.store.recompressor.run


@call
async def check(scene: Scene) -> Call:
    return lambda: drained(scene.store.check(deep=True))


@call
async def snapshot(scene: Scene) -> Call:
    await scene.pushed()
    return lambda: drained(scene.store.snapshot(scene.path / f"copy{scene.number}"))


@call
async def export_and_import(scene: Scene) -> Call:
    where = await scene.pushed()
    target = await scene.store.locate(REGION, f"app/again{scene.number}")
    path = scene.path / f"layout{scene.number}"

    async def both() -> None:
        await drained(export_layout(scene.store, where, path))
        await drained(import_layout(scene.store, target, path))

    return both


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    before = descriptors_before()
    limits = {"uploads_per_namespace_max": UPLOADS_MAX, "upload_idle_seconds": 0}
    async with Place("disk", tmp_path, Clock()).store(**limits) as store:
        await make_namespace(store)
        await store.put(LAYER)
        scene = Scene(store, tmp_path)
        scene.number = 1
        while await cancelled((await CALLS[name](scene))(), scene.number):
            scene.number += 1 + scene.number // 8
        assert await problems_after_sweep(store, early=True) == []
        assert await read(store, sha256(LAYER), verify=True) == LAYER
    assert descriptors() == before
    assert [name for name in names(tmp_path) if name.endswith(".partial")] == []
