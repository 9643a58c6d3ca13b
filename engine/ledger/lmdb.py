"""The ledger in LMDB: one ordered map in a directory, shared by all processes that open it.

Readers see their own snapshot without locks. Writers of all processes take turns by a mutex in the
lock file, which LMDB repairs when its holder dies.
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
"""Simultaneous read transactions of all processes. A slot takes 64 bytes of the lock file."""

_IDLE_READERS: Final = 16
"""Ended read transactions that keep their slot for reuse: a renewal takes no mutex."""

_CHECK_COMMITS: Final = 1000
_CHECK_SECONDS: Final = 60.0
"""Interval of the search for slots of killed readers, which prevent the reuse of freed pages."""

_BLOCK_BYTES: Final = 512
"""Unit of ``st_blocks`` (stat(2))."""

_FULL_BYTES: Final = 1024 * 1024
"""Free space below which a disk counts as full: LMDB reports a short write as EIO."""

_UNUSED_KEY: Final = b"\xff" * (KEY_BYTES_MAX + 1)
"""A key that no row has, since it exceeds the limit of the ledger. LMDB allows 511 bytes."""


class _Environment:
    """An open LMDB environment, shared by all ledgers of this process on the same data file.

    LMDB's file locks belong to the process: closing a second environment on the same file would
    release the locks of the first.
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
        """Commits by size: for each of GROUP_BOUNDS those with at most that many members."""
        self.members = 0
        self.name = name
        """Label of waits for its commits (``tasks.timing``)."""
        self._key = key
        self._users = 1
        self._counting = threading.Lock()
        self._check_commits = 0
        self._check_time = time.monotonic() + _CHECK_SECONDS
        self._allocated_end = 0
        """Offset in the file up to which blocks are preallocated."""

    @classmethod
    def of(cls, path: Path, map_bytes: int, *, synced: bool) -> _Environment:
        """Return the environment of this data file, opened if necessary, for one more user."""
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
        """Remove one user; the last one closes the environment."""
        with self._opening:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self.env.close()

    def commit(self, group: list[Member], *, again: bool = False) -> list[Outcome]:
        """Run and commit the members, together if possible.

        ``again`` is a second attempt for one member after a full map.
        """
        try:
            self._check_readers()
            if again:
                self._commit_empty()
            outcomes = self._commit_group(group)
        except _SplitGroup as split:
            if len(group) > 1:
                return [outcome for member in group for outcome in self.commit([member])]
            if not again and isinstance(split.error, lmdb.MapFullError):
                return self.commit(group, again=True)
            return [(None, self._failure(split.error))]
        except lmdb.Error as error:
            return [(None, self._failure(error)) for _ in group]
        with self._counting:
            self.groups[(len(group) - 1).bit_length()] += 1
            self.members += len(group)
        return outcomes

    def _commit_empty(self) -> None:
        """Commit nothing, so that LMDB can reuse the pages that the last commit freed.

        It reuses them only after one more commit, which may never come: so this one is made
        before the map counts as full.
        """
        with self.env.begin(write=True) as txn:
            txn.put(_UNUSED_KEY, b"")
            txn.delete(_UNUSED_KEY)

    def _commit_group(self, group: list[Member]) -> list[Outcome]:
        """Run the members in one transaction, and commit it if one of them succeeded.

        Raises _SplitGroup, and lmdb.Error for the commit.
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
                # LMDB's transaction is unusable now, also for members that did nothing wrong.
                raise _SplitGroup(error) from error
            if all(error for _, error in outcomes):
                # All rows are as before: save the sync.
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
        """Write the most that this transaction changes to the change log, as part of it."""
        row = txn.get(change_log.KEY)
        if change < Change.ANY:
            txn.put(change_log.KEY, change_log.extended(row, txn.id(), change))
        elif change_log.is_ahead(row, txn.id()):
            # It came with a copy. Once this file has as many transactions, it would seem valid.
            txn.delete(change_log.KEY)

    def disk_bytes(self) -> int:
        """Return free bytes of the disk plus those of the file. Blocking. Raises OSError."""
        # A file system that compresses reports fewer blocks than the file has bytes.
        taken = (self._path / lmdb_file.NAME).stat().st_blocks * _BLOCK_BYTES
        return self._free_bytes() + max(taken, self._end())

    def _end(self) -> int:
        """Return the end of the used part of the file; pages behind it were never used."""
        return int(self.env.info()["last_pgno"] + 1) * self._page_bytes

    def keep_room(self, count: int) -> None:
        """Preallocate as ``LmdbLedger.keep_room`` does. Raises OSError."""
        end = self._end()
        # Only when less than half is left, so that most calls cost no system call.
        if end + count // 2 > self._allocated_end and preallocate(
            self._path / lmdb_file.NAME, end, count
        ):
            self._allocated_end = end + count

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize

    def _failure(self, error: lmdb.Error) -> EngineError:
        failure = _failure(error)
        if error.code == EIO and self._free_bytes() < _FULL_BYTES:
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
    """A group's transaction failed, by one of its members or by its size.

    Each member gets a transaction of its own then, so that only the culprits fail.
    """

    def __init__(self, error: lmdb.Error) -> None:
        super().__init__(str(error))
        self.error = error


def _run_member(writing: WriteTxn, member: Member) -> Outcome:
    """Run one member; if it fails, undo its writes.

    Raises lmdb.Error, after which the transaction is unusable.
    """
    _, work, args, kwargs = member
    # The future will refer to the error, and the error to this frame: avoid a reference cycle.
    del member
    try:
        result = drive(work(writing, *args, **kwargs))
        writing.succeeded()
    except lmdb.Error:
        raise
    except BaseException as error:  # noqa: BLE001 - the caller of the member gets it
        writing.undo()
        return None, error
    return result, None


class LmdbLedger:
    """A ``Ledger`` in a directory. Threads and event loops may share it."""

    def __init__(self, environment: _Environment) -> None:
        """Create a ledger on an environment; call ``LmdbLedger.open`` instead."""
        self._environment = environment
        self._env = environment.env
        self._commits = GroupCommit(environment.commit)
        self._closed = False
        self._slow_reads = SlowReads(environment.name)
        self._operations = 0
        self._operation_ended = threading.Condition()
        # A ledger that is never closed leaks no thread. (One that never wrote stays open.)
        weakref.finalize(self, self._commits.abandon, environment.release).atexit = False

    @staticmethod
    def create(path: Path) -> None:
        """Create an empty ledger in directory ``path``, durably, unless one exists.

        Raises StorageFull, StorageFailed.
        """
        try:
            lmdb_file.create(path, _empty)
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    @classmethod
    def open(cls, path: Path, *, map_bytes: int, create: bool, synced: bool = True) -> LmdbLedger:
        """Open the ledger in directory ``path``; with ``create``, create a missing one.

        ``map_bytes`` of address space limit its size permanently; use the same value in all
        processes. Within a process, the first ledger on a path decides. Without ``synced``,
        commits survive the processes but not a crash of the machine, which may damage the file.

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
        """Run ``work`` in the writer thread, and commit it with other waiting transactions.

        Raises StorageFull, StorageFailed, Corrupt, Closed, and the errors of ``work``.
        """
        if self._closed:
            raise Closed
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._commits.submit((future, work, args, kwargs))
        return await timed(self._environment.name, future)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` over the newest committed state.

        Raises StorageFailed, Corrupt, Closed, and the errors of ``work``.
        """
        return self.read_now(work, *args, **kwargs)

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` as ``read`` does, but in a thread.

        While it runs, LMDB cannot reuse pages that are freed.
        """

        def read(stop: Stop) -> T:
            with self._kept_open():
                return self._read(work, stop, *args, **kwargs)

        return await self._slow_reads.run(read)

    @contextlib.contextmanager
    def _kept_open(self) -> Iterator[None]:
        """Delay ``close`` until the end of the block. Raises Closed."""
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
        """Run ``work`` as ``read`` does, without an event loop."""
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
            if self._closed:  # another thread closed the ledger during the read
                raise Closed from error
            raise _failure(error) from error

    def _begin(self) -> lmdb.Transaction[bytes]:
        try:
            return self._env.begin()
        except lmdb.ReadersFullError:
            # LMDB frees the slots of killed processes only in reader_check.
            self._env.reader_check()
            return self._env.begin()

    def last_txn(self) -> int:
        """Return the newest transaction that a read started now sees; every commit raises it.

        Reads after this call are at least as new. So a result may be cached with the number from
        before its read, and used while the number stays the same.
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
        """Preallocate ``count`` bytes of disk behind the rows, or keep at least half of them.

        Deletes need them on a disk that other programs have filled. Call it from time to time
        while rows are added. No-op if the disk is full or its file system cannot preallocate.
        Blocking. Raises StorageFailed, Closed.
        """
        if self._closed:
            raise Closed
        try:
            self._environment.keep_room(count)
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def changed(self, since: int, until: int) -> Change:
        """Return the most that transactions after ``since``, up to ``until``, changed.

        Raises StorageFailed, Closed.
        """
        if self._closed:
            raise Closed
        try:
            txn = self._begin()
            row = txn.get(change_log.KEY)
            txn.abort()
        except lmdb.Error as error:
            raise _failure(error) from error
        return change_log.change_between(row, since, until)

    def check_free_list(self) -> None:
        """Verify the list of free pages, which every write needs and no read of a row.

        Blocking. Raises Corrupt, StorageFailed, Closed.
        """
        try:
            with self._kept_open(), self._begin() as txn:
                path = Path(self._env.path()) / lmdb_file.NAME
                lmdb_file.check_free_list(path, txn.id())
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def copy(self, target: Path, *, compact: bool) -> None:
        """Write a consistent copy into directory ``target``, durably. Blocking.

        ``compact`` omits free pages, and is slower. Raises AlreadyExists if ``target`` has a
        ledger, StorageFull, StorageFailed, Closed.
        """
        try:
            with self._kept_open():
                lmdb_file.write_copy(target, partial(self._env.copyfd, compact=compact))
        except FileExistsError as error:
            raise AlreadyExists("snapshot", str(target)) from error
        except (OSError, lmdb.Error) as error:
            raise _failure(error) from error

    def info(self) -> dict[str, int]:
        """Return numbers for operators: sizes in bytes, and counts.

        ``used_bytes`` never shrinks; ``live_bytes`` is its part in use by rows and their tree.
        ``commits`` and ``members`` (functions run) count since this process opened the path.
        ``commits_1``, ``commits_2``, ``commits_4`` … count the commits with at most that many
        members, and more than half as many: one number for each of GROUP_BOUNDS.
        Raises StorageFailed, Closed.
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
        """Finish submitted transactions, copies and reads, then close. Idempotent."""
        self._closed = True
        # Shielded: a cancelled caller does not stop the closing.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.end))

    def end(self) -> None:
        """Close as ``close`` does. Blocking."""
        self._closed = True
        with self._operation_ended:
            self._operation_ended.wait_for(lambda: not self._operations)
        self._commits.stop(self._environment.release)
        self._commits.join()


def _failure(error: lmdb.Error | OSError) -> EngineError:
    """Translate an error of LMDB or of the system to one of the store."""
    number = error.errno if isinstance(error, OSError) else error.code
    if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)) or number in (ENOSPC, EDQUOT):
        failure: EngineError = StorageFull("ledger")
    elif isinstance(error, _DAMAGE):
        failure = lmdb_file.damaged(str(error))
    elif isinstance(error, lmdb.PanicError):
        failure = StorageFailed("ledger", "an earlier write failed: open the store again")
    elif isinstance(error, lmdb.VersionMismatchError):
        failure = NotAStore("ledger", "another version of LMDB uses it now")
    elif isinstance(error, lmdb.MapResizedError):
        failure = StorageFailed("ledger", "another process opened it with a larger map_bytes")
    else:
        failure = StorageFailed("ledger", str(error))
    failure.__cause__ = error
    return failure


_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)


def _open(path: Path, map_bytes: int, *, synced: bool) -> lmdb.Environment:
    """Open an existing ledger and verify that its file is complete."""
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
        # Repeated while other processes commit too fast for the check to see one state.
        checked = False
        while not checked:
            with env.begin() as txn:
                checked = lmdb_file.check_length(path / lmdb_file.NAME, txn.id())
    except BaseException:
        env.close()
        raise
    return env


def _empty(path: Path) -> None:
    """Create an empty environment in an empty directory."""
    env = lmdb.open(str(path), mode=0o600, create=False, lock=False, lib_version=_LIBRARY)
    env.sync(True)
    env.close()
