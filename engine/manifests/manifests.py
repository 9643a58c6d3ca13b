"""Stores, returns, lists and deletes manifests and indexes.

A manifest is accepted only if the image has all the content that it needs; the transaction that
stores it also links that content, so the sweep cannot remove it in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.engine.blobs import blob_rows
from holdfast.engine.blobs.blob_rows import Arrival, Outcome
from holdfast.engine.blobs.writer import BlobWriter
from holdfast.engine.core import SECOND, Core, entropy
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import INLINE, load
from holdfast.engine.ledger.records import Referrer as ReferrerRow
from holdfast.engine.model import documents
from holdfast.engine.model.conditions import ALWAYS, Condition
from holdfast.engine.model.digest import Digest, check_text
from holdfast.engine.model.documents import Document
from holdfast.engine.model.errors import (
    Corrupt,
    DigestMismatch,
    EngineError,
    Invalid,
    InvalidDigest,
    InvalidManifest,
    NotFound,
)
from holdfast.engine.model.names import check_tag_name
from holdfast.engine.model.values import ListedManifest, Manifest, Pushed, Referrer, Repository
from holdfast.engine.namespaces import identity, limit_rows, namespaces
from holdfast.engine.namespaces.quota import Quotas
from holdfast.engine.references import manifest_rows, trash_rows
from holdfast.engine.repositories import images, manifest_listing
from holdfast.engine.repositories import tags as tag_rows
from holdfast.engine.repositories.deferred_writes import TIMES_INTERVAL_SECONDS, DeferredWrites
from holdfast.engine.repositories.reader import BlobReader
from holdfast.engine.uploads.pressure import Pressure

from . import manifest_put
from .manifest_put import Push

LIST_MAX: Final = 1000
"""Manifests per page of ``of_image``."""

TAGS_PER_TXN: Final = 1000
"""Tags that one transaction removes with their manifest."""

_INLINE_PARSE_BYTES_MAX: Final = 64 * 1024
"""Documents up to this size parse in under a millisecond; longer ones go to a thread."""


async def delete(
    txn: Transaction,
    repository: Repository,
    digest: Digest,
    now: int,
    hold_until: int,
    trash_until: int,
    only_if: Condition,
    *,
    begins: bool,
) -> bool:
    """Remove a manifest and every tag that points to it. Return False if tags are left.

    One call removes at most TAGS_PER_TXN tags, and the manifest with the last of them. The call
    that ``begins`` checks all tags first, so that an immutable one keeps all the others too.
    Raises NotFound, Immutable, Locked, PreconditionFailed.
    """
    image, namespace = await images.current_listed(txn, repository)
    namespaces.check_unlocked(namespace)
    sha, row = await manifest_rows.require(txn, image.key, digest)
    names = await manifest_rows.tags_of(txn, image.key, sha, TAGS_PER_TXN)
    page = names
    # Without rules for immutable tags, reading all of very many tags would only take long.
    checks_all = begins and bool(limit_rows.immutable(namespace))
    while True:
        for name in page:
            tag_rows.check_movable(namespace, name)
        if not checks_all or len(page) < TAGS_PER_TXN:
            break
        last = page[-1]
        page = await manifest_rows.tags_of(txn, image.key, sha, TAGS_PER_TXN, last=last)
    only_if.check("manifest", str(digest), str(digest))
    gone = ((sha, row.media_type),)
    for name in names:
        tag = await tag_rows.by_name(txn, image.key, name)
        if tag is None:
            raise Corrupt("tag", name, "its manifest lists it, but it has no row")
        await tag_rows.remove(txn, image.key, tag)
        await trash_rows.trash_tag(txn, image, namespace, tag, gone, trash_until)
    done = len(names) < TAGS_PER_TXN
    if done:
        # With the last tags, not before: a tag must never point to a manifest without a row.
        await manifest_rows.remove(
            txn, images.owner_of(image, namespace), sha, row, now, hold_until
        )
    await images.touch(txn, image, await identity.tick(txn, now))
    return done


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest as read from the ledger."""

    digest: Digest
    sha: bytes
    media_type: str
    body: bytes | None
    """Bytes as pushed; None if they are in a file."""
    tag: str | None
    """Tag by which it was found; None if by digest."""


async def find(txn: Transaction, repository: Repository, reference: str) -> Found:
    """Return the manifest under a tag or digest.

    Raises NotFound, InvalidDigest, Invalid, Corrupt.
    """
    image, _ = await images.current_listed(txn, repository)
    if ":" in check_text(reference):
        digest = named = Digest.parse(reference)
        tag_name = None
    else:
        tag_name = check_tag_name(reference)
        tag = await tag_rows.by_name(txn, image.key, tag_name)
        if tag is None:
            raise NotFound("manifest", reference)
        digest, named = Digest.from_key(tag.digest), Digest.sha256(tag.sha)
    sha, row = await manifest_rows.require(txn, image.key, named)
    blob = await blob_rows.require(txn, sha)
    if blob.damaged:
        raise Corrupt("manifest", str(digest), "it is in quarantine; push it again")
    body = await blob_rows.inline_content(txn, sha, blob) if blob.place == INLINE else None
    if blob.place == INLINE and (body is None or len(body) != blob.size):
        raise Corrupt("manifest", str(digest), "its content is missing; push it again")
    return Found(digest, sha, row.media_type, body, tag_name)


