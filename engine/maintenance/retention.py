"""Retention: rules of a namespace that remove tags and untagged manifests.

A rule removes a tag that it covers (image and tag patterns), that is not among the newest tags that
it keeps, and that has reached every age that the rule names. Immutable tags stay. Tags that belong
to a manifest (``attached``) are neither counted nor aged: they are removed with it. An orphan (its
manifest is absent) is not counted, and ages like any tag.

A plan is a proposal. A run starts with one too; then each transaction that removes something
decides again, by the same functions, from the rows that it reads. What was pushed, moved or (for
rules by pull) pulled after the start differs from the proposal, and stays. The run passes the
``gate``, so that it sees such changes by all processes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar
from uuid import UUID

from holdfast.engine.blobs import claims
from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Manifest, Retention, decode, load, payloads, save
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.ledger.records import RetentionRule as RuleRow
from holdfast.engine.ledger.records import Tag as TagRow
from holdfast.engine.model.config import DAY
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Busy, Corrupt, Invalid, Locked, NotFound, TooLarge
from holdfast.engine.model.names import check_patterns, first_match
from holdfast.engine.model.values import RetentionRule
from holdfast.engine.namespaces import identity, limit_rows, namespaces
from holdfast.engine.references import attached, manifest_rows, pruning, reclaimable
from holdfast.engine.references.pruning import Pruned
from holdfast.engine.repositories import images, tags
from holdfast.engine.tasks import batches
from holdfast.engine.tasks.background import Background

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

RULES_MAX: Final = 32
DAYS_MAX: Final = 36_500
KEEP_MAX: Final = 1_000_000
PLANNED_MAX: Final = 10_000
"""Tags and manifests in one plan, of one image or of many; the next run continues."""

RUN_INTERVAL_SECONDS: Final = 3600.0
"""Wait between two runs over all namespaces."""

ITEMS_PER_TXN: Final = 50
"""Tags, or untagged manifests, that one transaction of a run decides about."""

_ROWS_PER_SCAN: Final = 1000


@dataclass(frozen=True, slots=True)
class Expired:
    """An item that a plan removes: a tag, or (``tag`` is None) an untagged manifest."""

    image_id: UUID
    image: str
    tag_id: UUID | None
    tag: str | None
    digest: Digest
    belongs_to: Digest | None = None
    """Manifest with which a signature, an SBOM or an attestation is removed: by the name of its tag
    or by its subject."""
    artifact_type: str | None = None
    """Artifact type of a manifest that is removed with its subject."""
    orphan: bool = False
    """True for a tag whose name refers to a manifest that the image does not have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly what a run would remove now, and the bytes at rest that it frees once holds end."""

    expired: tuple[Expired, ...]
    freed_bytes: int
    project_freed_bytes: int
    """Bytes freed if there were no other project: a figure for keys of this project."""
    complete: bool = True
    """True if that is all; False if more than ``PLANNED_MAX`` items are left for the next run."""


def row_of(namespace_id: bytes) -> bytes:
    """Return the key of the rules of a namespace."""
    return layout.RETENTION + namespace_id


async def put(txn: Transaction, namespace_id: bytes, rules: tuple[RuleRow, ...]) -> None:
    """Replace the rules. Raises NotFound, Locked."""
    namespaces.check_unlocked(await namespaces.require(txn, namespace_id))
    if rules:
        await save(txn, row_of(namespace_id), Retention(rules))
    else:
        await txn.delete(row_of(namespace_id))


async def get(txn: Transaction, namespace_id: bytes) -> tuple[RuleRow, ...]:
    """Return the rules. Raises NotFound."""
    await namespaces.require(txn, namespace_id)
    row = await load(txn, Retention, row_of(namespace_id))
    return () if row is None else row.rules


async def namespaces_with_rules(txn: Transaction) -> list[bytes]:
    """Return ids of the namespaces that have rules."""
    rows = await txn.scan(layout.RETENTION, after(layout.RETENTION), limit=1_000_000)
    return [key[1:] for key, _ in rows]


Untagged = tuple[bytes, Manifest]
"""The sha256 of an untagged manifest, and its row."""


@dataclass(slots=True)
class Loss:
    """A blob to which images lose their right."""

    size: reclaimable.Size
    owners: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ImageProposal:
    """Items to remove from one image, as their rows were read."""

    image: ImageRow
    tags: tuple[TagRow, ...]
    """Tags in the order of their removal, the oldest first: so the newer tags, by which the rules
    decide about a tag, are not removed before it by the same run."""
    newest: tuple[str, ...]
    """Names of the tags that the rules keep by ``keep_last``."""
    untagged: tuple[Untagged, ...]
    orphans: frozenset[str]
    """Names of the tags that are orphans."""
    along: tuple[Expired, ...]
    """Signatures and the like that are removed with these items."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Items that the rules remove now, and the blobs that this may free."""

    project: bytes
    proposed: tuple[ImageProposal, ...]
    losses: dict[bytes, Loss]
    complete: bool
    """True if that is all; False if one plan cannot hold more."""

    @property
    def expired(self) -> tuple[Expired, ...]:
        """All items, image by image: tags in order of their names, then manifests, then what is
        removed with these."""
        every: list[Expired] = []
        for one in self.proposed:
            for tag in sorted(one.tags, key=lambda tag: tag.name):
                found = _expired(one.image, tag, tag.digest)
                every.append(replace(found, orphan=tag.name in one.orphans))
            every += [_expired(one.image, None, Digest.sha256(sha).key) for sha, _ in one.untagged]
            every += one.along
        return tuple(every)


