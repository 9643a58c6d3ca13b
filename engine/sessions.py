"""Session rows: an upload's state in the ledger, and the transactions that change it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec

from . import blobs, claims, images, layout, room
from .blobs import Arrival, Outcome
from .errors import Busy, NotFound
from .layout import number
from .ledger import Transaction
from .models import Repository
from .records import FileOwner, Session, get_payload, load, put_payload, save
from .records import Image as ImageRow
from .records import Namespace as NamespaceRow
from .room import Limits


async def begin(
    txn: Transaction,
    repository: Repository,
    draft: Session,
    session_id: bytes,
    limits: Limits,
    random: bytes,
) -> None:
    """Open a session. Raises NotFound, Locked, QuotaExceeded."""
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, draft.created
    )
    await room.check_uploads(txn, namespace, 1, limits)
    await room.left(txn, namespace, draft.counted, limits)
    session = msgspec.structs.replace(draft, image=row.key, namespace=namespace.id)
    await save(txn, layout.SESSION + session_id, session)
    await put_payload(txn, layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await put_payload(txn, layout.SESSION_IMAGE + row.key + session_id)
    await _count(txn, session, 1)


async def _count(txn: Transaction, session: Session, by: int) -> None:
    await txn.add(layout.counter(layout.NAMESPACE_UPLOADS, session.namespace), by)
    await txn.add(layout.counter(layout.UPLOADS), by)
    await _count_bytes(txn, session, by * session.counted)


async def _count_bytes(txn: Transaction, session: Session, delta: int) -> None:
    await txn.add(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, session.namespace), delta)


async def _grown(txn: Transaction, found: Found, size: int, limits: Limits) -> int:
    """What a session with that size counts for. Raises QuotaExceeded if it may not grow so far."""
    session, _, namespace = found
    counted = max(session.declared, size)
    if counted > session.counted:
        await room.left(txn, namespace, counted - session.counted, limits)
    return counted


Found = tuple[Session, ImageRow, NamespaceRow]
"""An open session, its image and its namespace."""


async def _find(txn: Transaction, repository: Repository, session_id: bytes) -> Found:
    """The open session of this image. Raises NotFound.

    It may have made the image: a repository that was located before leads to it by its name.
    """
    session = await load(txn, Session, layout.SESSION + session_id)
    if session is not None:
        if repository.key is None:
            made = await images.by_name(txn, repository.namespace_id.bytes, repository.name)
            repository = replace(repository, key=None if made is None else made.key)
        if session.image == repository.key:
            return session, *await images.current(txn, repository)
    raise NotFound("upload", str(UUID(bytes=session_id)))


async def inspect(
    txn: Transaction, repository: Repository, session_id: bytes
) -> tuple[Session, bytes]:
    """The session, and its content as far as that lies in the ledger. Raises NotFound."""
    session, _, _ = await _find(txn, repository, session_id)
    return session, await get_payload(txn, layout.SESSION_DATA + session_id) or b""


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a caller has read a session's content."""

    file_id: int
    """The file, which the caller has locked, or 0."""
    held: int
    """Bytes in the ledger. Content is only ever added to, so that their number tells."""


async def _unchanged(
    txn: Transaction, repository: Repository, session_id: bytes, seen: Seen
) -> Found:
    """As ``_find``, if the session's content is what the caller has read.

    Raises NotFound, Busy where another one went on with it meanwhile.
    """
    session, image, namespace = await _find(txn, repository, session_id)
    content = await get_payload(txn, layout.SESSION_DATA + session_id) or b""
    if seen != Seen(session.file_id, len(content)):
        raise Busy("upload", str(UUID(bytes=session_id)))
    return session, image, namespace


async def remember(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    content: bytes,
    expires: int,
    limits: Limits,
) -> Session:
    """Keep the content of a small session in the ledger. Raises NotFound, Busy, QuotaExceeded."""
    found = await _unchanged(txn, repository, session_id, seen)
    await put_payload(txn, layout.SESSION_DATA + session_id, content)
    counted = await _grown(txn, found, len(content), limits)
    return await _change(txn, session_id, found[0], counted=counted, expires=expires)


