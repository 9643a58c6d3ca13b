"""An upload session that somebody goes on with: its stream, and what its namespace lets it have.

An append to a file writes no row, but for the session's end now and then: the file's own size is
the offset. Only where the namespace has a quota, room is asked for in steps as bytes arrive, and
what was not used is given back at the end.
"""

from __future__ import annotations

import contextlib
from typing import Final

from holdfast.engine.blobs.sources import Stream, check_stream, checked
from holdfast.engine.blobs.writer import BATCH_BYTES, BlobWriter
from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger.records import Session
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import (
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    SizeMismatch,
    TooLarge,
)
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces.quota import ALLOWANCE_BYTES_MAX, Quota, Quotas

from . import session_rows
from .pressure import Pressure
from .session_rows import Seen

_REFUSALS: Final = (SizeMismatch, TooLarge, QuotaExceeded)
"""After these the stream is cut back to where it was."""


class ActiveUpload:
    """One stay at a session, whose stream nobody else goes on with meanwhile."""

    def __init__(
        self,
        core: Core,
        quotas: Quotas,
        pressure: Pressure,
        repository: Repository,
        session_id: bytes,
        session: Session,
        intake: BlobWriter,
    ) -> None:
        self._core = core
        self._quotas = quotas
        self._pressure = pressure
        self._repository = repository
        self._id = session_id
        self.session = session
        self.intake = intake
        self.digest: Digest | None = None
        """What the bytes are to have, once that is known."""
        self.seen = Seen(session.file_id, len(intake.held))
        # What is in no file yet is asked for when it is kept, which writes the row anyhow.
        self._asked = False
        self._start = intake.size
        self._granted = session.counted if session.file_id else max(session.counted, BATCH_BYTES)

    async def receive(
        self, source: Stream, offset: int | None, length: int | None, *, whole: bool = False
    ) -> None:
        """Take all of ``source``; on a refusal of ours, cut the stream back to where it was.

        ``whole``: part of it is worth nothing, also where this process does not come to say so.
        Whoever asks for that calls ``take_back`` where it fails. Raises OffsetMismatch,
        SizeMismatch, TooLarge, QuotaExceeded, NotFound, StorageFull, StorageFailed, Invalid
        (``source``), and what the source raises.
        """
        check_stream(source)
        intake, start = self.intake, self.intake.size
        if offset is not None and offset != start:
            raise OffsetMismatch(start, offset)
        if length is not None:
            await self._announce(start + length)
        stop = None if length is None else start + length
        try:
            async for given in source:
                piece = checked(given)
                size = intake.size + len(piece)
                if stop is not None and size > stop:
                    raise SizeMismatch(stop - start, size - start)
                await self._require(size)
                await self.live_on()
                await self._mark(start if whole else -1)
                await intake.write(piece)
            if stop is not None and intake.size != stop:
                raise SizeMismatch(stop - start, intake.size - start)
        except _REFUSALS:
            await intake.truncate(start)
            raise

    async def _mark(self, base: int) -> None:
        """Let those who find the file know from where on its bytes are good together only.

        Few bytes are in no file: they get into the row when they are kept. Raises NotFound.
        """
        if self.seen.file_id and self.session.base != base:
            self.session = await self._core.scratch.transact(
                session_rows.mark, self._repository, self._id, base
            )

    async def take_back(self, *, cut: bool) -> None:
        """After a request that did not come whole: the session has what it had before it.

        Without ``cut`` the file keeps the rest of its bytes until somebody goes on with it.
        Raises NotFound, StorageFull, StorageFailed.
        """
        try:
            if cut and self.seen.file_id and not self.intake.sync_failed:
                await self.intake.truncate(self._start)
            if self._asked:
                await self._settle(self._start)
        finally:
            await self.undo()

    async def end(self) -> None:
        """End a session that is refused for good, unless another one went on with it meanwhile.

        While its file is locked, so that nobody goes on with it in between. Raises NotFound, Busy.
        """
        try:
            await self._core.scratch.transact(
                session_rows.end, self._repository, self._id, self.seen
            )
        finally:
            await self.intake.abandon()

    async def _announce(self, size: int) -> None:
        """Refuse at once what would be refused on its way.

        Raises SizeMismatch, TooLarge, QuotaExceeded.
        """
        self._check_declared(size)
        if size > self._core.config.blob_bytes_max:
            raise TooLarge("blob", self._core.config.blob_bytes_max)
        if size > self.session.counted:
            await self._pressure.admit(self._repository, lambda: self._rest(size))

    async def _rest(self, size: int) -> tuple[Quota, int]:
        """What bounds the session, and bytes that may come after the first ``size``.

        Raises NotFound, QuotaExceeded.
        """
        quota = await self._look(size)
        rest = await self._core.scratch.read(
            session_rows.rest, self._repository, self._id, size, quota
        )
        return quota, rest

    async def _look(self, size: int) -> Quota:
        return await self._quotas.quota_for(self._repository, digest=self.digest, size=size)

    def _check_declared(self, size: int) -> None:
        if 0 <= self.session.declared < size:
            raise SizeMismatch(self.session.declared, size)

    async def _require(self, size: int) -> None:
        """Make sure that the session may have so many bytes. Raises what ``_announce`` does."""
        self._check_declared(size)
        if size > self._granted:
            await self._pressure.admit(self._repository, lambda: self._grant(size))

    async def _grant(self, size: int) -> None:
        quota, rest = await self._rest(size)
        if not quota.bounds:
            self._granted = size + min(ALLOWANCE_BYTES_MAX, rest)
            return
        self._asked = True
        self.session = await self._core.scratch.transact(
            session_rows.grant,
            self._repository,
            self._id,
            size,
            quota,
        )
        self._granted = self.session.counted

    async def live_on(self) -> None:
        """Do not let the session expire, or give way, while bytes come. Raises NotFound.

        Its end moves once a quarter of its time is gone, and the time of its last byte a few
        times in which it would become an idle one: so most bytes write no row.
        """
        idle = self._core.config.upload_idle_seconds * SECOND
        if self._due or self._core.now() - self.session.touched > idle / 5:
            await self._settle(None)

    async def _settle(self, size: int | None) -> None:
        now = self._core.now()
        self.session = await self._core.scratch.transact(
            session_rows.settle,
            self._repository,
            self._id,
            size,
            touched=now,
            expires=self._expires,
        )

    @property
    def _expires(self) -> int:
        return self._core.upload_until(self._core.now())

    @property
    def _due(self) -> bool:
        quarter = self._core.config.upload_seconds * SECOND / 4
        return self._expires - self.session.expires > quarter

    async def keep(self) -> None:
        """Make what was received survive this process.

        Raises what ``receive`` does; then the session stands where it stood before, or further
        on, with a part of the bytes.
        """
        try:
            await self._keep()
        except BaseException:
            await self.undo()
            raise

    async def _keep(self) -> None:
        await self.intake.drain()
        await self._pressure.admit(self._repository, self._keep_row)

    async def _keep_row(self) -> None:
        core, intake, session = self._core, self.intake, self.session
        transact, now = core.scratch.transact, core.now()
        if not session.file_id and intake.file_id:
            self.session = await transact(
                session_rows.move_to_file,
                self._repository,
                self._id,
                self.seen,
                intake.size,
                file_id=intake.file_id,
                now=now,
                expires=self._expires,
                quota=await self._look(intake.size),
            )
            core.files.lend(intake.file_id)
        elif not session.file_id and intake.size != self.seen.held:
            self.session = await transact(
                session_rows.remember,
                self._repository,
                self._id,
                self.seen,
                intake.held,
                now=now,
                expires=self._expires,
                quota=await self._look(intake.size),
            )
        elif self._asked or self._due or self._grew_late(now):
            await self._settle(intake.size)
        else:
            # Somebody may have ended it.
            await core.scratch.read(session_rows.unchanged, self._repository, self._id, self.seen)

    def _grew_late(self, now: int) -> bool:
        """Whether bytes came so long after the time that the row has that this is to be told."""
        return self.intake.size > self._start and now - self.session.touched >= SECOND

    async def undo(self) -> None:
        """After a failure: a file that the session does not have goes, and so does a session
        whose file was lost."""
        if self.intake.sync_failed and self.seen.file_id:
            # Another one may have ended it; should this fail, its file is empty all the same.
            with contextlib.suppress(NotFound):
                await self._core.scratch.transact(session_rows.abort, self._repository, self._id)
        await self.intake.abandon()
