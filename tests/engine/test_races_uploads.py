"""Races for one upload session, forced step by step, between two who have the store open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from uuid import UUID

import pytest
from support.engine import (
    Hooks,
    Place,
    begin_upload,
    found,
    make_namespace,
    noise,
    once,
    problems_after_sweep,
    read,
    sha256,
    shown,
)
from support.race import gaps

from holdfast.engine import Busy, DigestMismatch, EngineError, NotFound, Repository, Store

GAPS_MAX = 50
FIRST = pytest.mark.parametrize("first", [noise(100), noise(200_000)], ids=shown)
MORE = pytest.mark.parametrize("more", [noise(300, "more"), noise(900_000, "more")], ids=shown)


@pytest.fixture
async def two(place: Place) -> AsyncIterator[tuple[Store, Hooks, Store]]:
    """Two openers of a store, and the hooks of the first."""
    one, hooks = place.gated()
    async with one, place.store() as other:
        await make_namespace(one)
        yield one, hooks, other


async def begun(store: Store, content: bytes) -> tuple[Repository, UUID]:
    """A session with some bytes in it."""
    where, session = await begin_upload(store, content)
    return where, session.id


class Intruder:
    """A call that comes in between, and what it raised."""

    def __init__(self, call: Callable[..., Awaitable[object]], *args: object) -> None:
        self._call = partial(call, *args)
        self.error: EngineError | None = None

    async def __call__(self) -> None:
        try:
            await self._call()
        except EngineError as error:
            self.error = error


async def take_away(store: Store, place: Place, where: Repository, content: bytes) -> None:
    """The blob is whole; without it there is nothing left, and nothing wrong."""
    assert await read(store, sha256(content), repository=where, verify=True) == content
    await store.remove_blob(await found(store, where), sha256(content))
    await clean(store, place)


async def clean(store: Store, place: Place) -> None:
    assert await problems_after_sweep(store, early=True) == []
    assert ((await store.stats()).uploads, await store.blobs(), place.files()) == (0, [], [])


@FIRST
@MORE
async def test_a_finish_with_an_append_in_every_gap(
    place: Place, two: tuple[Store, Hooks, Store], first: bytes, more: bytes
) -> None:
    """Whoever was told that bytes are kept finds them, whatever the finish did."""
    one, hooks, other = two
    for gap in range(GAPS_MAX):
        where, session = await begun(other, first)
        append = Intruder(other.uploads.append, where, session, once(more))
        finish = partial(one.uploads.finish, where, session, sha256(first))
        intruded, error = await gaps(hooks, gap, finish, append)
        content = first
        if intruded and append.error is None:
            if error is None:
                # It came after the last look: the blob is without it, the session goes on.
                assert await read(other, sha256(first), repository=where) == first
                await other.remove_blob(await found(other, where), sha256(first))
            else:
                assert isinstance(error, Busy)
            content += more
            assert (await one.uploads.get(where, session)).offset == len(content)
            await one.uploads.finish(where, session, sha256(content))
        else:
            assert error is None
            assert isinstance(append.error, (Busy, NotFound) if intruded else type(None))
        await take_away(other, place, where, content)
        if not intruded:
            break
    assert 1 <= gap < GAPS_MAX - 1


@FIRST
@MORE
async def test_an_append_with_a_finish_in_every_gap(
    place: Place, two: tuple[Store, Hooks, Store], first: bytes, more: bytes
) -> None:
    one, hooks, other = two
    for gap in range(GAPS_MAX):
        where, session = await begun(other, first)
        finish = Intruder(other.uploads.finish, where, session, sha256(first))
        append = partial(one.uploads.append, where, session, once(more))
        intruded, error = await gaps(hooks, gap, append, finish)
        content = first
        if not intruded or finish.error is not None:
            assert isinstance(finish.error, Busy if intruded else type(None))
            assert error is None
            content += more
            await other.uploads.finish(where, session, sha256(content))
        else:
            assert isinstance(error, NotFound)
        await take_away(other, place, where, content)
        if not intruded:
            break
    assert gap < GAPS_MAX - 1


@FIRST
@MORE
async def test_a_refused_finish_with_an_append_in_every_gap(
    place: Place, two: tuple[Store, Hooks, Store], first: bytes, more: bytes
) -> None:
    """The end of a session for its wrong digest does not take bytes that came meanwhile."""
    one, hooks, other = two
    for gap in range(GAPS_MAX):
        where, session = await begun(other, first)
        append = Intruder(other.uploads.append, where, session, once(more))
        finish = partial(one.uploads.finish, where, session, sha256(first + more))
        intruded, error = await gaps(hooks, gap, finish, append)
        if intruded and append.error is None:
            assert isinstance(error, Busy)
            await one.uploads.finish(where, session, sha256(first + more))
            await take_away(other, place, where, first + more)
        else:
            assert isinstance(error, DigestMismatch)
            with pytest.raises(NotFound):
                await one.uploads.get(where, session)
            await clean(other, place)
        if not intruded:
            break
    assert 1 <= gap < GAPS_MAX - 1


@FIRST
@pytest.mark.parametrize("finishes", [False, True], ids=["append", "finish"])
async def test_either_with_an_abort_in_every_gap(
    place: Place, two: tuple[Store, Hooks, Store], first: bytes, finishes: bool
) -> None:
    one, hooks, other = two
    more = noise(900_000, "more")
    for gap in range(GAPS_MAX):
        where, session = await begun(other, first)
        work: Callable[[], Awaitable[object]] = partial(
            one.uploads.append, where, session, once(more)
        )
        if finishes:
            work = partial(one.uploads.finish, where, session, sha256(first + more), once(more))
        abort = Intruder(other.uploads.abort, where, session)
        intruded, error = await gaps(hooks, gap, work, abort)
        assert isinstance(error, NotFound | None)
        if error is None and finishes:
            # Whoever aborts a session that is a blob already, or nearly, came too late.
            assert isinstance(abort.error, NotFound | None)
            await take_away(other, place, where, first + more)
        elif error is None:
            assert not intruded
            await other.uploads.abort(where, session)
        else:
            assert intruded
            assert abort.error is None
        await clean(other, place)
        if not intruded:
            break
    assert gap < GAPS_MAX - 1
