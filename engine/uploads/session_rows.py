"""Session rows: an upload's state in the scratch ledger, and the transactions that change it.

An upload gets rows in the main ledger only when its bytes become a blob. Until then its state is
the rows here, plus a file once the content no longer fits in a row. These rows survive the end of
any process, and their commits do not wait for a disk. A reboot of the machine discards them: the
unsynced bytes of such a file could not be trusted either.

The holder of the file lock owns the file. Publishing takes the lock, commits to the main ledger,
then ends the session. Ending a session without the lock never deletes a file that is being
published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import number
from holdfast.engine.ledger.records import Session, get_payload, load, put_payload, save
from holdfast.engine.model.errors import Busy, Corrupt, NotFound
from holdfast.engine.model.states import IllegalEvent, advance
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces.open_uploads import UploadTotals, session_totals
from holdfast.engine.namespaces.quota import Quota

from .session_states import TRANSITIONS, Event, state_of

_IDLE_SCAN_MAX: Final = 10_000
"""Sessions of a namespace that one search for idle ones reads, at about 3 us each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """State of a session's content as its caller has read it."""

    file_id: int
    """Id of the file, which the caller has locked; 0 if none."""
    held: int
    """Bytes in the row. Content only grows, so an equal number means equal content."""


async def of_namespace(
    txn: Transaction, namespace_id: bytes, last: bytes, limit: int
) -> list[tuple[bytes, Session, int]]:
    """Return up to ``limit`` sessions of a namespace in order of id: id, row, bytes in the row.

    ``last`` is the id to start after and need not exist; empty starts at the first. Sessions
    whose row cannot be read are left out; the check reports them.
    """
    prefix = layout.SESSION_NAMESPACE + namespace_id
    start = prefix + last + b"\0" if last else prefix
    found = []
    for key, _ in await txn.scan(start, after(prefix), limit=limit):
        row = await of_id(txn, namespace_id, key[-layout.ID_BYTES :])
        if row is not None:
            found.append(row)
    return found


async def of_id(
    txn: Transaction, namespace_id: bytes, session_id: bytes
) -> tuple[bytes, Session, int] | None:
    """Return one session as ``of_namespace`` does; None if it is not open or cannot be read."""
    session = await _readable(txn, session_id)
    if session is None or session.namespace != namespace_id:
        return None
    try:
        content = await get_payload(txn, layout.SESSION_DATA + session_id)
    except Corrupt:
        return None
    return session_id, session, len(content or b"")


async def _readable(txn: Transaction, session_id: bytes) -> Session | None:
    """Return a session; None if it is not open or its row cannot be read."""
    try:
        return await load(txn, Session, layout.SESSION + session_id)
    except Corrupt:
        return None


async def dismiss(txn: Transaction, namespace_id: bytes, session_id: bytes) -> int:
    """End a session of a namespace, even if its row cannot be read. Raises NotFound.

    Returns the id of its file, which the caller discards; 0 if none.
    """
    # The index row decides, not the session's own row, which may be damaged.
    listed = layout.SESSION_NAMESPACE + namespace_id + session_id
    if await txn.get(listed) is None:
        raise NotFound("upload", str(UUID(bytes=session_id)))
    _, found = await _drop(txn, [listed])
    return found[0] if found else 0


async def total(txn: Transaction) -> int:
    """Return the number of open sessions of the store."""
    return await txn.counter(layout.counter(layout.UPLOADS))


async def begin(txn: Transaction, session_id: bytes, session: Session, quota: Quota) -> None:
    """Open a session. Raises QuotaExceeded.

    The declared size is compared with the room once and not reserved: clients that declare much
    and send nothing would lock the others out. A session without bytes counts for nothing and may
    open over the quota: its content may turn out to be kept already.
    """
    others = await session_totals(txn, session.namespace, session.project)
    quota.check_uploads(others, 1)
    if session.declared > 0:
        quota.left(others, session.declared)
    await _walk(txn, session_id, None, Event.BEGIN, session)


async def _walk(
    txn: Transaction, session_id: bytes, before: Session | None, event: Event, to: Session | None
) -> None:
    """Write all rows of a session and the counters that depend on it, here and nowhere else.

    None stands for no session. Raises IllegalEvent.
    """
    if advance(TRANSITIONS, state_of(before), event) is not state_of(to):
        raise IllegalEvent(f"{event} does not lead to {state_of(to)}")
    old, new = _index(session_id, before), _index(session_id, to)
    # The time of expiry is part of a key, so that row may have to move.
    for key in old:
        if key not in new:
            await txn.delete(key)
    for key, payload in new.items():
        if key not in old:
            await put_payload(txn, key, payload)
    if to is None:
        await txn.delete(layout.SESSION + session_id)
    else:
        await save(txn, layout.SESSION + session_id, to)
    if event in (Event.MOVE, Event.END):
        # The file has all of the content: bytes left in the row would be counted twice.
        await txn.delete(layout.SESSION_DATA + session_id)
    session = before or to
    assert session is not None
    if not before or not to:
        opened = 1 if to else -1
        await txn.add(layout.counter(layout.NAMESPACE_UPLOADS, session.namespace), opened)
        await txn.add(layout.counter(layout.UPLOADS), opened)
    delta = (to.counted if to else 0) - (before.counted if before else 0)
    if delta:
        await txn.add(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, session.namespace), delta)
        if session.project:
            await txn.add(layout.counter(layout.PROJECT_UPLOAD_BYTES, session.project), delta)


def _index(session_id: bytes, session: Session | None) -> dict[bytes, bytes]:
    """Return the rows that lead to a session: keys and payloads."""
    if session is None:
        return {}
    rows = {
        layout.SESSION_EXPIRY + number(session.expires) + session_id: b"",
        layout.SESSION_NAMESPACE + session.namespace + session_id: b"",
    }
    if session.file_id:
        # By this row, recovery and ``discard`` find out that a session owns the file.
        rows[layout.SESSION_FILE + number(session.file_id)] = session_id
    return rows


async def _find(txn: Transaction, repository: Repository, session_id: bytes) -> Session:
    """Return the open session of this image. Raises NotFound."""
    session = await load(txn, Session, layout.SESSION + session_id)
    # The id alone must not give access to a session of another image.
    image = repository.namespace_id.bytes, repository.name
    if session is None or (session.namespace, session.name) != image:
        raise NotFound("upload", str(UUID(bytes=session_id)))
    return session


async def inspect(
    txn: Transaction, repository: Repository, session_id: bytes
) -> tuple[Session, bytes]:
    """Return the session and the content held in its row. Raises NotFound."""
    session = await _find(txn, repository, session_id)
    return session, await get_payload(txn, layout.SESSION_DATA + session_id) or b""


async def unchanged(
    txn: Transaction, repository: Repository, session_id: bytes, seen: Seen
) -> Session:
    """Return the open session of this image if its content is still as the caller read it.

    Raises NotFound, Busy if another request appended meanwhile.
    """
    session, content = await inspect(txn, repository, session_id)
    if seen != Seen(session.file_id, len(content)):
        raise Busy("upload", str(UUID(bytes=session_id)))
    return session


async def keep(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    *,
    size: int,
    file_id: int,
    held: bytes,
    now: int,
    expires: int,
    quota: Quota,
) -> Session:
    """Write the content ``held`` of a small session to its row; or record that a file has it now.

    ``size`` is that of the content in bytes; ``file_id`` is 0 if there is no file. Raises
    NotFound, Busy, QuotaExceeded.
    """
    session = await unchanged(txn, repository, session_id, seen)
    if not file_id:
        await put_payload(txn, layout.SESSION_DATA + session_id, held)
    if size > session.counted:
        others = await session_totals(txn, session.namespace, session.project)
        # Raising rolls back the row above.
        quota.left(others, size - session.counted)
    changes = {"counted": size, "expires": expires, "touched": now}
    event = Event.MOVE if file_id else Event.WRITE
    return await _change(txn, session_id, session, event, file_id=file_id, **changes)


