"""Every single call of depot and ledger fails once, in every operation of a store.

Or the caller is cancelled in that call, which goes on. Whatever happens, and whether the process
goes on or dies: what was acknowledged is there in full, the operation happened or did not, the
checker finds nothing, no file is left over, and doing it again succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pytest
from support.engine import REGION, make_namespace, manifest, noise, once, push, read, sha256, upload
from support.faults import Countdown, Death, FailingDepot, FailingLedger, Interruption
from support.seams import Seams, Sight, check, last_in_line, recompress, see, swift

from holdfast.engine import OCI_MANIFEST, Locked, NotFound, Repository, StorageFailed, Store, Upload

pytestmark = pytest.mark.slow

Known = dict[str, Any]
"""What the client knows: survives the fault, as a client does."""
Step = Callable[[Store, Known], Awaitable[None]]
"""One acknowledged call, made as by a client that may have made it before without an answer."""
Fault = Literal[
    "depot", "ledger", "acknowledgement", "cancelled depot", "cancelled ledger", "death"
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
"""A call of the depot fails; one of the ledger does, before it does anything, or after; the
caller is cancelled in one; the process dies before one."""

DEPOT: Final = ("depot", "cancelled depot", "death")
LEDGER: Final = ("ledger", "acknowledgement", "cancelled ledger", "death")

SMALL, MIDDLE, LARGE = noise(1000, "s"), noise(60_000, "m"), noise(1_300_000, "l")
"""Kept in the ledger; written to a file at the end; written to one in batches on the way."""
TEXT: Final = b"the same words, again and again; " * 5000
DAYS: Final = 10 * 24 * 3600.0


@dataclass(frozen=True)
class Scenario:
    """What is there before, and then one step after the other, each of which may fail."""

    prepare: Callable[[Seams, Store, Known], Awaitable[None]]
    steps: tuple[Step, ...]
    damaged: bool = False
    """Whether it begins with damage, which the checker sees until it is healed."""
    sweeps: bool = False
    """Whether it may stop half way through the trash."""


async def an_image(seams: Seams, store: Store, known: Known) -> None:
    known["namespace"] = (await make_namespace(store)).id
    await make_namespace(store, "other")
    await push(store, "app/web", "v1", [MIDDLE, SMALL])
    await push(store, "other/web", "v1", [SMALL])
    known["image"] = (await store.locate(REGION, "app/web")).image_id
    known["tag"] = (await store.tags.list(known["image"])).items[0].id


def appended(name: str, content: bytes, until: int) -> Step:
    """Go on with an upload session from wherever it stands, to ``until`` bytes."""

    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        upload = await standing(store, where, known, name)
        assert upload.offset <= until
        rest = content[upload.offset : until]
        done = await store.uploads.append(where, upload.id, pieces(rest), offset=upload.offset)
        assert done.offset == until

    return step


async def standing(store: Store, where: Repository, known: Known, name: str) -> Upload:
    """The session as it stands; a new one only where the disk lost its file."""
    try:
        return await store.uploads.get(where, known[name])
    except NotFound:
        if not known.get("lost"):
            raise
    known[name] = (await store.uploads.begin(where)).id
    return await store.uploads.get(where, known[name])


def begun(name: str) -> Step:
    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        known[name] = (await store.uploads.begin(where)).id

    return step


def ended_at(name: str, content: bytes, start: int) -> Step:
    """End a session that has ``start`` bytes with one request, which is the same each time."""

    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        rest, digest = pieces(content[start:]), sha256(content)
        try:
            await store.uploads.finish(where, known[name], digest, rest, offset=start)
        except NotFound:
            if not known.get("lost"):
                raise
            await store.uploads.put(where, digest, pieces(content))

    return step


def finished(name: str, content: bytes) -> Step:
    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        try:
            upload = await store.uploads.get(where, known[name])
        except NotFound:
            if await store.exists([sha256(content)], repository=where):
                return
            upload = await standing(store, where, known, name)
        rest = pieces(content[upload.offset :])
        await store.uploads.finish(where, upload.id, sha256(content), rest, offset=upload.offset)

    return step


def aborted(name: str) -> Step:
    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        try:
            await store.uploads.abort(where, known[name])
        except NotFound:
            await gone(store.uploads.get(where, known[name]))

    return step


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    """As they come over a network: several in a batch."""
    for start in range(0, len(content), 200_000):
        yield content[start : start + 200_000]


async def gone(look: Awaitable[object]) -> None:
    with pytest.raises(NotFound):
        await look


def at_once(content: bytes) -> Step:
    async def step(store: Store, known: Known) -> None:
        await upload(store, await store.locate(REGION, "app/web"), content)

    return step


def manifested(tag: str, *layers: bytes, **more: Any) -> Step:
    async def step(store: Store, known: Known) -> None:
        where = await store.locate(REGION, "app/web")
        body = manifest(b"{}", layers, **more)
        await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=tag)

    return step


def kept(content: bytes) -> Step:
    async def step(store: Store, known: Known) -> None:
        assert (await store.put(once(content), root="mine")).size == len(content)

    return step


async def unrooted(store: Store, known: Known) -> None:
    try:
        await store.delete(sha256(LARGE), root="mine")
    except NotFound:
        assert "mine" in await store.roots()


async def two_roots(seams: Seams, store: Store, known: Known) -> None:
    await store.put(LARGE, root="mine")
    await store.put(SMALL, root="yours")


async def tag_deleted(store: Store, known: Known) -> None:
    try:
        await store.tags.delete(known["tag"])
    except NotFound:
        await gone(store.tags.get(known["tag"]))


async def image_deleted(store: Store, known: Known) -> None:
    try:
        await store.images.delete(known["image"])
    except NotFound:
        await gone(store.images.get(known["image"]))


async def namespace_deleted(store: Store, known: Known) -> None:
    try:
        await store.namespaces.delete(known["namespace"])
    except NotFound:
        await gone(store.namespaces.get(known["namespace"]))


async def restored(store: Store, known: Known) -> None:
    try:
        await store.trash.restore(known["tag"])
    except NotFound:
        await store.tags.get(known["tag"])


async def a_deleted_tag(seams: Seams, store: Store, known: Known) -> None:
    await an_image(seams, store, known)
    await store.tags.delete(known["tag"])


async def purged(store: Store, known: Known) -> None:
    """What a purge that failed has left is the sweep's, or ends by itself."""
    with contextlib.suppress(NotFound):
        await store.trash.purge(known["tag"])
    await gone(store.trash.get(known["tag"]))


async def an_upload_left_behind(seams: Seams, store: Store, known: Known) -> None:
    await an_image(seams, store, known)
    where = await store.locate(REGION, "app/web")
    known["left"] = (await store.uploads.begin(where)).id
    await store.uploads.append(where, known["left"], once(LARGE))


async def holds_left_behind(seams: Seams, store: Store, known: Known) -> None:
    await an_image(seams, store, known)
    for name in ("app/web", "app/draft"):
        await upload(store, await store.locate(REGION, name), noise(70_000), name.encode())


async def released(store: Store, known: Known) -> None:
    await store.holds.release(known["namespace"])


async def dismissed(store: Store, known: Known) -> None:
    with contextlib.suppress(NotFound):
        await store.uploads.dismiss(known["namespace"], known["left"])
    assert (await store.uploads.list(known["namespace"]))[2] == 0


async def a_locked_namespace(seams: Seams, store: Store, known: Known) -> None:
    await an_image(seams, store, known)
    await store.namespaces.update(known["namespace"], locked=True)


async def refused(store: Store, known: Known) -> None:
    """The file is durable by the time it turns out that nobody wants it."""
    where = await store.locate(REGION, "app/web")
    with pytest.raises(Locked):
        await upload(store, where, noise(62_000))
    with pytest.raises(Locked):
        await upload(store, where, noise(600_000))


async def much_garbage(seams: Seams, store: Store, known: Known) -> None:
    await an_image(seams, store, known)
    third = await make_namespace(store, "third")
    await push(store, "third/a", "v1", [LARGE, MIDDLE])
    await push(store, "third/b", "v1", [noise(70_000)])
    await push(store, "app/gone", "v1", [noise(80_000), SMALL])
    await upload(store, await store.locate(REGION, "app/web"), noise(90_000))
    where = await store.locate(REGION, "app/web")
    session = await store.uploads.begin(where)
    await store.uploads.append(where, session.id, once(LARGE))
    await store.put(noise(100_000), root="mine")
    await store.delete(sha256(noise(100_000)), root="mine")
    await push(store, "app/web", "v2", [noise(110_000)])
    image_id = (await store.locate(REGION, "app/web")).image_id
    assert image_id is not None
    for tag in (await store.tags.list(image_id)).items:
        if tag.name == "v2":
            await store.tags.delete(tag.id)
    gone_image = (await store.locate(REGION, "app/gone")).image_id
    assert gone_image is not None
    await store.images.delete(gone_image)
    await store.namespaces.delete(third.id)
    seams.clock.advance(DAYS / 2)


async def swept(store: Store, known: Known) -> None:
    await store.sweeper.run(early=True)


async def texts(seams: Seams, store: Store, known: Known) -> None:
    await make_namespace(store)
    await push(store, "app/web", "v1", [TEXT, noise(70_000)])
    await store.put(TEXT[:90_000])


async def recompressed(store: Store, known: Known) -> None:
    await recompress(store)


async def a_damaged_file(seams: Seams, store: Store, known: Known) -> None:
    await store.put(SMALL)
    await store.put(LARGE, root="mine")
    seams.damage(len(LARGE))


async def damaged_frames(seams: Seams, store: Store, known: Known) -> None:
    await store.put(SMALL)
    await store.put(TEXT, root="mine")
    assert (await recompress(store)).swapped == 1
    await store.sweeper.run()
    (size,) = {(await store.stats()).stored_bytes - len(SMALL)}
    seams.damage(size)


async def mounted(store: Store, known: Known) -> None:
    source = await store.locate(REGION, "app/web")
    target = await store.locate(REGION, "other/web")
    assert await store.mount(target, sha256(MIDDLE), source) is not None


SCENARIOS: Final = {
    "small upload session": Scenario(
        an_image, (begun("u"), appended("u", b"abc" * 300, 500), finished("u", b"abc" * 300))
    ),
    "large upload session": Scenario(
        an_image,
        (
            begun("u"),
            appended("u", LARGE, 20_000),
            appended("u", LARGE, 1_250_000),
            finished("u", LARGE),
        ),
    ),
    "session that ends with a body": Scenario(
        an_image, (begun("u"), appended("u", LARGE, 600_000), ended_at("u", LARGE, 600_000))
    ),
    "session in one body": Scenario(an_image, (begun("u"), ended_at("u", LARGE, 0))),
    "small session that ends with a body": Scenario(
        an_image,
        (begun("u"), appended("u", b"abc" * 300, 500), ended_at("u", b"abc" * 300, 500)),
    ),
    "session of known content": Scenario(an_image, (begun("u"), finished("u", MIDDLE))),
    "aborted session": Scenario(
        an_image, (begun("u"), appended("u", LARGE, 600_000), aborted("u"))
    ),
    "small upload at once": Scenario(an_image, (at_once(b"abc" * 300),)),
    "middle upload at once": Scenario(an_image, (at_once(noise(61_000)),)),
    "large upload at once": Scenario(an_image, (at_once(LARGE),)),
    "known upload at once": Scenario(an_image, (at_once(MIDDLE),)),
    "refused upload": Scenario(a_locked_namespace, (refused,)),
    "manifest": Scenario(an_image, (manifested("v1", SMALL), manifested("v2", SMALL))),
    "long manifest": Scenario(
        an_image, (manifested("v2", SMALL, MIDDLE, annotations={"a": "x" * 50_000}),)
    ),
    "mount": Scenario(an_image, (mounted,)),
    "roots": Scenario(two_roots, (kept(SMALL), kept(MIDDLE), kept(LARGE), unrooted, kept(LARGE))),
    "delete a tag": Scenario(an_image, (tag_deleted,)),
    "delete an image": Scenario(an_image, (image_deleted,)),
    "delete a namespace": Scenario(an_image, (namespace_deleted,)),
    "restore": Scenario(a_deleted_tag, (restored,)),
    "purge": Scenario(a_deleted_tag, (purged,), sweeps=True),
    "release of holds": Scenario(holds_left_behind, (released,), sweeps=True),
    "dismissed session": Scenario(an_upload_left_behind, (dismissed,)),
    "sweep": Scenario(much_garbage, (swept,), sweeps=True),
    "recompress": Scenario(texts, (recompressed,)),
    "heal a file": Scenario(a_damaged_file, (kept(LARGE),), damaged=True),
    "heal frames": Scenario(damaged_frames, (kept(TEXT),), damaged=True),
}


