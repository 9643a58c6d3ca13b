"""No room for rows, in the map or on the disk: adding is refused, and all else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from support.copies import finish, here, names
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
    problems,
    problems_after_sweep,
    push,
    put,
    read,
    sha256,
    upload,
)
from support.load import fill_disk, small_disk

from holdfast.engine import INLINE_BYTES_CAP, NotFound, StorageFull, Store, StoreConfig, core
from holdfast.engine.check import child_process
from holdfast.engine.ledger.interface import Room, Transaction

pytestmark = pytest.mark.slow

MAP_BYTES: Final = 16 << 20
ROW_BYTES: Final = 56_000
CALLERS: Final = 32
MOUNTED: Final = noise(1000, "mounted")
LAYER: Final = noise(50_000, "layer")
IMAGES: Final = 12

Call = Callable[[], Awaitable[Any]]


async def furnish(store: Store) -> None:
    """Things to read, to delete, and to add to."""
    namespace = await make_namespace(store)
    for number in range(IMAGES):
        await push(store, f"app/i{number}", "v1", [LAYER, noise(2000, number)])
        await push(store, f"app/i{number}", "v2", [LAYER, noise(2001, number)])
    await store.namespaces.update(namespace.id, description="full of things")
    await make_namespace(store, "other")
    await push(store, "other/web", "v1", [LAYER, MOUNTED])
    await store.put(LAYER)
    await store.keys.create(
        access_key="SCW00000000000000000",
        project_id=PROJECT,
        default_project_id=PROJECT,
        organization_id=ORGANIZATION,
    )


async def additions(store: Store, number: int) -> dict[str, Call]:
    """Everything public that adds rows."""
    image = await store.locate(REGION, "app/i0")
    origin = await store.locate(REGION, "other/web")
    small, large = noise(500, number), noise(70_000, number)
    document = manifest(b"{}", [LAYER], annotations={"number": str(number)})
    return {
        "put": lambda: store.put(small),
        "put of a file": lambda: store.put(large),
        "upload": lambda: upload(store, image, small),
        "session": lambda: store.uploads.begin(image),
        "mount": lambda: store.mount(image, sha256(MOUNTED), origin),
        "manifest": lambda: put(store, "app/i0", document, f"more{number}"),
        "namespace": lambda: make_namespace(store, f"n{number}"),
        "key": lambda: store.keys.create(
            project_id=PROJECT, default_project_id=PROJECT, organization_id=ORGANIZATION
        ),
    }


async def reads_go_on(store: Store) -> None:
    assert await read(store, sha256(LAYER), verify=True) == LAYER
    where = await store.locate(REGION, "other/web")
    assert await read(store, sha256(MOUNTED), repository=where) == MOUNTED
    assert (await store.manifests.get(where, "v1")).body
    assert "other" in {found.name for found in (await store.namespaces.list(REGION)).items}
    assert (await store.stats()).images > 0


async def deletions(store: Store) -> dict[str, Call]:
    """Everything public that takes something away, or may be needed to."""
    images = [await store.locate(REGION, f"app/i{number}") for number in range(IMAGES)]
    tagged, pictured = images[1].image_id, images[2].image_id
    assert tagged is not None
    assert pictured is not None
    (tag,) = (await store.tags.list(tagged, name="v1")).items
    named = await store.manifests.get(images[3], "v1")
    namespace = await store.namespaces.find(REGION, "app")
    return {
        "root": lambda: store.delete(sha256(LAYER)),
        "tag": lambda: store.tags.delete(tag.id),
        "name": lambda: store.tags.untag(images[4], "v1"),
        "manifest": lambda: store.manifests.delete(images[3], str(named.digest)),
        "image": lambda: store.images.delete(pictured),
        "key": lambda: store.keys.revoke("SCW00000000000000000"),
        "privacy": lambda: store.namespaces.update(namespace.id, is_public=False),
        "namespace": lambda: store.namespaces.delete(namespace.id),
        "sweep": lambda: store.sweeper.run(early=True),
    }


async def fill_map(store: Store) -> int:
    """Put blobs into the ledger, many at once, until none is taken; says how many were."""
    numbers = count()
    taken = 0
    while True:
        outcomes = await asyncio.gather(
            *(store.put(noise(ROW_BYTES, next(numbers)), root="filling") for _ in range(CALLERS)),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in refused:
            assert isinstance(error, StorageFull)
            assert error.what == "ledger"
        taken += CALLERS - len(refused)
        if len(refused) == CALLERS:
            return taken


async def test_a_full_map(tmp_path: Path) -> None:
    config = StoreConfig(background=False, map_bytes=MAP_BYTES, inline_bytes=INLINE_BYTES_CAP)
    async with Store.open(tmp_path / "data", config) as store:
        await furnish(store)
        assert await fill_map(store) > MAP_BYTES * 0.6 / ROW_BYTES
        for addition in (await additions(store, 1)).values():
            with pytest.raises(StorageFull) as caught:
                await addition()
            assert caught.value.what == "ledger"
        await reads_go_on(store)
        for deletion in (await deletions(store)).values():
            await deletion()
        assert await problems(store) == []
        for digest in [blob.digest for blob in await store.blobs() if blob.size == ROW_BYTES][:50]:
            await store.delete(digest, root="filling")
        await store.sweeper.run()
        await furnish_again(store)
        assert await problems(store) == []
    async with Store.open(tmp_path / "data", config) as store:
        await reads_go_on(store)


async def furnish_again(store: Store) -> None:
    """Everything is taken again, and kept."""
    await make_namespace(store)
    await push(store, "app/i0", "v1", [LAYER])
    await store.put(LAYER)
    for addition in (await additions(store, 2)).values():
        await addition()
    assert await read(store, sha256(noise(70_000, 2))) == noise(70_000, 2)


async def rows(txn: Transaction, number: int) -> None:
    for part in range(10):
        await txn.put(b"X%06d%d" % (number, part), bytes(ROW_BYTES))


async def no_rows(txn: Transaction, numbers: range) -> None:
    for number in numbers:
        for part in range(10):
            await txn.delete(b"X%06d%d" % (number, part))


async def fill_file(store: Store) -> int:
    """Add rows until there is no page left; says how often."""
    for number in range(1000):
        try:
            await store.core.ledger.transact(rows, number)
        except StorageFull:
            return number
    raise AssertionError("the ledger grows on a full disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    with small_disk(path, 24):
        yield path


async def test_a_disk_that_somebody_else_filled(disk: Path) -> None:
    """Not even the reserve is left: a delete may be refused too, but says why, and is not done."""
    async with Store.open(disk / "data", StoreConfig(background=False)) as store:
        await furnish(store)
        ballast = fill_disk(disk)
        number = await fill_file(store)
        for addition in (await additions(store, 1)).values():
            with pytest.raises(StorageFull):
                await addition()
        await reads_go_on(store)
        for deletion in (await deletions(store)).values():
            with suppress(StorageFull):
                await deletion()
        await reads_go_on(store)
        ballast.unlink()
        await store.core.ledger.transact(no_rows, range(number))
        assert await problems(store) == []
        with suppress(NotFound):
            await store.namespaces.delete((await store.namespaces.find(REGION, "app")).id)
        await furnish_again(store)
        assert await problems_after_sweep(store, early=True) == []


async def test_copies_and_new_stores_on_a_full_disk(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says that it is full, leaves nothing, and works when there is room again."""
    monkeypatch.setattr(child_process, "messages", here)
    config = StoreConfig(background=False, disk_reserve_bytes=0)
    async with Store.open(disk / "data", config) as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [LAYER, b"small"])
        await finish(store.snapshot(tmp_path / "made", copy=True))
        where = await store.locate(REGION, "app/web")
        session = await store.uploads.begin(where)
        await store.uploads.append(where, session.id, once(noise(500)))

        async def create() -> None:
            async with Store.open(disk / "new", config) as new:
                await new.put(b"hello")

        async def snapshot() -> None:
            await finish(store.snapshot(disk / "copy"))

        async def restore() -> None:
            await finish(Store.restore(tmp_path / "made", disk / "restored"))

        async def append() -> None:
            await store.uploads.append(where, session.id, once(noise(60_000)))

        async def scratch() -> None:
            await store.core.scratch.transact(rows, 0)

        ballast = fill_disk(disk)
        for call in (create, snapshot, restore, append, scratch):
            with pytest.raises(StorageFull):
                await call()
        assert set(names(disk)) - {"new"} == {ballast.name, "data"}
        assert (await store.uploads.get(where, session.id)).offset == 500
        assert await problems(store) == []
        ballast.unlink()
        for call in (create, snapshot, restore, append, scratch):
            await call()
        await store.uploads.finish(where, session.id, sha256(noise(500) + noise(60_000)))
        assert await problems(store) == []
    for path in (disk / "new", disk / "copy", disk / "restored"):
        async with Store.open(path, config, create=False) as opened:
            assert len(await opened.blobs()) == (1 if path.name == "new" else 4)


async def test_room_in_the_ledger_is_looked_at_again_when_it_may_be_gone(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is plenty, not for every upload; else each time."""
    spare = [1 << 40]
    looks: list[int] = []
    seconds = [1000.0]

    async def look(_txn: Transaction, _reserve: Room) -> int:
        looks.append(spare[0])
        return spare[0]

    monkeypatch.setattr(core, "room_left", look)
    monkeypatch.setattr(core, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    async with Place("memory", tmp_path, clock).store() as store:
        require = store.core.require_growth
        await require()
        seconds[0] += 0.09
        await require()
        assert len(looks) == 1
        seconds[0] += 0.02
        spare[0] = 1 << 20
        await require()
        await require()
        assert len(looks) == 3, "little is no reason to be sure"
        spare[0] = -1
        for _ in range(2):
            with pytest.raises(StorageFull):
                await require()
