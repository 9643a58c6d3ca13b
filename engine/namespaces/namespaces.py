"""Namespaces: create, find, list, change and delete them, and read their exact numbers.

A namespace is a name in a region that belongs to a project; names are unique over all projects.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import msgspec

from holdfast.engine.core import SECOND, Core, entropy
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import (
    Limits,
    Trash,
    get_payload,
    load,
    payloads,
    put_payload,
    save,
)
from holdfast.engine.ledger.records import Namespace as Row
from holdfast.engine.model.config import DESCRIPTION_CHARS_MAX
from holdfast.engine.model.errors import (
    AlreadyExists,
    Corrupt,
    EngineError,
    Invalid,
    Locked,
    NotFound,
)
from holdfast.engine.model.names import check_namespace_name, check_patterns, check_region
from holdfast.engine.model.values import UNSET, Namespace, Order, Page, Status, Unset, Usage, moment
from holdfast.engine.references import kept, reclaimable, trash_rows

from . import identity, limit_rows, listings, protection
from .listings import Entry, Query
from .open_uploads import UploadTotals, session_totals

_log: Final = logging.getLogger(__name__)

KIND: Final = b"n"

DELETED_SCANNED_MAX: Final = 100
"""Deleted namespaces that a listing scans on the event loop, at about 6 us each; with more of
them it runs in a thread."""

_ROWS_PER_SCAN: Final = 1000

_VISIBILITY_BYTES: Final = {"inherit": b"i", "public": b"o", "private": b"p"}


def scopes(row: Row) -> tuple[bytes, ...]:
    """Return the scopes of the listings that a namespace appears in."""
    return in_region(row.region), in_project(row.region, row.project)


def in_region(region: str) -> bytes:
    """Return the scope of everything in a region."""
    return b"r" + region.encode() + b"\0"


def in_project(region: str, project: bytes) -> bytes:
    """Return the scope of everything of one project in a region."""
    return b"p" + region.encode() + b"\0" + project


def in_public(region: str) -> bytes:
    """Return the scope of a region's namespaces with images that every client may pull."""
    return b"e" + region.encode() + b"\0"


def audience_row(scope: bytes, row: Row) -> bytes:
    """Return the key that lists a namespace in the catalog of a scope.

    It ends with the slash of full names, so that keys sort as full names do.
    """
    return layout.AUDIENCE + scope + row.name.encode() + b"/"


def catalog_prefix(namespace_id: bytes, visibility: str) -> bytes:
    """Return the prefix of a namespace's listed images of one visibility, ordered by name."""
    return layout.CATALOG + namespace_id + _VISIBILITY_BYTES[visibility]


async def reveal(txn: Transaction, row: Row) -> None:
    """Add a living namespace to the public catalog, or remove it.

    It belongs there if it or one of its listed images is public.
    """
    key, opened = audience_row(in_public(row.region), row), catalog_prefix(row.id, "public")
    if row.is_public or await txn.scan(opened, after(opened), limit=1):
        await put_payload(txn, key, row.id)
    else:
        await txn.delete(key)


def entry(row: Row) -> Entry:
    """Return the sort keys of the namespace."""
    return Entry(row.id, row.name, row.description)


async def require(txn: Transaction, namespace_id: bytes) -> Row:
    """Return the living namespace with that id. Raises NotFound."""
    row = await load(txn, Row, layout.NAMESPACE + namespace_id)
    if row is None or row.deleted:
        raise NotFound("namespace", str(UUID(bytes=namespace_id)))
    return row


async def not_living(txn: Transaction, namespace_ids: list[bytes]) -> list[bytes]:
    """Return the deleted or missing ones; one with an unreadable row counts as living."""
    found = []
    for each in namespace_ids:
        try:
            await require(txn, each)
        except NotFound:
            found.append(each)
        except Corrupt:
            continue
    return found


def place(row: Row) -> bytes:
    """Return ``layout.place`` of the namespace: the form of its name in keys."""
    return layout.place(row.project, row.region, row.name)


def check_unlocked(row: Row) -> None:
    """Check that no operator locked the namespace. Raises Locked."""
    if limit_rows.locked(row):
        raise Locked("namespace", row.name, UUID(bytes=row.id))


def takes_sparse(row: Row, default: bool) -> bool:
    """Return True if its indexes may lack children; ``default`` without a setting of its own."""
    return default if row.sparse is None else row.sparse


