"""Upload sessions: bytes on their way into an image, over any number of requests.

Sessions are rows of the scratch ledger, written when one is opened and when its bytes move to a
file, never for an append to the file: the file's own size is the offset. What keeps two appends
apart is the lock on the file (between processes) and a set of busy sessions (within one). What
waits for a disk is the end alone, where the bytes become a blob.
"""

from __future__ import annotations

import contextlib
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
    DigestMismatch,
    EngineError,
    Invalid,
    InvalidDigest,
    Locked,
    NotFound,
    QuotaExceeded,
    SizeMismatch,
    TooLarge,
)
from holdfast.engine.model.values import Blob, OpenUpload, Repository, Upload, moment
from holdfast.engine.namespaces import namespaces
from holdfast.engine.namespaces.open_uploads import UploadTotals, session_totals
from holdfast.engine.namespaces.quota import Quotas, UploadCounter
from holdfast.engine.repositories import blob_queries

from . import publish, session_rows
from .pressure import Pressure
from .stream import ActiveUpload

HASHERS_MAX: Final = 4096
"""Running hashes kept between requests, some 3 KiB each; a session without one is read again."""

_LEFT_AT_ONCE: Final = 200
"""Sessions of a deleted namespace that end in one transaction."""

LISTED_MAX: Final = 1000
"""Sessions in one answer of ``list``; of each that has a file its size is looked up."""


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
        """Open a session. ``size`` is the most bytes that it will have, where that is known.

        They are compared with the namespace's quota once; what counts for it is what arrives.
        Where the namespace is at a limit, idle sessions of its own give way (``pressure``).
        ``algorithm`` is the one the final digest will have: naming it saves a second reading.
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

        async def open_it() -> None:
            quota = await self._quotas.quota_for(repository)
            await self._core.scratch.transact(session_rows.begin, session_id, session, quota)

        await self._pressure.admit(repository, open_it)
        return self._view(session_id, session, 0)

    async def _inspect(self, repository: Repository, session_id: bytes) -> tuple[Session, bytes]:
        """The session, and its content as far as that is in no file.

        Raises NotFound, for the namespace or for the upload.
        """
        ledger, scratch = self._core.ledger, self._core.scratch
        await ledger.read(namespaces.require, repository.namespace_id.bytes)
        session, content = await scratch.read(session_rows.inspect, repository, session_id)
        if session.file_id and not await ledger.read(files.without_row, (session.file_id,)):
            # It was finished by a process that did not come to end it.
            await scratch.transact(session_rows.abort, repository, session_id)
            raise NotFound("upload", str(UUID(bytes=session_id)))
        return session, content

    async def _require_disk(self, size: int) -> None:
        core = self._core
        if size > BATCH_BYTES or not core.space.is_ample:
            await core.threads.run(core.require_room, size, core.reserve_bytes)

    @staticmethod
    def _view(session_id: bytes, session: Session, offset: int) -> Upload:
        return Upload(
            UUID(bytes=session_id), offset, moment(session.created), moment(session.expires)
        )

    async def get(self, repository: Repository, upload_id: UUID) -> Upload:
        """The session as it stands. Raises NotFound."""
        session, content = await self._inspect(repository, upload_id.bytes)
        if not session.file_id:
            return self._view(upload_id.bytes, session, len(content))
        try:
            size = await self._core.threads.run(self._file_size, session)
        except NotFound:
            raise NotFound("upload", str(upload_id)) from None
        return self._view(upload_id.bytes, session, size)

    def _file_size(self, session: Session) -> int:
        """Bytes that a session with a file has. Raises NotFound."""
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
        """Add bytes at the end. ``offset`` says where that must be, ``length`` how many come.

        If ``source`` fails, or gives what is no bytes (Invalid), what came before is kept and the
        error comes out here. Raises NotFound, OffsetMismatch, Busy; SizeMismatch (the append is
        undone); StorageFull, StorageFailed. The session lives on in all of these, but for a file
        that the disk failed to sync: it may have lost bytes, and so the session ends. It ends
        as well where it is refused for good: TooLarge, QuotaExceeded, Locked.
        """
        async with self._stay(repository, upload_id) as stay:
            try:
                try:
                    await stay.receive(source, offset, length)
                except BaseException as error:
                    if not _is_final(error):
                        await self._keep(stay, upload_id)
                    raise
                await self._keep(stay, upload_id)
            except EngineError as error:
                if _is_final(error):
                    await stay.end()
                raise
            return self._view(upload_id.bytes, stay.session, stay.intake.size)

    async def _keep(self, stay: ActiveUpload, upload_id: UUID) -> None:
        await stay.keep()
        self._remember(upload_id.bytes, stay.intake.hasher)

    def _remember(self, session_id: bytes, hasher: Hasher | None) -> None:
        if hasher is None:
            return
        self._hashers[session_id] = hasher
        if len(self._hashers) > HASHERS_MAX:
            self._hashers.pop(next(iter(self._hashers)))

    @asynccontextmanager
    async def _stay(self, repository: Repository, upload_id: UUID) -> AsyncIterator[ActiveUpload]:
        """The session, for this caller alone. Raises NotFound, Busy, StorageFailed."""
        with self._alone(upload_id):
            stay = await self._resume(repository, upload_id)
            try:
                yield stay
            finally:
                await stay.intake.close()

    @contextmanager
    def _alone(self, upload_id: UUID) -> Iterator[None]:
        if upload_id.bytes in self._busy:
            raise Busy("upload", str(upload_id))
        self._busy.add(upload_id.bytes)
        try:
            yield
        finally:
            self._busy.discard(upload_id.bytes)

    async def _resume(self, repository: Repository, upload_id: UUID) -> ActiveUpload:
        """The session's stream so far, its file locked for us."""
        core, session_id = self._core, upload_id.bytes
        session, held = await self._inspect(repository, session_id)
        algorithms = (session.algorithm,)
        if not session.file_id:
            intake = BlobWriter(core, hasher=None, algorithms=algorithms, held=held)
            return ActiveUpload(
                core, self._quotas, self._pressure, repository, session_id, session, intake
            )
        try:
            writer = await core.threads.acquire(core.depot.reopen, session.file_id)
        except Busy:
            raise Busy("upload", str(upload_id)) from None
        except NotFound:
            raise NotFound("upload", str(upload_id)) from None
        try:
            # Until the file was locked, another process may have ended the session, or gone on.
            session, _ = await self._inspect(repository, session_id)
            if 0 <= session.base < writer.size:
                await self._cut(session_id, session, writer)
        except BaseException:
            await core.threads.finish(writer.close)
            raise
        known = self._hashers.pop(session_id, None)
        if known is None and writer.size == 0:
            known = Hasher(algorithms)
        intake = BlobWriter(
            core,
            hasher=known if known and known.size == writer.size else None,
            algorithms=algorithms,
            file_id=session.file_id,
            writer=writer,
        )
        return ActiveUpload(
            core, self._quotas, self._pressure, repository, session_id, session, intake
        )

    async def _cut(self, session_id: bytes, session: Session, writer: Writer) -> None:
        """Cut off what came with a request that broke off. Raises NotFound, StorageFailed."""
        core = self._core
        # In a transaction: it runs after one that was to publish the file, and that goes on
        # although its caller was cancelled.
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
        """Add the last bytes, if any, and make the blob: durable when this returns.

        The image holds the blob from now on. It may be called again: where it failed, the session
        has what it had before, also when this process did not come to see to that; and where the
        session has ended, the image's blob of that digest is what it was to become. Raises what
        ``append`` raises; DigestMismatch, which ends the session too.
        """
        digest = Digest.parse(digest)
        source = _nothing() if source is None else source
        try:
            async with self._stay(repository, upload_id) as stay:
                stay.digest = digest
                known = stay.intake.hasher
                before = None if known is None else known.copy()
                try:
                    await stay.receive(source, offset, length, whole=True)
                except BaseException as error:
                    if _is_final(error):
                        await stay.end()
                    else:
                        await stay.take_back(cut=True)
                        self._remember(upload_id.bytes, before)
                    raise
                arrival = await self._publish(repository, upload_id, stay, digest)
        except NotFound as error:
            blob = None
            if error.kind == "upload":
                blob = await self._finished_before(repository, digest, source)
            if blob is None:
                raise
            return blob
        return Blob(digest, arrival.size)

    async def _finished_before(
        self, repository: Repository, digest: Digest, source: Stream
    ) -> Blob | None:
        """The blob that a session has ended with, whose client has not heard of it.

        What it sends again is taken in, so that it comes to read the answer. None where the image
        has no such blob, or might not have it any more when a manifest comes. Raises TooLarge, and
        what the source raises.
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
        self, repository: Repository, upload_id: UUID, stay: ActiveUpload, digest: Digest
    ) -> Arrival:
        """Make the blob, and end the session."""
        core, random = self._core, entropy()
        session = repository, upload_id.bytes, stay.seen

        async def commit(arrival: Arrival) -> Outcome:
            await core.scratch.read(session_rows.unchanged, *session)
            counted = stay.session.counted
            return await self._pressure.admit(
                repository, lambda: self._deliver(repository, arrival, random, counted)
            )

        try:
            await stay.live_on()
            arrival = await stay.intake.publish(digest, commit)
        except BaseException as error:
            if _is_final(error):
                await stay.end()
            else:
                # The transaction may yet publish the file: who goes on with the session, and
                # knows, cuts it.
                await stay.take_back(cut=False)
            raise
        # Bytes of another one who went on with it in this very moment stay in the session; and
        # one who ended it came too late.
        with contextlib.suppress(Busy, NotFound):
            await core.scratch.transact(session_rows.end, *session)
        return arrival

    async def _deliver(
        self, repository: Repository, arrival: Arrival, random: bytes, counted: int, own: int = 0
    ) -> Outcome:
        """Publish what came; ``counted`` bytes of it are a session's, ``own`` as
        ``Quotas.sessionless`` has it."""
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
        """End a session and forget its bytes. Raises NotFound."""
        self._hashers.pop(upload_id.bytes, None)
        core = self._core
        await core.ledger.read(namespaces.require, repository.namespace_id.bytes)
        file_id = await core.scratch.transact(session_rows.abort, repository, upload_id.bytes)
        await core.files.discard(file_id)

    async def list(
        self, namespace_id: UUID, *, after: UUID | None = None, limit: int = 100
    ) -> tuple[Sequence[OpenUpload], UUID | None, int]:
        """Open sessions of a namespace in order of their ids, after one that need not exist.

        At most ``limit`` (up to LISTED_MAX); the ``after`` with which to go on, None at the end;
        and how many are open. Raises NotFound (``namespace``), Invalid (``limit``).
        """
        if not 1 <= limit <= LISTED_MAX:
            raise Invalid("limit", f"must be 1 to {LISTED_MAX}")
        core = self._core
        await core.ledger.read(namespaces.require, namespace_id.bytes)
        last = b"" if after is None else after.bytes
        rows = await core.scratch.read(
            session_rows.of_namespace, namespace_id.bytes, last, limit + 1
        )
        found = await core.threads.run(self._listed, rows[:limit])
        opened = await core.scratch.read(session_totals, namespace_id.bytes)
        more = len(rows) > limit
        return found, UUID(bytes=rows[limit - 1][0]) if more else None, opened.uploads

    async def dismiss(self, namespace_id: UUID, upload_id: UUID) -> OpenUpload:
        """End a session of a namespace, whoever writes it, and forget its bytes.

        What it was. Raises NotFound, for the namespace or for the upload.
        """
        core = self._core
        await core.ledger.read(namespaces.require, namespace_id.bytes)
        row = await core.scratch.read(session_rows.of_id, namespace_id.bytes, upload_id.bytes)
        [was] = await core.threads.run(self._listed, [row]) if row is not None else [None]
        file_id = await core.scratch.transact(
            session_rows.dismiss, namespace_id.bytes, upload_id.bytes
        )
        self._hashers.pop(upload_id.bytes, None)
        await core.files.discard(file_id)
        if was is None:
            raise Corrupt("upload", str(upload_id), "its row could not be read; it is ended")
        return was

    async def leave(self, namespace_id: UUID, seen: int) -> None:
        """End the sessions of a namespace that was deleted at a time (us).

        Raises StorageFull, StorageFailed.
        """
        core = self._core
        while True:
            count, file_ids = await core.scratch.transact(
                session_rows.leave, namespace_id.bytes, seen, _LEFT_AT_ONCE
            )
            for file_id in file_ids:
                await core.files.discard(file_id)
            if count < _LEFT_AT_ONCE:
                return

    def _listed(self, rows: Sequence[tuple[bytes, Session, int]]) -> Sequence[OpenUpload]:
        """Sessions as callers see them. Blocks for a look at each file."""
        found = []
        for session_id, session, held in rows:
            try:
                size = self._file_size(session) if session.file_id else held
            except NotFound:
                # A process that just ended it, or made it a blob, has still to say so.
                size = 0
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
        """Upload a blob in one go, without a session. Raises what ``begin`` and ``finish`` do."""
        digest = Digest.parse(digest)
        check_stream(source)
        core, namespace_id = self._core, repository.namespace_id
        await self._require_disk(length or 0)
        algorithms = (digest.algorithm,)
        intake = BlobWriter(core, hasher=None, algorithms=algorithms)
        random = entropy()

        async def commit(arrival: Arrival) -> Outcome:
            own = arrival.size
            return await self._pressure.admit(
                repository, lambda: self._deliver(repository, arrival, random, 0, own)
            )

        with self._quotas.enter(namespace_id) as counter:
            try:
                await self._receive(repository, intake, counter, source, length, digest)
                arrival = await intake.publish(digest, commit)
            except BaseException:
                await intake.abandon()
                raise
        return Blob(digest, arrival.size)

    async def _receive(
        self,
        repository: Repository,
        intake: BlobWriter,
        counter: UploadCounter,
        source: Stream,
        length: int | None,
        digest: Digest,
    ) -> None:
        """Take all of ``source``, as long as the namespace has room for it.

        Few bytes are not asked for beforehand: the transaction that publishes them looks.
        """
        if length is not None and length < 0:
            raise Invalid("length", "must not be negative")
        granted = BATCH_BYTES
        if length is not None and length > granted:
            await self._rest(repository, length, 0, digest)
        async for given in source:
            piece = checked(given)
            size = intake.size + len(piece)
            if length is not None and size > length:
                raise SizeMismatch(length, size)
            counter.count(size)
            if size > granted:
                granted = size + await self._rest(repository, size, size, digest)
            await intake.write(piece)
        if length is not None and intake.size != length:
            raise SizeMismatch(length, intake.size)

    async def _rest(self, repository: Repository, more: int, own: int, digest: Digest) -> int:
        """How much may come beyond ``more`` before this is asked again; ``own`` as
        ``Quotas.sessionless`` has it. Raises NotFound, Locked, QuotaExceeded."""

        async def ask() -> int:
            quota = await self._quotas.quota_for(repository, own, digest, more)
            opened = await self._sessions(repository)
            quota.check_uploads(opened, 0)
            return quota.allowance(opened, more)

        return await self._pressure.admit(repository, ask)

    async def _sessions(self, repository: Repository) -> UploadTotals:
        return (await self._quotas.others(repository)).sessions


def _is_final(error: BaseException) -> bool:
    """Whether an upload is refused for good: to go on with its session would lead nowhere.

    So the session ends. Else a client that asks for its status sees one that stands where it
    stood, goes on, and tells of that instead of the refusal.
    """
    if isinstance(error, QuotaExceeded):
        return error.resource != "uploads"
    return isinstance(error, (DigestMismatch, TooLarge, Locked))


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
