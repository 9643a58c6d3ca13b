"""A model of the store for the state machine: sets and dicts, numbers by definition.

It shares no code with the engine, and keeps no counter: every number is computed from what is
there. A method that changes something either does so or returns the name of the error that the
store has to raise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from uuid import UUID

HOLD, TRASH, UPLOAD = 60.0, 100.0, 1000.0
"""Seconds, as the store under test is configured."""

DAY = 24 * 3600.0

UPLOADS_MAX = 3

Outcome = str | None
"""The error that must come, or None."""


@cache
def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(eq=False)
class Document:
    """A manifest or an index to push: what it needs, as its test made it."""

    body: bytes
    media_type: str
    content: tuple[bytes, ...] = ()
    children: tuple[bytes, ...] = ()
    subject: bytes | None = None
    artifact_type: str | None = None

    @cached_property
    def needs(self) -> set[str]:
        return {sha(self.body), *map(sha, self.content), *map(sha, self.children)}


@dataclass(eq=False)
class Tag:
    name: str
    digest: str
    """As text, in the algorithm it was pushed with."""
    sha: str
    id: UUID | None = None
    order: int = 0
    moved: int = 0
    """Its place among the moves of all tags."""
    updated: float = 0.0


@dataclass(frozen=True)
class Rule:
    """What goes by itself. A pattern ends with its only ``*``, or has none."""

    images: str = "*"
    tags: str = "*"
    keep_last: int | None = None
    older_days: int | None = None
    untagged_days: int | None = None


def fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@dataclass(eq=False)
class Image:
    namespace: Namespace
    name: str
    id: UUID | None = None
    order: int = 0
    visibility: str = "inherit"
    manifests: dict[str, Document] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    """When each manifest was pushed last."""
    tags: dict[str, Tag] = field(default_factory=dict)
    holds: dict[str, float] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """Blobs that were named by their sha512 here, in a push or a mount."""
    deleted: bool = False

    @property
    def living(self) -> bool:
        return not self.deleted and not self.namespace.deleted

    @property
    def full_name(self) -> str:
        return f"{self.namespace.name}/{self.name}"

    @property
    def public(self) -> bool:
        """Whether anyone may pull it."""
        inherited = self.visibility == "inherit" and self.namespace.is_public
        return inherited or self.visibility == "public"

    def linked(self) -> set[str]:
        return {need for document in self.manifests.values() for need in document.needs}

    def content(self) -> set[str]:
        return {sha(part) for found in self.manifests.values() for part in found.content}

    def has(self, digest: str, now: float) -> bool:
        """Whether it may read the blob, for the coming ``now`` seconds since 1970."""
        return digest in self.linked() or self.holds.get(digest, 0) > now

    def is_child(self, digest: str, gone: set[str]) -> bool:
        return any(
            digest in map(sha, document.children)
            for name, document in self.manifests.items()
            if name not in gone
        )

    def subject_of(self, tag: Tag) -> str | None:
        """The manifest that a signature (or the like) belongs to by the name of its tag."""
        start, _, end = tag.name.partition(".")
        if end not in ("", "sig", "att", "sbom") or tag.name.endswith("."):
            return None
        for digest, document in self.manifests.items():
            names = ["sha256-" + digest]
            if digest in self.named:
                names.append("sha512-" + hashlib.sha512(document.body).hexdigest()[:64])
            if start in names and digest != tag.sha:
                return digest
        return None

    def is_orphan(self, tag: Tag) -> bool:
        if not tag.name.startswith(("sha256-", "sha512-")):
            return False
        itself = tag.name.startswith("sha256-" + tag.sha)
        if tag.digest.startswith("sha512:"):
            itself = itself or tag.name.startswith("sha512-" + tag.digest[7:71])
        return not itself and self.subject_of(tag) is None

    def closure(self, root: str, tag: Tag | None = None) -> set[str]:
        """Manifests that go with one, once a tag is gone."""
        return self.leaving(root, tag)[0]

    def leaving(self, root: str, tag: Tag | None = None) -> tuple[set[str], list[Tag]]:
        """What goes with a manifest, once a tag is gone: the least set that follows from the
        rule; and tags that belong to what goes, in order of their names."""
        subjects = {name: self.subject_of(each) for name, each in self.tags.items()}

        def attached(gone: set[str]) -> list[Tag]:
            return [
                self.tags[name]
                for name, subject in sorted(subjects.items())
                if subject in gone
                and self.tags[name] is not tag
                and not self.namespace.covers(name)
            ]

        def needed(digest: str, gone: set[str]) -> bool:
            lost = [tag, *attached(gone)]
            others = [t for t in self.tags.values() if not any(t is one for one in lost)]
            return any(t.sha == digest for t in others) or self.is_child(digest, gone)

        gone: set[str] = set()
        if root not in self.manifests or needed(root, gone):
            return gone, []
        gone.add(root)
        while True:
            lost_parent = {sha(c) for name in gone for c in self.manifests[name].children}
            lost_parent |= {t.sha for t in attached(gone)}
            more = set()
            for digest, document in self.manifests.items():
                if digest in gone or needed(digest, gone):
                    continue
                subject = None if document.subject is None else sha(document.subject)
                if subject in self.manifests and subject not in gone:
                    continue
                if digest in lost_parent or subject in gone:
                    more.add(digest)
            if not more:
                return gone, attached(gone)
            gone |= more

    def drop(self, manifests: set[str], until: float) -> None:
        """Take manifests away; what nothing needs any more stays held."""
        before = self.linked()
        for digest in manifests:
            del self.manifests[digest]
        for digest in before - self.linked():
            self.holds[digest] = max(self.holds.get(digest, 0), until)


@dataclass
class Limits:
    """What an operator has set for a namespace's name."""

    quota: int | None = None
    immutable: tuple[str, ...] = ()