async def view(txn: Transaction, row: Row) -> Namespace:
    """Return the public value of a namespace's row."""
    status: Status = "deleting" if row.deleted else "locked" if limit_rows.locked(row) else "ready"
    return Namespace(
        id=UUID(bytes=row.id),
        region=row.region,
        name=row.name,
        project_id=UUID(bytes=row.project),
        organization_id=UUID(bytes=row.organization),
        description=row.description,
        is_public=row.is_public,
        status=status,
        size=await txn.counter(layout.counter(layout.NAMESPACE_SIZE, row.id)),
        image_count=await txn.counter(layout.counter(layout.NAMESPACE_IMAGES, row.id)),
        created_at=moment(row.created),
        updated_at=moment(row.updated),
        immutable_tags=row.immutable,
        quota=None if row.quota < 0 else row.quota,
        sparse_indexes=row.sparse,
    )


async def create(txn: Transaction, draft: Row, now: int, random: bytes) -> Namespace:
    """Add a namespace under a free name. Raises AlreadyExists."""
    name = layout.NAMESPACE_NAME + layout.name_key(draft.region, draft.name)
    if await txn.get(name) is not None:
        raise AlreadyExists("namespace", draft.name)
    new, created = await identity.mint(txn, now, random)
    limits = await limit_rows.of_new(txn, place(draft), draft.project)
    row = msgspec.structs.replace(draft, id=new, created=created, updated=created, limits=limits)
    await enlist(txn, row)
    return await view(txn, row)


async def enlist(txn: Transaction, row: Row) -> None:
    """Add the rows of a namespace: its name, which must be free, and its listings."""
    await save(txn, layout.NAMESPACE + row.id, row)
    await put_payload(txn, layout.NAMESPACE_NAME + layout.name_key(row.region, row.name), row.id)
    await listings.insert(txn, KIND, scopes(row), entry(row))
    for scope in scopes(row):
        await put_payload(txn, audience_row(scope, row), row.id)
    await reveal(txn, row)
    await txn.add(layout.counter(layout.NAMESPACES), 1)


async def get(txn: Transaction, namespace_id: bytes) -> Namespace:
    """Return the namespace with that id. Raises NotFound."""
    return await view(txn, await require(txn, namespace_id))


async def find(txn: Transaction, region: str, name: str) -> Row:
    """Return the row of the namespace of that name. Raises NotFound."""
    found = await get_payload(txn, layout.NAMESPACE_NAME + layout.name_key(region, name))
    if found is None:
        raise NotFound("namespace", name)
    return await require(txn, found)


async def get_named(txn: Transaction, region: str, name: str) -> Namespace:
    """Return the public value of the namespace of that name. Raises NotFound."""
    return await view(txn, await find(txn, region, name))


async def page_of(txn: Transaction, selection: Query) -> Page[Namespace]:
    """Return one page of a listing."""
    ids, total = await listings.ids(txn, selection)
    return Page(await listings.items(txn, get, ids), total)


async def update(
    txn: Transaction, namespace_id: bytes, changes: dict[str, object], now: int
) -> Namespace:
    """Change some fields; ``updated_at`` moves in any case. Raises NotFound, Locked."""
    row = await require(txn, namespace_id)
    if changes.get("locked") is not False:
        check_unlocked(row)
    moved = msgspec.structs.replace(row, updated=await identity.tick(txn, now), **changes)
    if changes.get("locked") is False and row.limits.locked:
        # Only operators unlock, and this one means the namespace: lift the lock of the name too.
        moved = await bind(txn, moved, msgspec.structs.replace(row.limits, locked=False))
    if moved.description != row.description:
        await listings.remove(txn, KIND, scopes(row), entry(row))
        await listings.insert(txn, KIND, scopes(moved), entry(moved))
    await save(txn, layout.NAMESPACE + namespace_id, moved)
    await reveal(txn, moved)
    return await view(txn, moved)


async def bind(txn: Transaction, row: Row, limits: Limits) -> Row:
    """Set the limits of a namespace's name; return the changed row, which the caller saves."""
    await limit_rows.save_of_name(txn, place(row), limits)
    return msgspec.structs.replace(row, limits=limits)