async def find(txn: Transaction, namespace_id: bytes, now: int, begun: int | None) -> Proposal:
    """Return what the rules remove now of what existed at ``begun`` (None: of all).

    Skips an image with a damaged row: what its rules keep is unknown. Raises NotFound.
    """
    namespace = await namespaces.require(txn, namespace_id)
    rules = await get(txn, namespace_id)
    if begun is None:
        begun = await identity.last(txn, now)
    proposed: list[ImageProposal] = []
    losses: dict[bytes, Loss] = {}
    room = PLANNED_MAX
    complete = True
    prefix = layout.IMAGE_NAME + namespace_id
    start = prefix
    while (
        complete and rules and (rows := await txn.scan(start, after(prefix), limit=_ROWS_PER_SCAN))
    ):
        for _, image_key in payloads(rows):
            try:
                found, lost, complete = await _plan_image(
                    txn, image_key, namespace, rules, now, begun, room
                )
            except Corrupt as error:
                _log.error("retention skips an image: %s", error)
                continue
            if found is not None:
                proposed.append(found)
                room -= len(found.tags) + len(found.untagged) + len(found.along)
            for sha, size in lost:
                losses.setdefault(sha, Loss(size)).owners.add(image_key)
            if not complete:
                break
        start = rows[-1][0] + b"\0"
    return Proposal(namespace.project, tuple(proposed), losses, complete)


async def plan(txn: Transaction, namespace_id: bytes, now: int) -> Plan:
    """Return what the rules remove now, and free. Raises NotFound, Corrupt."""
    proposal = await find(txn, namespace_id, now, None)
    return await _plan_of(txn, proposal, proposal.expired, proposal.losses)


async def outcome(txn: Transaction, proposal: Proposal, removed: tuple[Expired, ...]) -> Plan:
    """Return what a run removed, and what that frees, as a plan."""
    losses = {}
    for sha, loss in proposal.losses.items():
        claimed = [await claims.get(txn, owner, sha) for owner in loss.owners]
        # Unless the run kept or a push added a manifest that needs the blob.
        if not any(claim is not None and claim.needed for claim in claimed):
            losses[sha] = loss
    return await _plan_of(txn, proposal, removed, losses)


