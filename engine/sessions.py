"""Session rows: an upload's state in the ledger, and the transactions that change it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec

from . import blobs, claims, images, layout
from .blobs import Arrival, Outcome
from .errors import Busy, NotFound, QuotaExceeded
from .layout import number
from .ledger import Transaction
from .models import Repository
from .records import FileOwner, Session, get_payload, load, put_payload, save
from .records import Namespace as NamespaceRow


async def begin(
    txn: Transaction,
    repository: Repository,
    draft: Session,
    session_id: bytes,
    uploads_max: int,
    random: bytes,
) -> None:
    """Open a session. Raises NotFound, Locked, QuotaExceeded."""
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, draft.created
    )
    await check_room(txn, namespace, draft.declared, uploads_max)
    session = msgspec.structs.replace(draft, image=row.key, namespace=namespace.id)
    await save(txn, layout.SESSION + session_id, session)
    await put_payload(txn, layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await put_payload(txn, layout.SESSION_IMAGE + row.key + session_id)
    await _count(txn, session, 1)


async def check_room(
    txn: Transaction, namespace: NamespaceRow, more: int, uploads_max: int
) -> None:
    """Whether the namespace may open one more session of that size. Raises QuotaExceeded."""
    opened = await txn.counter(layout.counter(layout.NAMESPACE_UPLOADS, namespace.id))
    if opened >= uploads_max:
        raise QuotaExceeded("uploads", uploads_max, opened)
    if namespace.quota >= 0:
        size = await txn.counter(layout.counter(layout.NAMESPACE_SIZE, namespace.id))
        coming = await txn.counter(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, namespace.id))
        if size + coming + more > namespace.quota:
            raise QuotaExceeded("size", namespace.quota, size + coming)


async def _count(txn: Transaction, session: Session, by: int) -> None:
    await txn.add(layout.counter(layout.NAMESPACE_UPLOADS, session.namespace), by)
    await txn.add(layout.counter(layout.UPLOADS), by)
    bytes_key = layout.counter(layout.NAMESPACE_UPLOAD_BYTES, session.namespace)
    await txn.add(bytes_key, by * session.declared)


async def require(txn: Transaction, repository: Repository, session_id: bytes) -> Session:
    """The open session of this image. Raises NotFound."""
    session = await load(txn, Session, layout.SESSION + session_id)
    if session is not None and session.image == repository.key:
        await images.current(txn, repository)
        return session
    raise NotFound("upload", str(UUID(bytes=session_id)))


async def inspect(
    txn: Transaction, repository: Repository, session_id: bytes
) -> tuple[Session, bytes]:
    """The session, and its content as far as that lies in the ledger. Raises NotFound."""
    session = await require(txn, repository, session_id)
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
) -> Session:
    """The session, if its content is what the caller has read.

    Raises NotFound, Busy where another one went on with it meanwhile.
    """
    session, content = await inspect(txn, repository, session_id)
    if seen != Seen(session.file_id, len(content)):
        raise Busy("upload", str(UUID(bytes=session_id)))
    return session


async def remember(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    content: bytes,
    expires: int,
) -> None:
    """Keep the content of a small session in the ledger. Raises NotFound, Busy."""
    session = await _unchanged(txn, repository, session_id, seen)
    await put_payload(txn, layout.SESSION_DATA + session_id, content)
    await _prolong(txn, session_id, session, expires)


async def move_to_file(
    txn: Transaction,
    repository: Repository,
    session_id: bytes,
    seen: Seen,
    file_id: int,
    boot: str,
    expires: int,
) -> None:
    """From now on the session's content lies in a file. Raises NotFound, Busy."""
    session = await _unchanged(txn, repository, session_id, seen)
    await txn.delete(layout.SESSION_DATA + session_id)
    await save(txn, layout.FILE + number(file_id), FileOwner("session", session_id))
    session = msgspec.structs.replace(session, file_id=file_id, boot=boot)
    await _prolong(txn, session_id, session, expires)


async def prolong(
    txn: Transaction, repository: Repository, session_id: bytes, expires: int
) -> None:
    """Let a session live until then. Raises NotFound."""
    session = await require(txn, repository, session_id)
    await _prolong(txn, session_id, session, expires)


async def trust(txn: Transaction, repository: Repository, session_id: bytes, boot: str) -> None:
    """From now on, until the machine starts anew, the file's size is the offset.

    The caller has the file locked, and cut to what is durable. Raises NotFound.
    """
    session = await require(txn, repository, session_id)
    await save(txn, layout.SESSION + session_id, msgspec.structs.replace(session, boot=boot))


async def _prolong(txn: Transaction, session_id: bytes, session: Session, expires: int) -> None:
    await txn.delete(layout.SESSION_EXPIRY + number(session.expires) + session_id)
    await put_payload(txn, layout.SESSION_EXPIRY + number(expires) + session_id)
    await save(txn, layout.SESSION + session_id, msgspec.structs.replace(session, expires=expires))


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
        session = await require(txn, repository, session_id)
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
) -> Outcome:
    """Publish what a session received, held by its image, and end the session.

    Raises NotFound, Busy.
    """
    session = await _unchanged(txn, repository, session_id, seen)
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        row, namespace = await images.current(txn, repository)
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
) -> Outcome:
    """Publish an upload that came in one request, held by its image."""
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, now
    )
    if namespace.quota >= 0:
        await check_room(txn, namespace, arrival.size, 1 << 62)
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = images.owner_of(row, namespace)
        await claims.hold(txn, owner, arrival.sha256, arrival.size, hold_until, now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome
