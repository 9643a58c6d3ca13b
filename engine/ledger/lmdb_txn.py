"""The transactions of the LMDB ledger, on top of a transaction of the Python binding.

All members of a group commit share one transaction of LMDB. Each has a ``WriteTxn`` of its own,
which can undo its writes. Counters are written once a group (see ``Tally``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Final, Protocol, TypedDict

from holdfast.engine.model.errors import Corrupt

from .interface import Change, Room, Rows
from .row_bounds import check_key, check_row, counter_row, counter_sum, counter_value

_ROW_BYTES: Final = 6 * 4096
"""Upper bound of the new pages for one row besides its own bytes: a split at each tree level."""

_ROOM_SHIFT: Final = 6
"""The room is measured again when 2^-6 of it may have been used."""

_SKIP_ROWS: Final = 1024
"""Rows skipped between two checks of the key, so that a skip stops soon after its range."""


class Cursor(Protocol):
    """The methods used of the binding's cursor; False means that there is no such row."""

    def set_range(self, key: bytes, /) -> bool:
        """Move to the first row at or after ``key``."""

    def last(self) -> bool:
        """Move to the last row."""

    def next(self) -> bool:
        """Move forward by one row."""

    def prev(self) -> bool:
        """Move back by one row."""

    def key(self) -> bytes:
        """Return the key of the current row."""

    def iternext(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the current row and all after it."""

    def iterprev(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the current row and all before it."""


class Stat(TypedDict):
    """Numbers of pages, and their size in bytes."""

    psize: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int


class Txn(Protocol):
    """The methods used of the binding's transaction."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return a value."""

    def replace(self, key: bytes, value: bytes, /) -> bytes | None:
        """Set a value and return the previous one."""

    def pop(self, key: bytes, /) -> bytes | None:
        """Remove a row and return its value."""

    def cursor(self) -> Cursor:
        """Create a cursor, which is valid as long as the transaction."""

    def stat(self) -> Stat:
        """Return the numbers of pages that the rows use, as the transaction sees them."""


class Space(Protocol):
    """The map and the disk that contain the rows."""

    map_bytes: int

    def disk_bytes(self) -> int:
        """Return free bytes of the disk plus those of the file. Blocking."""


class ReadTxn:
    """A read transaction. Not usable after its end."""

    __slots__ = ("_cursor", "_space", "_txn")

    def __init__(self, txn: Txn, space: Space) -> None:
        self._txn = txn
        self._space = space
        self._cursor: Cursor | None = None

    async def get(self, key: bytes) -> bytes | None:
        """Return the value under ``key``."""
        check_key(key)
        return self._txn.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Return rows of a range, as ``Transaction.scan`` specifies."""
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
            for _ in repeat(None, min(skip, _SKIP_ROWS)):
                found = step()
            skip -= _SKIP_ROWS
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
        """Raise RuntimeError."""
        raise RuntimeError("a read transaction cannot write")

    async def delete(self, key: bytes) -> bool:
        """Raise RuntimeError."""
        raise RuntimeError("a read transaction cannot write")

    async def add(self, key: bytes, delta: int) -> None:
        """Raise RuntimeError."""
        raise RuntimeError("a read transaction cannot write")

    async def counter(self, key: bytes) -> int:
        """Return the value of a counter. Raises Corrupt."""
        check_key(key)
        return counter_value(key, self._txn.get(key))

    async def room(self) -> Room:
        """Return the room for rows."""
        stat = self._txn.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        live = pages * stat["psize"]
        return Room(self._space.map_bytes - live, self._disk_bytes() - live)

    def _disk_bytes(self) -> int:
        return self._space.disk_bytes()

    def declare_change(self, change: Change) -> None:
        """Raise RuntimeError."""
        raise RuntimeError("a read transaction cannot write")


class Tally:
    """The state that the members of one group share: changed counters, and the room for rows."""

    __slots__ = ("change", "disk_bytes", "kinds", "room", "spent", "values", "wrote")

    def __init__(self) -> None:
        self.values: dict[bytes, int] = {}
        """Values of the counters that successful members changed, by key."""
        self.kinds: set[bytes] = set()
        """First bytes of counters' keys: with them, most scans can ignore the counters."""
        self.disk_bytes: int | None = None
        """Result of ``Space.disk_bytes``, after a member has called it."""
        self.room: Room | None = None
        """Room when it was last measured."""
        self.spent = 0
        """Upper bound of the bytes written since then."""
        self.wrote = False
        """True if a successful member wrote a row."""
        self.change = Change.TIMES
        """The most that a successful member changed."""


class WriteTxn(ReadTxn):
    """The write transaction of one member of a group.

    All members of a group write into one transaction of the binding. A failed member takes back
    its writes (``undo``) and so leaves no trace. (Child transactions would copy every page that
    two members share.)

    Every member of a group changes the same few counters. So their values stay in memory: the
    ``tally`` has those of earlier members, and writes them to the rows once, at the end of the
    group (``write_counters``). ``changed`` has those of this member until it succeeds.
    """

    __slots__ = ("_before", "_change", "_tally", "_undo", "changed")

    def __init__(self, txn: Txn, space: Space, tally: Tally) -> None:
        super().__init__(txn, space)
        self._tally = tally
        self._before = tally.values
        self._undo: list[tuple[bytes, bytes | None]] = []
        """Written rows, each with its previous value."""
        self._change = Change.ANY
        self.changed: dict[bytes, int] = {}

    def declare_change(self, change: Change) -> None:
        """Declare the most that this member changes."""
        self._change = change

    def succeeded(self) -> None:
        """Add the changes of this member to those of the group."""
        self._tally.values.update(self.changed)
        if self._undo or self.changed:
            self._tally.wrote = True
            self._tally.change = max(self._tally.change, self._change)

    def undo(self) -> None:
        """Restore all rows that this member wrote; this may need room."""
        for key, value in reversed(self._undo):
            if value is None:
                self._txn.pop(key)
            else:
                self._txn.replace(key, value)

    def _pending_counter(self, key: bytes) -> int | None:
        """Return the value of a counter that is not yet written to its row, or None."""
        value = self.changed.get(key)
        return self._before.get(key) if value is None else value

    async def get(self, key: bytes) -> bytes | None:
        """Return the value under ``key``."""
        if key[:1] not in self._tally.kinds:
            check_key(key)
            return self._txn.get(key)
        value = self._pending_counter(key)
        return self._txn.get(key) if value is None else counter_row(key, value)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Return rows of a range, as ``Transaction.scan`` specifies."""
        if any(start[:1] <= kind <= stop[:1] for kind in self._tally.kinds):
            # The scan reads rows, so write the counters in its range first.
            for changes in (self._tally.values, self.changed):
                for key, value in changes.items():
                    if start <= key < stop:
                        self._set(key, counter_row(key, value))
        return await super().scan(start, stop, limit=limit, reverse=reverse, skip=skip)

    async def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""
        check_row(key, value)
        if key[:1] in self._tally.kinds and self._pending_counter(key) is not None:
            self.changed[key] = counter_value(key, value)
        else:
            self._set(key, value)

    async def delete(self, key: bytes) -> bool:
        """Remove a row."""
        check_key(key)
        value = self._pending_counter(key)
        if value is not None:
            self.changed[key] = 0
            return value != 0
        return self._set(key, None) is not None

    def _set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Set or remove a row and return its previous value."""
        if value is None:
            before = self._txn.pop(key)
        else:
            before = self._txn.replace(key, value)
            self._tally.spent += _ROW_BYTES + len(value)
        self._undo.append((key, before))
        return before

    async def add(self, key: bytes, delta: int) -> None:
        """Add to a counter; a damaged one stays as it is. Raises OverflowError."""
        value = self._pending_counter(key)
        if value is None:
            try:
                value = await super().counter(key)
            except Corrupt:
                return
            self._tally.kinds.add(key[:1])
        self.changed[key] = counter_sum(value, delta)

    async def counter(self, key: bytes) -> int:
        """Return the value of a counter. Raises Corrupt."""
        value = self._pending_counter(key)
        return await super().counter(key) if value is None else value

    async def room(self) -> Room:
        """Return the room for rows, or a little less: it is measured only if that may matter."""
        tally = self._tally
        room, spent = tally.room, tally.spent
        if room is None or spent > min(room) >> _ROOM_SHIFT:
            tally.room = room = await super().room()
            tally.spent = spent = 0
        return Room(room.map - spent, room.disk - spent)

    def _disk_bytes(self) -> int:
        if self._tally.disk_bytes is None:
            self._tally.disk_bytes = super()._disk_bytes()
        return self._tally.disk_bytes


def write_counters(txn: Txn, tally: Tally) -> None:
    """Write the group's counters to their rows."""
    for key, value in tally.values.items():
        row = counter_row(key, value)
        if row is None:
            txn.pop(key)
        else:
            txn.replace(key, row)
