"""Reads files of an untrusted directory: an OCI layout, the storage of another registry.

Paths are opened one component at a time. Symbolic links, which could lead out of the directory,
are refused; so are pipes and devices, which could block. Every read is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiofiles

from holdfast.engine.model.errors import Invalid, NotFound, StorageFailed, TooLarge
from holdfast.engine.tasks.threads import opened

_PIECE_BYTES: Final = 256 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Names = tuple[str, ...]
"""Components of a path below the directory."""


class UntrustedFiles:
    """Read-only files below ``root``, which may itself be a symbolic link."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _show(self, names: Names) -> str:
        return str(self.root.joinpath(*names))

    def _open(self, names: Names, path: str, flags: int) -> int:
        """Open a regular file: the opener for ``open``, whose other arguments are ignored."""
        directory = self._walk(names[:-1])
        try:
            fd = os.open(names[-1], _FILE, dir_fd=directory)
        finally:
            os.close(directory)
        # O_NONBLOCK keeps the open of a pipe from blocking; only then can its type be checked.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Invalid("path", f"{self._show(names)} is not a regular file")
        return fd

    def _walk(self, names: Names) -> int:
        """Open a directory below the root and return its descriptor. Raises OSError, Invalid."""
        for name in names:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise Invalid("path", f"{name[:80]!r} is not a valid file name")
        fd = os.open(self.root, _DIRECTORY)
        # Each directory relative to its parent's descriptor: a rename meanwhile leads nowhere else.
        for name in names:
            parent = fd
            try:
                fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            finally:
                os.close(parent)
        return fd

    def _error(self, error: OSError, names: Names) -> Exception:
        shown = self._show(names)
        if error.errno == errno.ENOENT:
            return NotFound("file", shown)
        # With O_DIRECTORY | O_NOFOLLOW, Linux reports ENOTDIR for a symbolic link.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return Invalid("path", f"{shown} must not have symbolic links or files as directories")
        return StorageFailed(shown, error.strerror or str(error))

    @asynccontextmanager
    async def _file(self, names: Names) -> AsyncIterator[Any]:
        """Open a file. Raises NotFound, Invalid, StorageFailed for an OSError, also of the body."""
        try:
            opener = partial(self._open, names)
            async with opened(aiofiles.open(names[-1], "rb", opener=opener)) as file:
                yield file
        except OSError as error:
            raise self._error(error, names) from error

    async def size(self, *names: str) -> int:
        """Return the size of a file in bytes. Raises NotFound, Invalid, StorageFailed."""
        async with self._file(names) as file:
            return os.fstat(file.fileno()).st_size

    async def read(self, *names: str, limit: int) -> bytes:
        """Read a whole file.

        Raises TooLarge over ``limit`` bytes, NotFound, Invalid, StorageFailed.
        """
        async with self._file(names) as file:
            # One byte more than allowed shows that the file is longer.
            content: bytes = await file.read(limit + 1)
        if len(content) > limit:
            raise TooLarge(self._show(names), limit)
        return content

    async def pieces(self, *names: str) -> AsyncIterator[bytes]:
        """Read a file in pieces. Raises NotFound, Invalid, StorageFailed."""
        async with self._file(names) as file:
            while piece := await file.read(_PIECE_BYTES):
                yield piece

    async def entries(self, *names: str, limit: int) -> list[str]:
        """List the names in a directory in order, without those that are not UTF-8.

        Raises TooLarge over ``limit`` names, NotFound, Invalid, StorageFailed.
        """
        try:
            found = await asyncio.to_thread(self._entries, names, limit)
        except OSError as error:
            raise self._error(error, names) from error
        if len(found) > limit:
            raise TooLarge(self._show(names), limit, "entries")
        return sorted(found)

    def _entries(self, names: Names, limit: int) -> list[str]:
        directory = self._walk(names)
        found: list[str] = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    # Bytes that are not UTF-8 become surrogates, which are not printable.
                    if entry.name.isprintable():
                        found.append(entry.name)
                    if len(found) > limit:
                        break
        finally:
            os.close(directory)
        return found
