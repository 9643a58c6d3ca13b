"""Opening a store: the example for embedders, several openers, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
import uvloop
from support.copies import here
from support.depot import descriptors, descriptors_before
from support.engine import (
    REGION,
    Clock,
    Place,
    make_namespace,
    noise,
    once,
    problems,
    push,
    raised,
    read,
    sha256,
)

from holdfast.engine import (
    Closed,
    Corrupt,
    Invalid,
    NotAStore,
    NotFound,
    StorageFailed,
    Store,
    StoreConfig,
    Unusable,
    check_directory,
)
from holdfast.engine.check import child_process


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_all_of_it_under_uvloop(tmp_path: Path, kind: str) -> None:
    place = Place(kind, tmp_path, Clock())

    async def story() -> None:
        async with place.store(background=True) as store:
            space = await make_namespace(store)
            done = await push(store, "app/web", "v1", [noise(1000), noise(2_000_000)])
            where = await store.locate(REGION, "app/web")
            assert (await store.manifests.get(where, "v1")).digest == done.digest
            assert len(await read(store, sha256(noise(2_000_000)), repository=where)) == 2_000_000
            await store.namespaces.delete(space.id)
            await store.sweeper.run(early=True)
            assert await store.blobs() == []
            assert await problems(store) == []

    uvloop.run(story())


async def test_several_openers_see_each_other_at_once(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        space = await make_namespace(one)
        assert await other.namespaces.find(REGION, "app") == space
        done = await push(other, "app/web", "v1", [noise(100_000)])
        assert (await one.images.get(done.image_id)).tags == ("v1",)
        await one.close()
        await other.namespaces.delete(space.id)
    async with place.store() as store:
        with pytest.raises(NotFound):
            await store.namespaces.get(space.id)


async def test_many_openers_write_at_once(place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(place.store()) for _ in range(4)]
        await make_namespace(stores[0])
        pushes = [
            push(store, f"app/i{number}", "v1", [noise(40_000, number), noise(1000, repeat)])
            for repeat in range(3)
            for number, store in enumerate(stores)
        ]
        await asyncio.gather(*pushes)
        assert [w.full_name for w in (await stores[0].repositories(REGION))[0]] == [
            f"app/i{number}" for number in range(4)
        ]
        assert await problems(stores[-1]) == []


async def test_a_store_can_be_entered_again(place: Place) -> None:
    store = place.store()
    for _ in range(2):
        async with store:
            await store.put(b"hello")
        await store.close()
    with pytest.raises(Closed):
        await store.stats()


async def test_a_memory_store_is_gone_when_it_is_closed() -> None:
    async with Store.memory() as store:
        await store.put(b"hello")
        assert len(await store.blobs()) == 1
    async with Store.memory() as store:
        assert await store.blobs() == []


def names(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()]


async def test_where_there_is_no_store(tmp_path: Path) -> None:
    with raised(NotAStore, path=str(tmp_path / "none")):
        await Store.open(tmp_path / "none", create=False).start()
    with pytest.raises(NotAStore):
        await Store.open(tmp_path, create=False).start()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(NotAStore):
            await Store.open(path).start()
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("beside", ["lost+found", ".hidden"])
async def test_what_a_new_disk_brings_is_in_nobodys_way(tmp_path: Path, beside: str) -> None:
    """A file system's own directory, and what is hidden; they are left as they are."""
    (tmp_path / beside).mkdir()
    (tmp_path / beside / "inside").write_bytes(b"mine")
    with pytest.raises(NotAStore):
        await Store.open(tmp_path, create=False).start()
    assert names(tmp_path) == [beside]
    for _ in range(2):
        async with Store.open(tmp_path) as store:
            await store.put(b"hello")
    assert (tmp_path / beside / "inside").read_bytes() == b"mine"
    assert sorted(names(tmp_path)) == sorted(
        ["FORMAT", "files", "ledger", "run", "scratch", beside]
    )


@pytest.mark.parametrize("left", [0, 5000, 0.5])
async def test_a_ledger_that_was_cut_off(tmp_path: Path, left: float) -> None:
    data = tmp_path / "data"
    async with Store.open(data) as store:
        for number in range(20):
            await store.put(noise(10_000, number))
    ledger = data / "ledger" / "data.mdb"
    os.truncate(ledger, int(left * ledger.stat().st_size) if left < 1 else int(left))
    before = descriptors_before()
    with pytest.raises(Corrupt, match=r"ledger/data\.mdb .*`holdfast restore`") as damaged:
        await Store.open(data).start()
    assert (damaged.value.kind, damaged.value.name) == ("file", "ledger/data.mdb")
    assert descriptors() == before


@pytest.mark.parametrize(
    "mark", [b"holdfast 4\n", b"holdfast 1\n", b"holdfast\n", b"", b"\xff", b"other 1\n"]
)
async def test_a_directory_of_another_version(tmp_path: Path, mark: bytes) -> None:
    async with Store.open(tmp_path / "data") as store:
        await store.put(b"hello")
    (tmp_path / "data" / "FORMAT").write_bytes(mark)
    with pytest.raises(NotAStore) as wrong:
        await Store.open(tmp_path / "data").start()
    assert str(tmp_path / "data") in str(wrong.value)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["ledger/data.mdb", "ledger", "files"])
