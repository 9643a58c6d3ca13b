"""The store: opens a directory, reads and writes blobs, and holds the parts for everything else.

``Store`` is the engine's public object. Its parts (``namespaces``, ``images``, ``tags`` ...) are
made when it starts; transactions live in the modules of those parts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, Self
from uuid import UUID

from . import datadir
from .blobs import roots, sources
from .blobs.blob_rows import Arrival, Outcome
from .blobs.sources import Stream
from .blobs.writer import BlobWriter
from .check.check import check_directory, check_open
from .core import Core, entropy
from .datadir import Opened
from .ledger.interface import Change, VersionedLedger
from .maintenance import restore, snapshot
from .maintenance.recompress import Recompressor
from .maintenance.retention import Retentions
from .maintenance.scrub import Scrubber
from .maintenance.snapshot import Copied
from .maintenance.sweep import Sweeper
from .manifests.manifests import Manifests
from .model.conditions import ALWAYS, Condition
from .model.config import StoreConfig
from .model.digest import Digest
from .model.errors import Closed, InvalidDigest, StorageFull
from .model.names import check_root_name
from .model.problem import Problem
from .model.values import Blob, Repository, Stats
from .namespaces import namespaces, stats
from .namespaces.keys import Keys
from .namespaces.limits import Bounds
from .namespaces.namespaces import Namespaces
from .namespaces.quota import Quotas
from .repositories import blob_queries, catalog, mounts
from .repositories.deferred_writes import PULLS_INTERVAL_SECONDS, DeferredWrites
from .repositories.images import Images
from .repositories.reader import BlobReader
from .repositories.tags import Tags
from .trash import future_times
from .trash.holds import Holds
from .trash.trash import Trash
from .upgrade import upgrade
from .uploads import session_rows
from .uploads.pressure import Pressure
from .uploads.uploads import Uploads

Source = bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Stream
"""Input of ``put``: bytes, a path, an open binary file, or an async iterable of bytes or of
memoryviews whose buffers are reused (see ``sources.Stream``)."""

LIST_MAX = 10_000
"""Most blobs that ``blobs`` returns, and most digests that ``exists`` accepts."""

_AFTER_BYTES_MAX: Final = 300
"""Bytes of ``after`` that are compared; full names are shorter."""


_log: Final = logging.getLogger(__name__)


class Store:
    """A store, opened by ``async with Store.open(path) as store``.

    Parts: ``namespaces``, ``images``, ``tags``, ``manifests``, ``uploads``, ``limits``,
    ``keys``, ``trash``, ``holds``, ``sweeper``, ``pulls``, ``retention``, ``scrubber`` and
    ``recompressor``. Several processes may have one directory open at once. Any call may raise
    Closed, Corrupt (for a ledger row that it reads) and StorageFailed; calls that write may raise
    StorageFull.
    """

    namespaces: Namespaces
    images: Images
    tags: Tags
    manifests: Manifests
    uploads: Uploads
    limits: Bounds
    keys: Keys
    trash: Trash
    holds: Holds
    sweeper: Sweeper
    pulls: DeferredWrites
    _deferred: tuple[DeferredWrites, ...]
    retention: Retentions
    recompressor: Recompressor
    scrubber: Scrubber

    def __init__(self, opener: Callable[[], Opened], config: StoreConfig) -> None:
        """Make a store over the seams that ``opener`` returns each time the store starts.

        For seams of another kind (see ``datadir.assemble``); ``open`` and ``memory`` have their
        own openers.
        """
        self.config = config
        self._opener = opener
        self._path: Path | None = None
        self._opened: Opened | None = None
        self._versioned: VersionedLedger | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Raise Closed for a part of a store that was never opened, else AttributeError."""
            if name in Store.__annotations__:
                raise Closed
            raise AttributeError(f"{type(self).__name__!r} has no {name!r}")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: StoreConfig | None = None,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Make a store over a directory, to be created if missing (unless ``create`` is False).

        The directory is not touched before the store is entered. Entering raises NotAStore for a
        directory of another kind or of a newer format, Corrupt where the ledger is damaged,
        StorageFailed.
        """
        config = config or StoreConfig()
        where = Path(path)
        store = cls(lambda: datadir.open_directory(where, config, create, clock), config)
        store._path = where
        return store

    @classmethod
    def memory(
        cls, config: StoreConfig | None = None, *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Make a store in memory, for tests: its content is gone when it is closed."""
        config = config or StoreConfig()
        return cls(lambda: datadir.open_memory(config, clock), config)

    async def start(self) -> None:
        """Open the store, as entering the context does. Raises as ``open`` says."""
        opened = self._opener()
        core = opened.core
        try:
            await self._upgrade(core)
            await self._record_periods(core)
        except BaseException:
            await opened.close()
            raise
        self._opened = opened
        self._versioned = core.ledger if isinstance(core.ledger, VersionedLedger) else None
        self.images = Images(core)
        self.tags = Tags(core)
        self._quotas = Quotas(core)
        self._pressure = Pressure(core)
        self.manifests = Manifests(core, self._quotas, self._pressure)
        self.uploads = Uploads(core, self._quotas, self._pressure)
        self.namespaces = Namespaces(core, self.uploads.drop_namespace)
        self.limits = Bounds(core)
        self.keys = Keys(core)
        self.trash = Trash(core)
        self.holds = Holds(core)
        self.sweeper = Sweeper(core)
        self.recompressor = Recompressor(core)
        self.scrubber = Scrubber(core)
        self.pulls = DeferredWrites(core, "pulls", PULLS_INTERVAL_SECONDS)
        self._deferred = self.pulls, self.manifests.deferred_times
        self.retention = Retentions(core, [deferred.flush for deferred in self._deferred])
        for deferred in self._deferred:
            deferred.background.start()
        if self.config.background:
            self.sweeper.background.start()
            self.scrubber.background.start()
            self.retention.background.start()
            if self.config.compression == "auto":
                self.recompressor.background.start()

    async def _upgrade(self, core: Core) -> None:
        """Upgrade rows of an older format. Raises NotAStore, Corrupt, StorageFull."""
        if not await core.ledger.read(upgrade.pending):
            return
        # Without ``grow``: this step completes a new store, which may be made on a full disk.
        at = await core.ledger.transact(upgrade.advance, core.now())

        async def step() -> upgrade.Position:
            return await core.grow(upgrade.advance, core.now())

        await upgrade.run(at, step, str(self._path))

    async def _record_periods(self, core: Core) -> None:
        """Record this store's periods, which bound how far ``future_times`` may cut times."""
        periods = future_times.periods_of(core)
        if not await core.ledger.read(future_times.needs_periods, periods):
            return
        try:
            await core.ledger.transact(future_times.store_periods, periods)
        except StorageFull as error:
            # The store opens on a full disk too. The risk is small: a sweep with shorter periods
            # that runs after the clock was ahead cuts times to those.
            _log.warning("cannot record the periods of %s: %s", self._path, error)

    async def close(self) -> None:
        """Stop background work, write what is gathered and close the directory. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        # Last in, first out: background work stops before the notes that it makes are flushed,
        # and both end before the seams close.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(opened.close)
            for deferred in self._deferred:
                stack.push_async_callback(deferred.close)
            stack.push_async_callback(self.retention.background.stop)
            stack.push_async_callback(self.recompressor.background.stop)
            stack.push_async_callback(self.scrubber.stop)
            stack.push_async_callback(self.sweeper.background.stop)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def core(self) -> Core:
        """Seams and limits, for the engine's own tools. Raises Closed."""
        if self._opened is None:
            raise Closed
        return self._opened.core

    async def put(
        self, source: Source, *, root: str = "default", digest: str | Digest | None = None
    ) -> Blob:
        """Store bytes and keep them under ``root`` until ``delete``; durable when this returns.

        With a ``digest``, the bytes must match it. Raises DigestMismatch, TooLarge, Invalid
        (``root``, ``source``), InvalidDigest, StorageFull, and what reading the source raises.
        """
        core = self.core
        check_root_name(root)
        wanted = None if digest is None else Digest.parse(digest)
        algorithms = (wanted.algorithm,) if wanted else ()
        writer = BlobWriter(core, hasher=None, algorithms=algorithms)

        def commit(arrival: Arrival) -> Awaitable[Outcome]:
            return core.grow(roots.keep, root, arrival, core.now())

        try:
            async for piece in sources.pieces(source):
                await writer.write(piece)
            arrival = await writer.publish(wanted, commit)
        except BaseException:
            await writer.abandon()
            raise
        return Blob(wanted or Digest.sha256(arrival.sha256), arrival.size)

    def get(
        self,
        digest: str | Digest,
        *,
        offset: int = 0,
        length: int | None = None,
        verify: bool = False,
        repository: Repository | None = None,
    ) -> BlobReader:
        """Return a reader of a blob, or of ``length`` bytes of it from ``offset``.

        ``verify`` first reads the whole blob and compares its checksum. With a ``repository``,
        only blobs that the image links or holds are found. Entering the reader raises: see
        BlobReader.
        """
        return BlobReader(
            self.core,
            Digest.parse(digest),
            owner=None if repository is None else repository.key or b"",
            offset=offset,
            length=length,
            verify=verify,
        )

    async def stat(self, digest: str | Digest, *, repository: Repository | None = None) -> Blob:
        """Return a blob's size and hold, without its bytes.

        Through a ``repository``, a hold counts only while at least half of it remains, so that a
        client that gets the blob here has time to push a manifest. Raises NotFound, Corrupt,
        InvalidDigest.
        """
        floor = self.core.hold_floor(self.core.now())
        return await self.core.ledger.read(
            blob_queries.stat, Digest.parse(digest), repository, floor
        )

    async def small(
        self, digest: str | Digest, *, repository: Repository
    ) -> tuple[Blob, bytes | None]:
        """Return a blob that the image may read, with its bytes if they are in the ledger.

        Raises NotFound, Corrupt, InvalidDigest.
        """
        core = self.core
        return await core.ledger.read(
            blob_queries.small, Digest.parse(digest), repository, core.now()
        )

    async def exists(
        self, digests: Iterable[str | Digest], *, repository: Repository | None = None
    ) -> set[str]:
        """Return those of the digests that ``stat`` finds, all from one state of the store.

        Raises InvalidDigest, also for more than ``LIST_MAX`` digests.
        """
        if not isinstance(digests, Iterable):
            raise InvalidDigest("", f"must be an iterable of digests, not {type(digests).__name__}")
        parsed = tuple(Digest.parse(digest) for digest in digests)
        if len(parsed) > LIST_MAX:
            raise InvalidDigest("", f"must be at most {LIST_MAX} digests at once")
        floor = self.core.hold_floor(self.core.now())
        return await self.core.ledger.read(blob_queries.present, parsed, repository, floor)

    async def delete(self, digest: str | Digest, *, root: str = "default") -> None:
        """Remove a blob from a root; the sweep deletes its bytes if nothing else refers to it.

        Raises NotFound where the root does not keep the blob.
        """
        check_root_name(root)
        core = self.core
        await core.ledger.transact(roots.unroot, root, Digest.parse(digest), core.now())

    async def roots(self) -> list[str]:
        """Return the names of roots that keep a blob, in byte order, at most ``LIST_MAX``."""
        return await self.core.ledger.read_in_thread(roots.names, LIST_MAX)

    async def blobs(self, *, after: str | Digest | None = None, limit: int = 1000) -> list[Blob]:
        """Return blobs in order of sha256, after a digest that need not exist.

        At most ``limit``, and at most ``LIST_MAX``. Raises InvalidDigest.
        """
        last = b"" if after is None else Digest.parse(after).raw
        return await self.core.ledger.read(blob_queries.listing, last, min(limit, LIST_MAX))

    async def remove_blob(
        self, repository: Repository, digest: str | Digest, *, only_if: Condition = ALWAYS
    ) -> None:
        """Remove a blob from an image that holds it (OCI distribution-spec, "Deleting Blobs").

        Raises NotFound, Locked, PreconditionFailed; InUse where manifests of the image need it.
        """
        core = self.core
        await core.ledger.transact(
            mounts.remove, repository, Digest.parse(digest), core.now(), only_if
        )

    async def mount(
        self, repository: Repository, digest: str | Digest, source: Repository
    ) -> Blob | None:
        """Give one image a hold on a blob of another; None where ``source`` may not read it.

        OCI distribution-spec, "Mounting a blob from another repository". The caller must check
        that the client may read from ``source``. Raises NotFound, Locked, QuotaExceeded.
        """
        core = self.core
        now = core.now()
        digest = Digest.parse(digest)
        random = entropy()

        async def attempt() -> Blob | None:
            return await core.grow(
                mounts.mount,
                repository,
                digest,
                source,
                now,
                core.hold_until(now),
                random,
                others=await self._quotas.others(repository),
            )

        return await self._pressure.admit(repository, attempt)

    async def holders(
        self, region: str, digest: str | Digest, *, limit: int = 100
    ) -> list[Repository]:
        """Return images of a region that link or hold a blob: at most ``limit``, in no order."""
        core = self.core
        return await core.ledger.read(
            blob_queries.holders, region, Digest.parse(digest), core.now(), limit
        )

    async def locate(self, region: str, full_name: str) -> Repository:
        """Return the handle for ``namespace/image``. Raises Invalid (``name``), NotFound."""
        return await self.images.locate(region, full_name)

    async def repositories(
        self,
        region: str,
        *,
        project_id: UUID | None = None,
        public_only: bool = False,
        after: str = "",
        limit: int = 100,
    ) -> tuple[list[Repository], str | None]:
        """List images of a region in byte order of full names, after one that need not exist.

        Lists all images; with ``project_id`` those of the project and public ones; with
        ``public_only`` the public ones. Returns at most ``limit`` images and the ``after`` of the
        next page, None at the end. A page may have fewer than ``limit`` images, even none,
        although more follow.
        """
        scope: bytes | None = namespaces.in_region(region)
        if public_only:
            scope = None
        elif project_id is not None:
            scope = namespaces.in_project(region, project_id.bytes)
        last = after.encode("utf-8", "replace")[:_AFTER_BYTES_MAX]
        limit = max(1, min(limit, LIST_MAX))
        return await self.core.ledger.read(catalog.listing, region, scope, last, limit)

    def version(self) -> int | None:
        """Return a number that grows with each commit of any process, or None.

        Reads that begin after this call see at least that state. None where the ledger cannot
        answer without waiting; where it can, reads of rows (``locate``, ``stat``,
        ``manifests.get`` of inline manifests) do not wait either.
        """
        return None if self._versioned is None else self._versioned.last_txn()

    def changed(self, since: int, until: int) -> Change:
        """Return the widest kind of change between two versions; ANY where it is not known."""
        return Change.ANY if self._versioned is None else self._versioned.changed(since, until)

    async def stats(self) -> Stats:
        """Return the numbers of the whole store, in constant time."""
        uploads = await self.core.scratch.read(session_rows.total)
        return await self.core.ledger.read(stats.stats, uploads)

    def check(self, *, deep: bool = False) -> AsyncGenerator[Problem, None]:
        """Check the consistency of the store and yield every problem: see ``check.check``.

        ``deep`` also reads and hashes all bytes at rest. A separate process checks a directory.
        Raises Closed, StorageFailed.
        """
        core = self.core
        if self._path is not None:
            return check_directory(self._path, deep=deep, config=self.config, now=core.now())
        return check_open(core, deep=deep)

    def snapshot(
        self, path: str | os.PathLike[str], *, copy: bool = False
    ) -> AsyncGenerator[Copied, None]:
        """Write a consistent copy of the store into a new directory, while it is in use.

        Iterate to make the copy; it appears under ``path`` when the iteration ends. Files are
        hard-linked unless ``copy``. Raises as ``snapshot.make`` says.
        """
        return snapshot.make(self.core, Path(path), copy=copy)

    @staticmethod
    def restore(
        snapshot: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        copy: bool = True,
        salvage: bool = False,
        config: StoreConfig | None = None,
    ) -> AsyncGenerator[Copied, None]:
        """Restore a snapshot into ``target``, which appears after a complete check.

        Iterate to restore. ``salvage`` accepts a damaged snapshot: see ``restore.restore``.
        """
        return restore.restore(
            Path(snapshot), Path(target), copy=copy, salvage=salvage, config=config
        )
