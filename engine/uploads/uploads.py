"""Upload sessions: receive the bytes of a blob over any number of requests, and publish it.

Sessions are rows of the scratch ledger, written when a session opens and when its bytes move to a
file, but not for an append to the file: the file's own size is the offset. A lock on the file
(between processes) and a set of busy sessions (within one process) keep appends apart. Only the
last step, which makes the bytes a blob, waits for the disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from uuid import UUID

from holdfast.engine.blobs.blob_rows import Arrival, Outcome
from holdfast.engine.blobs.sources import Stream, check_stream, checked
from holdfast.engine.blobs.writer import BATCH_BYTES, BlobWriter
from holdfast.engine.core import Core, entropy
from holdfast.engine.depot import files
from holdfast.engine.depot.interface import Writer
from holdfast.engine.ledger.records import Session
from holdfast.engine.model.digest import ALGORITHMS, Digest, Hasher, check_text
from holdfast.engine.model.errors import (
    Busy,
    Corrupt,
    Invalid,
    InvalidDigest,
    NotFound,
    SizeMismatch,
    TooLarge,
)
from holdfast.engine.model.values import Blob, OpenUpload, Repository, Upload, moment
from holdfast.engine.namespaces import namespaces
from holdfast.engine.namespaces.open_uploads import session_totals
from holdfast.engine.namespaces.quota import Quotas, UploadCounter
from holdfast.engine.repositories import blob_queries

from . import publish, session_rows
from .pressure import Pressure
from .session_states import Step
from .stream import ActiveUpload

HASHERS_MAX: Final = 4096
"""Running hashes kept between requests, about 3 KiB each; without one, the file is read again."""

_DROPPED_PER_TXN: Final = 200
"""Sessions of a deleted namespace that one transaction ends."""

LISTED_MAX: Final = 1000
"""Sessions per page of ``list``; the size of each session's file is looked up."""


