"""An upload session in use: writes its stream and reserves room in the namespace's quota.

An append to a file writes no row, apart from a later expiry now and then: the file's own size is
the offset. If the namespace has a quota, room is reserved in steps as bytes arrive, and the unused
rest is returned at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import Final, TypeVar

from holdfast.engine.blobs.sources import Stream, check_stream, checked
from holdfast.engine.blobs.writer import BATCH_BYTES, BlobWriter
from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger.records import Session
from holdfast.engine.model.digest import Digest, Hasher
from holdfast.engine.model.errors import (
    Busy,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    SizeMismatch,
    TooLarge,
)
from holdfast.engine.model.states import advance
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces.quota import ALLOWANCE_BYTES_MAX, Quota, Quotas

from . import session_rows
from .pressure import Pressure
from .session_rows import Seen
from .session_states import STEPS, Ending, Step, ending_of

T = TypeVar("T")

_REFUSALS: Final = (SizeMismatch, TooLarge, QuotaExceeded)
"""Errors after which the stream is cut back to its size before the request."""


class ActiveUpload:
    """One request's work on a session, to which the process gives it exclusive access."""

    def __init__(
        self,
        core: Core,
        quotas: Quotas,
        pressure: Pressure,
        repository: Repository,
        session_id: bytes,
        session: Session,
        blob_writer: BlobWriter,
        *,
        step: Step,
    ) -> None:
        self._core = core
        self._quotas = quotas
        self._pressure = pressure
        self._repository = repository
        self._id = session_id
        self.session = session
        self.blob_writer = blob_writer
        self._step = step
        self.hasher: Hasher | None = None
        """Hasher of the bytes that the session keeps after this request; None if not known."""
        # ``receive`` advances the hasher; a file that is cut back needs the earlier state.
        known = blob_writer.hasher if step is Step.FINISHING else None
        self._hasher_before = None if known is None else known.copy()
        self.digest: Digest | None = None
        """Expected digest of the bytes; None until the client has named it."""
        self.seen = Seen(session.file_id, len(blob_writer.held))
        # Bytes still in memory reserve nothing: storing them in the row checks the quota anyway.
        self._reserved = False
        """True once the row may count more bytes than were received."""
        self._start = blob_writer.size
        # The first batch stays in memory, and is checked when it is written to the row or a file.
        self._granted = session.counted if session.file_id else max(session.counted, BATCH_BYTES)

    async def run(self, work: Awaitable[T]) -> T:
        """Do the work of the current step; go on to the step that follows its ending."""
        try:
            result = await work
        except BaseException as error:
            await self._enter(ending_of(error))
            raise
        await self._enter(Ending.DONE)
        return result

    async def _enter(self, ending: Ending) -> None:
        """Change the step, here and nowhere else, and do what it asks for. Raises IllegalEvent."""
        self._step = advance(STEPS, self._step, ending)
        match self._step:
            case Step.KEEPING:
                await self.run(self._keep())
            case Step.KEPT:
                self.hasher = self.blob_writer.hasher
            case Step.DROPPED:
                await self._clean_up()
            case Step.CUT:
                await self._roll_back(cut=True)
                self.hasher = self._hasher_before
            case Step.UNCERTAIN:
                await self._roll_back(cut=False)
            case Step.PUBLISHED:
                # A concurrent append keeps its bytes in the session; an abort has no effect.
                with contextlib.suppress(Busy, NotFound):
                    await self._end()
            case Step.ENDED:
                try:
                    await self._end()
                finally:
                    await self.blob_writer.abandon()

    async def receive(self, source: Stream, offset: int | None, length: int | None) -> None:
        """Append all of ``source``; cut the stream back to where it was if a limit refuses it.

        The step FINISHING declares that a part of it is worthless, even if this process dies
        before it can undo it. Raises OffsetMismatch, SizeMismatch, TooLarge, QuotaExceeded,
        NotFound, StorageFull, StorageFailed, Invalid (``source``), and what the source raises.
        """
        check_stream(source)
        blob_writer, start = self.blob_writer, self.blob_writer.size
        if offset is not None and offset != start:
            raise OffsetMismatch(start, offset)
        if length is not None:
            await self._check_announced(start + length)
        stop = None if length is None else start + length
        try:
            async for given in source:
                piece = checked(given)
                size = blob_writer.size + len(piece)
                if stop is not None and size > stop:
                    raise SizeMismatch(stop - start, size - start)
                await self._ensure_granted(size)
                await self.refresh()
                # Before the first byte reaches the file: a crash must find the mark.
                await self._mark(start if self._step is Step.FINISHING else -1)
                await blob_writer.write(piece)
            if stop is not None and blob_writer.size != stop:
                raise SizeMismatch(stop - start, blob_writer.size - start)
        except _REFUSALS:
            await blob_writer.truncate(start)
            raise

    async def _mark(self, base: int) -> None:
        """Record from which offset the file's bytes are valid only as a whole; -1 for none.

        A session without a file needs no mark: its row is written at the end. Raises NotFound.
        """
        if self.seen.file_id and self.session.base != base:
            self.session = await self._core.scratch.transact(
                session_rows.mark_base, self._repository, self._id, base
            )

    async def _roll_back(self, *, cut: bool) -> None:
        """Restore the session to its state before an incomplete request.

        Without ``cut`` the file keeps the extra bytes until the next request cuts them off.
        Raises NotFound, StorageFull, StorageFailed.
        """
        try:
            # After a failed sync the file is empty: there is nothing to cut.
            if cut and self.seen.file_id and not self.blob_writer.sync_failed:
                await self.blob_writer.truncate(self._start)
            if self._reserved:
                await self._settle(self._start)
        finally:
            await self._clean_up()

    async def _end(self) -> None:
        """End the session unless another request changed it meanwhile. Raises NotFound, Busy.

        The row goes while the file is still locked, so no request can resume the session in
        between.
        """
        await self._core.scratch.transact(session_rows.end, self._repository, self._id, self.seen)

    async def _check_announced(self, size: int) -> None:
        """Refuse an announced size before the first byte if it would be refused later anyway.

        Raises SizeMismatch, TooLarge, QuotaExceeded.
        """
        self._check_declared(size)
        if size > self._core.config.blob_bytes_max:
            raise TooLarge("blob", self._core.config.blob_bytes_max)
        # Room that the session's row counts already needs no second check.
        if size > self.session.counted:
            await self._pressure.admit(self._repository, lambda: self._room_left(size))

    async def _room_left(self, size: int) -> tuple[Quota, int]:
        """Return the session's quota, and how many bytes may follow the first ``size``.

        Raises NotFound, QuotaExceeded.
        """
        quota = await self._quota(size)
        left = await self._core.scratch.read(
            session_rows.room_left, self._repository, self._id, size, quota
        )
        return quota, left

    async def _quota(self, size: int) -> Quota:
        return await self._quotas.quota_for(self._repository, digest=self.digest, size=size)

    def _check_declared(self, size: int) -> None:
        if 0 <= self.session.declared < size:
            raise SizeMismatch(self.session.declared, size)

    async def _ensure_granted(self, size: int) -> None:
        """Reserve room for ``size`` bytes. Raises what ``_check_announced`` does."""
        self._check_declared(size)
        if size > self._granted:
            await self._pressure.admit(self._repository, lambda: self._grant(size))

    async def _grant(self, size: int) -> None:
        quota, left = await self._room_left(size)
        if not quota.bounds:
            # No quota to reserve from, so no row to write; the next step looks for one again.
            self._granted = size + min(ALLOWANCE_BYTES_MAX, left)
            return
        # Set before the transaction: it may commit although its caller is cancelled.
        self._reserved = True
        self.session = await self._core.scratch.transact(
            session_rows.grant,
            self._repository,
            self._id,
            size,
            quota,
        )
        self._granted = self.session.counted

    async def refresh(self) -> None:
        """Keep the session from expiring or being evicted while bytes arrive. Raises NotFound.

        Its end moves once a quarter of its lifetime has passed, and the time of its last byte
        five times per idle period, so most bytes write no row.
        """
        idle = self._core.config.upload_idle_seconds * SECOND
        if self._expiry_is_due or self._core.now() - self.session.touched > idle / 5:
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
    def _expiry_is_due(self) -> bool:
        quarter = self._core.config.upload_seconds * SECOND / 4
        return self._expires - self.session.expires > quarter

    async def _keep(self) -> None:
        """Store the received bytes so that they survive this process.

        Raises what ``receive`` does; the session then has what it had before, or a part of the
        new bytes as well.
        """
        # Bytes before the row: the row must not promise bytes that end with this process.
        await self.blob_writer.drain()
        await self._pressure.admit(self._repository, self._keep_row)

    async def _keep_row(self) -> None:
        core, blob_writer, session = self._core, self.blob_writer, self.session
        now = core.now()
        if not session.file_id and (blob_writer.file_id or blob_writer.size != self.seen.held):
            self.session = await core.scratch.transact(
                session_rows.keep,
                self._repository,
                self._id,
                self.seen,
                size=blob_writer.size,
                file_id=blob_writer.file_id,
                held=blob_writer.held,
                now=now,
                expires=self._expires,
                quota=await self._quota(blob_writer.size),
            )
            if blob_writer.file_id:
                # The session's row names the file from here on: this process must not remove it.
                core.files.transfer_to_session(blob_writer.file_id)
        elif self._reserved or self._expiry_is_due or self._touched_is_stale(now):
            await self._settle(blob_writer.size)
        else:
            # Nothing to write, but the answer must not confirm a session that was ended.
            await core.scratch.read(session_rows.unchanged, self._repository, self._id, self.seen)

    def _touched_is_stale(self, now: int) -> bool:
        """Return True if bytes came a second or more after the time in the row."""
        # Eviction goes by idle seconds, so a smaller error in the row does not matter.
        return self.blob_writer.size > self._start and now - self.session.touched >= SECOND

    async def _clean_up(self) -> None:
        """Clean up after a failure.

        Removes a file that the session does not own, and ends a session whose file was lost.
        """
        if self.blob_writer.sync_failed and self.seen.file_id:
            # Another process may have ended it. If this fails, the file is empty all the same.
            with contextlib.suppress(NotFound):
                await self._core.scratch.transact(session_rows.abort, self._repository, self._id)
        await self.blob_writer.abandon()