async def room_left(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int,
    quota: Quota,
) -> int:
    """Return how many bytes a session may receive beyond its first ``size``.

    Raises NotFound; QuotaExceeded if it may not have ``size`` bytes.
    """
    session = await _find(txn, repository, session_id)
    others = await session_totals(txn, session.namespace, session.project)
    # ``others`` has the session's own count, so only the difference is new.
    return quota.left(others, size - session.counted)


async def grant(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int,
    quota: Quota,
) -> Session:
    """Count a session for ``size`` bytes plus one step of room. Raises NotFound, QuotaExceeded."""
    session = await _find(txn, repository, session_id)
    others = await session_totals(txn, session.namespace, session.project)
    more = quota.allowance(others, size - session.counted)
    return await _change(txn, session_id, session, Event.COUNT, counted=size + more)


async def mark_base(
    txn: Transaction, repository: Repository, session_id: bytes, base: int
) -> Session:
    """Record the offset from which bytes are valid only as a whole; -1 if each byte is kept.

    A process that resumes the session cuts its file back to that offset. Raises NotFound.
    """
    session = await _find(txn, repository, session_id)
    event = Event.UNMARK if base < 0 else Event.MARK
    return await _change(txn, session_id, session, event, base=base)


async def settle(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int | None,
    *,
    touched: int,
    expires: int,
) -> Session:
    """Set a session's end and the time of its last byte (us), and what it counts for.

    ``size`` is in bytes; None leaves that as it is. Raises NotFound.
    """
    session = await _find(txn, repository, session_id)
    counted = session.counted if size is None else size
    changes = {"counted": counted, "expires": expires, "touched": touched}
    return await _change(txn, session_id, session, Event.COUNT, **changes)


async def _change(
    txn: Transaction, session_id: bytes, session: Session, event: Event, **changes: Any
) -> Session:
    changed = msgspec.structs.replace(session, **changes)
    await _walk(txn, session_id, session, event, changed)
    return changed


async def end(txn: Transaction, repository: Repository, session_id: bytes, seen: Seen) -> None:
    """End a session if its content is as the caller read it. Its file stays.

    Raises NotFound, Busy.
    """
    session = await unchanged(txn, repository, session_id, seen)
    await _walk(txn, session_id, session, Event.END, None)


async def abort(txn: Transaction, repository: Repository, session_id: bytes) -> int:
    """End a session. Raises NotFound.

    Returns the id of its file, which the caller discards; 0 if none.
    """
    session = await _find(txn, repository, session_id)
    await _walk(txn, session_id, session, Event.END, None)
    return session.file_id


async def any_expired(txn: Transaction, now: int) -> bool:
    """Return True if a session has expired by ``now`` (us)."""
    stop = layout.SESSION_EXPIRY + number(now)
    return bool(await txn.scan(layout.SESSION_EXPIRY, stop, limit=1))


async def any_after(txn: Transaction, until: int) -> bool:
    """Return True if a session expires at ``until`` (us) or later."""
    start = layout.SESSION_EXPIRY + number(until)
    return bool(await txn.scan(start, after(layout.SESSION_EXPIRY), limit=1))


async def cut_times(
    txn: Transaction, beyond: int, now: int, until: int, limit: int
) -> tuple[int, list[int]]:
    """Correct sessions opened while the clock was ahead: those that expire at ``beyond`` or later.

    They expire at ``until``; their other times are at most ``now``. Sessions whose rows are
    damaged end. Returns the rows seen and the ids of files to discard.
    """
    start = layout.SESSION_EXPIRY + number(beyond)
    rows = await txn.scan(start, after(layout.SESSION_EXPIRY), limit=limit)
    damaged = []
    for key, _ in rows:
        session_id = key[-layout.ID_BYTES :]
        session = await _readable(txn, session_id)
        if session is None or session.expires != layout.at(key, 1):
            # An expiry row that its session does not name can only come from damage.
            damaged.append(key)
            continue
        times = {"created": min(session.created, now), "touched": min(session.touched, now)}
        await _change(txn, session_id, session, Event.COUNT, expires=until, **times)
    _, files = await _drop(txn, damaged)
    return len(rows), files