class Trial:
    """A scenario, prepared once, to be tried over and over on copies."""

    def __init__(self, scenario: Scenario, path: Path) -> None:
        self.scenario = scenario
        self._path = path
        self._base = Seams(path / "base")
        self._known: Known = {}
        self._sights: list[Sight] = []
        self._copies = 0

    async def prepare(self) -> None:
        """Learn what is to be seen after each step when nothing fails."""
        self._base.path.mkdir()
        async with self._base.store() as store:
            await self.scenario.prepare(self._base, store, self._known)
        seams = self._copy()
        known = dict(self._known)
        async with seams.store() as store:
            # Looking finds damage; a trial must begin without that, so this is a copy too.
            self._sights.append(await see(store))
            for step in self.scenario.steps:
                await step(store, known)
                self._sights.append(await see(store))
            seams.clock.advance(DAYS)
            await store.sweeper.run(early=True)
            self._last = await see(store)
            assert await seams.leaks() == ""
            assert await check(store) == []

    def _copy(self) -> Seams:
        self._copies += 1
        return self._base.copy(self._path / str(self._copies))

    async def fail(self, fault: Fault, number: int) -> bool:
        """Let call ``number`` fail and see that all is well; False: there is no such call."""
        seams, known, done = self._copy(), dict(self._known), 0

        async def client() -> None:
            nonlocal done
            for step in self.scenario.steps:
                await step(store, known)
                done += 1

        def cancel() -> None:
            loop.call_soon_threadsafe(task.cancel)

        loop = asyncio.get_running_loop()
        if fault == "death":
            calls: Countdown = Death(number)
        elif "cancelled" in fault:
            calls = Interruption(number, cancel)
        else:
            calls = Countdown(number)
        when: Literal["before", "after"] = "after" if fault == "acknowledgement" else "before"
        failing = partial(FailingLedger, fail_at=calls if fault in LEDGER else 0, when=when)
        store = seams.store(
            depot=lambda inner: FailingDepot(inner, calls if fault in DEPOT else 0),
            ledger=failing,
            scratch=failing,
        )
        await store.start()
        task = asyncio.create_task(client())
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StorageFailed):
            raise error
        assert calls.fired or done == len(self.scenario.steps)
        # A transaction whose caller was cancelled may still be running.
        await last_in_line(store)
        dies = fault == "death"
        if dies:
            await seams.kill(store)
        elif not calls.fired:
            # Closing is the last that can fail; what follows is done by another store then.
            with contextlib.suppress(StorageFailed):
                await store.close()
            dies = calls.fired
        if not calls.fired:
            return False
        if dies:
            store = seams.store()
            await store.start()
        known["lost"] = fault == "depot" and calls.log[number - 1] == "sync"
        await self._judge(seams, done)
        for step in self.scenario.steps[done:]:
            await step(store, known)
        await self._clean(seams, store)
        await store.close()
        async with seams.store() as after:
            await after.sweeper.run()
        assert await seams.leaks() == ""
        shutil.rmtree(seams.path)
        return True

    async def _judge(self, seams: Seams, done: int) -> None:
        """One moment after the fault: it is the moment before the call, or the one after."""
        before, later = self._sights[done], self._sights[min(done + 1, len(self._sights) - 1)]
        async with seams.store() as store:
            sight = await see(store)
            assert sight.between(before, later, blurred=self.scenario.sweeps) == ""
            problems = await check(store)
            assert problems == [] or (self.scenario.damaged and sight.damaged)

    async def _clean(self, seams: Seams, store: Store) -> None:
        """Nothing stays behind, and everything that somebody needs is there."""
        seams.clock.advance(DAYS)
        await store.sweeper.run(early=True)
        assert await seams.leaks() == ""
        assert (await store.stats()).garbage == 0
        assert await see(store) == self._last
        assert await check(store) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_whatever_call_fails(name: str, fault: Fault, tmp_path: Path) -> None:
    # The first calls to the ledger are opening's, which looks whether rows are old, and whether
    # the store's periods are known.
    number = 3 if fault in LEDGER else 1
    with swift(tmp_path) as path:
        trial = Trial(SCENARIOS[name], path)
        await trial.prepare()
        while await trial.fail(fault, number):
            number += 1
    least = len(SCENARIOS[name].steps) if fault in LEDGER else 0
    assert number > least, "no call was made to fail"


class Exhausted(Countdown):
    """While it is ``out`` of descriptors, nothing can be opened."""

    out = False

    def step(self, operation: str) -> bool:
        return self.out and operation in ("open", "create", "reopen")


async def test_what_cannot_be_opened_for_a_moment_is_not_given_up(tmp_path: Path) -> None:
    """A push cannot compare with the copy that is there, nor bring another."""
    (tmp_path / "ledger").mkdir()
    seams, calls = Seams(tmp_path / "ledger"), Exhausted(0)
    async with seams.store(depot=lambda inner: FailingDepot(inner, calls)) as store:
        await store.put(MIDDLE)
        calls.out = True
        for root in ("default", "another"):
            with pytest.raises(StorageFailed):
                await store.put(MIDDLE, root=root)
        with pytest.raises(StorageFailed):
            await read(store, sha256(MIDDLE))
        calls.out = False
        assert await read(store, sha256(MIDDLE)) == MIDDLE
        assert await check(store) == []
