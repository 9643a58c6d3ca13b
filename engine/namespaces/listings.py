"""Listings: sorted pages of namespaces, images and tags, with exact totals.

Each listed object has one row for every (scope, order) it is listed in; the rows of one scope
and order lie side by side, so a first page is a short scan, page N skips keys without reading
records, and totals are counters. Ids are minted in the order of creation, so ``created_at`` is
the order of ids, and the id that breaks ties is the last part of every key.
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
"""Longer texts sort by their first bytes only: keys stay under 500 bytes."""

ROWS_SKIPPED_ON_LOOP_MAX: Final = 10_000
"""Rows that a listing passes over in the event loop."""

_CHUNK: Final = 100
"""Least rows read at a time where some of them may be passed over."""

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
    """What a listed object is sorted by. ``value`` goes along in each row."""

    id: bytes
    name: str
    description: str | None = None
    """None for kinds that are not sorted by description."""
    value: bytes = b""


def _sorted(order: bytes, text: str) -> bytes:
    return order + text.encode()[:_TEXT_MAX] + b"\0"


def rows_of(kind: bytes, scope: bytes, entry: Entry) -> list[bytes]:
    """Keys of the rows of one object in one scope."""
    prefix = layout.LISTING + kind + scope
    rows = [prefix + CREATED + entry.id, prefix + _sorted(NAME, entry.name) + entry.id]
    if entry.description is not None:
        rows.append(prefix + _sorted(DESCRIPTION, entry.description) + entry.id)
    return rows


def total_of(kind: bytes, scope: bytes) -> bytes:
    """Key of the counter of the objects in a scope, or of those of one name (see ``named``)."""
    return layout.counter(layout.LISTED, kind + scope)


def named(scope: bytes, name: str) -> bytes:
    """What the objects of one name in a scope are counted under."""
    return scope + _sorted(NAME, name)


async def insert(txn: Transaction, kind: bytes, scopes: tuple[bytes, ...], entry: Entry) -> None:
    """List an object in each of the scopes."""
    for scope in scopes:
        for key in rows_of(kind, scope, entry):
            await put_payload(txn, key, entry.value)
        await txn.add(total_of(kind, scope), 1)
        await txn.add(total_of(kind, named(scope, entry.name)), 1)


async def remove(txn: Transaction, kind: bytes, scopes: tuple[bytes, ...], entry: Entry) -> None:
    """Take an object out of each of the scopes."""
    for scope in scopes:
        for key in rows_of(kind, scope, entry):
            await txn.delete(key)
        await txn.add(total_of(kind, scope), -1)
        await txn.add(total_of(kind, named(scope, entry.name)), -1)


@dataclass(frozen=True, slots=True)
class Query:
    """One page of one listing. ``name`` keeps only objects of exactly that name."""

    kind: bytes
    scope: bytes
    order: Order
    page: int
    page_size: int
    name: str | None = None

    @property
    def skip(self) -> int:
        """How many objects come before the page."""
        return (self.page - 1) * self.page_size

    @property
    def is_deep(self) -> bool:
        """Whether to pass over what comes before it takes over a millisecond: in a thread then."""
        return self.skip > ROWS_SKIPPED_ON_LOOP_MAX


def query(
    kind: bytes, scope: bytes, order: Order, page: int, page_size: int, name: str | None
) -> Query:
    """Check the parameters of a listing. Raises Invalid naming the one that is wrong."""
    if order not in ORDERS:
        raise Invalid("order_by", f"unknown order {order}")
    if page < 1:
        raise Invalid("page", "must be at least 1")
    if not 1 <= page_size <= PAGE_MAX:
        raise Invalid("page_size", f"must be 1 to {PAGE_MAX}")
    return Query(kind, scope, order, page, page_size, name)


async def ids(
    txn: Transaction, asked: Query, dead: Mapping[bytes, bytes] | None = None
) -> tuple[list[bytes], int]:
    """The ids on the page, and the total, which counts damaged rows too.

    Rows whose value is in ``dead`` are passed over, and not counted: it leads to a scope that
    holds just these rows. They cost something where they lie before what is asked for.
    """
    order, reverse = ORDERS[asked.order]

    def within(scope: bytes) -> bytes:
        return scope if asked.name is None else named(scope, asked.name)

    prefix = layout.LISTING + asked.kind + within(asked.scope)
    if asked.name is None:
        prefix += order
    total = await txn.counter(total_of(asked.kind, within(asked.scope)))
    hidden = {}
    for value, scope in (dead or {}).items():
        if count := await txn.counter(total_of(asked.kind, within(scope))):
            hidden[value] = count
    total -= sum(hidden.values())
    skip = asked.skip
    if skip >= total:
        return [], total
    if hidden:
        return await _living(txn, prefix, reverse, hidden, skip, asked.page_size), total
    rows = await txn.scan(prefix, after(prefix), limit=asked.page_size, reverse=reverse, skip=skip)
    return [key[-ID_BYTES:] for key, _ in payloads(rows)], total


async def _living(
    txn: Transaction,
    prefix: bytes,
    reverse: bool,
    hidden: Container[bytes],
    skip: int,
    limit: int,
) -> list[bytes]:
    """The ids behind the first ``skip``, of rows whose value is not hidden."""
    start, stop = prefix, after(prefix)
    found: list[bytes] = []
    while missing := max(0, skip + limit - len(found)):
        rows = await txn.scan(start, stop, limit=max(missing, _CHUNK), reverse=reverse)
        if not rows:
            break
        found += [key[-ID_BYTES:] for key, value in payloads(rows) if value not in hidden]
        last = rows[-1][0]
        start, stop = (start, last) if reverse else (last + b"\0", stop)
    return found[skip : skip + limit]


async def items(
    txn: Transaction, get: Callable[[Transaction, bytes], Awaitable[T]], ids: list[bytes]
) -> list[T]:
    """The objects with these ids; what is damaged is left out, and the rest goes on."""
    found = []
    for one in ids:
        try:
            found.append(await get(txn, one))
        except (Corrupt, NotFound):
            continue
    return found
