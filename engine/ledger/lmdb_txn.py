"""The transaction object of the LMDB ledger, over a transaction of the binding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Final, Protocol, TypedDict

from holdfast.engine.model.errors import Corrupt

from .interface import Change, Room, Rows
from .row_bounds import check_key, check_row, counted, counter_row, counter_sum

_ROW_BYTES: Final = 6 * 4096
"""Pages that come to be for one row, beside its bytes: a split at each level of the tree."""

_ROOM_SHARE: Final = 6
"""The room is looked at again when a share of it, 2^-6, may have been spent."""

_SKIP_STEP: Final = 1024
"""Rows passed over between two looks at the key, so that a skip ends soon after its range."""


class Cursor(Protocol):
    """What is used of a cursor of the binding; False means that there is no such row."""

    def set_range(self, key: bytes, /) -> bool:
        """Go to the first row that is not before ``key``."""

    def last(self) -> bool:
        """Go to the last row."""

    def next(self) -> bool:
        """Go on by one row."""

    def prev(self) -> bool:
        """Go back by one row."""

    def key(self) -> bytes:
        """The key of the row it is at."""

    def iternext(self) -> Iterator[tuple[bytes, bytes]]:
        """This row and all after it."""

    def iterprev(self) -> Iterator[tuple[bytes, bytes]]:
        """This row and all before it."""


class Stat(TypedDict):
    """Numbers of pages, and their size in bytes."""

    psize: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int


class Txn(Protocol):
    """What is used of a transaction of the binding."""

    def get(self, key: bytes, /) -> bytes | None:
        """A value."""

    def replace(self, key: bytes, value: bytes, /) -> bytes | None:
        """Set a value, and return the one before it."""

    def pop(self, key: bytes, /) -> bytes | None:
        """Remove a row, and return its value."""

    def cursor(self) -> Cursor:
        """A cursor, which lives as long as the transaction."""

    def stat(self) -> Stat:
        """How many pages the rows take, as the transaction sees them."""


class Space(Protocol):
    """Where the rows lie."""

    map_bytes: int

    def disk_bytes(self) -> int:
        """What the disk still takes, and the file has taken of it. Blocks for a look at it."""


class ReadTxn:
    """A transaction that only reads. Not usable after its end."""

    __slots__ = ("_cursor", "_space", "_txn")

    def __init__(self, txn: Txn, space: Space) -> None:
        self._txn = txn
        self._space = space
        self._cursor: Cursor | None = None

    async def get(self, key: bytes) -> bytes | None:
        """The value under ``key``."""
        check_key(key)
        return self._txn.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Rows of a range."""
        if start >= stop or limit <= 0:
            return []
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._txn.cursor()
        if reverse:
            found = cursor.prev() if cursor.set_range(stop) else cursor.last()
        else:
            found = cursor.set_range(start)
        step = cursor.prev if reverse else cursor.next
        while found and skip > 0:
            for _ in repeat(None, min(skip, _SKIP_STEP)):
                found = step()
            skip -= _SKIP_STEP
            found = found and start <= cursor.key() < stop
        rows: Rows = []
        if not found:
            return rows
        for row in cursor.iterprev() if reverse else cursor.iternext():
            if not start <= row[0] < stop:
                break
            rows.append(row)
            if len(rows) == limit:
                break
        return rows

    async def put(self, key: bytes, value: bytes) -> None:
        """Refused."""
        raise RuntimeError("a read transaction does not write")

    async def delete(self, key: bytes) -> bool:
        """Refused."""
        raise RuntimeError("a read transaction does not write")

    async def add(self, key: bytes, delta: int) -> None:
        """Refused."""
        raise RuntimeError("a read transaction does not write")

    async def counter(self, key: bytes) -> int:
        """The value of a counter."""
        check_key(key)
        return counted(key, self._txn.get(key))

    async def room(self) -> Room:
        """What rows may still take."""
        stat = self._txn.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        live = pages * stat["psize"]
        return Room(self._space.map_bytes - live, self._disk_bytes() - live)

    def _disk_bytes(self) -> int:
        return self._space.disk_bytes()

    def declare_change(self, change: Change) -> None:
        """Refused."""
        raise RuntimeError("a read transaction does not write")


class Tally:
    """What the members of one group have in common: the counters that changed, and the room."""

    __slots__ = ("change", "disk_bytes", "kinds", "room", "spent", "values", "wrote")

    def __init__(self) -> None:
        self.values: dict[bytes, int] = {}
        self.kinds: set[bytes] = set()
        """First bytes of their keys: tells most scans that no counter concerns them."""
        self.disk_bytes: int | None = None
        """What the space said, once a member has asked."""
        self.room: Room | None = None
        """What it was when it was last looked at."""
        self.spent = 0
        """Bytes that rows which were written since then take at most."""
        self.wrote = False
        """Whether anybody did who succeeded."""
        self.change = Change.TIMES
        """The most that any of those changed."""


class WriteTxn(ReadTxn):
    """A transaction that also writes: of one member of a group.

    All members of a group write into one transaction of the binding. A member that fails takes
    back what it wrote (``undo``), so that it leaves no trace; a child transaction for each would
    copy every page that two members have in common.

    The same few counters change in every member of a group. So their values are kept aside:
    ``tally`` holds those that earlier members left, which goes to the rows once, at the end of
    the group (``write_counters``); ``changed`` those of this member, which count when it succeeds.
    """

    __slots__ = ("_before", "_change", "_tally", "_undo", "changed")

    def __init__(self, txn: Txn, space: Space, tally: Tally) -> None:
        super().__init__(txn, space)
        self._tally = tally
        self._before = tally.values
        self._undo: list[tuple[bytes, bytes | None]] = []
        """Rows that were written, each with its value before."""
        self._change = Change.ANY
        self.changed: dict[bytes, int] = {}

    def declare_change(self, change: Change) -> None:
        """What this member changes at most."""
        self._change = change

    def succeeded(self) -> None:
        """What this member changed counts from now on."""
        self._tally.values.update(self.changed)
        if self._undo or self.changed:
            self._tally.wrote = True
            self._tally.change = max(self._tally.change, self._change)

    def undo(self) -> None:
        """Bring all rows back to where this member found them. It may need room to do so."""
        for key, value in reversed(self._undo):
            if value is None:
                self._txn.pop(key)
            else:
                self._txn.replace(key, value)

    def _aside(self, key: bytes) -> int | None:
        """The value of a counter that is kept aside, or None."""
        value = self.changed.get(key)
        return self._before.get(key) if value is None else value

    async def get(self, key: bytes) -> bytes | None:
        """The value under ``key``."""
        if key[:1] not in self._tally.kinds:
            check_key(key)
            return self._txn.get(key)
        value = self._aside(key)
        return self._txn.get(key) if value is None else counter_row(key, value)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Rows of a range."""
        if any(start[:1] <= kind <= stop[:1] for kind in self._tally.kinds):
            for changes in (self._tally.values, self.changed):
                for key, value in changes.items():
                    if start <= key < stop:
                        self._set(key, counter_row(key, value))
        return await super().scan(start, stop, limit=limit, reverse=reverse, skip=skip)

    async def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""
        check_row(key, value)
        if key[:1] in self._tally.kinds and self._aside(key) is not None:
            self.changed[key] = counted(key, value)
        else:
            self._set(key, value)

    async def delete(self, key: bytes) -> bool:
        """Remove a row."""
        check_key(key)
        value = self._aside(key)
        if value is not None:
            self.changed[key] = 0
            return value != 0
        return self._set(key, None) is not None

    def _set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Set a row, or remove it, and return its value before."""
        if value is None:
            before = self._txn.pop(key)
        else:
            before = self._txn.replace(key, value)
            self._tally.spent += _ROW_BYTES + len(value)
        self._undo.append((key, before))
        return before

    async def add(self, key: bytes, delta: int) -> None:
        """Add to a counter; a damaged one stays as it is."""
        value = self._aside(key)
        if value is None:
            try:
                value = await super().counter(key)
            except Corrupt:
                return
            self._tally.kinds.add(key[:1])
        self.changed[key] = counter_sum(value, delta)

    async def counter(self, key: bytes) -> int:
        """The value of a counter."""
        value = self._aside(key)
        return await super().counter(key) if value is None else value

    async def room(self) -> Room:
        """What rows may still take, or a little less: it is looked at where that may matter."""
        tally = self._tally
        room, spent = tally.room, tally.spent
        if room is None or spent > min(room) >> _ROOM_SHARE:
            tally.room = room = await super().room()
            tally.spent = spent = 0
        return Room(room.map - spent, room.disk - spent)

    def _disk_bytes(self) -> int:
        if self._tally.disk_bytes is None:
            self._tally.disk_bytes = super()._disk_bytes()
        return self._tally.disk_bytes


def write_counters(txn: Txn, tally: Tally) -> None:
    """Write the values of counters that were kept aside."""
    for key, value in tally.values.items():
        row = counter_row(key, value)
        if row is None:
            txn.pop(key)
        else:
            txn.replace(key, row)
