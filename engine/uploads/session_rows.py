"""Session rows: an upload's state in the scratch ledger, and the transactions that change it.

The ledger knows of an upload when its bytes are a blob. Before that it is nobody's but its
session's: rows here, and a file once its bytes are not few any more. They survive every process,
and need no commit that waits for a disk. When the machine starts anew, they are forgotten, as
the bytes of such a file would have to be.

A file is nobody's but his who has locked it: so who publishes its bytes does that, and ends the
session afterwards, and who only ends a session leaves the file to him.
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
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces.open_uploads import UploadTotals, session_totals
from holdfast.engine.namespaces.quota import Quota

_LOOKED_AT_MAX: Final = 10_000
"""Sessions of a namespace that one look for idle ones goes through, at some 3 us each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a caller has read a session's content."""

    file_id: int
    """The file, which the caller has locked, or 0."""
    held: int
    """Bytes in its row. Content is only ever added to, so that their number tells."""


async def of_namespace(
    txn: Transaction, namespace_id: bytes, last: bytes, limit: int
) -> list[tuple[bytes, Session, int]]:
    """Sessions of a namespace in order of their ids, after one that need not exist: id, row, and
    the bytes in that. Those whose row cannot be read are left out: the check tells of them."""
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
    """As ``of_namespace``, one of them; None where it is not open, or not to be read."""
    try:
        session = await load(txn, Session, layout.SESSION + session_id)
        content = await get_payload(txn, layout.SESSION_DATA + session_id)
    except Corrupt:
        return None
    if session is None or session.namespace != namespace_id:
        return None
    return session_id, session, len(content or b"")


async def dismiss(txn: Transaction, namespace_id: bytes, session_id: bytes) -> int:
    """End a session of a namespace; its file, or 0, is to be discarded. Raises NotFound.

    Also one whose row cannot be read.
    """
    listed = layout.SESSION_NAMESPACE + namespace_id + session_id
    if await txn.get(listed) is None:
        raise NotFound("upload", str(UUID(bytes=session_id)))
    _, found = await _drop(txn, [listed])
    return found[0] if found else 0


async def total(txn: Transaction) -> int:
    """How many sessions are open."""
    return await txn.counter(layout.counter(layout.UPLOADS))


async def begin(txn: Transaction, session_id: bytes, session: Session, quota: Quota) -> None:
    """Open a session. Raises QuotaExceeded.

    What it declares is compared with the room once, and not reserved: many who announce much and
    bring nothing would keep the others out. What has no bytes yet adds nothing, also over a
    quota: they may turn out to be known.
    """
    others = await session_totals(txn, session.namespace, session.project)
    quota.check_uploads(others, 1)
    if session.declared > 0:
        quota.left(others, session.declared)
    await save(txn, layout.SESSION + session_id, session)
    await put_payload(txn, layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await put_payload(txn, layout.SESSION_NAMESPACE + session.namespace + session_id)
    await _count(txn, session, 1)


async def _count(txn: Transaction, session: Session, by: int) -> None:
    await txn.add(layout.counter(layout.NAMESPACE_UPLOADS, session.namespace), by)
    await txn.add(layout.counter(layout.UPLOADS), by)
    await _count_bytes(txn, session, by * session.counted)


async def _count_bytes(txn: Transaction, session: Session, delta: int) -> None:
    await txn.add(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, session.namespace), delta)
    if session.project:
        await txn.add(layout.counter(layout.PROJECT_UPLOAD_BYTES, session.project), delta)


async def _find(txn: Transaction, repository: Repository, session_id: bytes) -> Session:
    """The open session of this image. Raises NotFound."""
    session = await load(txn, Session, layout.SESSION + session_id)
    place = repository.namespace_id.bytes, repository.name
    if session is None or (session.namespace, session.name) != place:
        raise NotFound("upload", str(UUID(bytes=session_id)))
    return session


async def inspect(
    txn: Transaction, repository: Repository, session_id: bytes
) -> tuple[Session, bytes]:
    """The session, and its content as far as that is in no file. Raises NotFound."""
    session = await _find(txn, repository, session_id)
    return session, await get_payload(txn, layout.SESSION_DATA + session_id) or b""


async def unchanged(
    txn: Transaction, repository: Repository, session_id: bytes, seen: Seen
) -> Session:
    """The open session of this image, if its content is what the caller has read.

    Raises NotFound, Busy where another one went on with it meanwhile.
    """
    session, content = await inspect(txn, repository, session_id)
    if seen != Seen(session.file_id, len(content)):
        raise Busy("upload", str(UUID(bytes=session_id)))
    return session


async def _check_grown(txn: Transaction, session: Session, size: int, quota: Quota) -> None:
    """Whether a session may have that size. Raises QuotaExceeded."""
    if size > session.counted:
        others = await session_totals(txn, session.namespace, session.project)
        quota.left(others, size - session.counted)