async def move_to_file(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    size: int,
    *,
    file_id: int,
    boot: str,
    expires: int,
    limits: Limits,
) -> Session:
    """From now on the session's ``size`` bytes lie in a file.

    Raises NotFound, Busy, QuotaExceeded.
    """
    found = await _unchanged(txn, repository, session_id, seen)
    await txn.delete(layout.SESSION_DATA + session_id)
    await save(txn, layout.FILE + number(file_id), FileOwner("session", session_id))
    counted = await _grown(txn, found, size, limits)
    return await _change(
        txn, session_id, found[0], counted=counted, expires=expires, file_id=file_id, boot=boot
    )


async def rest(
    txn: Transaction, repository: Repository, session_id: bytes, size: int, limits: Limits
) -> int:
    """Bytes that may come to a session after the first ``size``, which it may have.

    Raises NotFound, QuotaExceeded.
    """
    session, _, namespace = await _find(txn, repository, session_id)
    return await room.left(txn, namespace, size - session.counted, limits)


async def grant(
    txn: Transaction, repository: Repository, session_id: bytes, size: int, limits: Limits
) -> Session:
    """Let a session count for ``size`` bytes, and some more. Raises NotFound, QuotaExceeded."""
    session, _, namespace = await _find(txn, repository, session_id)
    more = room.step(await room.left(txn, namespace, size - session.counted, limits))
    return await _change(txn, session_id, session, counted=size + more)


async def settle(
    txn: Transaction, repository: Repository, session_id: bytes, size: int | None, expires: int
) -> Session:
    """Let a session live until then, and count for ``size`` bytes, if given. Raises NotFound."""
    session, _, _ = await _find(txn, repository, session_id)
    counted = session.counted if size is None else max(session.declared, size)
    return await _change(txn, session_id, session, counted=counted, expires=expires)


async def trust(txn: Transaction, repository: Repository, session_id: bytes, boot: str) -> Session:
    """From now on, until the machine starts anew, the file's size is the offset.

    The caller has the file locked, and emptied it. Raises NotFound.
    """
    session, _, _ = await _find(txn, repository, session_id)
    counted = max(session.declared, 0)
    return await _change(txn, session_id, session, counted=counted, boot=boot)


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


async def end(txn: Transaction, session_id: bytes, session: Session) -> None:
    """Remove a session's rows; its file, if it has one, is not touched."""
    await txn.delete(layout.SESSION + session_id)
    await txn.delete(layout.SESSION_DATA + session_id)
    await txn.delete(layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await txn.delete(layout.SESSION_IMAGE + session.image + session_id)
    await _count(txn, session, -1)


async def refuse(txn: Transaction, repository: Repository, session_id: bytes, seen: Seen) -> int:
    """As ``abort``, of a session whose content was read and is wrong. Raises NotFound, Busy."""
    await _unchanged(txn, repository, session_id, seen)
    return await abort(txn, repository, session_id)


async def abort(txn: Transaction, repository: Repository | None, session_id: bytes) -> int:
    """End a session and doom its file, whose id is the answer. Raises NotFound."""
    if repository is not None:
        session, _, _ = await _find(txn, repository, session_id)
    else:
        found = await load(txn, Session, layout.SESSION + session_id)
        if found is None:
            raise NotFound("upload", str(UUID(bytes=session_id)))
        session = found
    await end(txn, session_id, session)
    await blobs.doom(txn, session.file_id)
    await images.drop_draft(txn, session.image)
    return session.file_id


async def complete(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    arrival: Arrival,
    now: int,
    hold_until: int,
    *,
    limits: Limits,
) -> Outcome:
    """Publish what a session received, held by its image, and end the session.

    Raises NotFound, Busy, QuotaExceeded.
    """
    session, row, namespace = await _unchanged(txn, repository, session_id, seen)
    await room.left(txn, namespace, arrival.size - session.counted, limits)
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        await end(txn, session_id, session)
        owner = images.owner_of(row, namespace)
        await claims.hold(txn, owner, arrival.sha256, arrival.size, hold_until, now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome


async def deliver(
    txn: Transaction,
    repository: Repository,
    arrival: Arrival,
    now: int,
    hold_until: int,
    random: bytes,
    limits: Limits,
) -> Outcome:
    """Publish an upload that came in one request, held by its image.

    It is counted in the limits already. Raises NotFound, Locked, QuotaExceeded.
    """
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, now
    )
    await room.check_uploads(txn, namespace, 0, limits)
    await room.left(txn, namespace, 0, limits)
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = images.owner_of(row, namespace)
        await claims.hold(txn, owner, arrival.sha256, arrival.size, hold_until, now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome
