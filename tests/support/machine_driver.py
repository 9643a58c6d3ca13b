"""The state machine's frame: it drives a store and a model side by side.

The rules are in here, in ``support.machine_pushes`` and in ``support.machine_deletes``; what is
compared is in the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from holdfast.engine import UNSET, EngineError, NotFound, Repository, Store, Unset
from support.engine import (
    ORGANIZATION,
    OTHER_PROJECT,
    PROJECT,
    Clock,
    Place,
    noise,
    sha256,
    sha512,
)
from support.model import (
    DAY,
    HOLD,
    TRASH,
    UPLOAD,
    UPLOADS_MAX,
    Document,
    Entry,
    Image,
    Limits,
    Model,
    Namespace,
    Session,
    sha,
)
from support.seams import swift

T = TypeVar("T")

REGIONS = ("fr-par", "nl-ams")
NAMES = ("aa", "bb-1")
PROJECTS = (PROJECT, OTHER_PROJECT)
IMAGES = ("web", "lib/x")
TAGS = ("v1", "v2", "latest")
ROOTS = ("default", "other")
INLINE = 300
SIZES = (0, 1, 40, INLINE, INLINE + 1, 5_000, 70_000)
CONFIG = "application/vnd.oci.image.config.v1+json"


class Part(bytes):
    """Content that is short to look at."""

    def __repr__(self) -> str:
        return f"Part(noise({len(self)}))"


BLOBS = tuple(Part(noise(size, size)) for size in SIZES)

PICK = st.integers(0, 31)
BLOB = st.sampled_from(BLOBS)
IMAGE = st.sampled_from(IMAGES)
TAG = st.sampled_from(TAGS)
ALGORITHM = st.sampled_from(["sha256", "sha256", "sha512"])


def choose(pick: int, wanted: list[Part]) -> Part:
    """Mostly one of those that a step can do something with; now and then any."""
    found = wanted if wanted and pick % 4 else list(BLOBS)
    return found[pick % len(found)]


def named(data: bytes, algorithm: str) -> str:
    return sha256(data) if algorithm == "sha256" else sha512(data)


class Driver(RuleBasedStateMachine):
    """One store, one model, and the steps that need neither images nor content."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        with contextlib.ExitStack() as stack:
            # A real disk adds nothing here but waiting: what it loses is modelled elsewhere.
            otherwise = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-test-"))
            self.path = stack.enter_context(swift(Path(otherwise)))
            self.cleanup = stack.pop_all()
        self.clock = Clock()
        self.limits = {
            "hold_seconds": HOLD,
            "trash_seconds": TRASH,
            "upload_seconds": UPLOAD,
            # What gives way under pressure has tests of its own.
            "upload_idle_seconds": UPLOAD,
            "uploads_per_namespace_max": UPLOADS_MAX,
            "inline_bytes": INLINE,
            "map_bytes": 1 << 30,
            "threads": 2,
        }
        self.place = Place(self.kind, self.path, self.clock, self.limits)
        self.model = Model()
        self.model.now = self.clock.now
        self.documents: list[Document] = []
        self.stores: list[Store] = []
        self.raised: EngineError | None = None

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    def expect(self, work: Awaitable[T], *outcomes: str | None) -> T | None:
        """Run it: it must raise one of these errors, or (None) may raise none."""
        raised: EngineError | None = None
        result: T | None = None
        try:
            result = self.run(work)
        except EngineError as error:
            raised = error
        name = type(raised).__name__ if raised else None
        assert name in outcomes, f"{raised!r} where {outcomes} was due"
        self.raised = raised
        self.run(self._give_way())
        return result

    async def _give_way(self) -> None:
        """Only idle sessions may have ended on behalf of what came."""
        for namespace in self.model.living():
            if idle := self.model.idle(namespace):
                try:
                    opened, _, _ = await self.store.uploads.list(namespace.id)
                except NotFound:
                    # It has just been deleted.
                    continue
                here = {upload.id for upload in opened}
                gone = [session for session in idle if session.id not in here]
                self.model.sessions = [s for s in self.model.sessions if s not in gone]

    @property
    def store(self) -> Store:
        return self.stores[0]

    @rule()
    def switch(self) -> None:
        """The other opener goes on."""
        self.stores.reverse()

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.stores[0] = self.place.store()
        self.run(self.store.start())

    @rule(
        seconds=st.sampled_from([1.0, HOLD / 2 + 1, HOLD, HOLD + 1, TRASH, UPLOAD * 2, DAY * 0.6])
    )
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock.now

    @rule(early=st.booleans())
    def sweep(self, early: bool) -> None:
        self.run(self.store.sweeper.run(early=early))
        expired = []
        for session in self.model.sessions:
            unused = self.model.now - session.used
            if unused > UPLOAD or (unused > UPLOAD / 2 and not self._is_open(session)):
                expired.append(session)
        self.model.sweep(early=early, expired=expired)
        stats = self.run(self.store.stats())
        assert stats.garbage == 0
        assert stats.blobs == len(self.model.blobs)
        assert stats.blob_bytes == sum(map(len, self.model.blobs.values()))
        assert stats.stored_bytes == stats.blob_bytes
        assert stats.holds == sum(len(image.holds) for image in self.model.images)
        listed = self.run(self.store.blobs())
        assert [(str(blob.digest), blob.size) for blob in listed] == [
            (f"sha256:{digest}", len(self.model.blobs[digest]))
            for digest in sorted(self.model.blobs)
        ]

    @rule()
    def look_after(self) -> None:
        """All is read, and what compresses is compressed (nothing of this is): nobody can tell."""
        assert self.run(self.store.scrubber.run()).damaged_count == 0
        assert self.run(self.store.recompressor.run()).swapped == 0

    def _is_open(self, session: Session) -> bool:
        try:
            self.run(self.store.uploads.get(self._where(session.image), session.id))
        except NotFound:
            return False
        return True

    def flush(self) -> None:
        """Have pushes that changed nothing but times written now, before others come."""
        self.run(self.store.manifests.deferred_times.flush())

    # --- roots

    @rule(data=BLOB, root=st.sampled_from(ROOTS), algorithm=ALGORITHM)
    def keep_under_root(self, data: bytes, root: str, algorithm: str) -> None:
        digest = named(data, algorithm)
        blob = self.run(self.store.put(data, root=root, digest=digest))
        assert (str(blob.digest), blob.size) == (digest, len(data))
        self.model.roots.setdefault(root, set()).add(self.model.arrive(data))

    @rule(pick=PICK, root=st.sampled_from(ROOTS))
    def take_from_root(self, pick: int, root: str) -> None:
        kept = self.model.roots.get(root, set())
        data = choose(pick, [data for data in BLOBS if sha(data) in kept])
        outcome = None if sha(data) in kept else "NotFound"
        self.expect(self.store.delete(sha256(data), root=root), outcome)
        kept.discard(sha(data))

    # --- namespaces

    @rule(
        region=st.sampled_from(REGIONS),
        name=st.sampled_from(NAMES),
        project=st.sampled_from(PROJECTS),
    )
    def create_namespace(self, region: str, name: str, project: UUID) -> None:
        taken = any((n.region, n.name) == (region, name) for n in self.model.living())
        created = self.expect(
            self.store.namespaces.create(
                region, name, project_id=project, organization_id=ORGANIZATION
            ),
            "AlreadyExists" if taken else None,
        )
        if created is not None:
            found = Namespace(region, name, project, created.id, self.model.next())
            found.limits = self.model.limits.get(found.place, Limits())
            self.model.namespaces.append(found)

    def namespace(self, pick: int) -> Namespace:
        """One of the living; the last of them is never deleted."""
        living = self.model.living()
        return living[pick % len(living)]

    @rule(
        pick=PICK,
        change=st.sampled_from(
            [
                {"description": "one"},
                {"description": ""},
                {"is_public": True},
                {"immutable_tags": ("v*",)},
                {"immutable_tags": ("sha256-*",)},
                {"immutable_tags": ()},
                {"quota": 6_000},
                {"quota": None},
                {"quota": 10**9},
                {"locked": True},
                {"locked": False},
                {"locked": False},
            ]
        ),
    )
    def update_namespace(self, pick: int, change: dict[str, Any]) -> None:
        found = self.namespace(pick)
        refused = found.locked and change.get("locked") is not False
        self.expect(self.store.namespaces.update(found.id, **change), "Locked" if refused else None)
        if not refused:
            for name, value in change.items():
                setattr(found, "immutable" if name == "immutable_tags" else name, value)

    @rule(
        pick=PICK,
        quota=st.sampled_from([UNSET, None, 6_000, 10**9]),
        immutable=st.sampled_from([None, (), ("v*",)]),
    )
    def limit_namespace(
        self, pick: int, quota: int | Unset | None, immutable: tuple[str, ...] | None
    ) -> None:
        """What an operator sets for the name; also while the namespace is locked."""
        found = self.namespace(pick)
        old = found.limits
        new = Limits(
            old.quota if isinstance(quota, Unset) else quota,
            old.immutable if immutable is None else immutable,
        )
        update = self.store.limits.update_namespace
        done = self.run(update(found.id, quota=quota, immutable_tags=immutable))
        assert (done.limits.quota, done.limits.immutable_tags) == (new.quota, new.immutable)
        assert done.in_force.quota == replace(found, limits=new).most
        found.limits = self.model.limits[found.place] = new

    @precondition(lambda self: len(self.model.living()) > 1)
    @rule(pick=PICK)
    def delete_namespace(self, pick: int) -> None:
        found = self.namespace(pick)
        outcome = "Locked" if found.locked else None
        if outcome is None and self.model.protected(self.model.listed(found)):
            outcome = "Immutable"
        deleted = self.expect(self.store.namespaces.delete(found.id), outcome)
        if deleted is not None:
            assert deleted.status == "deleting"
            found.deleted = True
            self.model.sessions = [s for s in self.model.sessions if s.image.namespace is not found]
            until = self.model.now + TRASH
            self.model.throw(Entry("namespace", found.id, found.name, until, found))

    def _where(self, image: Image) -> Repository:
        return self._locate(image.namespace, image.name)

    def _locate(self, namespace: Namespace, name: str) -> Repository:
        return self.run(self._find(namespace, name))

    async def _find(self, namespace: Namespace, name: str) -> Repository:
        return await self.store.locate(namespace.region, f"{namespace.name}/{name}")