async def _plan_of(
    txn: Transaction, proposal: Proposal, expired: tuple[Expired, ...], losses: dict[bytes, Loss]
) -> Plan:
    """Return a plan of these items, and what the loss of these blobs frees."""
    freed = inside = 0
    for sha, loss in losses.items():
        whole, part = await reclaimable.alone(txn, sha, proposal.project, loss.owners)
        freed += loss.size.at_rest if whole else 0
        inside += loss.size.whole if part else 0
    return Plan(expired, freed, inside, proposal.complete)


async def begin(txn: Transaction, namespace_id: bytes, now: int) -> int:
    """Return the start of a run, as a time of the ledger. Raises NotFound, Locked."""
    namespaces.check_unlocked(await namespaces.require(txn, namespace_id))
    return await identity.last(txn, now)


async def _plan_image(
    txn: Transaction,
    image_key: bytes,
    namespace: NamespaceRow,
    rules: Sequence[RuleRow],
    now: int,
    begun: int,
    room: int,
) -> tuple[ImageProposal | None, list[tuple[bytes, reclaimable.Size]], bool]:
    """Return the items to remove from an image, the blobs to which it then loses its right, and
    whether that is all. The items are at most ``room``."""
    image = await images.by_key(txn, image_key)
    if image is None or not image.listed:
        return None, [], True
    rules = _for_image(rules, image)
    every: Sequence[TagRow] = ()
    if any(rule.removes_tags for rule in rules):
        rows = await _rows(txn, layout.TAG + image.key)
        every = [decode(TagRow, key, value) for key, value in rows]
    every, orphans = await _unattached_tags(txn, image_key, every)
    old, newest = _old_tags(every, orphans, rules, limit_rows.immutable(namespace), now, begun)
    untagged = []
    if any(rule.untagged_days >= 0 for rule in rules):
        for key, value in await _rows(txn, layout.MANIFEST + image.key):
            sha, row = key[-layout.SHA_BYTES :], decode(Manifest, key, value)
            if await _is_old_untagged(txn, image.key, sha, row, rules, now, begun):
                untagged.append((sha, row))
    complete = len(old) + len(untagged) <= room
    old = old[:room]
    untagged = untagged[: room - len(old)]
    if not old and not untagged:
        return None, [], complete
    gone = {tag.name: tag.sha for tag in old}
    shas = [sha for sha, _ in untagged]
    lost = await reclaimable.losses(txn, image_key, gone, shas, limit_rows.immutable(namespace))
    along = await _along(txn, image, lost)
    room -= len(old) + len(untagged)
    found = ImageProposal(
        image, tuple(old), tuple(newest), tuple(untagged), frozenset(orphans), tuple(along[:room])
    )
    sizes = [(sha, await reclaimable.size_of(txn, sha)) for sha in lost.blobs]
    return found, sizes, complete and len(along) <= room


async def _along(txn: Transaction, image: ImageRow, lost: reclaimable.Losses) -> list[Expired]:
    """Return what is removed with its manifest: tags by name, then referrers by digest."""
    found = []
    for tag, sha in sorted(lost.attached, key=lambda pair: pair[0].name):
        belongs = Digest.sha256(sha)
        found.append(replace(_expired(image, tag, tag.digest), belongs_to=belongs))
    for sha, subject in sorted(lost.referrers):
        row = await load(txn, Manifest, manifest_rows.manifest_row(image.key, sha))
        kind = None if row is None else row.artifact_type or None
        item = _expired(image, None, Digest.sha256(sha).key)
        found.append(replace(item, belongs_to=Digest.sha256(subject), artifact_type=kind))
    return found


async def _unattached_tags(
    txn: Transaction, image_key: bytes, tags: Sequence[TagRow]
) -> tuple[list[TagRow], set[str]]:
    """Return the tags that belong to no manifest of the image, and the names of the orphans."""
    free = []
    orphans = set()
    for tag in tags:
        if attached.is_name(tag.name):
            if await attached.subject_of(txn, image_key, tag) is not None:
                continue
            if not attached.names_itself(tag):
                orphans.add(tag.name)
        free.append(tag)
    return free, orphans