async def expire(txn: Transaction, now: int, limit: int) -> tuple[int, list[int]]:
    """End up to ``limit`` expired sessions. Return their number and the ids of files to discard."""
    stop = layout.SESSION_EXPIRY + number(now)
    rows = await txn.scan(layout.SESSION_EXPIRY, stop, limit=limit)
    return await _drop(txn, [key for key, _ in rows])


async def drop_namespace(
    txn: Transaction, namespace_id: bytes, seen: int, limit: int
) -> tuple[int, list[int]]:
    """End sessions of a namespace that was found deleted at ``seen`` (us). Returns as ``expire``.

    Later sessions stay: the namespace may have been restored before they began.
    """
    prefix = layout.SESSION_NAMESPACE + namespace_id
    old = []
    for key, _ in await txn.scan(prefix, after(prefix), limit=limit):
        session = await _readable(txn, key[-layout.ID_BYTES :])
        if session is None or session.created <= seen:
            old.append(key)
    return await _drop(txn, old)


async def idle(
    txn: Transaction, namespace_id: bytes, before: int
) -> tuple[UploadTotals, list[tuple[bytes, Session]]]:
    """Return the namespace's totals, and its sessions without a byte since ``before`` (us).

    The sessions come with their ids, longest idle first. Those whose row cannot be read are left
    out: they end when they expire. The scan reads at most _IDLE_SCAN_MAX sessions.
    """
    prefix = layout.SESSION_NAMESPACE + namespace_id
    found = []
    for key, _ in await txn.scan(prefix, after(prefix), limit=_IDLE_SCAN_MAX):
        session_id = key[-layout.ID_BYTES :]
        session = await _readable(txn, session_id)
        if session is not None and 0 < session.touched <= before:
            found.append((session_id, session))
    found.sort(key=lambda one: (one[1].touched, one[0]))
    return await session_totals(txn, namespace_id), found


async def give_way(
    txn: Transaction,
    session_id: bytes,
    session: Session,
    seen: UploadTotals,
    *,
    by_number: bool,
) -> Literal["ended", "relieved", "in use"]:
    """End an idle session whose file, if any, the caller has locked.

    Returns ``in use`` if the session changed since it was read, ``relieved`` if the namespace's
    sessions are fewer (``by_number``) or smaller than in ``seen``: the request may fit by now.
    """
    # Two refused requests may pick the same victims; the second must not end one more.
    now = await session_totals(txn, session.namespace)
    if now.uploads < seen.uploads if by_number else now.bytes < seen.bytes:
        return "relieved"
    if await load(txn, Session, layout.SESSION + session_id) != session:
        return "in use"
    await _walk(txn, session_id, session, Event.END, None)
    return "ended"


async def _drop(txn: Transaction, keys: list[bytes]) -> tuple[int, list[int]]:
    """End the sessions that index rows point to. Return their number and ids of files to discard.

    A session whose own row cannot be read ends as well; recovery removes its file as an orphan.
    """
    found = []
    for key in keys:
        session_id = key[-layout.ID_BYTES :]
        await txn.delete(key)
        session = await _readable(txn, session_id)
        if session is None:
            await txn.delete(layout.SESSION + session_id)
            await txn.delete(layout.SESSION_DATA + session_id)
            continue
        await _walk(txn, session_id, session, Event.END, None)
        if session.file_id:
            found.append(session.file_id)
    return len(keys), found


async def namespace_ids(txn: Transaction, start: bytes, limit: int) -> list[bytes]:
    """Return up to ``limit`` ids of namespaces with open sessions, from ``start`` on."""
    prefix = layout.counter(layout.NAMESPACE_UPLOADS)
    rows = await txn.scan(prefix + start, after(prefix), limit=limit)
    return [key[len(prefix) :] for key, _ in rows]