@dataclass(eq=False)
class Namespace:
    region: str
    name: str
    project: UUID
    id: UUID
    order: int
    description: str = ""
    is_public: bool = False
    locked: bool = False
    immutable: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    quota: int | None = None
    deleted: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def place(self) -> tuple[UUID, str, str]:
        """What limits and what is kept are of: it outlives the namespace."""
        return self.project, self.region, self.name

    @property
    def most(self) -> int | None:
        """The smaller quota of both layers."""
        given = [quota for quota in (self.quota, self.limits.quota) if quota is not None]
        return min(given, default=None)

    def covers(self, tag: str) -> bool:
        """Only patterns of the form ``x*`` are used here."""
        return any(fits(pattern, tag) for pattern in (*self.immutable, *self.limits.immutable))


@dataclass(eq=False)
class Session:
    id: UUID
    image: Image
    declared: int | None
    used: float
    fed: float
    """When it was begun, or bytes came last."""
    data: bytes = b""
    counted: int = 0
    """Bytes that it counts for in its namespace, at least. Without a quota that is not brought
    up to date by every append; with one, it is all that it has."""


@dataclass(eq=False)
class Entry:
    """Something in the trash."""

    kind: str
    id: UUID
    name: str
    until: float
    namespace: Namespace
    image: Image | None = None
    tag: Tag | None = None
    documents: tuple[Document, ...] = ()
    along: tuple[UUID, ...] = ()
    """Tags that went with it, since they belonged to such a document."""