def _for_image(rules: Sequence[RuleRow], image: ImageRow) -> list[RuleRow]:
    return [rule for rule in rules if first_match(rule.images, image.name)]


def _expired(image: ImageRow, tag: TagRow | None, digest: bytes) -> Expired:
    return Expired(
        image_id=UUID(bytes=image.id),
        image=image.name,
        tag_id=UUID(bytes=tag.id) if tag else None,
        tag=tag.name if tag else None,
        digest=Digest.from_key(digest),
    )


def _age(tag: TagRow) -> tuple[int, bytes]:
    return tag.updated, tag.id


def _old_tags(
    tags: Sequence[TagRow],
    orphans: Collection[str],
    rules: Sequence[RuleRow],
    immutable: tuple[str, ...],
    now: int,
    begun: int,
    pulled: Collection[str] = (),
) -> tuple[list[TagRow], list[str]]:
    """Return the tags that some rule removes, the oldest first; and the names of those that some
    rule keeps as the newest.

    ``tags`` may be a part of an image's tags: a tag that is removed then has enough newer ones in
    that part, and so in the image. Tags pushed after ``begun`` stay, and so do those in ``pulled``
    for rules by pull: they are in use now.
    """
    old: dict[str, TagRow] = {}
    newest: dict[str, None] = {}
    for rule in rules:
        if not rule.removes_tags:
            continue
        covered = [tag for tag in tags if first_match(rule.tags, tag.name)]
        counted = [tag for tag in covered if tag.name not in orphans]
        counted.sort(key=_age, reverse=True)
        kept = counted[: max(rule.keep_last, 0)]
        for tag in (*counted[len(kept) :], *(tag for tag in covered if tag.name in orphans)):
            if tag.updated > begun or (rule.unused_days >= 0 and tag.name in pulled):
                continue
            if first_match(immutable, tag.name) is None and _is_old(tag, rule, now):
                old[tag.name] = tag
        newest |= dict.fromkeys(tag.name for tag in kept)
    return sorted(old.values(), key=_age), list(newest)


def _is_old(tag: TagRow, rule: RuleRow, now: int) -> bool:
    if rule.older_days >= 0 and tag.updated > now - rule.older_days * DAY * SECOND:
        return False
    used = max(tag.pulled, tag.updated)
    return rule.unused_days < 0 or used <= now - rule.unused_days * DAY * SECOND


async def _is_old_untagged(
    txn: Transaction,
    image_key: bytes,
    sha: bytes,
    row: Manifest,
    rules: Sequence[RuleRow],
    now: int,
    begun: int,
) -> bool:
    """Return True if no tag, index or subject keeps a manifest, and some rule removes it."""
    days = [rule.untagged_days for rule in rules if rule.untagged_days >= 0]
    # The rule with the shortest time decides.
    if not days or row.fresh > min(begun, now - min(days) * DAY * SECOND):
        return False
    if await pruning.is_needed(txn, image_key, sha):
        return False
    return not await manifest_rows.has_subject(txn, image_key, sha, ())