async def touch(txn: Transaction, namespace_id: bytes, time: int) -> None:
    """Set ``updated_at`` of a namespace. Raises NotFound."""
    row = await require(txn, namespace_id)
    await save(txn, layout.NAMESPACE + namespace_id, msgspec.structs.replace(row, updated=time))


async def delete(txn: Transaction, namespace_id: bytes, now: int, trash_until: int) -> Namespace:
    """Move a namespace with its content to the trash; its name is free at once.

    Takes constant time, except for comparing tags with immutable patterns. Raises NotFound,
    Locked; Immutable while a pattern in force matches a tag in it, Unverified if there are too
    many tags to compare.
    """
    row = await require(txn, namespace_id)
    check_unlocked(row)
    await protection.check_namespace(txn, row.id, limit_rows.immutable(row))
    time = await identity.tick(txn, now)
    gone = msgspec.structs.replace(row, deleted=time, updated=time)
    await save(txn, layout.NAMESPACE + row.id, gone)
    await txn.delete(layout.NAMESPACE_NAME + layout.name_key(row.region, row.name))
    # The rows of its images stay in the listings until the purge: this row makes pages skip them.
    await put_payload(txn, layout.DEAD + row.id, in_project(row.region, row.project))
    await listings.remove(txn, KIND, scopes(row), entry(row))
    for scope in (*scopes(row), in_public(row.region)):
        await txn.delete(audience_row(scope, row))
    await txn.add(layout.counter(layout.NAMESPACES), -1)
    await trash_rows.trash_namespace(txn, gone, trash_until)
    return await view(txn, gone)


async def many_deleted(txn: Transaction) -> bool:
    """Return True if there are too many deleted namespaces to scan on the event loop."""
    return bool(await txn.scan(layout.DEAD, after(layout.DEAD), limit=1, skip=DELETED_SCANNED_MAX))


async def deleted_in(txn: Transaction, scope: bytes) -> list[bytes]:
    """Return ids of deleted namespaces whose images still have rows in a region or project.

    Linear in the deleted namespaces of the store.
    """
    within = b"p" + scope[1:]
    found = []
    start = layout.DEAD
    while rows := await txn.scan(start, after(layout.DEAD), limit=_ROWS_PER_SCAN):
        found += [key[1:] for key, value in payloads(rows) if value.startswith(within)]
        start = rows[-1][0] + b"\0"
    return found


def of_trash(entry: Trash) -> Row:
    """Rebuild the row of a deleted namespace from its entry in the trash."""
    return Row(
        id=entry.id,
        region=entry.region,
        name=entry.name,
        project=entry.project,
        organization=layout.ZERO_ID,
        description="",
        is_public=False,
        locked=False,
        created=0,
        updated=0,
    )


async def usage(txn: Transaction, namespace_id: bytes, opened: UploadTotals) -> Usage:
    """Return the numbers of a namespace with those open uploads. Raises NotFound."""
    row = await require(txn, namespace_id)

    async def of(name: bytes) -> int:
        return await txn.counter(layout.counter(name, namespace_id))

    parts = await kept.parts(txn, row)
    return Usage(
        size=await of(layout.NAMESPACE_SIZE),
        image_count=await of(layout.NAMESPACE_IMAGES),
        unique_size=await of(layout.NAMESPACE_UNIQUE),
        exclusive_size=await of(layout.NAMESPACE_EXCLUSIVE),
        project_exclusive_size=await of(layout.NAMESPACE_PROJECT_EXCLUSIVE),
        content=parts.content,
        manifests=parts.manifests,
        held=parts.held,
        uploads=opened.bytes,
        trash=parts.trash,
    )


def check_quota(quota: int | None) -> int:
    """Return a quota in bytes as rows store it, -1 for none. Raises Invalid."""
    if quota is not None and not 0 <= quota < 1 << 62:
        raise Invalid("quota", "must be 0 to 2^62 - 1 bytes")
    return -1 if quota is None else quota


