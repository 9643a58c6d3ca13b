"""Reading a blob: what ``Store.get`` returns."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import Core
from holdfast.engine.depot import blob_file
from holdfast.engine.depot.blob_file import BlobFile
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import INLINE, Blob
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, EngineError, Invalid, NotFound

from . import images

_log: Final = logging.getLogger(__name__)

CHUNK_BYTES: Final = 256 * 1024
"""Longest piece that iteration yields."""


async def locate(
    txn: Transaction, digest_key: bytes, owner: bytes | None, now: int
) -> tuple[bytes, Blob, bytes | None]:
    """The sha256, the row and (if small) the content behind a digest that the owner may read.

    Raises NotFound, Corrupt.
    """
    sha = await blob_rows.readable(txn, digest_key, owner, now)
    blob = await blob_rows.require(txn, sha)
    if blob.damaged:
        raise Corrupt("blob", str(Digest.sha256(sha)), "it is in quarantine; push it again")
    if blob.place != INLINE:
        return sha, blob, None
    data = await blob_rows.inline_content(txn, sha, blob)
    if data is None or len(data) != blob.size:
        raise Corrupt("blob", str(Digest.sha256(sha)), "its content is missing; push it again")
    return sha, blob, data


async def locate_living(
    txn: Transaction, digest_key: bytes, owner: bytes | None, now: int
) -> tuple[bytes, Blob, bytes | None]:
    """As ``locate``, for an owner that may have been deleted since the caller looked it up."""
    if owner is not None and not await images.living(txn, owner):
        raise NotFound("blob", str(Digest.from_key(digest_key)))
    return await locate(txn, digest_key, owner, now)


class BlobReader:
    """A blob, or a part of it: an async context manager, then an async iterable of bytes.

    Entering raises NotFound, Corrupt, StorageFailed, and Invalid where ``offset`` lies behind the
    end, or ``length`` is negative; iterating raises Corrupt, StorageFailed. Damage that either
    meets is remembered, and a push of the same digest heals it.
    """

    digest: Digest
    size: int
    """Bytes of the whole blob."""
    offset: int
    length: int
    """Bytes that iteration yields."""
    data: bytes | None
    """All that iteration yields, where it is at hand without reading a file."""

    def __init__(
        self,
        core: Core,
        digest: Digest,
        *,
        owner: bytes | None,
        offset: int,
        length: int | None,
        verify: bool,
    ) -> None:
        self._core = core
        self._owner = owner
        self._asked = length
        self._verify = verify
        self._original: BlobFile | None = None
        self._lies: tuple[bytes, int] | None = None
        """The sha256, and the file that is open."""
        self.digest = digest
        self.offset = offset
        self.size = self.length = 0
        self.data = None

    async def __aenter__(self) -> BlobReader:
        self._found(*await self._open())
        return self

    async def at_hand(self) -> bool:
        """Enter, if nothing has to be waited for: a small blob, or a file that was just read.

        Says whether it did; if not, nothing has to be closed. Raises what entering raises.
        """
        if self._verify:
            return False
        sha, blob, data = await self._look_up()
        if data is None:
            self._original = self._core.files.open.at_hand(blob.file_id)
            if self._original is None:
                return False
            self._lies = sha, blob.file_id
        self._found(blob, data)
        return True

    def reopen(self) -> BlobReader | None:
        """Return another reader of the same open file, entered; None where the file is closed.

        For a caller that knows that the store has not changed since (``Store.version``) and that
        no hold can have run out: rights to the blob are not checked again.
        """
        if self._lies is None:
            return None
        original = self._core.files.open.at_hand(self._lies[1])
        if original is None:
            return None
        reader = BlobReader(
            self._core,
            self.digest,
            owner=self._owner,
            offset=self.offset,
            length=self._asked,
            verify=False,
        )
        reader.size, reader.length = self.size, self.length
        reader._lies, reader._original = self._lies, original
        return reader

    def _found(self, blob: Blob, data: bytes | None) -> None:
        self.size = blob.size
        if not 0 <= self.offset <= blob.size:
            self.release()
            raise Invalid("offset", f"{self.offset} is outside of a blob of {blob.size} bytes")
        if self._asked is not None and self._asked < 0:
            self.release()
            raise Invalid("length", "must not be negative")
        rest = blob.size - self.offset
        self.length = rest if self._asked is None else min(self._asked, rest)
        if data is not None:
            self.data = data[self.offset : self.offset + self.length]

    async def _look_up(self) -> tuple[bytes, Blob, bytes | None]:
        return await self._core.ledger.read(
            locate_living, self.digest.key, self._owner, self._core.now()
        )

    async def _open(self) -> tuple[Blob, bytes | None]:
        """Look the blob up and open its file, following it if it moved in between."""
        tried = 0
        while True:
            sha, blob, data = await self._look_up()
            if data is not None:
                return blob, data
            reason = await self._try(blob)
            self._lies = sha, blob.file_id
            if reason is None:
                return blob, None
            if blob.file_id == tried:
                raise await self._damage(reason)
            tried = blob.file_id

    async def _damage(self, reason: str) -> Corrupt:
        """Remember that the file is bad, if it still is the blob's; the error to raise."""
        if self._lies is not None:
            try:
                await self._core.ledger.transact(
                    blob_rows.quarantine, *self._lies, self._core.now()
                )
            except EngineError as error:
                # This reader gets the error; the next one meets the damage again.
                told = "blob %s is damaged (%s), which was not noted: %s"
                _log.error(told, self.digest, reason, error)
        return Corrupt("blob", str(self.digest), reason)

    async def _try(self, blob: Blob) -> str | None:
        """Open the file; says why not, if it cannot be served."""
        files = self._core.files.open
        original = files.at_hand(blob.file_id)
        if original is None:
            try:
                original = await files.open(blob)
            except (NotFound, Corrupt) as error:
                return str(error)
        self._original = original
        if self._verify:
            try:
                reason = await self._core.threads.run(blob_file.differs, original, blob)
            except BaseException:
                self.release()
                raise
            if reason is not None:
                self.release()
                return reason
        return None

    def file(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and count for sendfile, where the file is the blob as it stands.

        The descriptor belongs to this reader.
        """
        if self._original is None or not self._original.plain:
            return None
        descriptor = self._original.reader.fileno()
        return None if descriptor is None else (descriptor, self.offset, self.length)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.data is not None:
            if self.data:
                yield self.data
            return
        offset, stop = self.offset, self.offset + self.length
        while offset < stop:
            if self._original is None:
                raise Invalid("reader", "it is closed")
            want = min(CHUNK_BYTES, stop - offset)
            try:
                piece = await self._core.threads.run(self._original.read, offset, want)
            except Corrupt as error:
                raise await self._damage(error.reason) from error
            if not piece:
                raise await self._damage("the file ends early")
            offset += len(piece)
            yield piece

    async def read_parts(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several parts of the blob, each by its offset and length, in one trip to a thread.

        For parts of the blob that come to some CHUNK_BYTES together, and are few: a frame of
        compressed content is read for each. Raises Corrupt, StorageFailed, and Invalid once the
        reader is closed.
        """
        if self.data is not None:
            start = self.offset
            return [self.data[at - start : at - start + length] for at, length in spans]
        if self._original is None:
            raise Invalid("reader", "it is closed")
        try:
            parts = await self._core.threads.run(_read_each, self._original, spans)
        except Corrupt as error:
            raise await self._damage(error.reason) from error
        if any(len(part) < span[1] for part, span in zip(parts, spans, strict=True)):
            raise await self._damage("the file ends early")
        return parts

    async def read(self) -> bytes:
        """All of it at once: for content that is known to be small."""
        return self.data if self.data is not None else b"".join([piece async for piece in self])

    async def close(self) -> None:
        """As ``release``: what leaving the context does."""
        self.release()

    def release(self) -> None:
        """Let go of the file. May be called twice."""
        original, self._original = self._original, None
        if original is not None:
            self._core.files.open.release(original)

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _read_each(original: BlobFile, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """In the order in which they lie: of a compressed file the last frame that was read is kept."""
    found = dict.fromkeys(spans, b"")
    for span in sorted(found):
        found[span] = original.read(*span)
    return [found[span] for span in spans]