async def list_referrers(
    txn: Transaction,
    repository: Repository,
    subject: Digest,
    artifact_types: tuple[str, ...],
    last: bytes,
    limit: int,
) -> list[tuple[Digest, ReferrerRow]]:
    """Return up to ``limit`` referrers of a digest, in byte order of their own digests.

    Starts after ``last``. An unknown image or subject gives an empty list.
    """
    try:
        image, _ = await images.current_listed(txn, repository)
    except NotFound:
        return []
    # A manifest may name its subject by sha256 or by an alias, such as its sha512.
    keys = {subject.key}
    sha = await blob_rows.canonical(txn, subject.key, image.key)
    if sha is not None:
        keys.update(await manifest_rows.names_of(txn, image.key, sha))
    found: dict[bytes, ReferrerRow] = {}
    for key in keys:
        prefix = layout.referrers_of(image.key, key)
        start = prefix + last + b"\0" if last else prefix
        kept = 0
        # The artifact type is not in the key, so a filter may have to read more than one batch.
        while kept < limit and (rows := await txn.scan(start, after(prefix), limit=limit)):
            for row_key, _ in rows:
                row = await load(txn, ReferrerRow, row_key)
                if row and (not artifact_types or row.artifact_type in artifact_types):
                    found[row_key[-layout.SHA_BYTES :]] = row
                    kept += 1
            start = rows[-1][0] + b"\0"
    return [(Digest.sha256(key), found[key]) for key in sorted(found)[:limit]]


