"""Upload sessions: what they keep, what they refuse, what they survive."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support import engine_fixtures
from support.engine import (
    REGION,
    Clock,
    Place,
    Vanished,
    begin_upload,
    make_namespace,
    noise,
    once,
    pieces_that_are_none,
    problems,
    raised,
    read,
    sha256,
    sha512,
    shown,
    vanishing,
)

from holdfast.engine import (
    Busy,
    DigestMismatch,
    Invalid,
    NotFound,
    OffsetMismatch,
    SizeMismatch,
    StorageFailed,
    StorageFull,
    Store,
)
from holdfast.engine.depot import disk_file
from holdfast.engine.uploads import publish

store = engine_fixtures.namespace_store

SMALL, MIDDLE, BIG = noise(100), noise(200_000), noise(2_000_000)
DAY = 24 * 3600.0


@pytest.mark.parametrize("data", [b"", SMALL, MIDDLE, BIG], ids=shown)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_in_pieces(store: Store, place: Place, data: bytes, algorithm: str) -> None:
    where, upload = await begin_upload(store, algorithm=algorithm)
    assert upload.offset == 0
    third = len(data) // 3
    for start, stop in ((0, third), (third, 2 * third)):
        view = await store.uploads.append(where, upload.id, once(data[start:stop]), offset=start)
        assert view.offset == stop
        assert await store.uploads.get(where, upload.id) == view
    digest = sha256(data) if algorithm == "sha256" else sha512(data)
    blob = await store.uploads.finish(where, upload.id, digest, once(data[2 * third :]))
    assert (str(blob.digest), blob.size) == (digest, len(data))
    assert await read(store, digest, repository=where) == data
    assert await read(store, sha256(data), repository=where) == data
    with pytest.raises(NotFound):
        await store.uploads.get(where, upload.id)
    assert len(place.files()) == (len(data) > 32 * 1024)


@pytest.mark.parametrize("data", [b"", SMALL, BIG], ids=shown)
async def test_in_one_request(store: Store, data: bytes) -> None:
    where = await store.locate(REGION, "app/web")
    blob = await store.uploads.put(where, sha512(data), once(data), length=len(data))
    assert (str(blob.digest), blob.size) == (sha512(data), len(data))
    where = await store.locate(REGION, "app/web")
    assert await read(store, sha256(data), repository=where) == data


async def test_a_digest_of_another_algorithm_than_announced(store: Store) -> None:
    where, upload = await begin_upload(store, BIG)
    blob = await store.uploads.finish(where, upload.id, sha512(BIG))
    assert str(blob.digest) == sha512(BIG)


@pytest.mark.parametrize("data", [SMALL, BIG], ids=shown)
async def test_a_wrong_digest_ends_the_session(store: Store, place: Place, data: bytes) -> None:
    where, upload = await begin_upload(store, data)
    with raised(DigestMismatch, expected=sha256(b"other"), actual=sha256(data)):
        await store.uploads.finish(where, upload.id, sha256(b"other"))
    with pytest.raises(NotFound):
        await store.uploads.get(where, upload.id)
    with pytest.raises(DigestMismatch):
        await store.uploads.put(where, sha256(b"other"), once(data))
    await store.sweeper.run()
    assert (await store.stats()).blobs == 0
    assert (await store.stats()).uploads == 0
    assert place.files() == []


@pytest.mark.parametrize("first", [SMALL, BIG], ids=shown)
async def test_a_wrong_offset_keeps_the_session(store: Store, first: bytes) -> None:
    where, upload = await begin_upload(store, first)
    for offset in (0, len(first) - 1, len(first) + 1):
        with raised(OffsetMismatch, offset=len(first), asked=offset):
            await store.uploads.append(where, upload.id, once(b"more"), offset=offset)
        finish = store.uploads.finish(where, upload.id, sha256(first), once(b""), offset=offset)
        with pytest.raises(OffsetMismatch):
            await finish
    more = once(b"more")
    await store.uploads.finish(where, upload.id, sha256(first + b"more"), more, offset=len(first))
    assert await read(store, sha256(first + b"more"), repository=where) == first + b"more"


@pytest.mark.parametrize("first", [b"", SMALL, BIG], ids=shown)
@pytest.mark.parametrize(
    ("sent", "announced"), [(BIG, len(BIG) + 1), (BIG, len(BIG) - 1), (SMALL, 1)], ids=shown
)
async def test_a_body_of_another_length_is_undone(
    store: Store, first: bytes, sent: bytes, announced: int
) -> None:
    where, upload = await begin_upload(store, first)
    with raised(SizeMismatch, expected=announced):
        await store.uploads.append(where, upload.id, once(sent), length=announced)
    assert (await store.uploads.get(where, upload.id)).offset == len(first)
    await store.uploads.append(where, upload.id, once(SMALL))
    blob = await store.uploads.finish(where, upload.id, sha256(first + SMALL))
    assert blob.size == len(first + SMALL)
    with pytest.raises(SizeMismatch):
        await store.uploads.put(where, sha256(sent), once(sent), length=announced)


@pytest.mark.parametrize("came", [SMALL, BIG], ids=shown)
async def test_what_came_from_a_client_that_vanished_is_kept(store: Store, came: bytes) -> None:
    where, upload = await begin_upload(store)
    with pytest.raises(Vanished):
        await store.uploads.append(where, upload.id, vanishing(came, SMALL))
    view = await store.uploads.get(where, upload.id)
    assert view.offset == len(came + SMALL)
    data = came + SMALL + MIDDLE
    await store.uploads.finish(where, upload.id, sha256(data), once(MIDDLE), offset=view.offset)
    assert await read(store, sha256(data), repository=where) == data


@pytest.mark.parametrize("first", [b"", SMALL, BIG], ids=shown)
@pytest.mark.parametrize("came", [SMALL, MIDDLE, BIG], ids=shown)
async def test_a_finish_that_broke_off_takes_back_what_it_brought(
    place: Place, first: bytes, came: bytes
) -> None:
    """It may be sent again, to whichever process, until it comes whole."""
    async with place.store() as one, place.store() as two:
        await make_namespace(one)
        where, upload = await begin_upload(one, first)
        data = first + came + MIDDLE
        for store in (one, one, two, one):
            with pytest.raises(Vanished):
                await store.uploads.finish(where, upload.id, sha256(data), vanishing(came, SMALL))
            for opener in (one, two):
                assert (await opener.uploads.get(where, upload.id)).offset == len(first)
        assert sum(place.files()) == (len(first) if len(first) > len(SMALL) else 0)
        await two.uploads.finish(where, upload.id, sha256(data), once(came, MIDDLE))
        assert await read(one, sha256(data), repository=where, verify=True) == data
        assert await problems(one) == []


@pytest.mark.parametrize("first", [SMALL, BIG], ids=shown)
async def test_what_comes_after_a_finish_that_broke_off_counts(store: Store, first: bytes) -> None:
    where, upload = await begin_upload(store, first)
    for number in range(3):
        with pytest.raises(Vanished):
            await store.uploads.finish(where, upload.id, sha256(BIG), vanishing(BIG))
        with pytest.raises(Vanished):
            await store.uploads.append(where, upload.id, vanishing(MIDDLE))
        first += MIDDLE
        assert (await store.uploads.get(where, upload.id)).offset == len(first), number
    await store.uploads.finish(where, upload.id, sha256(first))
    assert await read(store, sha256(first), repository=where) == first


@pytest.mark.parametrize("first", [b"", SMALL, BIG], ids=shown)
@pytest.mark.parametrize("more", [SMALL, BIG], ids=shown)
async def test_a_finish_that_could_not_commit_may_be_sent_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, first: bytes, more: bytes
) -> None:
    """All of it came, and no blob came of it."""
    where, upload = await begin_upload(store, first)

    async def refuse(*_: object, **__: object) -> None:
        raise StorageFull("ledger")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(publish, "deliver", refuse)
            with pytest.raises(StorageFull):
                await store.uploads.finish(where, upload.id, sha256(first + more), once(more))
        assert (await store.uploads.get(where, upload.id)).offset == len(first)
    await store.uploads.finish(where, upload.id, sha256(first + more), once(more))
    assert await read(store, sha256(first + more), repository=where) == first + more


@pytest.mark.parametrize("first", [b"", SMALL, BIG], ids=shown)
async def test_a_cancelled_finish_takes_back_what_it_brought(store: Store, first: bytes) -> None:
    where, upload = await begin_upload(store, first)
    taken = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BIG
        taken.set()
        await asyncio.Event().wait()

    finish = asyncio.create_task(
        store.uploads.finish(where, upload.id, sha256(first + BIG), endless())
    )
    await taken.wait()
    assert (await store.uploads.get(where, upload.id)).offset == len(first), "while it runs"
    finish.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish
    assert (await store.uploads.get(where, upload.id)).offset == len(first)
    await store.uploads.finish(where, upload.id, sha256(first + BIG), once(BIG))
    assert await read(store, sha256(first + BIG), repository=where) == first + BIG


@pytest.mark.parametrize("data", [b"", SMALL, BIG], ids=shown)
async def test_a_finish_whose_answer_was_lost(place: Place, clock: Clock, data: bytes) -> None:
    """It says again what came of it, for as long as the image is sure to have that."""
    async with place.store() as store, place.store() as other:
        await make_namespace(store)
        where, upload = await begin_upload(store, data[:50])
        await store.uploads.finish(where, upload.id, sha256(data), once(data[50:]))
        taken = 0

        async def again() -> AsyncIterator[bytes]:
            nonlocal taken
            for start in range(50, len(data), 100_000):
                taken += 1
                yield data[start : start + 100_000]

        for opener in (store, other):
            blob = await opener.uploads.finish(where, upload.id, sha256(data), again())
            assert (str(blob.digest), blob.size) == (sha256(data), len(data))
            assert (await opener.uploads.finish(where, upload.id, sha256(data))).size == len(data)
        assert taken == 2 * len(range(50, len(data), 100_000)), "the client comes to its answer"
        elsewhere = await store.locate(REGION, "app/other")
        for place_of, digest in ((where, sha256(b"x")), (elsewhere, sha256(data))):
            with raised(NotFound, kind="upload"):
                await store.uploads.finish(place_of, upload.id, digest, once(b"x"))
        clock.advance(0.6 * DAY)
        with pytest.raises(NotFound):
            await store.uploads.finish(where, upload.id, sha256(data))


async def test_pieces_that_are_no_bytes(store: Store, place: Place) -> None:
    """What came before them is kept in a session, as that of any source that fails."""
    where, upload = await begin_upload(store)
    came = b""
    for pieces, reason in pieces_that_are_none():
        with pytest.raises(Invalid, match=reason) as wrong:
            await store.uploads.append(where, upload.id, once(*pieces), offset=len(came))
        assert wrong.value.argument == "source"
        came += b"".join(pieces[:-1])
        assert (await store.uploads.get(where, upload.id)).offset == len(came)
        with pytest.raises(Invalid, match=reason):
            await store.uploads.put(where, sha256(came), once(*pieces))
    with pytest.raises(Invalid, match="must yield bytes, not str"):
        await store.uploads.finish(where, upload.id, sha256(came), once("text"))  # type: ignore[arg-type]  # what is refused
    await store.uploads.finish(where, upload.id, sha256(came))
    assert await read(store, sha256(came), repository=where) == came
    assert place.files() == [len(came)]
    assert await problems(store) == []


@pytest.mark.parametrize("source", [b"bytes", "text", 5, [b"bytes"], io.BytesIO(b"bytes")])
async def test_what_is_no_stream(store: Store, place: Place, source: Any) -> None:
    where, upload = await begin_upload(store, SMALL)
    for call in (
        store.uploads.append(where, upload.id, source),
        store.uploads.finish(where, upload.id, sha256(SMALL), source),
        store.uploads.put(where, sha256(SMALL), source),
    ):
        with pytest.raises(Invalid, match=f"not {type(source).__name__}") as wrong:
            await call
        assert wrong.value.argument == "source"
    assert (await store.uploads.get(where, upload.id)).offset == len(SMALL)
    assert (await store.stats()).uploads == 1
    await store.uploads.finish(where, upload.id, sha256(SMALL))
    assert (await store.stats()).uploads == 0
    assert place.files() == []


async def test_a_one_request_upload_that_breaks_off_leaves_nothing(
    store: Store, place: Place
) -> None:
    where = await store.locate(REGION, "app/web")
    with pytest.raises(Vanished):
        await store.uploads.put(where, sha256(BIG), vanishing(BIG))
    await store.sweeper.run()
    assert place.files() == []


@pytest.mark.parametrize("first", [SMALL, BIG], ids=shown)
async def test_concurrent_appends_are_refused_not_mixed(store: Store, first: bytes) -> None:
    where, upload = await begin_upload(store, first)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        started.set()
        yield MIDDLE
        await go_on.wait()

    append = asyncio.create_task(store.uploads.append(where, upload.id, slow()))
    await started.wait()
    for call in (
        store.uploads.append(where, upload.id, once(b"mixed")),
        store.uploads.finish(where, upload.id, sha256(first)),
    ):
        with raised(Busy, kind="upload", name=str(upload.id)):
            await call
    go_on.set()
    assert (await append).offset == len(first + MIDDLE)
    await store.uploads.finish(where, upload.id, sha256(first + MIDDLE))


@pytest.mark.parametrize("first", [SMALL, BIG], ids=shown)
async def test_appends_of_two_openers_are_refused_not_mixed(place: Place, first: bytes) -> None:
    async with place.store() as one, place.store() as other:
        await make_namespace(one)
        where, upload = await begin_upload(one, first)
        started, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            started.set()
            yield SMALL
            await go_on.wait()

        append = asyncio.create_task(one.uploads.append(where, upload.id, slow()))
        await started.wait()
        if len(first) > len(SMALL):
            with pytest.raises(Busy):
                await other.uploads.append(where, upload.id, once(b"mixed"))
            go_on.set()
            await append
            data = first + SMALL
        else:
            # Small ones lie in the ledger: whoever is done first wins.
            await other.uploads.append(where, upload.id, once(b"other"))
            go_on.set()
            with pytest.raises(Busy):
                await append
            data = first + b"other"
        await other.uploads.finish(where, upload.id, sha256(data))
        assert await read(one, sha256(data), repository=where) == data


@pytest.mark.parametrize("first", [SMALL, BIG], ids=shown)
@pytest.mark.parametrize("second", [SMALL, BIG], ids=shown)
async def test_sessions_survive_a_restart(place: Place, first: bytes, second: bytes) -> None:
    async with place.store() as store:
        await make_namespace(store)
        where, upload = await begin_upload(store, first)
    async with place.store() as store:
        assert (await store.uploads.get(where, upload.id)).offset == len(first)
        await store.sweeper.run()
        await store.uploads.append(where, upload.id, once(second), offset=len(first))
    async with place.store() as store:
        await store.uploads.finish(where, upload.id, sha256(first + second))
        assert await read(store, sha256(first + second), repository=where) == first + second


async def test_sessions_do_not_survive_the_machine(place: Place) -> None:
    """Of their bytes nothing would be certain. What was finished is there."""
    async with place.store() as store:
        await make_namespace(store)
        where, upload = await begin_upload(store)
        _, small = await begin_upload(store)
        _, done = await begin_upload(store)
        await store.uploads.append(where, upload.id, once(BIG))
        await store.uploads.append(where, small.id, once(SMALL))
        await store.uploads.finish(where, done.id, sha256(MIDDLE), once(MIDDLE))
    place.restart_machine()
    async with place.store() as store:
        for session_id in (upload.id, small.id, done.id):
            with pytest.raises(NotFound):
                await store.uploads.get(where, session_id)
        await store.sweeper.run()
        assert (await store.stats()).uploads == 0
        assert place.files() == [len(MIDDLE)]
        assert await read(store, sha256(MIDDLE), repository=where, verify=True) == MIDDLE
        assert await problems(store) == []


@pytest.mark.parametrize("content", [b"", b"no ledger" * 1000], ids=["empty", "strange"])
async def test_damaged_sessions_are_forgotten(tmp_path: Path, content: bytes) -> None:
    place = Place("disk", tmp_path, Clock())
    async with place.store() as store:
        await make_namespace(store)
        where, upload = await begin_upload(store, BIG)
    (ledger,) = (tmp_path / "data" / "scratch").glob("*/data.mdb")
    ledger.write_bytes(content)
    async with place.store() as store:
        with pytest.raises(NotFound):
            await store.uploads.get(where, upload.id)
        where, again = await begin_upload(store)
        await store.uploads.finish(where, again.id, sha256(SMALL), once(SMALL))
        await store.sweeper.run()
        assert (place.files(), await problems(store)) == ([], [])


async def test_abort(store: Store, place: Place) -> None:
    where, upload = await begin_upload(store, BIG)
    await store.uploads.abort(where, upload.id)
    assert place.files() == []
    for call in (
        store.uploads.abort(where, upload.id),
        store.uploads.get(where, upload.id),
        store.uploads.append(where, upload.id, once(b"")),
        store.uploads.finish(where, upload.id, sha256(BIG)),
    ):
        with raised(NotFound, kind="upload", name=str(upload.id)):
            await call


async def test_a_session_belongs_to_its_image(store: Store) -> None:
    _, upload = await begin_upload(store)
    await begin_upload(store)
    other = await store.locate(REGION, "app/other")
    await store.uploads.begin(other)
    other = await store.locate(REGION, "app/other")
    for where in (other, await store.locate(REGION, "app/none")):
        with pytest.raises(NotFound):
            await store.uploads.get(where, upload.id)
        with pytest.raises(NotFound):
            await store.uploads.append(where, upload.id, once(SMALL))
    with pytest.raises(NotFound):
        await store.uploads.get(other, uuid4())


async def test_equal_uploads_share_one_file(store: Store, place: Place) -> None:
    await make_namespace(store, "other")
    for name in ("app/web", "other/web", "other/more"):
        where = await store.locate(REGION, name)
        await store.uploads.put(where, sha256(BIG), once(BIG))
        where = await store.locate(REGION, name)
        assert await read(store, sha256(BIG), repository=where) == BIG
    where, upload = await begin_upload(store, BIG)
    await store.uploads.finish(where, upload.id, sha256(BIG))
    assert place.files() == [len(BIG)]


async def test_an_upload_heals_a_damaged_copy(store: Store, place: Place) -> None:
    where, upload = await begin_upload(store)
    await store.uploads.put(where, sha256(BIG), once(BIG))
    place.damage(len(BIG))
    await store.uploads.append(where, upload.id, once(BIG))
    await store.uploads.finish(where, upload.id, sha256(BIG))
    assert await read(store, sha256(BIG), repository=where, verify=True) == BIG
    await store.sweeper.run()
    assert place.files() == [len(BIG)]


async def test_a_cancelled_append_keeps_what_came(store: Store) -> None:
    where, upload = await begin_upload(store)
    taken = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield MIDDLE
        taken.set()
        await asyncio.Event().wait()

    append = asyncio.create_task(store.uploads.append(where, upload.id, endless()))
    await taken.wait()
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    assert (await store.uploads.get(where, upload.id)).offset == len(MIDDLE)
    await store.uploads.finish(where, upload.id, sha256(MIDDLE))


@pytest.mark.parametrize("append", [False, True], ids=["finish", "append"])
async def test_a_session_ends_when_its_file_cannot_be_synced(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, append: bool
) -> None:
    """The bytes may be lost, and the kernel says so only once: they are never acknowledged."""
    place = Place("disk", tmp_path, clock)
    monkeypatch.setattr("holdfast.engine.blobs.writer.WRITE_BACK_BYTES", 600_000)
    async with place.store() as store, place.store() as other:
        await make_namespace(store)
        where, upload = await begin_upload(store, MIDDLE)

        def refuse(_fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        call: Callable[[], Awaitable[object]]
        call = partial(store.uploads.finish, where, upload.id, sha256(MIDDLE))
        if append:
            call = partial(store.uploads.append, where, upload.id, once(*[MIDDLE] * 10))
        with monkeypatch.context() as patched:
            patched.setattr(disk_file, "_sync_data", refuse)
            with pytest.raises(StorageFailed):
                await call()
        for opener in (store, other):
            with pytest.raises(NotFound):
                await opener.uploads.finish(where, upload.id, sha256(MIDDLE))
        assert (await store.stats()).uploads == 0
        assert place.files() == []
        assert await problems(store) == []