async def _rows(txn: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return await txn.scan(prefix, after(prefix), limit=1_000_000)


@dataclass(frozen=True, slots=True)
class Times:
    """Times of a run in microseconds, arguments of all its transactions."""

    now: int
    begun: int
    """Start of the run by the time of the ledger: what was pushed later stays."""
    hold_until: int
    """End of holds on what is removed with a tag, and can be restored with it."""
    trash_until: int
    """End of the time in the trash."""
    untagged_until: int
    """End of holds on untagged manifests and what they needed: no deleted tag restores these."""


@dataclass(frozen=True, slots=True)
class Removed(Generic[T]):
    """Result of one transaction of a run, which decides about a batch of ``T``."""

    gone: tuple[bytes, ...] = ()
    """Ids of removed tags, and sha256s of removed manifests."""
    undecided: tuple[T, ...] = ()
    """Items at the end that were not examined: those before filled the transaction."""
    left: tuple[bytes, tuple[bytes, ...]] | None = None
    """Id of the removed tag (empty: none), and manifests left for ``tags.prune``; None for none."""


def _all_of(done: Pruned) -> list[bytes]:
    return [*(sha for sha, _ in done.manifests), *(tag.id for tag in done.tags)]


async def _require_unlocked(
    txn: Transaction, image_key: bytes
) -> tuple[ImageRow, NamespaceRow, list[RuleRow]]:
    """Return an image, its namespace and its rules as of now. Raises NotFound, Locked."""
    image = await images.by_key(txn, image_key)
    if image is None or image.deleted:
        raise NotFound("image", image_key.hex())
    namespace = await namespaces.require(txn, image.namespace)
    namespaces.check_unlocked(namespace)
    return image, namespace, _for_image(await get(txn, namespace.id), image)


async def remove_tags(
    txn: Transaction,
    batch: tuple[TagRow, ...],
    image_key: bytes,
    newest: tuple[str, ...],
    times: Times,
) -> Removed[TagRow]:
    """Remove the proposed tags (the oldest first) that are unchanged, and that a rule still
    removes. Linear in ``batch`` and ``newest``. Raises NotFound, Locked, Corrupt."""
    image, namespace, rules = await _require_unlocked(txn, image_key)
    current: dict[str, TagRow] = {}
    pulled = set()
    proposed = {tag.name: tag for tag in batch}
    for name in dict.fromkeys((*proposed, *newest)):
        row = await tags.by_name(txn, image_key, name)
        if row is None:
            continue
        current[name] = row
        seen = proposed.get(name)
        if seen is None or (seen.id, seen.sha, seen.updated) != (row.id, row.sha, row.updated):
            # The times differ too, unless the clock was set back just now. The tag still counts as
            # a newer one for others.
            proposed.pop(name, None)
        elif seen.pulls != row.pulls:
            pulled.add(name)
    every, orphans = await _unattached_tags(txn, image_key, tuple(current.values()))
    old, _ = _old_tags(
        every, orphans, rules, limit_rows.immutable(namespace), times.now, times.begun, pulled
    )
    names = {tag.name for tag in old} & proposed.keys()
    gone: list[bytes] = []
    room = tags.LINKS_PER_TXN
    left = None
    undecided: tuple[TagRow, ...] = ()
    for index, name in enumerate(tag.name for tag in batch):
        if name not in names:
            continue
        if room <= 0 or left is not None:
            undecided = batch[index:]
            break
        tag = current[name]
        done = await tags.take(
            txn,
            (image, namespace),
            tag,
            times.now,
            times.hold_until,
            times.trash_until,
            room,
            since=times.begun,
        )
        gone += [tag.id, *_all_of(done)]
        room -= len(done.manifests) + len(done.tags)
        left = (tag.id, done.rest) if done.rest else None
    if gone:
        await images.touch(txn, image, await identity.tick(txn, times.now))
    return Removed(tuple(gone), undecided, left)


async def remove_untagged(
    txn: Transaction, batch: tuple[Untagged, ...], image_key: bytes, times: Times
) -> Removed[Untagged]:
    """Remove the proposed manifests that are unchanged, and that a rule still removes.

    Raises NotFound, Locked, Corrupt.
    """
    image, namespace, rules = await _require_unlocked(txn, image_key)
    gone: list[bytes] = []
    room = tags.LINKS_PER_TXN
    left = None
    undecided: tuple[Untagged, ...] = ()
    for index, (sha, seen) in enumerate(batch):
        row = await load(txn, Manifest, manifest_rows.manifest_row(image_key, sha))
        if row != seen or not await _is_old_untagged(
            txn, image_key, sha, seen, rules, times.now, times.begun
        ):
            continue
        if room <= 0 or left is not None:
            undecided = batch[index:]
            break
        # What is removed with an attached tag can be restored with that tag.
        signed = await attached.tags_of(txn, image_key, sha)
        until = times.hold_until if signed else times.untagged_until
        done, tag_id = await tags.take_untagged(
            txn,
            (image, namespace),
            sha,
            times.now,
            until,
            times.trash_until,
            room,
            since=times.begun,
        )
        gone += _all_of(done)
        room -= len(done.manifests) + len(done.tags)
        left = (tag_id, done.rest) if done.rest else None
    if gone:
        await images.touch(txn, image, await identity.tick(txn, times.now))
    return Removed(tuple(gone), undecided, left)


Gone = set[tuple[UUID, bytes]]
"""Items that a run removed, by their ``_key_of``."""


class Retentions:
    """The retention rules of a store's namespaces."""

    def __init__(self, core: Core, flushes: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Create it; ``flushes`` write the pulls and pushes that this process has gathered."""
        self._core = core
        self._flushes = flushes
        self.background = Background("retention", self._turn)

    async def set(self, namespace_id: UUID, rules: Sequence[RetentionRule]) -> None:
        """Replace the rules of a namespace; none ends its retention.

        Raises NotFound, Locked, Invalid (``rules``), TooLarge.
        """
        if len(rules) > RULES_MAX:
            raise TooLarge("rules", RULES_MAX, "rules")
        rows = tuple(_checked(rule) for rule in rules)
        await self._core.ledger.transact(put, namespace_id.bytes, rows)

    async def get(self, namespace_id: UUID) -> list[RetentionRule]:
        """Return the rules of a namespace. Raises NotFound."""
        rows = await self._core.ledger.read(get, namespace_id.bytes)
        return [_view(row) for row in rows]

    async def plan(self, namespace_id: UUID) -> Plan:
        """Return what ``apply`` would remove now, and free: a dry run. Raises NotFound."""
        now = self._core.now()
        return await self._core.ledger.read_in_thread(plan, namespace_id.bytes, now)

    async def apply(self, namespace_id: UUID) -> Plan:
        """Remove what the rules say; return what was removed, and what that frees.

        What was pushed, moved or (for rules by pull) pulled since the start stays; a lock set
        meanwhile ends the run. Removed tags are in the trash, as after ``Tags.delete``. Raises
        NotFound, Locked, Corrupt, and Busy if another process does not write its pulls.
        """
        core, key = self._core, namespace_id.bytes
        # A push gathered before the start and written after it would get a later time: its tag
        # would be removed, and its manifest stay.
        for flush in self._flushes:
            await flush()
        now = core.now()
        begun = await core.ledger.read(begin, key, now)
        proposal = await core.ledger.read_in_thread(find, key, now, begun)
        if not proposal.proposed:
            return Plan((), 0, 0)
        until = now + int(core.config.trash_seconds * SECOND)
        untagged_until = core.hold_until(now)
        times = Times(now, begun, max(until, untagged_until), until, untagged_until)
        # Behind the gate all processes have written their pulls: only this proposal counts.
        async with core.gate.decision(self._flushes):
            proposal = await core.ledger.read_in_thread(find, key, now, begun)
            gone = await self._run(proposal, times)
        removed = tuple(item for item in proposal.expired if _key_of(item) in gone)
        return await core.ledger.read_in_thread(outcome, proposal, removed)

    async def _run(self, proposal: Proposal, times: Times) -> Gone:
        """Remove what is proposed; return what was removed."""
        gone: Gone = Gone()
        for one in proposal.proposed:
            image_id = UUID(bytes=one.image.id)
            try:
                async for name in self._remove(one, times):
                    gone.add((image_id, name))
            except NotFound:
                continue
            except Locked:
                break
        return gone

    async def _remove(self, one: ImageProposal, times: Times) -> AsyncIterator[bytes]:
        """Remove what is proposed for an image in bounded transactions; yield what was removed."""
        ledger, key = self._core.ledger, one.image.key

        async def of_tags(batch: tuple[TagRow, ...]) -> Removed[TagRow]:
            return await ledger.transact(remove_tags, batch, key, one.newest, times)

        async def of_untagged(batch: tuple[Untagged, ...]) -> Removed[Untagged]:
            return await ledger.transact(remove_untagged, batch, key, times)

        async for name in self._in_steps(of_tags, one.tags, one.image.id, times):
            yield name
        async for name in self._in_steps(of_untagged, one.untagged, one.image.id, times):
            yield name

    async def _in_steps(
        self,
        remove: Callable[[tuple[T, ...]], Awaitable[Removed[T]]],
        proposed: tuple[T, ...],
        image_id: bytes,
        times: Times,
    ) -> AsyncIterator[bytes]:
        """Remove what is proposed, batch by batch; yield what was removed."""
        waiting = proposed
        while waiting:
            batch, waiting = waiting[:ITEMS_PER_TXN], waiting[ITEMS_PER_TXN:]
            undecided: list[T] = []
            for done in await batches.bisect(remove, batch, _log_skipped):
                undecided += done.undecided
                for name in done.gone:
                    yield name
                if done.left is not None:
                    async for name in self._prune(image_id, *done.left, times):
                        yield name
            waiting = (*undecided, *waiting)

    async def _prune(
        self, image_id: bytes, tag_id: bytes, rest: tuple[bytes, ...], times: Times
    ) -> AsyncIterator[bytes]:
        """Remove what is left of the manifests of a tag; yield what was removed."""
        until = times.hold_until if tag_id else times.untagged_until
        while rest:
            done = await self._core.ledger.transact(
                tags.prune,
                image_id,
                tag_id,
                rest,
                times.now,
                until,
                tags.LINKS_PER_TXN,
                since=times.begun,
            )
            for name in _all_of(done):
                yield name
            rest = done.rest

    async def _turn(self) -> float:
        for namespace_id in await self._core.ledger.read(namespaces_with_rules):
            try:
                await self.apply(UUID(bytes=namespace_id))
            except (NotFound, Locked):
                continue
            except Busy as error:
                _log.warning(
                    "retention of a namespace postponed: %s; the next run tries again", error
                )
            except Corrupt as error:
                _log.error("retention skips a namespace: %s", error)
        return RUN_INTERVAL_SECONDS


async def _log_skipped(entry: object, error: Corrupt) -> None:
    _log.error("retention skips an item: %s", error)


def _key_of(item: Expired) -> tuple[UUID, bytes]:
    """Return the identity of an item, the same in a proposal and in the result of its run."""
    return item.image_id, item.digest.raw if item.tag_id is None else item.tag_id.bytes


def _checked(rule: RetentionRule) -> RuleRow:
    for name, value, most in (
        ("keep_last", rule.keep_last, KEEP_MAX),
        ("older_than_days", rule.older_than_days, DAYS_MAX),
        ("not_pulled_for_days", rule.not_pulled_for_days, DAYS_MAX),
        ("untagged_older_than_days", rule.untagged_older_than_days, DAYS_MAX),
    ):
        if value is not None and not 0 <= value <= most:
            raise Invalid("rules", f"{name} must be 0 to {most}")
    row = RuleRow(
        images=check_patterns(rule.images, "rules", slashes=True),
        tags=check_patterns(rule.tags, "rules"),
        keep_last=-1 if rule.keep_last is None else rule.keep_last,
        older_days=-1 if rule.older_than_days is None else rule.older_than_days,
        unused_days=-1 if rule.not_pulled_for_days is None else rule.not_pulled_for_days,
        untagged_days=(
            -1 if rule.untagged_older_than_days is None else rule.untagged_older_than_days
        ),
    )
    if not row.removes_tags and row.untagged_days < 0:
        raise Invalid(
            "rules",
            "a rule must have at least one of keep_last, older_than_days, not_pulled_for_days,"
            " untagged_older_than_days",
        )
    return row


def _view(row: RuleRow) -> RetentionRule:
    return RetentionRule(
        images=row.images,
        tags=row.tags,
        keep_last=None if row.keep_last < 0 else row.keep_last,
        older_than_days=None if row.older_days < 0 else row.older_days,
        not_pulled_for_days=None if row.unused_days < 0 else row.unused_days,
        untagged_older_than_days=None if row.untagged_days < 0 else row.untagged_days,
    )
