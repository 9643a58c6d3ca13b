"""Retention: rules of a namespace that say which tags and untagged manifests go by themselves.

A tag goes when some rule covers it (image and tag patterns), when it is not among the newest
that the rule keeps, and when every age that the rule names is reached. Immutable tags stay. The
plan of a run and the run itself are made by the same function.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from . import claims, closure, freeing, identity, images, layout, manifest_rows, namespaces, tags
from .background import Background
from .config import DAY
from .core import SECOND, Core
from .digest import Digest
from .errors import Corrupt, Immutable, Invalid, Locked, NotFound, TooLarge
from .ledger import Transaction, after
from .models import RetentionRule
from .names import check_patterns, first_match
from .records import Image as ImageRow
from .records import Manifest, Retention, decode, load, payloads, save
from .records import RetentionRule as RuleRow
from .records import Tag as TagRow

_log: Final = logging.getLogger(__name__)

RULES_MAX: Final = 32
DAYS_MAX: Final = 36_500
KEEP_MAX: Final = 1_000_000
PLANNED_MAX: Final = 10_000
"""Tags and manifests in one plan, of one image or of many; the next run goes on."""

REST: Final = 3600.0
"""Seconds between two runs over all namespaces."""

_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class Expired:
    """One thing that a plan removes: a tag, or (``tag`` is None) an untagged manifest."""

    image_id: UUID
    image: str
    tag_id: UUID | None
    tag: str | None
    digest: Digest


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do now, exactly, and the bytes at rest that it frees, holds being over."""

    expired: tuple[Expired, ...]
    freed_bytes: int
    project_freed_bytes: int
    """As if there were no other project: what may be told to whoever has a key of this one."""
    complete: bool = True
    """Whether that is all; else there is more than ``PLANNED_MAX``, for the next run."""


def row_of(namespace_id: bytes) -> bytes:
    """Key of the rules of a namespace."""
    return layout.RETENTION + namespace_id


async def put(txn: Transaction, namespace_id: bytes, rules: tuple[RuleRow, ...]) -> None:
    """Replace the rules. Raises NotFound, Locked."""
    namespaces.check_unlocked(await namespaces.require(txn, namespace_id))
    if rules:
        await save(txn, row_of(namespace_id), Retention(rules))
    else:
        await txn.delete(row_of(namespace_id))


async def get(txn: Transaction, namespace_id: bytes) -> tuple[RuleRow, ...]:
    """The rules. Raises NotFound."""
    await namespaces.require(txn, namespace_id)
    row = await load(txn, Retention, row_of(namespace_id))
    return () if row is None else row.rules


async def ruled(txn: Transaction) -> list[bytes]:
    """Namespaces that have rules."""
    rows = await txn.scan(layout.RETENTION, after(layout.RETENTION), limit=1_000_000)
    return [key[1:] for key, _ in rows]


@dataclass(slots=True)
class Loss:
    """A blob that images lose."""

    size: freeing.Size
    owners: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Work:
    """What the rules remove now, and what may be freed by it."""

    project: bytes
    expired: tuple[Expired, ...]
    losses: dict[bytes, Loss]
    complete: bool = True
    """Whether that is all; else it is what one plan holds."""


async def find(txn: Transaction, namespace_id: bytes, now: int) -> Work:
    """What the rules remove now. Raises NotFound, Corrupt.

    An image with a damaged row is left alone: nobody can tell what should go.
    """
    namespace = await namespaces.require(txn, namespace_id)
    rules = await get(txn, namespace_id)
    expired: list[Expired] = []
    losses: dict[bytes, Loss] = {}
    complete = True
    prefix = layout.IMAGE_NAME + namespace_id
    start = prefix
    while complete and rules and (rows := await txn.scan(start, after(prefix), limit=_STEP)):
        for _, image_key in payloads(rows):
            room = PLANNED_MAX - len(expired)
            try:
                gone, lost, complete = await _of_image(
                    txn, image_key, rules, namespace.immutable, now, room
                )
            except Corrupt as error:
                _log.error("retention leaves an image alone: %s", error)
                continue
            expired += gone
            for sha, size in lost:
                losses.setdefault(sha, Loss(size)).owners.add(image_key)
            if not complete:
                break
        start = rows[-1][0] + b"\0"
    return Work(namespace.project, tuple(expired), losses, complete)


async def plan(txn: Transaction, namespace_id: bytes, now: int) -> Plan:
    """What the rules remove now, and free. Raises NotFound, Corrupt."""
    work = await find(txn, namespace_id, now)
    freed = inside = 0
    for sha, loss in work.losses.items():
        whole, part = await freeing.alone(txn, sha, work.project, loss.owners)
        freed += loss.size.at_rest if whole else 0
        inside += loss.size.whole if part else 0
    return Plan(work.expired, freed, inside, work.complete)


async def outcome(txn: Transaction, work: Work, removed: tuple[Expired, ...]) -> Plan:
    """What a run did: as its plan, but for what came between."""
    freed = inside = 0
    for sha, loss in work.losses.items():
        claimed = [await claims.get(txn, owner, sha) for owner in loss.owners]
        if any(claim is not None and claim.needed for claim in claimed):
            continue
        whole, part = await freeing.alone(txn, sha, work.project, loss.owners)
        freed += loss.size.at_rest if whole else 0
        inside += loss.size.whole if part else 0
    return Plan(removed, freed, inside, work.complete)


async def check_unlocked(txn: Transaction, namespace_id: bytes) -> None:
    """Raises NotFound, Locked."""
    namespaces.check_unlocked(await namespaces.require(txn, namespace_id))


async def _of_image(
    txn: Transaction,
    image_key: bytes,
    rules: Sequence[RuleRow],
    immutable: tuple[str, ...],
    now: int,
    room: int,
) -> tuple[list[Expired], list[tuple[bytes, freeing.Size]], bool]:
    """What goes from an image, and the blobs that it has no right to any more then; of ``room``
    things at most, and whether that is all."""
    image = await images.by_key(txn, image_key)
    if image is None or not image.listed:
        return [], [], True
    here = [rule for rule in rules if first_match(rule.images, image.name)]
    old = await _old_tags(txn, image, here, immutable, now)
    bare = await _old_untagged(txn, image, here, now)
    complete = len(old) + len(bare) <= room
    old = old[:room]
    bare = bare[: room - len(old)]
    expired = [_expired(image, tag, tag.digest) for tag in old]
    expired += [_expired(image, None, Digest.sha256(sha).key) for sha in bare]
    gone = {tag.name: tag.sha for tag in old}
    lost = await freeing.losses(txn, image_key, gone, bare)
    return expired, [(sha, await freeing.size_of(txn, sha)) for sha in lost], complete


def _expired(image: ImageRow, tag: TagRow | None, digest: bytes) -> Expired:
    return Expired(
        image_id=UUID(bytes=image.id),
        image=image.name,
        tag_id=UUID(bytes=tag.id) if tag else None,
        tag=tag.name if tag else None,
        digest=Digest.from_key(digest),
    )


async def _old_tags(
    txn: Transaction,
    image: ImageRow,
    rules: Sequence[RuleRow],
    immutable: tuple[str, ...],
    now: int,
) -> list[TagRow]:
    """Tags of the image that some rule removes, in order of their names."""
    rules = [rule for rule in rules if rule.removes_tags]
    if not rules:
        return []
    every = await _rows(txn, layout.TAG + image.key)
    found = [decode(TagRow, key, value) for key, value in every]
    old: dict[str, TagRow] = {}
    for rule in rules:
        covered = [tag for tag in found if first_match(rule.tags, tag.name)]
        covered.sort(key=lambda tag: (tag.updated, tag.id), reverse=True)
        for tag in covered[max(rule.keep_last, 0) :]:
            if first_match(immutable, tag.name) is None and _is_old(tag, rule, now):
                old[tag.name] = tag
    return [old[name] for name in sorted(old)]


def _is_old(tag: TagRow, rule: RuleRow, now: int) -> bool:
    if rule.older_days >= 0 and tag.updated > now - rule.older_days * DAY * SECOND:
        return False
    used = max(tag.pulled, tag.updated)
    return rule.unused_days < 0 or used <= now - rule.unused_days * DAY * SECOND


async def _old_untagged(
    txn: Transaction, image: ImageRow, rules: Sequence[RuleRow], now: int
) -> list[bytes]:
    """Manifests that no tag, no index and no subject keeps, and that are old enough."""
    days = [rule.untagged_days for rule in rules if rule.untagged_days >= 0]
    if not days:
        return []
    before = now - min(days) * DAY * SECOND
    old = []
    for key, value in await _rows(txn, layout.MANIFEST + image.key):
        sha = key[-layout.SHA_BYTES :]
        if decode(Manifest, key, value).created > before:
            continue
        if await closure.is_needed(txn, image.key, sha):
            continue
        if not await manifest_rows.has_subject(txn, image.key, sha, ()):
            old.append(sha)
    return old


async def _rows(txn: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return await txn.scan(prefix, after(prefix), limit=1_000_000)


async def remove_untagged(
    txn: Transaction, image_id: bytes, sha: bytes, now: int, hold_until: int
) -> bool:
    """Remove an untagged manifest if it still is one; says whether. Raises NotFound, Locked."""
    image, namespace = await images.require(txn, image_id)
    namespaces.check_unlocked(namespace)
    owner = images.owner_of(image, namespace)
    gone, _ = await closure.prune_unneeded(txn, owner, (sha,), now, hold_until, _STEP, untagged=sha)
    if gone:
        await images.touch(txn, image, await identity.tick(txn, now))
    return bool(gone)


class Retentions:
    """The retention rules of a store's namespaces."""

    def __init__(self, core: Core, tag_noun: tags.Tags) -> None:
        self._core = core
        self._tags = tag_noun
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
        """The rules of a namespace. Raises NotFound."""
        rows = await self._core.ledger.read(get, namespace_id.bytes)
        return [_view(row) for row in rows]

    async def plan(self, namespace_id: UUID) -> Plan:
        """What ``apply`` would remove now, and free: a dry run. Raises NotFound."""
        now = self._core.now()
        return await self._core.ledger.read_aside(plan, namespace_id.bytes, now)

    async def apply(self, namespace_id: UUID) -> Plan:
        """Remove what the rules say; what really went, and what that frees.

        Tags that moved or went meanwhile are left alone; a lock that comes meanwhile ends it.
        Removed tags lie in the trash, as after ``Tags.delete``. Raises NotFound, Locked, Corrupt.
        """
        ledger = self._core.ledger
        await ledger.read(check_unlocked, namespace_id.bytes)
        work = await ledger.read_aside(find, namespace_id.bytes, self._core.now())
        removed = []
        for item in work.expired:
            try:
                gone = await self._remove(item)
            except (NotFound, Immutable):
                continue
            except Locked:
                break
            except Corrupt as error:
                _log.error("retention leaves something alone: %s", error)
                continue
            if gone:
                removed.append(item)
        return await ledger.read_aside(outcome, work, tuple(removed))

    async def _remove(self, item: Expired) -> bool:
        """Remove one thing; says whether it still was what it is planned as."""
        if item.tag_id is not None:
            tag = await self._tags.get(item.tag_id)
            if tag.digest != item.digest:
                return False
            await self._tags.delete(item.tag_id)
            return True
        now = self._core.now()
        until = self._core.hold_until(now)
        return await self._core.ledger.transact(
            remove_untagged, item.image_id.bytes, item.digest.raw, now, until
        )

    async def _turn(self) -> float:
        for namespace_id in await self._core.ledger.read(ruled):
            try:
                await self.apply(UUID(bytes=namespace_id))
            except (NotFound, Locked):
                continue
            except Corrupt as error:
                _log.error("retention leaves a namespace alone: %s", error)
        return REST


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
        raise Invalid("rules", "a rule has to say what goes")
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
