"""Upload sessions: bytes on their way into an image, over any number of requests.

The session's row is written when it is opened and when its bytes move from the ledger to a file,
never for an append to the file: the file's own size is the offset. What keeps two appends apart
is the lock on the file (between processes) and a set of busy sessions (within one).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import msgspec

from . import sessions
from .blobs import Arrival, Outcome
from .core import SECOND, Core, entropy
from .depot import Writer
from .digest import ALGORITHMS, Digest, Hasher
from .errors import (
    AlreadyExists,
    Busy,
    DigestMismatch,
    InvalidDigest,
    NotFound,
    OffsetMismatch,
    SizeMismatch,
    TooLarge,
)
from .intake import Intake
from .ledger import P, Work
from .models import Blob, Repository, Upload, moment
from .records import Session
from .sessions import Seen
from .sources import Stream

HASHERS_MAX: Final = 4096
"""Running hashes kept between requests, some 3 KiB each; a session without one is read again."""


class Uploads:
    """The upload sessions of a store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._busy: set[bytes] = set()
        self._hashers: dict[bytes, Hasher] = {}

    async def begin(
        self, repository: Repository, *, size: int | None = None, algorithm: str = "sha256"
    ) -> Upload:
        """Open a session. ``size`` (bytes) is checked against quota and limits where known.

        ``algorithm`` is the one the final digest will have: naming it saves a second reading.
        Raises NotFound (``namespace``), Locked, QuotaExceeded, TooLarge, InvalidDigest,
        StorageFull.
        """
        if algorithm not in ALGORITHMS:
            raise InvalidDigest(algorithm, f"algorithm {algorithm[:64]} is not supported")
        if size is not None and size > self._core.config.blob_bytes_max:
            raise TooLarge("blob", self._core.config.blob_bytes_max)
        await self._require_room(size or 0)
        now = self._core.now()
        session_id = entropy()
        draft = Session(
            image=b"",
            namespace=b"",
            algorithm=algorithm,
            declared=size or 0,
            file_id=0,
            synced=0,
            boot="",
            created=now,
            expires=self._expiry(now),
        )
        uploads_max = self._core.config.uploads_per_namespace_max
        await self._core.ledger.transact(
            sessions.begin, repository, draft, session_id, uploads_max, entropy()
        )
        return self._view(session_id, draft, 0)

    async def _require_room(self, size: int) -> None:
        core = self._core
        await core.threads.run(core.require_room, size, core.reserve_bytes)

    def _expiry(self, now: int) -> int:
        return now + int(self._core.config.upload_seconds * SECOND)

    @staticmethod
    def _view(session_id: bytes, session: Session, offset: int) -> Upload:
        return Upload(
            UUID(bytes=session_id), offset, moment(session.created), moment(session.expires)
        )

    async def get(self, repository: Repository, upload_id: UUID) -> Upload:
        """The session as it stands. Raises NotFound."""
        session, content = await self._core.ledger.read(
            sessions.inspect, repository, upload_id.bytes
        )
        if not session.file_id:
            return self._view(upload_id.bytes, session, len(content))
        if session.boot != self._core.boot:
            return self._view(upload_id.bytes, session, session.synced)
        try:
            size = await self._core.threads.run(self._file_size, session.file_id)
        except NotFound:
            raise NotFound("upload", str(upload_id)) from None
        return self._view(upload_id.bytes, session, size)

    def _file_size(self, file_id: int) -> int:
        reader = self._core.depot.open(file_id)
        try:
            return reader.size
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

        If ``source`` fails, what came before is kept and its error comes out here. Raises
        NotFound, OffsetMismatch, Busy, SizeMismatch and TooLarge (the append is undone),
        StorageFull, StorageFailed. The session lives on in all of these.
        """
        if upload_id.bytes in self._busy:
            raise Busy("upload", str(upload_id))
        self._busy.add(upload_id.bytes)
        try:
            session, intake = await self._resume(repository, upload_id)
            seen = Seen(session.file_id, len(intake.held))
            try:
                await _receive(intake, source, offset, length)
            finally:
                expires = await self._keep(repository, upload_id, session, intake, seen)
            session = msgspec.structs.replace(session, expires=expires)
            return self._view(upload_id.bytes, session, intake.size)
        finally:
            self._busy.discard(upload_id.bytes)

    async def _resume(self, repository: Repository, upload_id: UUID) -> tuple[Session, Intake]:
        """The session's stream so far, its file locked for us."""
        session, held = await self._core.ledger.read(sessions.inspect, repository, upload_id.bytes)
        algorithms = (session.algorithm,)
        if not session.file_id:
            hasher = Hasher(algorithms)
            return session, Intake(self._core, hasher=hasher, algorithms=algorithms, held=held)
        writer = await self._lock(session, upload_id)
        try:
            # Until the file was locked, another process may have ended the session (the file is
            # a blob now, or doomed), or gone on with it.
            session, _ = await self._core.ledger.read(sessions.inspect, repository, upload_id.bytes)
            if session.boot != self._core.boot:
                await self._restart(repository, upload_id, session, writer)
        except BaseException:
            await self._core.threads.run(writer.close)
            await self._core.files.discard(session.file_id)
            raise
        known = self._hashers.pop(upload_id.bytes, None)
        if known is None and writer.size == 0:
            known = Hasher(algorithms)
        intake = Intake(
            self._core,
            hasher=known if known and known.size == writer.size else None,
            algorithms=algorithms,
            file_id=session.file_id,
            writer=writer,
        )
        return session, intake

    async def _lock(self, session: Session, upload_id: UUID) -> Writer:
        depot, acquire = self._core.depot, self._core.threads.acquire
        try:
            return await acquire(depot.reopen, session.file_id)
        except Busy:
            raise Busy("upload", str(upload_id)) from None
        except NotFound:
            if session.boot == self._core.boot or session.synced:
                raise NotFound("upload", str(upload_id)) from None
        # A power failure may take a file that was never synced; its session begins anew.
        try:
            return await acquire(depot.create, session.file_id)
        except AlreadyExists:
            raise Busy("upload", str(upload_id)) from None

    async def _restart(
        self, repository: Repository, upload_id: UUID, session: Session, writer: Writer
    ) -> None:
        """Go on after the machine started anew, with what is certain to be in the file."""
        if writer.size > session.synced:
            await self._core.threads.run(writer.truncate, session.synced)
        await self._core.ledger.transact(
            sessions.trust, repository, upload_id.bytes, self._core.boot
        )

    async def _keep(
        self,
        repository: Repository,
        upload_id: UUID,
        session: Session,
        intake: Intake,
        seen: Seen,
    ) -> int:
        """Make what was received survive this process, and let go of it.

        Says when the session ends now. An append to a file moves that only once a quarter of
        the time is gone, so that most appends write no row.
        """
        try:
            await intake.drain()
            expires = self._expiry(self._core.now())
            if not session.file_id and intake.file_id:
                await self._core.ledger.transact(
                    sessions.move_to_file,
                    repository,
                    upload_id.bytes,
                    seen,
                    intake.file_id,
                    self._core.boot,
                    expires,
                )
                self._core.files.settle(intake.file_id)
            elif not session.file_id and intake.size != seen.held:
                await self._core.ledger.transact(
                    sessions.remember, repository, upload_id.bytes, seen, intake.held, expires
                )
            elif expires - session.expires > self._core.config.upload_seconds * SECOND / 4:
                await self._core.ledger.transact(
                    sessions.prolong, repository, upload_id.bytes, expires
                )
            else:
                expires = session.expires
            if intake.hasher is not None:
                self._hashers[upload_id.bytes] = intake.hasher
                if len(self._hashers) > HASHERS_MAX:
                    self._hashers.pop(next(iter(self._hashers)))
            return expires
        except BaseException:
            await self._undo(repository, upload_id, session, intake)
            raise
        finally:
            await intake.close()

    async def _undo(
        self, repository: Repository, upload_id: UUID, session: Session, intake: Intake
    ) -> None:
        """After a failure: a file that the session does not have goes, and so does a session
        whose file was lost."""
        if not session.file_id:
            await intake.abandon()
        elif intake.lost:
            # Another one may have ended it; should this fail, its file is empty all the same.
            with contextlib.suppress(NotFound):
                await self.abort(repository, upload_id)

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

        The image holds the blob from now on. Raises what ``append`` raises; DigestMismatch, which
        ends the session.
        """
        digest = Digest.parse(digest)
        if source is not None or offset is not None:
            await self.append(
                repository, upload_id, source or _nothing(), offset=offset, length=length
            )
        if upload_id.bytes in self._busy:
            raise Busy("upload", str(upload_id))
        self._busy.add(upload_id.bytes)
        try:
            session, intake = await self._resume(repository, upload_id)
            seen = Seen(session.file_id, len(intake.held))

            async def commit(arrival: Arrival) -> Outcome:
                now = self._core.now()
                until = self._core.hold_until(now)
                return await self._core.ledger.transact(
                    sessions.complete,
                    repository,
                    upload_id.bytes,
                    seen,
                    arrival,
                    now,
                    until,
                )

            try:
                arrival = await intake.publish(digest, commit)
            except DigestMismatch:
                # While the file is locked: nobody may go on with it in between.
                await self._end(sessions.refuse, repository, upload_id.bytes, seen)
                raise
            except BaseException:
                await self._undo(repository, upload_id, session, intake)
                raise
            finally:
                await intake.close()
        finally:
            self._busy.discard(upload_id.bytes)
        return Blob(digest, arrival.size)

    async def abort(self, repository: Repository, upload_id: UUID) -> None:
        """End a session and forget its bytes. Raises NotFound."""
        self._hashers.pop(upload_id.bytes, None)
        await self._end(sessions.abort, repository, upload_id.bytes)

    async def _end(self, work: Work[P, int], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a transaction that ends a session and names its file, which goes."""
        file_id = await self._core.ledger.transact(work, *args, **kwargs)
        if file_id:
            await self._core.files.reap(file_id, self._core.now())

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
        await self._require_room(length or 0)
        algorithms = (digest.algorithm,)
        intake = Intake(self._core, hasher=Hasher(algorithms), algorithms=algorithms)
        random = entropy()

        async def commit(arrival: Arrival) -> Outcome:
            now = self._core.now()
            until = self._core.hold_until(now)
            return await self._core.ledger.transact(
                sessions.deliver, repository, arrival, now, until, random
            )

        try:
            await _receive(intake, source, None, length)
            arrival = await intake.publish(digest, commit)
        except BaseException:
            await intake.abandon()
            raise
        return Blob(digest, arrival.size)


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


async def _receive(intake: Intake, source: Stream, offset: int | None, length: int | None) -> None:
    """Take all of ``source``; on a refusal of ours, cut the stream back to where it was."""
    start = intake.size
    if offset is not None and offset != start:
        raise OffsetMismatch(start, offset)
    try:
        async for piece in source:
            if length is not None and intake.size + len(piece) - start > length:
                raise SizeMismatch(length, intake.size + len(piece) - start)
            await intake.write(piece)
        if length is not None and intake.size - start != length:
            raise SizeMismatch(length, intake.size - start)
    except (SizeMismatch, TooLarge):
        await intake.drain()
        await intake.cut(start)
        raise
