"""Depots and ledgers that go wrong on purpose.

``LossyDepot`` shows what a power failure may leave, ``FailingDepot`` and ``FailingLedger`` fail
at a chosen call. A sweep over all calls first runs with ``fail_at=0``, which never fails and
counts, and then once with each number up to that count.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar

from holdfast.engine.depot.interface import BLOCK_FILES, Data, Depot, Reader, Writer
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger.interface import Ledger, Work
from holdfast.engine.model.errors import StorageFailed

P = ParamSpec("P")
T = TypeVar("T")

_SECTOR: Final = 512
"""Bytes that a disk writes wholly or not at all."""


@dataclass
class _Record:
    """What is durable of one file, and how far what it holds now builds on that."""

    data: bytes = b""
    """The content at the last sync of data."""

    floor: int = 0
    """Smallest size since then: up to here the durable bytes are the present ones."""

    entry: bool = False
    """Whether its directory entry is durable."""

    dropped: slice = field(default_factory=lambda: slice(0, 0))
    """Bytes that a failed sync dropped: no later one makes them durable."""


class LossyDepot:
    """A depot in memory that knows what a power failure could take from it, and bring back.

    ``syncs`` says which sync fails. The kernel drops what it could not write, and the file is
    emptied, as the contract says.
    """

    def __init__(self, capacity: int | None = None, *, syncs: Countdown | None = None) -> None:
        self.syncs = syncs or Countdown(0)
        self._live = MemoryDepot(capacity)
        self._records: dict[int, _Record] = {}
        self._ghosts: dict[int, _Record] = {}
        """Deleted files whose entry is still durable: each may come back."""
        self._lock = threading.RLock()

    def create(self, file_id: int) -> Writer:
        with self._lock:
            writer = self._live.create(file_id)
            record = self._records[file_id] = _Record()
            return _LossyWriter(self, file_id, record, writer)

    def reopen(self, file_id: int) -> Writer:
        with self._lock:
            return _LossyWriter(
                self, file_id, self._records.get(file_id, _Record()), self._live.reopen(file_id)
            )

    def open(self, file_id: int) -> Reader:
        return self._live.open(file_id)

    def delete(self, file_id: int) -> bool:
        with self._lock:
            existed = self._live.delete(file_id)
            record = self._records.pop(file_id, None)
            if record is not None and record.entry:
                self._ghosts[file_id] = record
            return existed

    def sync_block(self, block: int) -> None:
        with self._lock:
            self._live.sync_block(block)
            for file_id in [each for each in self._ghosts if each // BLOCK_FILES == block]:
                del self._ghosts[file_id]

    def files(self, block: int) -> Iterator[int]:
        return self._live.files(block)

    def blocks(self) -> Iterator[int]:
        return self._live.blocks()

    def free_bytes(self) -> int:
        return self._live.free_bytes()

    def link(self, file_id: int, target: str) -> None:
        self._live.link(file_id, target)

    def close(self) -> None:
        self._live.close()

    def durable(self) -> dict[int, bytes]:
        """Files that no crash can take, with the bytes that no crash can change."""
        with self._lock:
            return {
                file_id: record.data[: record.floor]
                for file_id, record in self._records.items()
                if record.entry
            }

    def crash(self, seed: int) -> MemoryDepot:
        """What a power failure at this instant leaves. The depot itself goes on as it was.

        Everything that is durable is there. Of the rest, the seed decides: files may be gone,
        shorter, torn at sectors, or hold zeros where data was not written in time; files that
        were deleted may be back.
        """
        chance = random.Random(seed)
        # One share for the whole crash, so that seeds reach from "nothing" to "nearly all".
        share = chance.random()
        left = MemoryDepot()
        with self._lock:
            for file_id in sorted(self._records.keys() | self._ghosts.keys()):
                content = self._survivor(file_id, share, chance)
                if content is not None:
                    writer = left.create(file_id)
                    writer.append(content)
                    writer.close()
        return left

    def _survivor(self, file_id: int, share: float, chance: random.Random) -> bytes | None:
        record, ghost = self._records.get(file_id), self._ghosts.get(file_id)
        if record is not None and (record.entry or chance.random() < share):
            reader = self._live.open(file_id)
            try:
                return _torn(record, reader.read(0, reader.size), share, chance)
            finally:
                reader.close()
        if ghost is not None and chance.random() >= share:
            return ghost.data
        return None

    def changed(self, record: _Record, size: int) -> None:
        """A file has been cut to ``size``, or has grown to it."""
        with self._lock:
            record.floor = min(record.floor, size)
            start, stop = record.dropped.start, min(record.dropped.stop, size)
            record.dropped = slice(min(start, stop), stop)

    def dropped(self, record: _Record, size: int) -> None:
        """A sync of this file, which has that size, is about to fail."""
        with self._lock:
            record.dropped = slice(record.floor, size)

    def synced(self, file_id: int, record: _Record, data: bytes) -> None:
        """A sync of this file, which holds ``data``, is about to return."""
        with self._lock:
            hole = bytes(record.dropped.stop - record.dropped.start)
            data = data[: record.dropped.start] + hole + data[record.dropped.stop :]
            record.data, record.floor, record.entry = data, len(data), True
            if self._records.get(file_id) is record:
                self._ghosts.pop(file_id, None)


def _torn(record: _Record, now: bytes, share: float, chance: random.Random) -> bytes:
    old, floor = record.data, record.floor
    most = max(len(now), len(old))
    # Without a cut since the last sync the file cannot be shorter than it was then.
    least = floor
    pick = chance.random()
    size = len(now) if pick < share else len(old) if pick > (1 + share) / 2 else -1
    if size < 0:
        size = chance.randint(least, most)
    content = bytearray(old[:floor])
    while len(content) < size:
        start = len(content)
        stop = min(start - start % _SECTOR + _SECTOR, size)
        source = now if chance.random() < share else old
        content += source[start:stop].ljust(stop - start, b"\0")
    return bytes(content)


class _LossyWriter:
    def __init__(self, depot: LossyDepot, file_id: int, record: _Record, inner: Writer) -> None:
        self._depot = depot
        self._file_id = file_id
        self._record = record
        self._inner = inner

    @property
    def size(self) -> int:
        return self._inner.size

    def append(self, data: Data) -> None:
        self._inner.append(data)

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)
        self._depot.changed(self._record, size)

    def read(self, offset: int, length: int) -> bytes:
        return self._inner.read(offset, length)

    def sync(self) -> None:
        if self._depot.syncs.step("sync"):
            self._depot.dropped(self._record, self.size)
            self.truncate(0)
            raise StorageFailed("injected", "sync")
        self._inner.sync()
        self._depot.synced(self._file_id, self._record, self._inner.read(0, self._inner.size))

    def close(self) -> None:
        self._inner.close()


class Countdown:
    """Counts calls and fails at the N-th, once. ``fail_at`` 0 never fails."""

    def __init__(self, fail_at: int) -> None:
        self.fail_at = fail_at
        self.count = 0
        self.fired = False
        self.log: list[str] = []
        self._lock = threading.Lock()

    def step(self, operation: str) -> bool:
        """Count one call; says whether it is the one to fail."""
        with self._lock:
            self.count += 1
            self.log.append(operation)
            due = self.count == self.fail_at
            self.fired = self.fired or due
            return due


class Death(Countdown):
    """From the N-th call on all fail: the process that made them is dead, as far as can be seen.

    For the calls of depot and ledger together.
    """

    def step(self, operation: str) -> bool:
        return super().step(operation) or self.fired


class Interruption(Countdown):
    """Counts calls; at the N-th it calls ``then`` instead of letting it fail."""

    def __init__(self, fail_at: int, then: Callable[[], object]) -> None:
        super().__init__(fail_at)
        self._then = then

    def step(self, operation: str) -> bool:
        if super().step(operation):
            self._then()
        return False


class _Failing:
    """Count the calls of a depot, or of a writer or a reader of it.

    A depot, a writer and a reader differ in names only, and each name is counted as it is called.
    """

    _UNCOUNTED: Final = frozenset(("size", "fileno", "is_whole"))

    def __new__(cls, *_: object) -> Self:
        # That of Any hands the arguments on to object.
        return object.__new__(cls)

    def __init__(self, inner: Any, calls: Countdown) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return found if name in self._UNCOUNTED else partial(self._call, name, found)

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        due = self._calls.step(name)
        if name == "close":
            function()
        elif due and name == "sync" and not isinstance(self._calls, Death):
            self._inner.truncate(0)
        if due:
            raise StorageFailed("injected", name)
        if name == "close":
            return None
        result = function(*args)
        return _Failing(result, self._calls) if name in ("create", "reopen", "open") else result


class FailingDepot(_Failing, Any):  # type: ignore[misc]  # it has whatever the inner one has
    """A depot whose N-th call fails with StorageFailed before it does anything.

    Counted are the calls of the depot and of its writers and readers, ``size`` and ``fileno``
    excepted. A failing ``close`` closes all the same, as close(2) does; a failing ``sync`` loses
    what the file had, but for one of a process that is dead.
    """

    def __init__(self, inner: Depot, fail_at: int | Countdown = 0) -> None:
        calls = fail_at if isinstance(fail_at, Countdown) else Countdown(fail_at)
        super().__init__(inner, calls)
        self.calls = calls


class FailingLedger:
    """A ledger whose N-th call fails with StorageFailed.

    ``when`` says how: ``before`` its body runs, or ``after``, when a transaction was committed
    and only its acknowledgement is lost. ``close`` is not counted.
    """

    def __init__(
        self,
        inner: Ledger,
        fail_at: int | Countdown = 0,
        when: Literal["before", "after"] = "before",
    ) -> None:
        self.inner = inner
        self.calls = fail_at if isinstance(fail_at, Countdown) else Countdown(fail_at)
        self._when = when

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        due = self._step("transact")
        result = await self.inner.transact(work, *args, **kwargs)
        return self._acknowledged(due, "transact", result)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        due = self._step("read")
        result = await self.inner.read(work, *args, **kwargs)
        return self._acknowledged(due, "read", result)

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        due = self._step("read_in_thread")
        result = await self.inner.read_in_thread(work, *args, **kwargs)
        return self._acknowledged(due, "read_in_thread", result)

    async def close(self) -> None:
        await self.inner.close()

    def _step(self, operation: str) -> bool:
        due = self.calls.step(operation)
        if due and self._when == "before":
            raise StorageFailed("injected", operation)
        return due

    def _acknowledged(self, due: bool, operation: str, result: T) -> T:
        if due:
            raise StorageFailed("injected", f"{operation}: the acknowledgement was lost")
        return result
