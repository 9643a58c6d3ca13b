"""Evicts idle upload sessions of a namespace that is at a limit.

The session of a client that disappeared in mid-upload takes up room until it expires. A request
that the quota refuses may therefore end sessions of the same namespace that received no byte for
``StoreConfig.upload_idle_seconds``, longest idle first, and is then tried again. Sessions of
other namespaces are never ended, nor is a session that a process is working on: that process has
locked the file, or has written the time of the last bytes into the row.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot.interface import Writer
from holdfast.engine.ledger.records import Session
from holdfast.engine.model.errors import Busy, NotFound, QuotaExceeded
from holdfast.engine.model.values import Repository, Usage
from holdfast.engine.namespaces import namespaces
from holdfast.engine.namespaces.open_uploads import session_totals

from . import session_rows

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Pressure:
    """Ends idle sessions so that requests to a namespace at its limit can go on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.busy: set[bytes] = set()
        """Ids of the sessions that a caller in this process is working on."""

    async def admit(self, repository: Repository, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call ``attempt``, and again after each idle session ended for it; return its result.

        Raises what ``attempt`` raises; QuotaExceeded if no session may be ended, or if ending
        all idle ones would still not make enough room: then none is ended.
        """
        while True:
            try:
                return await attempt()
            except QuotaExceeded as refusal:
                if not await self._make_room(repository, refusal):
                    raise await self._with_usage(repository, refusal) from None

    async def _with_usage(self, repository: Repository, refusal: QuotaExceeded) -> QuotaExceeded:
        """Return the refusal with the namespace's usage and the commands that free space."""
        if refusal.resource == "uploads":
            return refusal
        core, namespace_id = self._core, repository.namespace_id.bytes
        opened = await core.scratch.read(session_totals, namespace_id)
        # Read after the refusal, so the sums may differ a little: people read them later still.
        usage = await core.ledger.read_in_thread(namespaces.usage, namespace_id, opened)
        numbers = refusal.resource, refusal.quota, refusal.current, refusal.asked
        return QuotaExceeded(*numbers, used_for=_usage_text(usage))

    async def _make_room(self, repository: Repository, refusal: QuotaExceeded) -> bool:
        """End one idle session for a refused request. Return True if it may fit now."""
        core, namespace_id = self._core, repository.namespace_id.bytes
        before = core.now() - int(core.config.upload_idle_seconds * SECOND)
        seen, idle = await core.scratch.read_in_thread(session_rows.idle, namespace_id, before)
        idle = [(key, session) for key, session in idle if key not in self.busy]
        by_number = refusal.resource == "uploads"
        # Ending sessions that do not make enough room would only lose their uploads.
        if sum(1 if by_number else session.counted for _, session in idle) < refusal.missing:
            return False
        for session_id, session in idle:
            if not by_number and not session.counted:
                # Ending a session without bytes would free none.
                continue
            try:
                writer = await self._lock(session)
            except Busy:
                # Another process holds the file's lock: the session is not idle.
                continue
            try:
                outcome = await core.scratch.transact(
                    session_rows.give_way, session_id, session, seen, by_number=by_number
                )
            finally:
                if writer is not None:
                    await core.threads.finish(writer.close)
            if outcome == "ended":
                self._log_ended(repository, session_id, session, refusal)
                # After the unlock: ``discard`` leaves a file that is open for writing.
                await core.files.discard(session.file_id)
            if outcome != "in use":
                return True
        return False

    async def _lock(self, session: Session) -> Writer | None:
        """Lock the session's file against appends; None if it has no file. Raises Busy."""
        if not session.file_id:
            # ``give_way`` compares the row instead: an append to a small session writes it.
            return None
        try:
            return await self._core.threads.acquire(self._core.depot.reopen, session.file_id)
        except NotFound:
            return None

    def _log_ended(
        self, repository: Repository, session_id: bytes, session: Session, refusal: QuotaExceeded
    ) -> None:
        _log.warning(
            "upload %s to %s/%s ended: no byte received for %d s and another request reached the "
            "namespace's limit (%s); %d bytes are free again, the client must restart the upload",
            UUID(bytes=session_id),
            repository.namespace,
            session.name,
            (self._core.now() - session.touched) // SECOND,
            refusal,
            session.counted,
        )


def _usage_text(usage: Usage) -> str:
    """Describe a namespace's usage in bytes, with the commands that free each part."""
    frees = {
        "trash": "holdfast trash delete",
        # Deleted tags hold what they need to be restored; a release leaves these holds alone.
        "holds": "holdfast hold release (holds of deleted tags: holdfast trash delete)",
        "uploads": "holdfast upload delete",
    }
    parts = {"trash": usage.trash, "holds": usage.held, "uploads": usage.uploads}
    reclaimable = [f"{size} in {name}: {frees[name]}" for name, size in parts.items() if size]
    return "; ".join([f"{usage.content + usage.manifests} in images", *reclaimable])