def _check_description(text: str) -> str:
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise Invalid("description", f"must be at most {DESCRIPTION_CHARS_MAX} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("description", "is not valid Unicode") from None
    return text


async def would_free(txn: Transaction, namespace_id: bytes) -> int:
    """Count the bytes at rest that ``delete`` would free. Raises NotFound."""
    await require(txn, namespace_id)
    return await reclaimable.by_namespace(txn, namespace_id)


class Namespaces:
    """The namespaces of a store."""

    def __init__(self, core: Core, end_uploads: Callable[[UUID, int], Awaitable[None]]) -> None:
        self._core = core
        self._end_uploads = end_uploads

    async def create(
        self,
        region: str,
        name: str,
        *,
        project_id: UUID,
        organization_id: UUID,
        description: str = "",
        is_public: bool = False,
    ) -> Namespace:
        """Add a namespace. Names are unique in a region, across all projects.

        Raises Invalid (``name``, ``region``, ``description``), AlreadyExists.
        """
        draft = Row(
            id=b"",
            region=check_region(region),
            name=check_namespace_name(name),
            project=project_id.bytes,
            organization=organization_id.bytes,
            description=_check_description(description),
            is_public=is_public,
            locked=False,
            created=0,
            updated=0,
        )
        return await self._core.grow(create, draft, self._core.now(), entropy())

    async def get(self, namespace_id: UUID) -> Namespace:
        """Return the namespace with that id. Raises NotFound."""
        return await self._core.ledger.read(get, namespace_id.bytes)

    async def find(self, region: str, name: str) -> Namespace:
        """Return the namespace of that name in the region. Raises NotFound."""
        return await self._core.ledger.read(get_named, region, name)

    async def list(
        self,
        region: str,
        *,
        order: Order = "created_at_asc",
        page: int = 1,
        page_size: int = 20,
        project_id: UUID | None = None,
        name: str | None = None,
    ) -> Page[Namespace]:
        """Return a page of the region's namespaces, of one project or all. Raises Invalid."""
        scope = in_project(region, project_id.bytes) if project_id else in_region(region)
        selection = listings.query(KIND, scope, order, page, page_size, name)
        ledger = self._core.ledger
        read = ledger.read_in_thread if selection.is_deep else ledger.read
        return await read(page_of, selection)

    async def update(
        self,
        namespace_id: UUID,
        *,
        description: str | None = None,
        is_public: bool | None = None,
        immutable_tags: tuple[str, ...] | None = None,
        quota: int | Unset | None = UNSET,
        locked: bool | None = None,
        sparse_indexes: bool | Unset | None = UNSET,
    ) -> Namespace:
        """Change the given fields.

        ``quota=None`` removes the quota (bytes); ``sparse_indexes=None`` uses the store's setting
        of whether indexes may lack children. Raises NotFound, Locked (unless the call unlocks),
        Invalid.
        """
        changes: dict[str, object] = {}
        if description is not None:
            changes["description"] = _check_description(description)
        if is_public is not None:
            changes["is_public"] = is_public
        if immutable_tags is not None:
            changes["immutable"] = check_patterns(immutable_tags)
        if not isinstance(quota, Unset):
            changes["quota"] = check_quota(quota)
        if locked is not None:
            changes["locked"] = locked
        if not isinstance(sparse_indexes, Unset):
            changes["sparse"] = sparse_indexes
        return await self._core.ledger.transact(
            update, namespace_id.bytes, changes, self._core.now()
        )

    async def delete(self, namespace_id: UUID) -> Namespace:
        """Delete a namespace with its content; return it with status ``deleting``.

        Lookups of its id and name raise NotFound from now on, and its open uploads end. Raises
        NotFound, Locked; Immutable and Unverified where immutable tags forbid it.
        """
        now = self._core.now()
        until = now + int(self._core.config.trash_seconds * SECOND)
        gone = await self._core.ledger.transact(delete, namespace_id.bytes, now, until)
        try:
            # Now rather than by the sweep: a new namespace of that name does not count them.
            await self._end_uploads(namespace_id, now)
        except EngineError as error:
            _log.warning(
                "cannot end open uploads of namespace %s: %s; the sweep ends them", gone.id, error
            )
        return gone

    async def usage(self, namespace_id: UUID) -> Usage:
        """Return the numbers of a namespace: counters, and a bounded scan of its trash.

        The scan of its images in the trash reads ``kept.ROWS_SCANNED_MAX`` rows. Raises NotFound.
        """
        core = self._core
        opened = await core.scratch.read(session_totals, namespace_id.bytes)
        return await core.ledger.read_in_thread(usage, namespace_id.bytes, opened)

    async def would_free(self, namespace_id: UUID) -> int:
        """Count the bytes on disk that a deletion frees once the trash is emptied.

        Raises NotFound.
        """
        return await self._core.ledger.read_in_thread(would_free, namespace_id.bytes)
