"""The ledger in LMDB: one ordered map in a directory, shared by every process that opens it.

Readers of all processes see their own snapshot without locks; writers take turns on a mutex in
the lock file, which LMDB repairs when its holder dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from errno import EDQUOT, EIO, ENOSPC
from functools import partial
from pathlib import Path
from typing import Final

import lmdb

from holdfast.engine.model.errors import (
    AlreadyExists,
    Closed,
    EngineError,
    NotAStore,
    StorageFailed,
    StorageFull,
)
from holdfast.engine.tasks.timing import timed

from . import change_log, lmdb_file
from .disk_room import preallocate
from .group_commit import GROUP_BOUNDS, GroupCommit, Member, Outcome
from .interface import KEY_BYTES_MAX, Change, P, T, Work, drive
from .lmdb_txn import ReadTxn, Tally, WriteTxn, write_counters
from .slow_reads import SlowReads, Stop, Stoppable

_LIBRARY: Final = 0
"""The 0.9 line of LMDB; ``lmdb_file`` knows its format."""

_READERS_MAX: Final = 1022
"""Read transactions at one time in all processes. A slot is 64 bytes of the lock file."""

_IDLE_READERS: Final = 16
"""Ended read transactions that keep their slot for the next: a renewal takes no mutex."""

_CHECK_COMMITS: Final = 1000
_CHECK_SECONDS: Final = 60.0
"""How often slots of killed readers are looked for: such a reader keeps freed pages from reuse."""

_BLOCK_BYTES: Final = 512
"""Of ``st_blocks`` (stat(2))."""

_SCRAP_BYTES: Final = 1024 * 1024
"""A disk with less free space is full: where it cuts a write short, LMDB says EIO."""

_UNUSED_KEY: Final = b"\xff" * (KEY_BYTES_MAX + 1)
"""A key that no row has: it is over the limit. LMDB allows 511 bytes."""


class _Environment:
    """An open LMDB environment: one a data file and process, whoever uses it there.

    LMDB's locks belong to the process, so a second environment on the same file would let go
    of those of the first when it is closed.
    """

    _open: Final[dict[tuple[int, int, int], _Environment]] = {}
    _opening: Final = threading.Lock()

    def __init__(
        self, env: lmdb.Environment, path: Path, key: tuple[int, int, int], name: str
    ) -> None:
        self.env = env
        self.map_bytes = env.info()["map_size"]
        self._page_bytes = env.stat()["psize"]
        self._path = path
        self.groups = [0] * len(GROUP_BOUNDS)
        """Commits by the least of GROUP_BOUNDS that their members do not exceed."""
        self.members = 0
        self.name = name
        """What waits for its commits are told as (``tasks.timing``)."""
        self._key = key
        self._users = 1
        self._counting = threading.Lock()
        self._check_commits = 0
        self._check_time = time.monotonic() + _CHECK_SECONDS
        self._allocated_end = 0
        """How far the file has blocks that were asked for before they are needed."""
        with env.begin() as txn:
            row = txn.get(change_log.KEY)
            self._copied_row = row if change_log.is_ahead(row, txn.id()) else None
            """The row of quiet transactions, where it is of other ones."""

    def change_row(self, txn: lmdb.Transaction[bytes]) -> bytes | None:
        """What is known of quiet transactions."""
        row = txn.get(change_log.KEY)
        return None if row == self._copied_row else row

    @classmethod
    def of(cls, path: Path, map_bytes: int, *, synced: bool) -> _Environment:
        """The environment of this data file, for one more user."""
        stat = (path / lmdb_file.NAME).stat()
        key = (os.getpid(), stat.st_dev, stat.st_ino)
        with cls._opening:
            environment = cls._open.get(key)
            if environment is None:
                env = _open(path, map_bytes, synced=synced)
                name = "ledger commit" if synced else "scratch commit"
                environment = cls._open[key] = cls(env, path, key, name)
            else:
                environment._users += 1
            return environment

    def release(self) -> None:
        """One user less; the last one closes it."""
        with self._opening:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self.env.close()

    def commit(self, group: list[Member], *, again: bool = False) -> list[Outcome]:
        """Run and commit the members, together if possible."""
        try:
            self._check_readers()
            if again:
                self._commit_empty()
            outcomes = self._commit_group(group)
        except _SplitGroup as apart:
            if len(group) > 1:
                return [outcome for member in group for outcome in self.commit([member])]
            if not again and isinstance(apart.error, lmdb.MapFullError):
                return self.commit(group, again=True)
            return [(None, self._failure(apart.error))]
        except lmdb.Error as error:
            return [(None, self._failure(error)) for _ in group]
        with self._counting:
            self.groups[(len(group) - 1).bit_length()] += 1
            self.members += len(group)
        return outcomes

    def _commit_empty(self) -> None:
        """Pages that the last commit freed can be used again only after another one. Nobody else
        may ever make it, so it is made before the map counts as full."""
        with self.env.begin(write=True) as txn:
            txn.put(_UNUSED_KEY, b"")
            txn.delete(_UNUSED_KEY)

    def _commit_group(self, group: list[Member]) -> list[Outcome]:
        """Run the members in one transaction, and commit it if any of them succeeded.

        Raises _SplitGroup, and what LMDB says of the commit.
        """
        txn = self.env.begin(write=True)
        try:
            tally = Tally()
            try:
                outcomes = [_run_member(WriteTxn(txn, self, tally), member) for member in group]
                write_counters(txn, tally)
                if tally.wrote:
                    self._note(txn, tally.change)
            except lmdb.Error as error:
                raise _SplitGroup(error) from error
            if all(error for _, error in outcomes):
                txn.abort()
                return outcomes
            try:
                txn.commit()
            except (lmdb.MapFullError, lmdb.TxnFullError) as error:
                raise _SplitGroup(error) from error
        except BaseException:
            txn.abort()
            raise
        return outcomes

    def _note(self, txn: lmdb.Transaction[bytes], change: Change) -> None:
        """Keep what this transaction changes at most, before it is committed."""
        if change is not Change.ANY:
            row = change_log.extended(self.change_row(txn), txn.id(), change)
            txn.put(change_log.KEY, row)
        elif self._copied_row is not None and txn.get(change_log.KEY) == self._copied_row:
            # Whoever opens the file once there are as many transactions would believe it.
            txn.delete(change_log.KEY)

    def disk_bytes(self) -> int:
        """What the disk still takes, and the file has taken of it. Blocks. Raises OSError."""
        # A file system that compresses tells less than the file has.
        taken = (self._path / lmdb_file.NAME).stat().st_blocks * _BLOCK_BYTES
        return self._free_bytes() + max(taken, self._end())

    def _end(self) -> int:
        """Where the file ends in use; behind it are pages that were never used."""
        return int(self.env.info()["last_pgno"] + 1) * self._page_bytes

    def keep_room(self, count: int) -> None:
        """As ``LmdbLedger.keep_room``. Raises OSError."""
        end = self._end()
        if end + count // 2 > self._allocated_end and preallocate(
            self._path / lmdb_file.NAME, end, count
        ):
            self._allocated_end = end + count

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize

    def _failure(self, error: lmdb.Error) -> EngineError:
        failure = _failure(error)
        if error.code == EIO and self._free_bytes() < _SCRAP_BYTES:
            failure = StorageFull("ledger")
            failure.__cause__ = error
        return failure

    def _check_readers(self) -> None:
        self._check_commits += 1
        now = time.monotonic()
        if self._check_commits >= _CHECK_COMMITS or now >= self._check_time:
            self._check_commits = 0
            self._check_time = now + _CHECK_SECONDS
            self.env.reader_check()


class _SplitGroup(Exception):
    """A group's transaction came to nothing for what one member did, or for their number: each
    shall have one of its own, so that only those fail who have to."""

    def __init__(self, error: lmdb.Error) -> None:
        super().__init__(str(error))
        self.error = error


def _run_member(writing: WriteTxn, member: Member) -> Outcome:
    """Run one member; it leaves nothing if it fails.

    Raises lmdb.Error, after which the transaction is good for nothing.
    """
    _, work, args, kwargs = member
    # An error keeps this frame alive, and the future will keep the error: no cycle, please.
    del member
    try:
        result = drive(work(writing, *args, **kwargs))
        writing.succeeded()
    except lmdb.Error:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
        writing.undo()
        return None, error
    return result, None


class LmdbLedger:
    """A ``Ledger`` in a directory. Usable from several threads and event loops."""

    def __init__(self, environment: _Environment) -> None:
        """Use ``LmdbLedger.open``."""
        self._environment = environment
        self._env = environment.env
        self._commits = GroupCommit(environment.commit)
        self._closed = False
        self._slow_reads = SlowReads(environment.name)
        self._operations = 0
        self._operation_ended = threading.Condition()
        # Forgetting ``close`` leaks no thread. (A ledger that never wrote stays open then.)
        weakref.finalize(self, self._commits.abandon, environment.release).atexit = False

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty ledger in directory ``path``, durably, unless one is there.

        Raises StorageFull, StorageFailed.
        """
        try:
            lmdb_file.create(path, _empty)
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    @classmethod
    def open(cls, path: Path, *, map_bytes: int, create: bool, synced: bool = True) -> LmdbLedger:
        """Open the ledger in directory ``path``; with ``create``, make it if there is none.

        ``map_bytes`` of address space bound its size for good; it is the same in all processes.
        Within a process, the first ledger on a path decides. What was committed without
        ``synced`` survives all processes, but not the machine: then the file may be damaged.

        Raises NotAStore, Corrupt (damaged or cut off), StorageFull, StorageFailed.
        """
        if create and not (path / lmdb_file.NAME).exists():
            cls.create(path)
        try:
            lmdb_file.check_header(path / lmdb_file.NAME)
            lmdb_file.make_lock(path, _READERS_MAX)
            return cls(_Environment.of(path, map_bytes, synced=synced))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotAStore(str(path), f"there is no ledger: {error.strerror}") from error
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the writer's thread, and commit it with whoever else waits.

        Raises StorageFull, StorageFailed, Corrupt, Closed, and what ``work`` raises.
        """
        if self._closed:
            raise Closed
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._commits.submit((future, work, args, kwargs))
        return await timed(self._environment.name, future)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` over the newest committed state.

        Raises StorageFailed, Corrupt, Closed, and what ``work`` raises.
        """
        return self.read_now(work, *args, **kwargs)

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, in a thread. Freed pages are not reused while it runs."""

        def read(stop: Stop) -> T:
            with self._kept_open():
                return self._read(work, stop, *args, **kwargs)

        return await self._slow_reads.run(read)

    @contextlib.contextmanager
    def _kept_open(self) -> Iterator[None]:
        """``close`` waits for the end of the block. Raises Closed."""
        with self._operation_ended:
            if self._closed:
                raise Closed
            self._operations += 1
        try:
            yield
        finally:
            with self._operation_ended:
                self._operations -= 1
                self._operation_ended.notify_all()

    def read_now(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, without an event loop."""
        if self._closed:
            raise Closed
        return self._read(work, None, *args, **kwargs)

    def _read(self, work: Work[P, T], stop: Stop | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            txn = self._begin()
            try:
                reading = ReadTxn(txn, self._environment)
                if stop is not None:
                    return drive(work(Stoppable(reading, stop), *args, **kwargs))
                return drive(work(reading, *args, **kwargs))
            finally:
                txn.abort()
        except lmdb.Error as error:
            if self._closed:  # by another thread, under our hands
                raise Closed from error
            raise _failure(error) from error

    def _begin(self) -> lmdb.Transaction[bytes]:
        try:
            return self._env.begin()
        except lmdb.ReadersFullError:
            # LMDB frees the slots of killed processes only when asked to.
            self._env.reader_check()
            return self._env.begin()

    def last_txn(self) -> int:
        """The newest transaction that a read begun now sees; it grows with every commit.

        What is read after this call is at least as new. So a result stamped with the number
        from before its read may be used for as long as the number stays the same.
        Raises StorageFailed, Closed.
        """
        if self._closed:
            raise Closed
        try:
            txn = self._begin()
            number = txn.id()
            txn.abort()
        except lmdb.Error as error:
            raise _failure(error) from error
        return number

    def keep_room(self, count: int) -> None:
        """Have the disk set aside so many bytes behind the rows, or at least half of them.

        For deletes on a disk that other programs have filled. To be called now and then, while
        rows are added; where the disk has no room left, or cannot do it, it changes nothing.
        Blocks. Raises StorageFailed, Closed.
        """
        if self._closed:
            raise Closed
        try:
            self._environment.keep_room(count)
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def changed(self, since: int, until: int) -> Change:
        """What the transactions after ``since``, up to ``until``, changed at most.

        Raises StorageFailed, Closed.
        """
        if self._closed:
            raise Closed
        try:
            txn = self._begin()
            row = self._environment.change_row(txn)
            txn.abort()
        except lmdb.Error as error:
            raise _failure(error) from error
        return change_log.change_between(row, since, until)

    def check_free_list(self) -> None:
        """Read the list of free pages, which no read of a row needs, and every write.

        Blocks. Raises Corrupt, StorageFailed, Closed.
        """
        try:
            with self._kept_open(), self._begin() as txn:
                path = Path(self._env.path()) / lmdb_file.NAME
                lmdb_file.check_free_list(path, txn.id())
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def copy(self, target: Path, *, compact: bool) -> None:
        """Write a consistent copy into directory ``target``, durably; blocks for as long.

        ``compact`` leaves out free pages, and is slower. Raises AlreadyExists if there is a
        ledger in ``target``, StorageFull, StorageFailed, Closed.
        """
        try:
            with self._kept_open():
                lmdb_file.write_copy(target, partial(self._env.copyfd, compact=compact))
        except FileExistsError as error:
            raise AlreadyExists("snapshot", str(target)) from error
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def info(self) -> dict[str, int]:
        """Numbers for operators: sizes in bytes, and counts. Raises StorageFailed, Closed.

        ``used_bytes`` never shrinks; ``live_bytes`` is what rows take of it, with their tree.
        ``commits`` and ``members`` (bodies run) are of this process and path since it opened.
        ``commits_1``, ``commits_2``, ``commits_4`` … are those commits whose members are at most
        that many, and more than half of it: one number for each of GROUP_BOUNDS.
        """
        if self._closed:
            raise Closed
        try:
            info, stat = self._env.info(), self._env.stat()
        except lmdb.Error as error:
            raise _failure(error) from error
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return {
            "map_bytes": info["map_size"],
            "used_bytes": (info["last_pgno"] + 1) * stat["psize"],
            "live_bytes": pages * stat["psize"],
            "entries": stat["entries"],
            "readers": info["num_readers"],
            "last_txn": info["last_txnid"],
            "commits": sum(self._environment.groups),
            "members": self._environment.members,
            **{
                f"commits_{bound}": count
                for bound, count in zip(GROUP_BOUNDS, self._environment.groups, strict=True)
            },
        }

    async def close(self) -> None:
        """Finish submitted transactions, copies and reads, and let go. May be called twice."""
        self._closed = True
        # Whoever waits for it may be cancelled; it is done all the same.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.end))

    def end(self) -> None:
        """As ``close``, blocking."""
        self._closed = True
        with self._operation_ended:
            self._operation_ended.wait_for(lambda: not self._operations)
        self._commits.stop(self._environment.release)
        self._commits.join()


def _failure(error: lmdb.Error | OSError) -> EngineError:
    """What an error of LMDB or of the system means to a user of the ledger."""
    number = error.errno if isinstance(error, OSError) else error.code
    if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)) or number in (ENOSPC, EDQUOT):
        failure: EngineError = StorageFull("ledger")
    elif isinstance(error, _DAMAGE):
        failure = lmdb_file.damaged(str(error))
    elif isinstance(error, lmdb.PanicError):
        failure = StorageFailed("ledger", "an earlier write failed: open the store anew")
    elif isinstance(error, lmdb.VersionMismatchError):
        failure = NotAStore("ledger", "another version of LMDB uses it at this moment")
    elif isinstance(error, lmdb.MapResizedError):
        failure = StorageFailed("ledger", "another process opened it with a larger map_bytes")
    else:
        failure = StorageFailed("ledger", str(error))
    failure.__cause__ = error
    return failure


_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)


def _open(path: Path, map_bytes: int, *, synced: bool) -> lmdb.Environment:
    """Open an existing ledger and make sure that its file is whole."""
    env = lmdb.open(
        str(path),
        map_size=map_bytes,
        mode=0o600,
        create=False,
        sync=synced,
        metasync=synced,
        readahead=False,
        max_readers=_READERS_MAX,
        max_spare_txns=_IDLE_READERS,
        lib_version=_LIBRARY,
    )
    try:
        env.reader_check()
        checked = False
        while not checked:
            with env.begin() as txn:
                checked = lmdb_file.check_length(path / lmdb_file.NAME, txn.id())
    except BaseException:
        env.close()
        raise
    return env


def _empty(path: Path) -> None:
    """Make an empty environment in an empty directory."""
    env = lmdb.open(str(path), mode=0o600, create=False, lock=False, lib_version=_LIBRARY)
    env.sync(True)
    env.close()