async def remember(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    content: bytes,
    *,
    now: int,
    expires: int,
    quota: Quota,
) -> Session:
    """Keep the content of a small session in its row. Raises NotFound, Busy, QuotaExceeded."""
    session = await unchanged(txn, repository, session_id, seen)
    await put_payload(txn, layout.SESSION_DATA + session_id, content)
    await _check_grown(txn, session, len(content), quota)
    changes = {"counted": len(content), "expires": expires, "touched": now}
    return await _change(txn, session_id, session, **changes)


async def move_to_file(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    size: int,
    *,
    file_id: int,
    now: int,
    expires: int,
    quota: Quota,
) -> Session:
    """From now on the session's ``size`` bytes lie in a file.

    Raises NotFound, Busy, QuotaExceeded.
    """
    session = await unchanged(txn, repository, session_id, seen)
    await txn.delete(layout.SESSION_DATA + session_id)
    await put_payload(txn, layout.SESSION_FILE + number(file_id), session_id)
    await _check_grown(txn, session, size, quota)
    changes = {"counted": size, "expires": expires, "file_id": file_id, "touched": now}
    return await _change(txn, session_id, session, **changes)


async def rest(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int,
    quota: Quota,
) -> int:
    """Bytes that may come to a session after the first ``size``, which it may have.

    Raises NotFound, QuotaExceeded.
    """
    session = await _find(txn, repository, session_id)
    others = await session_totals(txn, session.namespace, session.project)
    return quota.left(others, size - session.counted)


async def grant(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int,
    quota: Quota,
) -> Session:
    """Let a session count for ``size`` bytes, and some more. Raises NotFound, QuotaExceeded."""
    session = await _find(txn, repository, session_id)
    others = await session_totals(txn, session.namespace, session.project)
    more = quota.allowance(others, size - session.counted)
    return await _change(txn, session_id, session, counted=size + more)


async def mark(txn: Transaction, repository: Repository, session_id: bytes, base: int) -> Session:
    """Note where bytes begin that count only if all of them come; -1: they count as they come.

    Raises NotFound.
    """
    session = await _find(txn, repository, session_id)
    return await _change(txn, session_id, session, base=base)


async def settle(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    size: int | None,
    *,
    touched: int,
    expires: int,
) -> Session:
    """Let a session live until then, and count for ``size`` bytes, if given.

    ``touched`` is when a byte came last. Raises NotFound.
    """
    session = await _find(txn, repository, session_id)
    counted = session.counted if size is None else size
    changes = {"counted": counted, "expires": expires, "touched": touched}
    return await _change(txn, session_id, session, **changes)


async def _change(txn: Transaction, session_id: bytes, session: Session, **changes: Any) -> Session:
    """Write a session's row, and what follows from it."""
    changed = msgspec.structs.replace(session, **changes)
    if changed.expires != session.expires:
        await txn.delete(layout.SESSION_EXPIRY + number(session.expires) + session_id)
        await put_payload(txn, layout.SESSION_EXPIRY + number(changed.expires) + session_id)
    if changed.counted != session.counted:
        await _count_bytes(txn, session, changed.counted - session.counted)
    await save(txn, layout.SESSION + session_id, changed)
    return changed


async def end(txn: Transaction, repository: Repository, session_id: bytes, seen: Seen) -> None:
    """End a session whose content was read; its file stays. Raises NotFound, Busy."""
    await _remove(txn, session_id, await unchanged(txn, repository, session_id, seen))


async def abort(txn: Transaction, repository: Repository, session_id: bytes) -> int:
    """End a session; its file, or 0, is to be discarded. Raises NotFound."""
    session = await _find(txn, repository, session_id)
    await _remove(txn, session_id, session)
    return session.file_id


async def _remove(txn: Transaction, session_id: bytes, session: Session) -> None:
    await txn.delete(layout.SESSION + session_id)
    await txn.delete(layout.SESSION_DATA + session_id)
    await txn.delete(layout.SESSION_FILE + number(session.file_id))
    await txn.delete(layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await txn.delete(layout.SESSION_NAMESPACE + session.namespace + session_id)
    await _count(txn, session, -1)


async def due(txn: Transaction, now: int) -> bool:
    """Whether the time of any session is over."""
    stop = layout.SESSION_EXPIRY + number(now)
    return bool(await txn.scan(layout.SESSION_EXPIRY, stop, limit=1))


async def far(txn: Transaction, until: int) -> bool:
    """Whether a session lasts longer than until then."""
    start = layout.SESSION_EXPIRY + number(until)
    return bool(await txn.scan(start, after(layout.SESSION_EXPIRY), limit=1))


async def cut(
    txn: Transaction, beyond: int, now: int, until: int, limit: int
) -> tuple[int, list[int]]:
    """Let sessions that last longer than ``beyond`` last until then, and none of their times be
    later than now: the clock was ahead. Says as ``expire`` what went, since it was damaged."""
    start = layout.SESSION_EXPIRY + number(beyond)
    rows = await txn.scan(start, after(layout.SESSION_EXPIRY), limit=limit)
    damaged = []
    for key, _ in rows:
        session_id = key[-layout.ID_BYTES :]
        try:
            session = await load(txn, Session, layout.SESSION + session_id)
        except Corrupt:
            session = None
        if session is None or session.expires != layout.at(key, 1):
            damaged.append(key)
            continue
        times = {"created": min(session.created, now), "touched": min(session.touched, now)}
        await _change(txn, session_id, session, expires=until, **times)
    _, files = await _drop(txn, damaged)
    return len(rows), files


async def expire(txn: Transaction, now: int, limit: int) -> tuple[int, list[int]]:
    """End sessions whose time is over: how many, and their files, which are to be discarded."""
    stop = layout.SESSION_EXPIRY + number(now)
    rows = await txn.scan(layout.SESSION_EXPIRY, stop, limit=limit)
    return await _drop(txn, [key for key, _ in rows])


async def leave(
    txn: Transaction, namespace_id: bytes, seen: int, limit: int
) -> tuple[int, list[int]]:
    """As ``expire``, sessions of a namespace that was seen to be gone at a time.

    Later ones stay: it may have been brought back before they began.
    """
    prefix = layout.SESSION_NAMESPACE + namespace_id
    old = []
    for key, _ in await txn.scan(prefix, after(prefix), limit=limit):
        try:
            session = await load(txn, Session, layout.SESSION + key[-layout.ID_BYTES :])
        except Corrupt:
            session = None
        if session is None or session.created <= seen:
            old.append(key)
    return await _drop(txn, old)


@dataclass(frozen=True, slots=True)
class Idle:
    """A session that no byte came to for a while, as it was seen."""

    id: bytes
    name: str
    """Of its image."""
    file_id: int
    counted: int
    touched: int


async def idle(
    txn: Transaction, namespace_id: bytes, before: int
) -> tuple[UploadTotals, list[Idle]]:
    """Sessions of a namespace without a byte since then, the oldest first; and what all count for.

    Linear in its sessions, of which there is a limit, and bounded beyond that.
    """
    prefix = layout.SESSION_NAMESPACE + namespace_id
    found = []
    for key, _ in await txn.scan(prefix, after(prefix), limit=_LOOKED_AT_MAX):
        session_id = key[-layout.ID_BYTES :]
        try:
            session = await load(txn, Session, layout.SESSION + session_id)
        except Corrupt:
            # It goes when its time is over, as any whose row cannot be read.
            continue
        if session is not None and 0 < session.touched <= before:
            found.append(_idle(session_id, session))
    return await session_totals(txn, namespace_id), sorted(
        found, key=lambda one: (one.touched, one.id)
    )


def _idle(session_id: bytes, session: Session) -> Idle:
    return Idle(session_id, session.name, session.file_id, session.counted, session.touched)


async def give_way(
    txn: Transaction,
    namespace_id: bytes,
    one: Idle,
    before: int,
    seen: UploadTotals,
    *,
    by_number: bool,
) -> Literal["ended", "relieved", "in use"]:
    """End an idle session, whose file the caller has locked.

    Not one that was gone on with since it was looked at (``in use``), nor where the namespace's
    sessions are fewer, or smaller, than they were ``seen``: then the request may fit by now.
    """
    now = await session_totals(txn, namespace_id)
    if now.uploads < seen.uploads if by_number else now.bytes < seen.bytes:
        return "relieved"
    session = await load(txn, Session, layout.SESSION + one.id)
    if session is None or session.touched > before or _idle(one.id, session) != one:
        return "in use"
    await _remove(txn, one.id, session)
    return "ended"


async def _drop(txn: Transaction, keys: list[bytes]) -> tuple[int, list[int]]:
    """End the sessions that rows lead to.

    One whose own row cannot be read goes as well; its file as others that nothing names.
    """
    found = []
    for key in keys:
        session_id = key[-layout.ID_BYTES :]
        await txn.delete(key)
        try:
            session = await load(txn, Session, layout.SESSION + session_id)
        except Corrupt:
            await txn.delete(layout.SESSION + session_id)
            await txn.delete(layout.SESSION_DATA + session_id)
            continue
        if session is not None:
            await _remove(txn, session_id, session)
            if session.file_id:
                found.append(session.file_id)
    return len(keys), found


async def places(txn: Transaction, start: bytes, limit: int) -> list[bytes]:
    """Ids of namespaces with open sessions, from ``start`` on."""
    prefix = layout.counter(layout.NAMESPACE_UPLOADS)
    rows = await txn.scan(prefix + start, after(prefix), limit=limit)
    return [key[len(prefix) :] for key, _ in rows]
