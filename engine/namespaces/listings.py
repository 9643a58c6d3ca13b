"""Listings: sorted pages of namespaces, images and tags, with exact totals.

Each listed object has one row per (scope, order) in which it is listed. The rows of one scope and
order are adjacent, so the first page is a short scan, page N skips keys without reading records,
and totals are counters. Ids are minted in order of creation, so ``created_at`` is the order of
ids, and every key ends with the id, which breaks ties.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import payloads, put_payload
from holdfast.engine.model.errors import Corrupt, Invalid, NotFound
from holdfast.engine.model.values import Order

T = TypeVar("T")

CREATED, NAME, DESCRIPTION = b"c", b"n", b"d"
_TEXT_MAX: Final = 300
"""Bytes of a text by which it is sorted; keys must stay under 500 bytes."""

ROWS_SKIPPED_ON_LOOP_MAX: Final = 10_000
"""Rows that a listing may skip on the event loop; listings that skip more run in a thread."""

_FILTERED_ROWS_MIN: Final = 100
"""Least rows read at a time where some of them may be hidden."""

PAGE_MAX: Final = 1000
"""Most items of a page."""

ORDERS: Final[dict[Order, tuple[bytes, bool]]] = {
    "created_at_asc": (CREATED, False),
    "created_at_desc": (CREATED, True),
    "name_asc": (NAME, False),
    "name_desc": (NAME, True),
    "description_asc": (DESCRIPTION, False),
    "description_desc": (DESCRIPTION, True),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Sort keys of a listed object, and the ``value`` stored in each of its rows."""

    id: bytes
    name: str
    description: str | None = None
    """None for kinds that are not sorted by description."""
    value: bytes = b""


def _sorted(order: bytes, text: str) -> bytes:
    return order + text.encode()[:_TEXT_MAX] + b"\0"


def rows_of(kind: bytes, scope: bytes, entry: Entry) -> list[bytes]:
    """Return the keys of the rows of one object in one scope."""
    prefix = layout.LISTING + kind + scope
    rows = [prefix + CREATED + entry.id, prefix + _sorted(NAME, entry.name) + entry.id]
    if entry.description is not None:
        rows.append(prefix + _sorted(DESCRIPTION, entry.description) + entry.id)
    return rows


def total_of(kind: bytes, scope: bytes) -> bytes:
    """Return the key of the counter of a scope's objects, or of those of a name (``named``)."""
    return layout.counter(layout.LISTED, kind + scope)


def named(scope: bytes, name: str) -> bytes:
    """Return the scope under which the objects of one name in a scope are counted."""
    return scope + _sorted(NAME, name)


async def insert(txn: Transaction, kind: bytes, scopes: tuple[bytes, ...], entry: Entry) -> None:
    """List an object in each of the scopes."""
    for scope in scopes:
        for key in rows_of(kind, scope, entry):
            await put_payload(txn, key, entry.value)
        await txn.add(total_of(kind, scope), 1)
        await txn.add(total_of(kind, named(scope, entry.name)), 1)


async def remove(txn: Transaction, kind: bytes, scopes: tuple[bytes, ...], entry: Entry) -> None:
    """Remove an object from each of the scopes."""
    for scope in scopes:
        for key in rows_of(kind, scope, entry):
            await txn.delete(key)
        await txn.add(total_of(kind, scope), -1)
        await txn.add(total_of(kind, named(scope, entry.name)), -1)


@dataclass(frozen=True, slots=True)
class Query:
    """Parameters of one page of a listing. ``name`` selects objects of exactly that name."""

    kind: bytes
    scope: bytes
    order: Order
    page: int
    page_size: int
    name: str | None = None

    @property
    def skip(self) -> int:
        """Number of objects before the page."""
        return (self.page - 1) * self.page_size

    @property
    def is_deep(self) -> bool:
        """True if skipping to the page takes over a millisecond, so that it belongs in a thread."""
        return self.skip > ROWS_SKIPPED_ON_LOOP_MAX


def query(
    kind: bytes, scope: bytes, order: Order, page: int, page_size: int, name: str | None
) -> Query:
    """Check the parameters of a listing. Raises Invalid, which names the wrong parameter."""
    if order not in ORDERS:
        raise Invalid("order_by", f"unknown order {order}")
    if page < 1:
        raise Invalid("page", "must be at least 1")
    if not 1 <= page_size <= PAGE_MAX:
        raise Invalid("page_size", f"must be 1 to {PAGE_MAX}")
    return Query(kind, scope, order, page, page_size, name)


async def ids(
    txn: Transaction, selection: Query, deleted: Mapping[bytes, bytes] | None = None
) -> tuple[list[bytes], int]:
    """Return the ids on the page, and the total, which includes damaged rows.

    Rows with a value in ``deleted`` are skipped and not counted. ``deleted`` maps the value to a
    scope that holds exactly these rows, for their number. Hidden rows before the page cost time.
    """
    order, reverse = ORDERS[selection.order]

    def within(scope: bytes) -> bytes:
        return scope if selection.name is None else named(scope, selection.name)

    prefix = layout.LISTING + selection.kind + within(selection.scope)
    if selection.name is None:
        prefix += order
    total = await txn.counter(total_of(selection.kind, within(selection.scope)))
    hidden = {}
    for value, scope in (deleted or {}).items():
        if count := await txn.counter(total_of(selection.kind, within(scope))):
            hidden[value] = count
    total -= sum(hidden.values())
    skip = selection.skip
    if skip >= total:
        return [], total
    if hidden:
        return await _living(txn, prefix, reverse, hidden, skip, selection.page_size), total
    rows = await txn.scan(
        prefix, after(prefix), limit=selection.page_size, reverse=reverse, skip=skip
    )
    return [key[-ID_BYTES:] for key, _ in payloads(rows)], total


async def _living(
    txn: Transaction,
    prefix: bytes,
    reverse: bool,
    hidden: Container[bytes],
    skip: int,
    limit: int,
) -> list[bytes]:
    """Return the ids after the first ``skip`` of the rows that are not hidden."""
    start, stop = prefix, after(prefix)
    found: list[bytes] = []
    while missing := max(0, skip + limit - len(found)):
        rows = await txn.scan(start, stop, limit=max(missing, _FILTERED_ROWS_MIN), reverse=reverse)
        if not rows:
            break
        found += [key[-ID_BYTES:] for key, value in payloads(rows) if value not in hidden]
        last = rows[-1][0]
        start, stop = (start, last) if reverse else (last + b"\0", stop)
    return found[skip : skip + limit]


async def items(
    txn: Transaction, get: Callable[[Transaction, bytes], Awaitable[T]], ids: list[bytes]
) -> list[T]:
    """Return the objects with these ids, without those that are damaged or gone."""
    found = []
    for one in ids:
        try:
            found.append(await get(txn, one))
        except (Corrupt, NotFound):
            continue
    return found