class Model:
    """Everything that the store has to know."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = 0
        self.namespaces: list[Namespace] = []
        self.images: list[Image] = []
        self.sessions: list[Session] = []
        self.roots: dict[str, set[str]] = {}
        self.trash: list[Entry] = []
        self.limits: dict[tuple[UUID, str, str], Limits] = {}
        self.blobs: dict[str, bytes] = {}
        """What is in the store: needed, or not swept yet."""

    # --- looking

    def next(self) -> int:
        self.order += 1
        return self.order

    def living(self) -> list[Namespace]:
        return [namespace for namespace in self.namespaces if not namespace.deleted]

    def listed(self, namespace: Namespace | None = None) -> list[Image]:
        return [
            image
            for image in self.images
            if image.living and image.id and (namespace is None or image.namespace is namespace)
        ]

    def draft(self, image: Image) -> bool:
        """Whether an image that no manifest was pushed to is there all the same."""
        return bool(image.holds) or any(s.image is image for s in self.sessions)

    def image(self, namespace: Namespace, name: str) -> Image | None:
        """The one that has the name now."""
        for image in self.images:
            named = image.namespace is namespace and image.name == name
            if named and not image.deleted and (image.id or self.draft(image)):
                return image
        return None

    def enter(self, namespace: Namespace, name: str) -> Image:
        found = self.image(namespace, name)
        if found is None:
            found = Image(namespace, name)
            self.images.append(found)
        return found

    def claims(self, image: Image) -> set[str]:
        return image.linked() | set(image.holds)

    def needed(self) -> set[str]:
        found: set[str] = set().union(*self.roots.values()) if self.roots else set()
        for image in self.images:
            found |= self.claims(image)
        return found

    def readable(self, image: Image | None, algorithm: str = "sha256") -> set[str]:
        if image is None or not image.living:
            return set()
        named = self.blobs if algorithm == "sha256" else image.named
        return {digest for digest in self.blobs if digest in named and image.has(digest, self.now)}

    def told(self, image: Image | None, algorithm: str = "sha256") -> set[str]:
        """What HEAD finds: links, and holds with half of their time left."""
        known = self.readable(image, algorithm)
        return {d for d in known if image is not None and image.has(d, self.now + HOLD / 2)}

    # --- numbers, by definition

    def image_size(self, image: Image) -> int:
        return sum(len(self.blobs[digest]) for digest in image.content())

    def size(self, namespace: Namespace) -> int:
        return sum(self.image_size(image) for image in self.listed(namespace))

    def links(self, namespace: Namespace) -> set[str]:
        """Content of the namespace, of its images in the trash too."""
        found: set[str] = set()
        for image in self.images:
            if image.namespace is namespace:
                found |= image.content()
        return found

    def keeps(self, namespace: Namespace) -> set[str]:
        """What the namespace makes the store keep, its images in the trash too."""
        inside = [image for image in self.images if image.namespace is namespace]
        return set().union(*map(self.claims, inside)) if inside else set()

    def kept(self, namespace: Namespace) -> int:
        """Bytes that all namespaces of that name make the store keep, those in the trash too."""
        return sum(
            len(self.blobs[digest])
            for other in self.namespaces
            if other.place == namespace.place
            for digest in self.keeps(other)
        )

    def protected(self, images: list[Image]) -> bool:
        """Whether an immutable tag forbids to delete them."""
        return any(image.namespace.covers(name) for image in images for name in image.tags)

    def exclusive(self, namespace: Namespace, *, project: bool) -> int:
        alone = self.links(namespace)
        for other in self.namespaces:
            if other is not namespace and (not project or other.project == namespace.project):
                alone -= self.links(other)
        return sum(len(self.blobs[digest]) for digest in alone)

    def freed(self, lost: set[str], who: list[Image]) -> int:
        """Bytes of those of ``lost`` that nobody but these images has any right to."""
        others: set[str] = set().union(*self.roots.values()) if self.roots else set()
        for image in self.images:
            if not any(image is one for one in who):
                others |= self.claims(image)
        return sum(len(self.blobs[digest]) for digest in lost - others)

    def freed_by_tag(self, image: Image, tag: Tag) -> int:
        gone = image.closure(tag.sha, tag)
        rest = {
            need
            for digest, document in image.manifests.items()
            if digest not in gone
            for need in document.needs
        }
        lost = {need for digest in gone for need in image.manifests[digest].needs}
        return self.freed(lost - rest, [image])

    def freed_by_image(self, image: Image) -> int:
        return self.freed(self.claims(image), [image])

    def freed_by_namespace(self, namespace: Namespace) -> int:
        inside = [image for image in self.images if image.namespace is namespace]
        lost: set[str] = set()
        for image in inside:
            if not image.deleted:
                lost |= self.claims(image)
        return self.freed(lost, inside)

    # --- retention

    def old_tags(self, image: Image) -> list[Tag]:
        """Those that a rule of their namespace removes, in order of their names."""
        old: set[str] = set()
        for rule in image.namespace.rules:
            if (rule.keep_last, rule.older_days) == (None, None):
                continue
            covered = [t for t in image.tags.values() if fits(rule.tags, t.name)]
            covered.sort(key=lambda tag: tag.moved, reverse=True)
            covered = [tag for tag in covered if image.subject_of(tag) is None]
            counted = [tag for tag in covered if not image.is_orphan(tag)]
            orphans = [tag for tag in covered if image.is_orphan(tag)]
            going = counted[rule.keep_last or 0 :] + orphans
            for tag in going if fits(rule.images, image.name) else ():
                aged = rule.older_days is None or tag.updated + rule.older_days * DAY <= self.now
                if aged and not image.namespace.covers(tag.name):
                    old.add(tag.name)
        return [image.tags[name] for name in sorted(old)]

    def old_untagged(self, image: Image) -> list[str]:
        """Manifests that no tag, index or subject keeps, and a rule removes, in order."""
        days = [
            rule.untagged_days
            for rule in image.namespace.rules
            if rule.untagged_days is not None and fits(rule.images, image.name)
        ]
        old = []
        for digest, document in sorted(image.manifests.items()):
            subject = None if document.subject is None else sha(document.subject)
            if subject not in image.manifests and image.closure(digest):
                old += [digest] * (image.since[digest] + min(days, default=1e9) * DAY <= self.now)
        return old

    def rest(
        self, image: Image, tags: list[Tag], untagged: list[str]
    ) -> tuple[Image, list[Tag], set[str]]:
        """What is left of an image, holds being over, when these are gone; and which tags, and
        which referrers, go with what they belong to."""
        rest = replace(image, manifests=dict(image.manifests), tags=dict(image.tags), holds={})
        attached: list[Tag] = []
        asked = {*(tag.sha for tag in tags), *untagged}
        for tag in tags:
            del rest.tags[tag.name]
        for digest in (*(tag.sha for tag in tags), *untagged):
            gone, more = rest.leaving(digest)
            for tag in more:
                del rest.tags[tag.name]
            attached += more
            rest.drop(gone, 0)
        lost = image.manifests.keys() - rest.manifests.keys()
        referrers = {
            digest
            for digest in lost - asked
            if (subject := image.manifests[digest].subject) is not None and sha(subject) in lost
        }
        return rest, sorted(attached, key=lambda tag: tag.name), referrers

    def freed_by_rules(self, losses: dict[str, list[Image]]) -> tuple[int, int]:
        """Bytes of blobs that so many images lose: in the store, and as a project knows it."""
        whole = inside = 0
        for digest, who in losses.items():
            whole += self.freed({digest}, who)
            others = [
                image
                for image in self.images
                if image.namespace.project == who[0].namespace.project
                and not any(image is one for one in who)
            ]
            if not any(digest in self.claims(image) for image in others):
                inside += len(self.blobs[digest])
        return whole, inside

    # --- changing

    def arrive(self, data: bytes) -> str:
        self.blobs[sha(data)] = data
        return sha(data)

    def forget(self) -> None:
        """An image knows a blob by its sha512 for as long as it has any right to it."""
        for image in self.images:
            image.named &= self.claims(image)

    def opened(self, namespace: Namespace) -> list[Session]:
        return [s for s in self.sessions if s.image.namespace is namespace]

    def idle(self, namespace: Namespace) -> list[Session]:
        """Sessions that may give way to what would not fit beside them."""
        return [s for s in self.opened(namespace) if s.fed + UPLOAD <= self.now]

    def crowded(self, namespace: Namespace) -> bool:
        """Whether as many sessions are open as there may be, and none may give way."""
        return len(self.opened(namespace)) >= UPLOADS_MAX and not self.idle(namespace)

    def room(
        self, namespace: Namespace, size: int, session: Session | None = None
    ) -> tuple[Outcome, ...]:
        """What may become of an upload of that size, whose session may be open already."""
        others = [s for s in self.opened(namespace) if s is not session]
        outcomes = self._beside(namespace, size, others)
        if outcomes == (None,):
            return outcomes
        idle = self.idle(namespace)
        busy = self._beside(namespace, size, [s for s in others if s not in idle])
        return tuple({*outcomes, *busy}) if outcomes != busy else outcomes

    def _beside(
        self, namespace: Namespace, size: int, others: list[Session]
    ) -> tuple[Outcome, ...]:
        if namespace.most is None:
            return (None,)
        left = namespace.most - self.kept(namespace) - size
        if sum(len(s.data) for s in others) <= left:
            return (None,)
        if sum(s.counted for s in others) > left:
            return ("QuotaExceeded",)
        return (None, "QuotaExceeded")

    def delivery(self, namespace: Namespace, data: bytes) -> tuple[Outcome, ...]:
        """What may become of an upload in one request."""
        if namespace.locked:
            return ("Locked",)
        if self.crowded(namespace):
            return ("QuotaExceeded",)
        return self.growth(namespace, sha(data), len(data))

    def growth(
        self, namespace: Namespace, digest: str, size: int, session: Session | None = None
    ) -> tuple[Outcome, ...]:
        """What may become of a blob of the namespace: an empty one, and one that it keeps
        already, add nothing."""
        if not size or digest in self.keeps(namespace):
            return (None,)
        return self.room(namespace, size, session)

    def deliver(self, namespace: Namespace, name: str, data: bytes, algorithm: str) -> None:
        self.hold(self.enter(namespace, name), self.arrive(data), algorithm)

    def hold(self, image: Image, digest: str, algorithm: str) -> None:
        image.holds[digest] = max(image.holds.get(digest, 0), self.now + HOLD)
        if algorithm == "sha512":
            image.named.add(digest)

    def mount(
        self, source: Image | None, target: Namespace, name: str, data: bytes, algorithm: str
    ) -> Outcome:
        if sha(data) not in self.readable(source, algorithm):
            return "None"
        if target.locked:
            return "Locked"
        self.hold(self.enter(target, name), sha(data), algorithm)
        return None

    def keep(self, image: Image, document: Document) -> set[str]:
        """Link a manifest; or the digests that are missing."""
        if sha(document.body) in image.manifests:
            image.since[sha(document.body)] = self.now
            return set()
        missing = {sha(part) for part in document.content if not image.has(sha(part), self.now)}
        missing |= {sha(c) for c in document.children if sha(c) not in image.manifests}
        if not missing:
            image.manifests[sha(document.body)] = document
            image.since[sha(document.body)] = self.now
            for need in document.needs:
                image.holds.pop(need, None)
        return missing

    def due(self, entry: Entry) -> bool:
        return entry.until <= self.now

    def throw(self, entry: Entry) -> None:
        self.trash.append(entry)

    def sweep(self, *, early: bool, expired: list[Session]) -> None:
        for image in self.images:
            image.holds = {d: until for d, until in image.holds.items() if until >= self.now}
        for entry in [e for e in self.trash if early or self.due(e)]:
            self.trash.remove(entry)
            if entry.kind == "image":
                self.images = [image for image in self.images if image is not entry.image]
            if entry.kind == "namespace":
                self.namespaces.remove(entry.namespace)
                self.images = [i for i in self.images if i.namespace is not entry.namespace]
        self.sessions = [
            s
            for s in self.sessions
            if s not in expired and any(s.image.namespace is known for known in self.namespaces)
        ]
        for session in self.sessions:
            if not any(session.image is image for image in self.images):
                # Its image was deleted: it is for whichever has the name.
                session.image = self.enter(session.image.namespace, session.image.name)
        needed = self.needed()
        self.blobs = {digest: data for digest, data in self.blobs.items() if digest in needed}
