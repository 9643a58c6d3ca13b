"""The server's own files in a data directory, beside the files of the store.

The running server holds ``server.lock``. ``server.json`` has the addresses it last served on,
``owner.json`` the owner key.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

LOCK_FILE: Final = "server.lock"
NOTE_FILE: Final = "server.json"
OWNER_FILE: Final = "owner.json"


class DirectoryInUse(Exception):
    """Another server runs on the data directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} is in use by another server")


class ServerNote(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of the server of a data directory, for commands that run beside it."""

    listen: str
    """``host:port`` for a client on this machine."""

    url: str
    """Base URL of both APIs."""

    registries: dict[str, str]
    """Region to ``host[:port]`` for ``docker push``; the default region first."""

    tls: bool = False
    """True if ``listen`` speaks TLS."""

    def __post_init__(self) -> None:
        if not self.registries:
            raise ValueError("a server needs a region")

    @property
    def region(self) -> str:
        """The default region."""
        return next(iter(self.registries))


def lock(directory: Path) -> int:
    """Take the server lock and return its file descriptor; closing it releases the lock.

    Raises DirectoryInUse, and OSError if the directory is not writable.
    """
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Do not wait: a second server on the directory must fail at once.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DirectoryInUse(directory) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: after a crash it has the old content or the new.

    The file has mode 0600 and is durable on return. Only the process that holds the lock may
    write a path.
    """
    temporary = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()  # left by a crash; create it again to be sure of its mode
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    # The rename is durable only once the directory is synced.
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def write_note(directory: Path, note: ServerNote) -> None:
    """Write ``server.json``."""
    content = msgspec.json.format(msgspec.json.encode(note)) + b"\n"
    replace_file(directory / NOTE_FILE, content)


def read_note(directory: Path) -> ServerNote | None:
    """Read ``server.json``; return None if no server has run here or the file is damaged."""
    try:
        content = (directory / NOTE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=ServerNote)
    except msgspec.MsgspecError:
        return None
