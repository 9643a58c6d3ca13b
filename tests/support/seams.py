"""A store over a real LMDB directory and a depot that a test may break.

``Seams`` outlives the stores that are opened over it, as a disk outlives processes; ``Sight`` is
all that a user can see of a store, to compare one moment with another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from holdfast.engine import Corrupt, Repository, Store, StoreConfig
from holdfast.engine.datadir import Opened, assemble, open_scratch
from holdfast.engine.depot.instance import NAME_BYTES
from holdfast.engine.depot.interface import Depot
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, Transaction, after
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.maintenance.recompress import Recompressed, Recompressor
from holdfast.engine.model.problem import Problem
from support.engine import REGION, Clock, Instance, read

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - names in it are made by tempfile
_ROOM: Final = 256 * 1024 * 1024

MAP_BYTES: Final = 256 * 1024 * 1024


@contextlib.contextmanager
def swift(otherwise: Path) -> Iterator[Path]:
    """An empty directory in memory, where the system has one with room, or ``otherwise``.

    For tests that model what a disk loses: they gain nothing by waiting for a real one.
    """
    try:
        free = shutil.disk_usage(_MEMORY).free
        usable = os.access(_MEMORY, os.W_OK) and free > _ROOM
    except FileNotFoundError:
        usable = False
    if not usable:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as path:
        yield Path(path)


@dataclass
class Seams:
    """A directory with a ledger, a depot, a clock, and who is alive.

    With another ``boot``, the machine has started anew.
    """

    path: Path
    depot: Depot = field(default_factory=MemoryDepot)
    clock: Clock = field(default_factory=Clock)
    boot: str = "first"
    config: StoreConfig = field(
        default_factory=lambda: StoreConfig(background=False, map_bytes=MAP_BYTES, threads=2)
    )

    def __post_init__(self) -> None:
        self._living: set[bytes] = set()

    def store(
        self,
        depot: Callable[[Depot], Depot] | None = None,
        ledger: Callable[[LmdbLedger], Ledger] | None = None,
        scratch: Callable[[LmdbLedger], Ledger] | None = None,
    ) -> Store:
        """A store over it, with something in front of its depot or of a ledger."""

        def opener() -> Opened:
            rows = LmdbLedger.open(self.path, map_bytes=MAP_BYTES, create=True)
            sessions = open_scratch(self.path / "scratch", self.boot, MAP_BYTES)
            return assemble(
                rows if ledger is None else ledger(rows),
                sessions if scratch is None else scratch(sessions),
                self.depot if depot is None else depot(self.depot),
                Instance(self._living),
                self.config,
                self.clock,
            )

        return Store(opener, self.config)

    async def kill(self, store: Store) -> None:
        """End a store without any of the things that closing it does."""
        core = store.core
        self._living.clear()
        await core.ledger.close()
        await core.scratch.close()
        core.threads.close()

    def copy(self, path: Path) -> Seams:
        """The same rows and files (in memory) once more, for a test to break."""
        path.mkdir()
        shutil.copyfile(self.path / "data.mdb", path / "data.mdb")
        shutil.copytree(self.path / "scratch", path / "scratch", dirs_exist_ok=True)
        depot = MemoryDepot()
        for block in self.depot.blocks():
            for file_id in self.depot.files(block):
                reader = self.depot.open(file_id)
                writer = depot.create(file_id)
                writer.append(reader.read(0, reader.size))
                writer.close()
        clock = Clock()
        clock.now = self.clock.now
        return Seams(path, depot, clock, self.boot, self.config)

    def damage(self, size: int) -> None:
        """Flip a bit in the middle of the only file of that size."""
        (file_id,) = [each for each in self._files() if self.depot.open(each).size == size]
        writer = self.depot.reopen(file_id)
        content = bytearray(writer.read(0, size))
        content[size // 2] ^= 1
        writer.truncate(0)
        writer.append(content)
        writer.close()

    def _files(self) -> set[int]:
        return {each for block in self.depot.blocks() for each in self.depot.files(block)}

    async def leaks(self) -> str:
        """Files without a row, rows without a file, and what was not cleaned up; or nothing."""
        rows = LmdbLedger.open(self.path, map_bytes=MAP_BYTES, create=False)
        try:
            named, pending_unlinks, open_blocks = await rows.read(_file_rows)
        finally:
            await rows.close()
        files = self._files()
        dead = [name for name in open_blocks if name not in self._living]
        found = {
            "without a row": files - named,
            "without a file": named - files,
            "pending_unlinks": pending_unlinks,
            "blocks of the dead": dead,
        }
        return ", ".join(f"{what}: {each}" for what, each in found.items() if each)


async def _file_rows(txn: Transaction) -> tuple[set[int], set[int], list[bytes]]:
    async def ids(kind: bytes) -> set[int]:
        rows = await txn.scan(kind, after(kind), limit=1 << 20)
        return {layout.at(key, 1) for key, _ in rows}

    blocks = await txn.scan(layout.BLOCK, after(layout.BLOCK), limit=1 << 20)
    return (
        await ids(layout.FILE),
        await ids(layout.PENDING_UNLINK),
        [key[1 : 1 + NAME_BYTES] for key, _ in blocks],
    )


async def recompress(store: Store) -> Recompressed:
    """Walk over the store once, as the background does."""
    return await Recompressor(store.core).run()


async def check(store: Store) -> list[Problem]:
    """What the consistency checker finds, all bytes read."""
    return [problem async for problem in store.check(deep=True)]


@dataclass(frozen=True)
class Sight:
    """What can be seen of a store at one moment. Everything in it has been read in full."""

    facts: frozenset[tuple[Any, ...]]
    """Names, what they lead to, and sizes."""
    trash: frozenset[tuple[str, str]]
    blobs: frozenset[str]
    """Digests of blobs that are good."""
    damaged: frozenset[str]

    def between(self, before: Sight, later: Sight, *, blurred: bool = False) -> str:
        """Why this is neither the one moment nor the other; nothing if it is.

        Blobs may come and go on the way (unlinked ones, that is). With ``blurred``, the trash
        may be any part of what it was.
        """
        trash = {before.trash, later.trash}
        if self.facts not in (before.facts, later.facts):
            return f"gained {self.facts - before.facts}, lost {before.facts - self.facts}"
        if self.trash not in trash and not (blurred and self.trash <= before.trash):
            return f"trash {self.trash}, not {before.trash} or {later.trash}"
        if lost := (before.blobs & later.blobs) - self.blobs:
            return f"lost {lost}"
        if strange := self.blobs - (before.blobs | later.blobs):
            return f"strange {strange}"
        if bad := self.damaged - (before.damaged | later.damaged):
            return f"damaged {bad}"
        return ""


async def see(store: Store) -> Sight:
    """Look at a store through its public names, and read all there is."""
    facts: set[tuple[Any, ...]] = set()
    page = await store.namespaces.list(REGION, page_size=100)
    for namespace in page.items:
        facts.add(("namespace", namespace.name, namespace.size, namespace.image_count))
        images = await store.images.list(REGION, namespace_id=namespace.id, page_size=100)
        for image in images.items:
            facts.add(("image", namespace.name, image.name, image.size))
            where = await store.locate(REGION, f"{namespace.name}/{image.name}")
            for tag in (await store.tags.list(image.id, page_size=100)).items:
                await _see_manifest(store, where, tag.name)
                facts.add(("tag", where.full_name, tag.name, str(tag.digest)))
    facts.update(("root", name) for name in await store.roots())
    good, damaged = set(), set()
    for blob in await store.blobs():
        digest = str(blob.digest)
        try:
            content = await read(store, digest, verify=True)
        except Corrupt:
            damaged.add(digest)
        else:
            assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
            good.add(digest)
    trash = frozenset((item.kind, item.name) for item in (await store.trash.list()).items)
    return Sight(frozenset(facts), trash, frozenset(good), frozenset(damaged))


async def _see_manifest(store: Store, where: Repository, reference: str) -> None:
    """Everything that a pull of an image needs is there and good."""
    found = await store.manifests.get(where, reference)
    body = json.loads(found.body)
    for descriptor in (body["config"], *body["layers"]):
        try:
            content = await read(store, descriptor["digest"], repository=where)
        except Corrupt:
            continue
        assert len(content) == descriptor["size"]


async def orphan(store: Store, content: bytes) -> None:
    """Write a file durably that no row will ever name, as a push does before it is killed."""
    core = store.core
    _, writer = await core.files.create()
    await core.threads.run(writer.append, content)
    await core.threads.run(writer.sync)
    await core.threads.run(writer.close)


async def last_in_line(store: Store) -> None:
    """Wait until all transactions are over that were submitted through this store."""

    async def nothing(txn: Transaction) -> None:
        """It only has to be the last."""

    for rows in (store.core.ledger, store.core.scratch):
        ledger = getattr(rows, "inner", rows)
        await ledger.transact(nothing)
