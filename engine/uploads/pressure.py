"""What gives way where a namespace is at a limit: uploads of its own that were left behind.

A client that went away in the middle of an upload would else cost its namespace room until the
session expires. So a request that is refused may end sessions of the same namespace to which no
byte came for ``StoreConfig.upload_idle_seconds``, those first that have waited longest, and goes
on. Sessions of other namespaces have no part in this; nor has a session at which some process is
at work: it has locked the file, or has written into the row when its last bytes came.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot.interface import Writer
from holdfast.engine.model.errors import Busy, NotFound, QuotaExceeded
from holdfast.engine.model.values import Repository, Usage
from holdfast.engine.namespaces import namespaces
from holdfast.engine.namespaces.open_uploads import session_totals

from . import session_rows
from .session_rows import Idle

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Pressure:
    """Makes room for requests to namespaces that are at a limit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.busy: set[bytes] = set()
        """Ids of the sessions that this process is at work at."""

    async def admit(self, repository: Repository, attempt: Callable[[], Awaitable[T]]) -> T:
        """What ``attempt`` gives, which is made again after each session that gave way for it.

        Raises what it raises; QuotaExceeded where no session is left that may go, or where all
        of them would not be enough: then none is ended.
        """
        while True:
            try:
                return await attempt()
            except QuotaExceeded as refusal:
                if not await self._relieve(repository, refusal):
                    raise await self._explained(repository, refusal) from None

    async def _explained(self, repository: Repository, refusal: QuotaExceeded) -> QuotaExceeded:
        """The refusal, with what the namespace keeps, and with what gives space back."""
        if refusal.resource == "uploads":
            return refusal
        core, namespace_id = self._core, repository.namespace_id.bytes
        opened = await core.scratch.read(session_totals, namespace_id)
        # As of now, and not of the refusal: it is for people, who look later still.
        usage = await core.ledger.read_aside(namespaces.usage, namespace_id, opened)
        numbers = refusal.resource, refusal.quota, refusal.current, refusal.asked
        return QuotaExceeded(*numbers, used_for=_told(usage))

    async def _relieve(self, repository: Repository, refusal: QuotaExceeded) -> bool:
        """End what stands in the way of a request; says whether to make that again."""
        core, namespace_id = self._core, repository.namespace_id.bytes
        before = core.now() - int(core.config.upload_idle_seconds * SECOND)
        seen, idle = await core.scratch.read_aside(session_rows.idle, namespace_id, before)
        idle = [one for one in idle if one.id not in self.busy]
        by_number = refusal.resource == "uploads"
        if sum(1 if by_number else one.counted for one in idle) < refusal.missing:
            return False
        for one in idle:
            if not by_number and not one.counted:
                continue
            try:
                writer = await self._lock(one)
            except Busy:
                continue
            try:
                outcome = await core.scratch.transact(
                    session_rows.give_way, namespace_id, one, before, seen, by_number=by_number
                )
            finally:
                if writer is not None:
                    await core.threads.finish(writer.close)
            if outcome == "ended":
                self._tell(repository, one, refusal)
                await core.files.discard(one.file_id)
            if outcome != "in use":
                return True
        return False

    async def _lock(self, one: Idle) -> Writer | None:
        """Keep others from going on with a session; None where it has no file. Raises Busy."""
        if not one.file_id:
            return None
        try:
            return await self._core.threads.acquire(self._core.depot.reopen, one.file_id)
        except NotFound:
            return None

    def _tell(self, repository: Repository, one: Idle, refusal: QuotaExceeded) -> None:
        """Three things for whoever wonders where an upload is: what was done, why, what follows."""
        _log.warning(
            "upload %s to %s/%s was ended: no byte came for %d s, and a request to the namespace "
            "was over its limit (%s); its %d bytes are free, its client has to begin again",
            UUID(bytes=one.id),
            repository.namespace,
            one.name,
            (self._core.now() - one.touched) // SECOND,
            refusal,
            one.counted,
        )


def _told(usage: Usage) -> str:
    """What a namespace keeps, and how to free what nothing needs, in words."""
    frees = {
        "trash": "holdfast trash delete",
        # What deleted tags need to come back is held, and a release leaves it to them.
        "holds": "holdfast hold release, for those of deleted tags holdfast trash delete",
        "uploads": "holdfast upload delete",
    }
    parts = {"trash": usage.trash, "holds": usage.held, "uploads": usage.uploads}
    told = [f"{size} in {name}: {frees[name]}" for name, size in parts.items() if size]
    return "; ".join([f"{usage.content + usage.manifests} in images", *told])
