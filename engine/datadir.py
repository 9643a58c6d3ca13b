"""The data directory: its layout, its format version, and how a store is opened in it.

    DIR/FORMAT     one line: the format version, then ``unfinished`` while a copy is being made
    DIR/ledger/    the ledger's files
    DIR/files/     the depot
    DIR/scratch/   the scratch ledger, in one directory per start of the machine
    DIR/run/       one lock file per open store of a process

Services may keep files of their own beside these; the engine does not touch them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .core import Core
from .depot import instance
from .depot.disk import DiskDepot
from .depot.disk_file import is_there, refused
from .depot.files import Files
from .depot.gate import Gate, LockedGate
from .depot.instance import Instances, LockedInstances, SoleInstance
from .depot.interface import Depot
from .depot.memory import MemoryDepot
from .ledger import lmdb_file
from .ledger.interface import Ledger
from .ledger.lmdb import LmdbLedger
from .ledger.memory import MemoryLedger
from .model.config import RESERVE_BYTES, RESERVE_SHARE, StoreConfig
from .model.errors import Corrupt, NotAStore, StorageFailed, StorageFull
from .tasks.threads import Threads

FORMAT: Final = 3
"""Format version of the whole directory. A change that old code cannot read increments it."""

OLDEST: Final = 2
"""Oldest format version that ``upgrade`` can bring to ``FORMAT`` in place."""

INCOMPLETE: Final = "INCOMPLETE"
"""Name of the file that marks a directory which ``staging`` has not finished."""

_FORMAT_FILE: Final = "FORMAT"
_LINE: Final = re.compile(r"holdfast (\d{1,6})( unfinished)?\n", re.ASCII)
_UNFINISHED: Final = (
    "it is an unfinished copy of a snapshot or restore and was never verified: make it again, or"
    " remove it"
)
_PARTS: Final = ("ledger", "files", "run", "scratch")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Opened:
    """An open data directory, or open seams of another kind."""

    core: Core
    instances: Instances

    async def close(self) -> None:
        """Close everything, in the reverse order of opening. Raises StorageFailed."""
        # Files first, then ledgers, then the threads that both use; the instance's lock last, so
        # that other processes see this store as alive until its last write.
        async with AsyncExitStack() as rest:
            rest.callback(self.instances.close)
            rest.callback(self.core.gate.close)
            rest.callback(self.core.depot.close)
            rest.callback(self.core.threads.close)
            rest.push_async_callback(self.core.ledger.close)
            rest.push_async_callback(self.core.scratch.close)
            await self.core.files.close()


def open_directory(
    path: Path, config: StoreConfig, create: bool, clock: Callable[[], float]
) -> Opened:
    """Open the store in a directory. Raises NotAStore, Corrupt, StorageFull, StorageFailed.

    On failure nothing stays open.
    """
    try:
        version = prepare(path, create=create, oldest=OLDEST)
        disk = os.statvfs(path / "files")
        reserve = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        if version != FORMAT:
            _mark_upgrading(
                path, reserve if config.disk_reserve_bytes is None else config.disk_reserve_bytes
            )
        depot = DiskDepot(path / "files")
        with ExitStack() as opened:
            instances = LockedInstances(path / "run")
            opened.callback(instances.close)
            gate = LockedGate(path / "run")
            opened.callback(gate.close)
            scratch = open_scratch(path / "scratch", boot_id(), config.map_bytes)
            opened.callback(scratch.end)
            ledger = LmdbLedger.open(path / "ledger", map_bytes=config.map_bytes, create=False)
            # All of it is open: from here on ``Opened.close`` closes it.
            opened.pop_all()
    except OSError as error:
        raise refused(error, str(error.filename or path)) from error
    seams = ledger, scratch, depot, instances
    return assemble(*seams, config, clock, reserve_default=reserve, gate=gate)


def open_scratch(path: Path, boot: str, map_bytes: int) -> LmdbLedger:
    """Open the scratch ledger of this start of the machine, and remove those of earlier starts.

    A damaged one is replaced by an empty one: its content is not promised to last. Raises
    StorageFull, StorageFailed, OSError.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    for other in path.iterdir():
        if other.name != boot:
            # Another process may be removing it at the same time.
            shutil.rmtree(other, ignore_errors=True)
    home = path / boot
    try:
        return LmdbLedger.open(home, map_bytes=map_bytes, create=True, synced=False)
    except Corrupt:
        shutil.rmtree(home, ignore_errors=True)
        return LmdbLedger.open(home, map_bytes=map_bytes, create=True, synced=False)


def open_memory(config: StoreConfig, clock: Callable[[], float]) -> Opened:
    """Open a new, empty store in memory."""
    seams = MemoryLedger(), MemoryLedger(), MemoryDepot(), SoleInstance()
    return assemble(*seams, config, clock)


def assemble(
    ledger: Ledger,
    scratch: Ledger,
    depot: Depot,
    instances: Instances,
    config: StoreConfig,
    clock: Callable[[], float],
    *,
    reserve_default: int = 0,
    gate: Gate | None = None,
) -> Opened:
    """Build an ``Opened`` over seams of any kind: the return value of a Store's opener.

    The store takes ownership of the seams: closing it closes them. ``scratch`` need not survive
    a restart of the machine. ``reserve_default`` is that of ``Core``, in bytes. All openings of
    the same seams must share one ``gate``.
    """
    threads = Threads(config.threads, "holdfast")
    files = Files(ledger, scratch, depot, threads, instances)
    core = Core(
        ledger,
        scratch,
        depot,
        files,
        threads,
        config,
        clock,
        reserve_default,
        gate=gate or Gate(),
    )
    return Opened(core, instances)


def prepare(path: Path, *, create: bool, unfinished: bool = False, oldest: int = FORMAT) -> int:
    """Check that the directory holds a store, or create one; return its format version.

    The version is ``FORMAT``, or at least ``oldest`` for callers that upgrade rows. A part that
    is missing from an existing store is damage and is not created: an empty replacement would
    pass for an empty store. An unfinished copy is refused, unless the caller is making it
    (``unfinished``). Raises NotAStore, Corrupt, StorageFull, StorageFailed, OSError.
    """
    if not is_there(path):
        if not create:
            raise NotAStore(str(path), "there is no such directory")
        path.mkdir(mode=0o700, parents=True)
    if not path.is_dir():
        raise NotAStore(str(path), "not a directory")
    mark = path / _FORMAT_FILE
    if not is_there(mark):
        _create(path, create=create)
        return FORMAT
    if not mark.is_file():
        raise NotAStore(str(path), f"{_FORMAT_FILE} is not a file")
    with mark.open("rb") as file:
        line = file.read(64).decode("ascii", "replace")
    found = _LINE.fullmatch(line)
    if found is None:
        raise NotAStore(str(path), f"{_FORMAT_FILE} does not hold a format version of holdfast")
    version = int(found[1])
    if not oldest <= version <= FORMAT:
        raise NotAStore(
            str(path), f"its format is {version}, this holdfast reads {FORMAT}: {_advice(version)}"
        )
    if found[2] and not unfinished:
        raise NotAStore(str(path), _UNFINISHED)
    _check_parts(path)
    return version


def _advice(version: int) -> str:
    if version > FORMAT:
        return "use a newer one"
    return "`holdfast upgrade` upgrades it" if version >= OLDEST else "use an older one"


def _mark_upgrading(path: Path, reserve: int) -> None:
    """Write this format version into the directory, before its rows are upgraded.

    From here on older versions refuse the directory, even if this process dies: they would not
    keep the new rows consistent. Raises NotAStore where an older version has it open, StorageFull
    where less than ``reserve`` bytes of the disk are free, OSError.
    """
    disk = os.statvfs(path / "ledger")
    if disk.f_bavail * disk.f_frsize < reserve:
        raise StorageFull("ledger")
    # A living process of this version may have upgraded the mark meanwhile: that is no obstacle.
    if instance.any_alive(path / "run") and prepare(path, create=False, oldest=OLDEST) != FORMAT:
        raise NotAStore(
            str(path),
            f"its format is older than {FORMAT}, and another process has it open: stop that"
            " process, then upgrade",
        )
    mark_made(path)


def _check_parts(path: Path) -> None:
    ledger = path / "ledger" / lmdb_file.NAME
    if not is_there(ledger):
        raise lmdb_file.damaged("it is missing")
    if not ledger.is_file():
        raise lmdb_file.damaged("it is not a file")
    if not is_there(path / "files"):
        raise Corrupt("file", "files", f"the directory is missing; {lmdb_file.ADVICE}")
    if not (path / "files").is_dir():
        raise Corrupt("file", "files", f"it is not a directory; {lmdb_file.ADVICE}")
    # The content of these two need not last: they are created again where they are missing.
    for part in (path / "run", path / "scratch"):
        if is_there(part) and not part.is_dir():
            raise StorageFailed(str(part), "it is not a directory: remove it")
    lock = path / "ledger" / "lock.mdb"
    if is_there(lock) and not lock.is_file():
        raise StorageFailed(str(lock), "it is not a file: remove it")


def _create(path: Path, *, create: bool) -> None:
    """Create a store in a directory without one. Raises NotAStore, Corrupt, OSError.

    FORMAT is written last, so a directory that was left half made is completed by the next call.
    Such a directory has no files in the depot: those of a store that lost FORMAT and its ledger
    are left alone.
    """
    unexpected = sorted(
        entry.name
        for entry in path.iterdir()
        if not (entry.name in _PARTS and entry.is_dir())
        and not entry.name.startswith((".", "server.", "owner."))
    )
    unexpected = [name for name in unexpected if name != "lost+found"]
    if INCOMPLETE in unexpected:
        raise NotAStore(str(path), _UNFINISHED)
    if unexpected:
        raise NotAStore(str(path), f"it is not empty ({unexpected[0]}), and not a data directory")
    if not create:
        raise NotAStore(str(path), "it holds no data")
    # Look for files before the ledger: a process that creates the same store at this moment has
    # its ledger before its first file, and so is never taken for a damaged store.
    has_files = (path / "files").is_dir() and any((path / "files").iterdir())
    if has_files and not is_there(path / "ledger" / lmdb_file.NAME):
        raise lmdb_file.damaged("it is missing, and there are files")
    path.chmod(0o700)
    for name in _PARTS:
        (path / name).mkdir(mode=0o700, exist_ok=True)
    LmdbLedger.create(path / "ledger")
    mark_made(path)


def mark_unfinished(path: Path) -> None:
    """Mark the directory as an unfinished copy: the first step of copying a store.

    Not synced: a FORMAT file that lost its line after a crash is refused as well.
    """
    (path / _FORMAT_FILE).write_bytes(f"holdfast {FORMAT} unfinished\n".encode())


def mark_made(path: Path) -> None:
    """Mark the directory as complete, durably: the last step of creating a store."""
    # Renamed into place, so that no reader sees half a line.
    draft = path / f".{_FORMAT_FILE}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(f"holdfast {FORMAT}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / _FORMAT_FILE)
    sync_directory(path)
    sync_directory(path.absolute().parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Return the kernel's id of this start of the machine; "unknown" where there is none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return "unknown"