class Manifests:
    """The manifests of a store."""

    def __init__(self, core: Core, quotas: Quotas, pressure: Pressure) -> None:
        self._core = core
        self._quotas = quotas
        self._pressure = pressure
        self.deferred_times = DeferredWrites(core, "times", TIMES_INTERVAL_SECONDS)

    async def put(
        self,
        repository: Repository,
        body: bytes,
        *,
        media_type: str | None,
        reference: str | None = None,
        tags: Sequence[str] = (),
        only_if: Condition = ALWAYS,
    ) -> Pushed:
        """Store a manifest or index under a tag or its digest, and under more ``tags``.

        ``media_type`` is the request's Content-Type without parameters. ``only_if`` applies to
        what the reference points to at the time of the transaction. Implements OCI
        distribution-spec, "Pushing Manifests". Raises InvalidManifest, TooLarge, InvalidDigest,
        DigestMismatch, Invalid (``tag``), MissingContent, DescriptorMismatch, Immutable,
        PreconditionFailed, QuotaExceeded, Locked, NotFound (``namespace``), StorageFull.
        """
        if not isinstance(body, bytes | bytearray | memoryview):
            raise InvalidManifest(f"body must be bytes, not {type(body).__name__}")
        document = await self._parse(body, media_type)
        digest, tag = self._name(body, reference)
        names = dict.fromkeys(check_tag_name(name) for name in tags)
        if tag is not None:
            names[tag] = None
        push = Push(
            digest=digest,
            document=document,
            tags=tuple(names),
            sparse=self._core.config.sparse_indexes,
            only_if=only_if,
            guarded=tag,
        )
        unchanged = await self._put_unchanged(repository, push)
        if unchanged is not None:
            return unchanged
        limit = self._core.config.manifest_bytes_max
        blob_writer = BlobWriter(
            self._core, hasher=None, algorithms=(digest.algorithm,), limit=limit
        )
        random = entropy() + entropy()
        pushed: list[Pushed] = []

        async def attempt(arrival: Arrival) -> tuple[Outcome, Pushed | None]:
            return await self._core.grow(
                manifest_put.put,
                repository,
                push,
                arrival,
                self._core.now(),
                random,
                await self._quotas.others(repository),
            )

        async def commit(arrival: Arrival) -> Outcome:
            outcome, done = await self._pressure.admit(repository, lambda: attempt(arrival))
            if done is not None:
                pushed.append(done)
            return outcome

        try:
            await blob_writer.write(body)
            await blob_writer.publish(digest, commit)
        except BaseException:
            await blob_writer.abandon()
            raise
        return pushed[0]

    async def _put_unchanged(self, repository: Repository, push: Push) -> Pushed | None:
        """Return the result of a push that changes nothing but times; None if it needs a commit.

        The rows that were read are durable already, so the push waits for no disk. Any later
        change to them is ordered after this push.
        """
        now = self._core.now()
        # Read and note inside the gate: a decision by these times (retention) that comes between
        # the two would miss the push.
        with self._core.gate.passing() as inside:
            if not inside:
                return None
            try:
                found = await self._core.ledger.read(manifest_put.unchanged, repository, push, now)
            except EngineError:
                # ``manifest_put.put`` repairs the damage, or raises the error with its reason.
                return None
            noted = found is not None and self.deferred_times.record_push(
                found.image, push.digest, found.tags, self._core.now()
            )
        return manifest_put.pushed(push, found.image) if found is not None and noted else None

    async def _parse(self, body: bytes, media_type: str | None) -> Document:
        limit = self._core.config.manifest_bytes_max
        if len(body) <= _INLINE_PARSE_BYTES_MAX:
            return documents.parse(body, media_type, limit=limit)
        return await self._core.threads.run(documents.parse, body, media_type, limit=limit)

    @staticmethod
    def _name(body: bytes, reference: str | None) -> tuple[Digest, str | None]:
        """Return the body's digest, and the tag if the reference is one.

        Raises DigestMismatch, InvalidDigest, Invalid (``tag``).
        """
        if reference is None:
            return Digest.of(body), None
        if ":" not in check_text(reference):
            return Digest.of(body), check_tag_name(reference)
        digest = Digest.parse(reference)
        actual = Digest.of(body, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(str(digest), str(actual))
        return digest, None

    async def get(self, repository: Repository, reference: str) -> Manifest:
        """Return the manifest under a tag or digest, with its bytes as pushed.

        Raises NotFound (``image``, ``manifest``), InvalidDigest, Invalid (``tag``), Corrupt.
        """
        found = await self._core.ledger.read(find, repository, reference)
        body = found.body
        if body is None:
            body = await self._read_file(found)
        return Manifest(found.digest, found.media_type, body, found.tag)

    async def of_image(
        self,
        image_id: UUID,
        *,
        tagged: bool | None = None,
        after: str | Digest | None = None,
        limit: int = 100,
    ) -> tuple[Sequence[ListedManifest], Digest | None]:
        """List the manifests of an image in order of sha256.

        ``tagged`` selects those with a tag, or without one; None selects all. Returns at most
        ``limit`` (up to LIST_MAX) that follow ``after``, a digest that need not exist, and the
        ``after`` of the next page: None on the last. A page before the last may be short, even
        empty. Raises NotFound (``image``), InvalidDigest, Invalid (``limit``).
        """
        if not 1 <= limit <= LIST_MAX:
            raise Invalid("limit", f"must be 1 to {LIST_MAX}")
        last = None if after is None else Digest.parse(after)
        if last is not None and last.algorithm != "sha256":
            raise InvalidDigest(str(last), "must be a sha256 digest")
        found, rest = await self._core.ledger.read_in_thread(
            manifest_listing.listing,
            image_id.bytes,
            tagged,
            b"" if last is None else last.raw,
            limit,
        )
        return found, None if rest is None else Digest.sha256(rest)

    async def at_hand(self, repository: Repository, reference: str) -> Manifest | None:
        """Return a manifest as ``get`` does, but without file access: None if it is in a file."""
        found = await self._core.ledger.read(find, repository, reference)
        if found.body is None:
            return None
        return Manifest(found.digest, found.media_type, found.body, found.tag)

    async def _read_file(self, found: Found) -> bytes:
        """Read a body from its file, which may move meanwhile. Raises NotFound, Corrupt."""
        sha = Digest.sha256(found.sha)
        reader = BlobReader(self._core, sha, owner=None, offset=0, length=None, verify=True)
        try:
            async with reader:
                return await reader.read()
        except NotFound:
            raise NotFound("manifest", str(found.digest)) from None
        except Corrupt as error:
            raise Corrupt("manifest", str(found.digest), error.reason) from error

    async def delete(
        self, repository: Repository, digest: str | Digest, *, only_if: Condition = ALWAYS
    ) -> None:
        """Delete a manifest and the tags that point to it; children of an index stay.

        OCI distribution-spec, "Deleting Manifests". Raises NotFound, Immutable, Locked,
        InvalidDigest, PreconditionFailed.
        """
        digest = Digest.parse(digest)
        now = self._core.now()
        until = now + int(self._core.config.trash_seconds * SECOND)
        # A restore from the trash needs the content for as long as the entry lives.
        holds = max(until, self._core.hold_until(now))
        done, begins = False, True
        while not done:
            done = await self._core.ledger.transact(
                delete, repository, digest, now, holds, until, only_if, begins=begins
            )
            begins = False

    async def referrers(
        self,
        repository: Repository,
        subject: str | Digest,
        *,
        artifact_types: Sequence[str] = (),
        after: str | Digest | None = None,
        limit: int = 100,
    ) -> list[Referrer]:
        """List the manifests of the image whose subject is ``subject``, in order of digest.

        An unknown subject or image has none. OCI distribution-spec, "Listing Referrers".
        """
        last = b"" if after is None else Digest.parse(after).raw
        rows = await self._core.ledger.read(
            list_referrers, repository, Digest.parse(subject), tuple(artifact_types), last, limit
        )
        found = []
        for digest, row in rows:
            try:
                manifest = await self.get(repository, str(digest))
            except NotFound:
                continue  # Deleted since the rows were read.
            document = await self._parse(manifest.body, row.media_type)
            found.append(
                Referrer(
                    digest=digest,
                    media_type=row.media_type,
                    size=row.size,
                    artifact_type=row.artifact_type or None,
                    annotations=document.annotations,
                )
            )
        return found