async def test_a_part_that_is_missing_is_not_made_anew(tmp_path: Path, lost: str) -> None:
    """An empty store in its place would take the ids, and then the files, of what is there."""
    data = tmp_path / "data"
    async with Store.open(data) as store:
        await store.put(noise(100_000))
    gone = data / lost
    gone.rename(tmp_path / "aside")
    left = sorted(data.rglob("*"))
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"missing.*holdfast restore") as damaged:
            await Store.open(data).start()
        assert damaged.value.name == ("files" if lost == "files" else "ledger/data.mdb")
        assert [problem.kind async for problem in check_directory(data)] == ["ledger"]
    assert sorted(data.rglob("*")) == left
    (tmp_path / "aside").rename(gone)
    async with Store.open(data) as store:
        assert await read(store, sha256(noise(100_000))) == noise(100_000)


async def test_files_without_a_ledger_are_no_new_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Store.open(data) as store:
        await store.put(noise(100_000))
    (data / "FORMAT").unlink()
    (data / "ledger" / "data.mdb").unlink()
    with pytest.raises(Corrupt):
        await Store.open(data).start()
    assert not (data / "FORMAT").exists()


async def test_a_directory_that_was_half_made_is_made(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Store.open(data):
        pass
    (data / "FORMAT").unlink()
    async with Store.open(data) as store:
        await store.put(b"hello")
    (data / "FORMAT").unlink()
    for part in ("ledger", "files"):
        for path in (data / part).iterdir():
            path.unlink()
        (data / part).rmdir()
    async with Store.open(data) as store:
        assert await store.blobs() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ("FORMAT", NotAStore, "FORMAT is not a file"),
        ("files", Corrupt, "files is damaged: it is not a directory; .*`holdfast restore`"),
        ("ledger", Corrupt, r"ledger/data\.mdb is damaged: it is missing; .*`holdfast restore`"),
        (
            "ledger/data.mdb",
            Corrupt,
            r"data\.mdb is damaged: it is not a file; .*`holdfast restore`",
        ),
        ("ledger/lock.mdb", StorageFailed, r"data/ledger/lock\.mdb: it is not a file: remove it"),
        ("run", StorageFailed, "data/run: it is not a directory: remove it"),
        ("scratch", StorageFailed, "data/scratch: it is not a directory: remove it"),
    ],
)
async def test_an_opening_that_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, kind: type[Unusable], said: str
) -> None:
    """A file in the place of a directory, or a directory in that of a file."""
    monkeypatch.setattr(child_process, "messages", here)
    data = tmp_path / "data"
    async with Store.open(data):
        pass
    was_file = (data / wrong).is_file()
    (data / wrong).rename(tmp_path / "aside")
    if was_file:
        (data / wrong).mkdir()
    else:
        (data / wrong).write_bytes(b"a file")
    before = descriptors_before()
    for _ in range(3):
        with pytest.raises(kind, match=said):
            await Store.open(data).start()
    try:
        checked = [str(problem) async for problem in check_directory(data)]
    except Unusable as error:
        checked = [str(error)]
    assert len(checked) == 1
    assert Path(wrong).name in checked[0]
    assert descriptors() == before
    if was_file:
        (data / wrong).rmdir()
    else:
        (data / wrong).unlink()
    (tmp_path / "aside").rename(data / wrong)
    async with Store.open(data) as store:
        await store.put(b"hello")
    assert list((data / "run").glob("*.lock")) == []


def test_the_path_is_not_touched_before_it_is_entered(tmp_path: Path) -> None:
    Store.open(tmp_path / "data")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("inline_bytes", 60 * 1024 + 1),
        ("hold_seconds", -1),
        ("trash_seconds", 1e12),
        ("threads", 0),
        ("map_bytes", 1),
        ("manifest_bytes_max", 0),
    ],
)
def test_limits_out_of_bounds(argument: str, value: float) -> None:
    with raised(Invalid, argument=argument):
        StoreConfig(**{argument: value})  # type: ignore[arg-type]  # wrong


async def test_openers_may_have_other_inline_limits(place: Place) -> None:
    data = noise(1000)
    async with place.store(inline_bytes=2000) as wide, place.store(inline_bytes=10) as narrow:
        await wide.put(data)
        assert place.files() == []
        await narrow.put(data, root="b")
        assert await read(narrow, sha256(data)) == data
        await make_namespace(wide)
        where = await wide.locate(REGION, "app/web")
        session = await wide.uploads.begin(where)
        where = await wide.locate(REGION, "app/web")
        other = noise(1500)
        await wide.uploads.append(where, session.id, once(other))
        await narrow.uploads.finish(where, session.id, sha256(other))
        assert place.files() == [1500]
        assert await read(wide, sha256(other), repository=where) == other
