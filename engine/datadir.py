"""The data directory: what lies in it, its format version, and opening the seams over it.

    DIR/FORMAT     one line: the format version, and ``unfinished`` while it is not all there
    DIR/ledger/    the ledger's files
    DIR/files/     the depot
    DIR/scratch/   the scratch ledger, in a directory of its own for each start of the machine
    DIR/run/       one lock file for each open store of a process

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
"""Version of everything under the directory. A change that old code cannot read adds one."""

OLDEST: Final = 2
"""Oldest version that ``upgrade`` makes this one of, in place."""

INCOMPLETE: Final = "INCOMPLETE"
"""A file of that name stands in what ``staging`` is making."""

_MARK: Final = "FORMAT"
_LINE: Final = re.compile(r"holdfast (\d{1,6})( unfinished)?\n", re.ASCII)
_UNFINISHED: Final = (
    "it is the copy of a snapshot or restore that did not come to its end, and that nobody has"
    " verified: make it again, or remove it"
)
_OURS: Final = ("ledger", "files", "run", "scratch")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Opened:
    """An open data directory."""

    core: Core
    instances: Instances

    async def close(self) -> None:
        """Let go of all of it, in the reverse order of opening. Raises StorageFailed."""
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

    Where it fails, nothing stays open.
    """
    try:
        version = prepare(path, create=create, oldest=OLDEST)
        disk = os.statvfs(path / "files")
        reserve = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        if version != FORMAT:
            _claim(
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
            opened.pop_all()
    except OSError as error:
        raise refused(error, str(error.filename or path)) from error
    seams = ledger, scratch, depot, instances
    return assemble(*seams, config, clock, reserve_default=reserve, gate=gate)


def open_scratch(path: Path, boot: str, map_bytes: int) -> LmdbLedger:
    """Open the scratch ledger of this start of the machine, and forget those of others.

    One that is damaged is forgotten as well: nothing in it was promised to last. Raises
    StorageFull, StorageFailed, OSError.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    for other in path.iterdir():
        if other.name != boot:
            # Another process may be doing the same.
            shutil.rmtree(other, ignore_errors=True)
    home = path / boot
    try:
        return LmdbLedger.open(home, map_bytes=map_bytes, create=True, synced=False)
    except Corrupt:
        shutil.rmtree(home, ignore_errors=True)
        return LmdbLedger.open(home, map_bytes=map_bytes, create=True, synced=False)


def open_memory(config: StoreConfig, clock: Callable[[], float]) -> Opened:
    """A new store in memory."""
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
    """An opened store over seams of any kind: what the opener that a Store is made of returns.

    They are the store's from now on: closing it closes them. ``scratch`` need not survive the
    machine. ``reserve_default`` is of the core; ``gate`` is one for all openings
    of the same seams.
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
    """Check that the directory is a store, made new where there is none; say its format.

    That is this version's, or one from ``oldest`` on where the caller upgrades its rows. A part
    that is missing from a store that was made is damage: a new one in its place would pass for
    an empty store. A copy that is not finished is no store, but to who is making it
    (``unfinished``). Raises NotAStore, Corrupt, StorageFull, StorageFailed, OSError.
    """
    if not is_there(path):
        if not create:
            raise NotAStore(str(path), "there is no such directory")
        path.mkdir(mode=0o700, parents=True)
    if not path.is_dir():
        raise NotAStore(str(path), "not a directory")
    mark = path / _MARK
    if not is_there(mark):
        _make(path, create=create)
        return FORMAT
    if not mark.is_file():
        raise NotAStore(str(path), f"{_MARK} is not a file")
    with mark.open("rb") as file:
        line = file.read(64).decode("ascii", "replace")
    found = _LINE.fullmatch(line)
    if found is None:
        raise NotAStore(str(path), f"{_MARK} holds no format version of holdfast")
    version = int(found[1])
    if not oldest <= version <= FORMAT:
        raise NotAStore(
            str(path), f"its format is {version}, and this holdfast knows {FORMAT}: {_use(version)}"
        )
    if found[2] and not unfinished:
        raise NotAStore(str(path), _UNFINISHED)
    _check_parts(path)
    return version


def _use(version: int) -> str:
    if version > FORMAT:
        return "use a newer one"
    return "`holdfast upgrade` upgrades it" if version >= OLDEST else "use an older one"


def _claim(path: Path, reserve: int) -> None:
    """Say that the directory is of this format, before its rows are upgraded.

    From here on older versions refuse it, whatever becomes of this process: they would not keep
    the new rows in line. Raises NotAStore where an older version has it open, StorageFull where
    less than ``reserve`` bytes of the disk are free, OSError.
    """
    disk = os.statvfs(path / "ledger")
    if disk.f_bavail * disk.f_frsize < reserve:
        raise StorageFull("ledger")
    if instance.any_alive(path / "run") and prepare(path, create=False, oldest=OLDEST) != FORMAT:
        raise NotAStore(
            str(path),
            f"its format is older than {FORMAT}, and another process has it open: stop that one,"
            " then it can be upgraded",
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
    # What is in these need not last: they are made anew where they are missing.
    for part in (path / "run", path / "scratch"):
        if is_there(part) and not part.is_dir():
            raise StorageFailed(str(part), "it is not a directory: remove it")
    lock = path / "ledger" / "lock.mdb"
    if is_there(lock) and not lock.is_file():
        raise StorageFailed(str(lock), "it is not a file: remove it")


def _make(path: Path, *, create: bool) -> None:
    """Turn a directory without a store into one, if nothing in it speaks against that.

    The mark is written last, so a directory that was half made is made again. It has no files
    then: those of a store that lost its mark and its ledger are left alone.
    """
    strange = sorted(
        entry.name
        for entry in path.iterdir()
        if not (entry.name in _OURS and entry.is_dir())
        and not entry.name.startswith((".", "server.", "owner."))
    )
    strange = [name for name in strange if name != "lost+found"]
    if INCOMPLETE in strange:
        raise NotAStore(str(path), _UNFINISHED)
    if strange:
        raise NotAStore(str(path), f"it is not empty ({strange[0]}), and no data directory")
    if not create:
        raise NotAStore(str(path), "it holds no data")
    # In this order: another process that makes it too has a ledger before it has files.
    has_files = (path / "files").is_dir() and any((path / "files").iterdir())
    if has_files and not is_there(path / "ledger" / lmdb_file.NAME):
        raise lmdb_file.damaged("it is missing, and there are files")
    path.chmod(0o700)
    for name in _OURS:
        (path / name).mkdir(mode=0o700, exist_ok=True)
    LmdbLedger.create(path / "ledger")
    mark_made(path)


def mark_unfinished(path: Path) -> None:
    """Say that the directory is no store yet: the first step of copying one.

    It need not last: a mark that lost its line makes no store either.
    """
    (path / _MARK).write_bytes(f"holdfast {FORMAT} unfinished\n".encode())


def mark_made(path: Path) -> None:
    """Say that the directory is complete, durably: the last step of making one."""
    draft = path / f".{_MARK}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(f"holdfast {FORMAT}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / _MARK)
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
    """Identifies the time since the machine started; the same always where nothing tells."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return "unknown"