class Uploads:
    """The upload sessions of a store."""

    def __init__(self, core: Core, quotas: Quotas, pressure: Pressure) -> None:
        self._core = core
        self._busy = pressure.busy
        self._hashers: dict[bytes, Hasher] = {}
        self._quotas = quotas
        self._pressure = pressure

    async def begin(
        self, repository: Repository, *, size: int | None = None, algorithm: str = "sha256"
    ) -> Upload:
        """Open a session. ``size`` is the most bytes that it will have; None if unknown.

        The size is compared with the namespace's quota once; only bytes that arrive count. If the
        namespace is at a limit, its own idle sessions are ended to make room (``pressure``).
        ``algorithm`` is that of the final digest: naming it saves a second reading of the file.
        Raises NotFound (``namespace``), Locked, QuotaExceeded, TooLarge, Invalid (``size``),
        InvalidDigest, StorageFull.
        """
        if check_text(algorithm) not in ALGORITHMS:
            raise InvalidDigest(algorithm, f"algorithm {algorithm[:64]} is not supported")
        if size is not None and size < 0:
            raise Invalid("size", "must not be negative")
        if size is not None and size > self._core.config.blob_bytes_max:
            raise TooLarge("blob", self._core.config.blob_bytes_max)
        await self._require_disk(size or 0)
        # The blob will need room in the ledger: refuse before its bytes are sent for nothing.
        await self._core.require_growth()
        now = self._core.now()
        session_id = entropy()
        session = Session(
            namespace=repository.namespace_id.bytes,
            name=repository.name,
            algorithm=algorithm,
            declared=-1 if size is None else size,
            counted=0,
            file_id=0,
            created=now,
            expires=self._core.upload_until(now),
            touched=now,
            project=repository.project_id.bytes,
        )

        async def open_session() -> None:
            quota = await self._quotas.quota_for(repository)
            await self._core.scratch.transact(session_rows.begin, session_id, session, quota)

        await self._pressure.admit(repository, open_session)
        return self._view(session_id, session, 0)

    async def _inspect(self, repository: Repository, session_id: bytes) -> tuple[Session, bytes]:
        """Return the session and the content held in its row.

        Raises NotFound, for the namespace or for the upload.
        """
        ledger, scratch = self._core.ledger, self._core.scratch
        await ledger.read(namespaces.require, repository.namespace_id.bytes)
        session, content = await scratch.read(session_rows.inspect, repository, session_id)
        if session.file_id and not await ledger.read(files.without_row, (session.file_id,)):
            # A process published the file and died before it ended the session.
            await scratch.transact(session_rows.abort, repository, session_id)
            raise NotFound("upload", str(UUID(bytes=session_id)))
        return session, content

    async def _require_disk(self, size: int) -> None:
        core = self._core
        # A small upload on a disk with plenty of space need not ask the file system.
        if size > BATCH_BYTES or not core.space.is_ample:
            await core.threads.run(core.require_room, size, core.reserve_bytes)

    @staticmethod
    def _view(session_id: bytes, session: Session, offset: int) -> Upload:
        return Upload(
            UUID(bytes=session_id), offset, moment(session.created), moment(session.expires)
        )

    async def get(self, repository: Repository, upload_id: UUID) -> Upload:
        """Return the state of a session. Raises NotFound."""
        session, content = await self._inspect(repository, upload_id.bytes)
        if not session.file_id:
            return self._view(upload_id.bytes, session, len(content))
        try:
            size = await self._core.threads.run(self._file_size, session)
        except NotFound:
            raise NotFound("upload", str(upload_id)) from None
        return self._view(upload_id.bytes, session, size)

    def _file_size(self, session: Session) -> int:
        """Return the valid bytes of a session's file. Blocks. Raises NotFound."""
        reader = self._core.depot.open(session.file_id)
        try:
            return reader.size if session.base < 0 else min(reader.size, session.base)
        finally:
            reader.close()

    async def append(
        self,
        repository: Repository,
        upload_id: UUID,
        source: Stream,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> Upload:
        """Append bytes. ``offset`` is where they must begin, ``length`` how many there must be.

        If ``source`` raises, or yields something other than bytes (Invalid), the bytes before
        that are kept and the error is raised here. Raises NotFound, OffsetMismatch, Busy;
        SizeMismatch (the append is undone); StorageFull, StorageFailed. The session continues
        after these, unless the disk failed to sync its file: bytes may be lost, so the session
        ends. It also ends if it is refused for good: TooLarge, QuotaExceeded, Locked.
        """
        async with self._activate(repository, upload_id, Step.APPENDING) as active:
            await active.run(active.receive(source, offset, length))
            return self._view(upload_id.bytes, active.session, active.blob_writer.size)

    def _remember(self, session_id: bytes, hasher: Hasher | None) -> None:
        if hasher is None:
            return
        self._hashers[session_id] = hasher
        # Dicts keep insertion order: the first key is the oldest entry.
        if len(self._hashers) > HASHERS_MAX:
            self._hashers.pop(next(iter(self._hashers)))

    @asynccontextmanager
    async def _activate(
        self, repository: Repository, upload_id: UUID, step: Step
    ) -> AsyncIterator[ActiveUpload]:
        """Open a session for this caller alone. Raises NotFound, Busy, StorageFailed."""
        with self._exclusive(upload_id):
            blob_writer, session = await self._resume(repository, upload_id)
            active = ActiveUpload(
                self._core,
                self._quotas,
                self._pressure,
                repository,
                upload_id.bytes,
                session,
                blob_writer,
                step=step,
            )
            try:
                yield active
            finally:
                self._remember(upload_id.bytes, active.hasher)
                await blob_writer.close()

    @contextmanager
    def _exclusive(self, upload_id: UUID) -> Iterator[None]:
        # The lock on the file does not cover a session whose bytes are still in its row.
        if upload_id.bytes in self._busy:
            raise Busy("upload", str(upload_id))
        self._busy.add(upload_id.bytes)
        try:
            yield
        finally:
            self._busy.discard(upload_id.bytes)

    async def _resume(self, repository: Repository, upload_id: UUID) -> tuple[BlobWriter, Session]:
        """Lock the session's file; return the stream so far and the session."""
        core, session_id = self._core, upload_id.bytes
        session, held = await self._inspect(repository, session_id)
        algorithms = (session.algorithm,)
        if not session.file_id:
            return BlobWriter(core, hasher=None, algorithms=algorithms, held=held), session
        try:
            writer = await core.threads.acquire(core.depot.reopen, session.file_id)
        except Busy:
            raise Busy("upload", str(upload_id)) from None
        except NotFound:
            raise NotFound("upload", str(upload_id)) from None
        try:
            # Read again: before the lock was taken, another process may have changed the session.
            session, _ = await self._inspect(repository, session_id)
            # Bytes after ``base`` are valid only as a whole, and their request did not complete.
            if 0 <= session.base < writer.size:
                await self._cut_to_base(session_id, session, writer)
        except BaseException:
            await core.threads.finish(writer.close)
            raise
        # Popped, not read: after a failure the hasher may be ahead of the file.
        known = self._hashers.pop(session_id, None)
        if known is None and writer.size == 0:
            known = Hasher(algorithms)
        blob_writer = BlobWriter(
            core,
            hasher=known if known and known.size == writer.size else None,
            algorithms=algorithms,
            file_id=session.file_id,
            writer=writer,
        )
        return blob_writer, session

    async def _cut_to_base(self, session_id: bytes, session: Session, writer: Writer) -> None:
        """Cut off the bytes of an incomplete request. Raises NotFound, StorageFailed."""
        core = self._core
        # A transaction, not a read: a submitted commit that publishes the file runs on although
        # its caller was cancelled, and this one is ordered after it.
        if not await core.ledger.transact(files.without_row, (session.file_id,)):
            raise NotFound("upload", str(UUID(bytes=session_id)))
        await core.threads.run(writer.truncate, session.base)

    async def finish(
        self,
        repository: Repository,
        upload_id: UUID,
        digest: str | Digest,
        source: Stream | None = None,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> Blob:
        """Append the last bytes, if any, and publish the blob: durable when this returns.

        The image holds the blob from then on. Callers may retry: after a failure the session has
        what it had before the call, even if this process died meanwhile; if the session has
        ended, the image's blob of that digest is returned. Raises what ``append`` raises;
        DigestMismatch, which also ends the session.
        """
        digest = Digest.parse(digest)
        source = _no_bytes() if source is None else source
        try:
            async with self._activate(repository, upload_id, Step.FINISHING) as active:
                active.digest = digest
                await active.run(active.receive(source, offset, length))
                arrival = await active.run(self._publish(repository, upload_id, active, digest))
        except NotFound as error:
            blob = None
            # Not for a missing namespace, which has no blobs to confirm.
            if error.kind == "upload":
                blob = await self._finished_before(repository, digest, source)
            if blob is None:
                raise
            return blob
        return Blob(digest, arrival.size)

    async def _finished_before(
        self, repository: Repository, digest: Digest, source: Stream
    ) -> Blob | None:
        """Return the blob that an ended session has published; None if there is none to confirm.

        For clients that lost the first response and retry. The body that they send again is read
        and dropped, so that they come to read the response. None if the image has no such blob,
        or might lose it before a manifest arrives. Raises TooLarge, and what the source raises.
        """
        core = self._core
        try:
            blob = await core.ledger.read(
                blob_queries.brought, digest, repository, core.hold_floor(core.now())
            )
        except (NotFound, Corrupt):
            return None
        left = core.config.blob_bytes_max
        async for piece in source:
            left -= len(checked(piece))
            if left < 0:
                raise TooLarge("blob", core.config.blob_bytes_max)
        return blob

    async def _publish(
        self, repository: Repository, upload_id: UUID, active: ActiveUpload, digest: Digest
    ) -> Arrival:
        core, random = self._core, entropy()

        async def commit(arrival: Arrival) -> Outcome:
            # A session without a file has no lock: another process may have changed it.
            await core.scratch.read(
                session_rows.unchanged, repository, upload_id.bytes, active.seen
            )
            counted = active.session.counted
            return await self._pressure.admit(
                repository, lambda: self._deliver(repository, arrival, random, counted)
            )

        await active.refresh()
        return await active.blob_writer.publish(digest, commit)

    async def _deliver(
        self, repository: Repository, arrival: Arrival, random: bytes, counted: int, own: int = 0
    ) -> Outcome:
        """Publish an upload's bytes.

        ``counted`` bytes of it count for its session; ``own`` as in ``Quotas.sessionless``.
        """
        core = self._core
        others = await self._quotas.others(repository, own)
        now = core.now()
        return await core.grow(
            publish.deliver,
            repository,
            arrival,
            now,
            core.hold_until(now),
            random,
            others=others,
            own=counted,
        )

    async def abort(self, repository: Repository, upload_id: UUID) -> None:
        """End a session and discard its bytes. Raises NotFound."""
        self._hashers.pop(upload_id.bytes, None)
        core = self._core
        await core.ledger.read(namespaces.require, repository.namespace_id.bytes)
        file_id = await core.scratch.transact(session_rows.abort, repository, upload_id.bytes)
        await core.files.discard(file_id)

    async def list(
        self, namespace_id: UUID, *, after: UUID | None = None, limit: int = 100
    ) -> tuple[Sequence[OpenUpload], UUID | None, int]:
        """List the open sessions of a namespace in order of id.

        Returns at most ``limit`` (up to LISTED_MAX) that follow ``after``, an id that need not
        exist; the ``after`` of the next page, None on the last; and the number of open sessions.
        Raises NotFound (``namespace``), Invalid (``limit``).
        """
        if not 1 <= limit <= LISTED_MAX:
            raise Invalid("limit", f"must be 1 to {LISTED_MAX}")
        core = self._core
        await core.ledger.read(namespaces.require, namespace_id.bytes)
        last = b"" if after is None else after.bytes
        # One row more than the page shows whether another page follows.
        rows = await core.scratch.read(
            session_rows.of_namespace, namespace_id.bytes, last, limit + 1
        )
        found = await core.threads.run(self._views, rows[:limit])
        opened = await core.scratch.read(session_totals, namespace_id.bytes)
        more = len(rows) > limit
        return found, UUID(bytes=rows[limit - 1][0]) if more else None, opened.uploads

    async def dismiss(self, namespace_id: UUID, upload_id: UUID) -> OpenUpload:
        """End a session of a namespace, even while a client writes it, and discard its bytes.

        Returns its last state. Raises NotFound, for the namespace or for the upload; Corrupt if
        its row could not be read: it is ended all the same.
        """
        core = self._core
        await core.ledger.read(namespaces.require, namespace_id.bytes)
        row = await core.scratch.read(session_rows.of_id, namespace_id.bytes, upload_id.bytes)
        [was] = await core.threads.run(self._views, [row]) if row is not None else [None]
        file_id = await core.scratch.transact(
            session_rows.dismiss, namespace_id.bytes, upload_id.bytes
        )
        self._hashers.pop(upload_id.bytes, None)
        await core.files.discard(file_id)
        if was is None:
            raise Corrupt("upload", str(upload_id), "its row could not be read; it is ended")
        return was

    async def drop_namespace(self, namespace_id: UUID, seen: int) -> None:
        """End the sessions of a namespace that was deleted at ``seen`` (us).

        Raises StorageFull, StorageFailed.
        """
        core = self._core
        while True:
            count, file_ids = await core.scratch.transact(
                session_rows.drop_namespace, namespace_id.bytes, seen, _DROPPED_PER_TXN
            )
            # After the commit: a crash in between leaves files without a row, which recovery finds.
            for file_id in file_ids:
                await core.files.discard(file_id)
            if count < _DROPPED_PER_TXN:
                return

    def _views(self, rows: Sequence[tuple[bytes, Session, int]]) -> Sequence[OpenUpload]:
        """Return session rows as callers see them. Blocks: it opens each session's file."""
        found = []
        for session_id, session, held in rows:
            try:
                size = self._file_size(session) if session.file_id else held
            except NotFound:
                # Another process is ending or publishing the session; its row goes next.
                size = 0
            # ``touched`` of a session without bytes is the time of its opening, so leave it out.
            found.append(
                OpenUpload(
                    id=UUID(bytes=session_id),
                    namespace_id=UUID(bytes=session.namespace),
                    image=session.name,
                    size=size,
                    counted=session.counted,
                    declared=None if session.declared < 0 else session.declared,
                    created_at=moment(session.created),
                    touched_at=moment(session.touched) if size and session.touched else None,
                    expires_at=moment(session.expires),
                )
            )
        return found

    async def put(
        self,
        repository: Repository,
        digest: str | Digest,
        source: Stream,
        *,
        length: int | None = None,
    ) -> Blob:
        """Upload a blob in one call, without a session. Raises what ``begin`` and ``finish`` do."""
        digest = Digest.parse(digest)
        check_stream(source)
        core, namespace_id = self._core, repository.namespace_id
        await self._require_disk(length or 0)
        algorithms = (digest.algorithm,)
        blob_writer = BlobWriter(core, hasher=None, algorithms=algorithms)
        random = entropy()

        async def commit(arrival: Arrival) -> Outcome:
            # These bytes are in the process's sum already, and must not count twice.
            own = arrival.size
            return await self._pressure.admit(
                repository, lambda: self._deliver(repository, arrival, random, 0, own)
            )

        with self._quotas.enter(namespace_id) as counter:
            try:
                await self._receive(repository, blob_writer, counter, source, length, digest)
                arrival = await blob_writer.publish(digest, commit)
            except BaseException:
                await blob_writer.abandon()
                raise
        return Blob(digest, arrival.size)

    async def _receive(
        self,
        repository: Repository,
        blob_writer: BlobWriter,
        counter: UploadCounter,
        source: Stream,
        length: int | None,
        digest: Digest,
    ) -> None:
        """Receive all of ``source`` while the namespace has room for it.

        The first BATCH_BYTES are not checked here: the publishing transaction checks the total.
        """
        if length is not None and length < 0:
            raise Invalid("length", "must not be negative")
        granted = BATCH_BYTES
        if length is not None and length > granted:
            await self._next_step(repository, length, 0, digest)
        async for given in source:
            piece = checked(given)
            size = blob_writer.size + len(piece)
            if length is not None and size > length:
                raise SizeMismatch(length, size)
            # Counted before the check, so that concurrent uploads of this process see each other.
            counter.count(size)
            if size > granted:
                granted = size + await self._next_step(repository, size, size, digest)
            await blob_writer.write(piece)
        if length is not None and blob_writer.size != length:
            raise SizeMismatch(length, blob_writer.size)

    async def _next_step(self, repository: Repository, more: int, own: int, digest: Digest) -> int:
        """Return how many bytes may follow ``more`` before the next check.

        ``own`` as in ``Quotas.sessionless``. Raises NotFound, Locked, QuotaExceeded.
        """

        async def ask() -> int:
            quota = await self._quotas.quota_for(repository, own, digest, more)
            opened = (await self._quotas.others(repository)).sessions
            quota.check_uploads(opened, 0)
            return quota.allowance(opened, more)

        return await self._pressure.admit(repository, ask)


async def _no_bytes() -> AsyncIterator[bytes]:
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece
