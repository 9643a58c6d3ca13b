"""A ledger in memory, for tests and for stores that need not outlive their process."""

from __future__ import annotations

import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Mapping

from holdfast.engine.model.errors import Closed, Corrupt

from . import change_log
from .group_commit import GROUP_BOUNDS
from .interface import Change, P, Room, Rows, T, Work, drive
from .row_bounds import check_key, check_row, counter_row_after, counter_value
from .slow_reads import SlowReads, Stop, Stoppable


class _Table:
    """Rows, with their keys in order."""

    __slots__ = ("keys", "rows")

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self.rows = dict(rows)
        self.keys = sorted(self.rows)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = value

    def remove(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class _ReadTxn:
    """A read transaction."""

    __slots__ = ("_table",)

    def __init__(self, table: _Table) -> None:
        self._table = table

    async def get(self, key: bytes) -> bytes | None:
        check_key(key)
        return self._table.rows.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        keys = self._table.keys
        low, high = bisect_left(keys, start), bisect_left(keys, stop)
        limit, skip = max(limit, 0), max(skip, 0)
        if reverse:
            top = max(high - skip, low)
            chosen = keys[max(top - limit, low) : top][::-1]
        else:
            chosen = keys[low + skip : min(low + skip + limit, high)]
        rows = self._table.rows
        return [(key, rows[key]) for key in chosen]

    async def put(self, key: bytes, value: bytes) -> None:
        raise RuntimeError("a read transaction cannot write")

    async def delete(self, key: bytes) -> bool:
        raise RuntimeError("a read transaction cannot write")

    async def add(self, key: bytes, delta: int) -> None:
        raise RuntimeError("a read transaction cannot write")

    async def counter(self, key: bytes) -> int:
        check_key(key)
        return counter_value(key, self._table.rows.get(key))

    async def room(self) -> Room:
        return Room(sys.maxsize, sys.maxsize)

    def declare_change(self, change: Change) -> None:
        raise RuntimeError("a read transaction cannot write")


class _WriteTxn(_ReadTxn):
    """A write transaction that can be rolled back."""

    __slots__ = ("_undo", "change")

    def __init__(self, table: _Table) -> None:
        super().__init__(table)
        self._undo: list[tuple[bytes, bytes | None]] = []
        self.change = Change.ANY

    def declare_change(self, change: Change) -> None:
        self.change = change

    async def put(self, key: bytes, value: bytes) -> None:
        check_row(key, value)
        self._undo.append((key, self._table.rows.get(key)))
        self._table.put(key, bytes(value))

    async def delete(self, key: bytes) -> bool:
        check_key(key)
        before = self._table.rows.get(key)
        if before is None:
            return False
        self._undo.append((key, before))
        self._table.remove(key)
        return True

    async def add(self, key: bytes, delta: int) -> None:
        check_key(key)
        before = self._table.rows.get(key)
        try:
            row = counter_row_after(key, before, delta)
        except Corrupt:
            return
        self._undo.append((key, before))
        if row is None:
            self._table.remove(key)
        else:
            self._table.put(key, row)

    @property
    def wrote(self) -> bool:
        return bool(self._undo)

    def roll_back(self) -> None:
        for key, before in reversed(self._undo):
            if before is None:
                self._table.remove(key)
            else:
                self._table.put(key, before)


class MemoryLedger:
    """A ``Ledger`` in a dict. Usable from several threads and event loops of one process."""

    def __init__(self, rows: Mapping[bytes, bytes] | None = None) -> None:
        """Create a ledger that contains ``rows``. Raises ValueError for rows over the limits."""
        for key, value in (rows or {}).items():
            check_row(key, value)
        self._table = _Table(rows or {})
        # The row covers transactions of another ledger; this one counts its own from 0.
        self._table.remove(change_log.KEY)
        self._lock = threading.Lock()
        self._slow_reads = SlowReads("memory")
        self._closed = False
        self._commits = 0
        self._members = 0

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and keep its writes. Raises Closed, and the errors of ``work``."""
        with self._lock:
            self._check_open()
            self._members += 1
            txn = _WriteTxn(self._table)
            try:
                result = drive(work(txn, *args, **kwargs))
            except BaseException:
                txn.roll_back()
                raise
            self._commits += txn.wrote
            if txn.wrote and txn.change is not Change.ANY:
                row = self._table.rows.get(change_log.KEY)
                self._table.put(change_log.KEY, change_log.extended(row, self._commits, txn.change))
            return result

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` over the current rows. Raises Closed, and the errors of ``work``."""
        return self.read_now(work, *args, **kwargs)

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` as ``read`` does, but in a thread; transactions wait meanwhile."""

        def read(stop: Stop) -> T:
            with self._lock:
                self._check_open()
                return drive(work(Stoppable(_ReadTxn(self._table), stop), *args, **kwargs))

        return await self._slow_reads.run(read)

    def read_now(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` as ``read`` does, without an event loop."""
        with self._lock:
            self._check_open()
            return drive(work(_ReadTxn(self._table), *args, **kwargs))

    def last_txn(self) -> int:
        """Return the number of transactions that wrote. Raises Closed."""
        self._check_open()
        return self._commits

    def changed(self, since: int, until: int) -> Change:
        """Return the most that transactions after ``since``, up to ``until``, changed.

        Raises Closed.
        """
        self._check_open()
        with self._lock:
            return change_log.change_between(self._table.rows.get(change_log.KEY), since, until)

    def info(self) -> dict[str, int]:
        """Return the numbers of ``LmdbLedger.info``, without a map or readers. Raises Closed."""
        with self._lock:
            self._check_open()
            rows = self._table.rows
            used = sum(len(key) + len(value) for key, value in rows.items())
            return {
                "map_bytes": 0,
                "used_bytes": used,
                "live_bytes": used,
                "entries": len(rows),
                "readers": 0,
                "last_txn": self._commits,
                "commits": self._commits,
                "members": self._members,
                **{f"commits_{bound}": 0 for bound in GROUP_BOUNDS},
                "commits_1": self._commits,  # there is no group commit
            }

    def capture(self) -> dict[bytes, bytes]:
        """Return a copy of all rows, also after ``close``."""
        with self._lock:
            return dict(self._table.rows)

    async def close(self) -> None:
        """Refuse all further calls except ``capture``. Idempotent."""
        with self._lock:
            self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed
