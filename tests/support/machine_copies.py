"""The state machine's retention, and its copies: snapshots, restores, exports, imports."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from holdfast.engine import ALGORITHMS, NotFound, RetentionRule, Store, export_layout, import_layout
from support.copies import finish
from support.engine import Place, read, sha256
from support.machine_deletes import Deleting
from support.machine_driver import IMAGE, PICK, named
from support.model import (
    DAY,
    Document,
    Image,
    Model,
    Namespace,
    Rule,
    sha,
)

RULE = st.builds(
    Rule,
    images=st.sampled_from(["*", "*", "web", "lib/*"]),
    tags=st.sampled_from(["*", "*", "v*", "latest", "sha256-*"]),
    keep_last=st.sampled_from([None, 0, 1]),
    older_days=st.sampled_from([0, 0, 1]),
    untagged_days=st.sampled_from([None, 0, 1]),
)
REF_NAME = "org.opencontainers.image.ref.name"


def rules_of(namespace: Namespace) -> list[RetentionRule]:
    """The rules of a namespace, as a caller writes them."""
    return [
        RetentionRule(
            images=(each.images,),
            tags=(each.tags,),
            keep_last=each.keep_last,
            older_than_days=each.older_days,
            untagged_older_than_days=each.untagged_days,
        )
        for each in namespace.rules
    ]


class Copying(Deleting):
    """What rules remove; and what comes out of a store, and into another one."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshot: tuple[Path, Model] | None = None
        self.copies = 0

    def _new(self, kind: str) -> Path:
        """Where the next copy of a kind goes."""
        self.copies += 1
        return self.path / f"{kind}-{self.copies}"

    # --- retention

    @rule(pick=PICK, rules=st.lists(RULE, min_size=1, max_size=2).map(tuple), age=st.booleans())
    def retain(self, pick: int, rules: tuple[Rule, ...], age: bool) -> None:
        """What goes is what was planned, and frees what was foretold."""
        namespace = self.namespace(pick)
        outcome = "Locked" if namespace.locked else None
        asked = copy.copy(namespace)
        asked.rules = rules
        self.expect(self.store.retention.set(namespace.id, rules_of(asked)), outcome)
        if outcome is None:
            namespace.rules = rules
        if age:
            self.wait(DAY * 0.6)
        # The store's own clock runs ahead by a microsecond a change.
        self.wait(1.0)
        gone = {
            image: (self.model.old_tags(image), self.model.old_untagged(image))
            for image in sorted(self.model.listed(namespace), key=lambda image: image.name)
        }
        losses: dict[str, list[Image]] = {}
        expired: list[tuple[Any, ...]] = []
        for image, (tags, untagged) in gone.items():
            rest, along, referrers = self.model.rest(image, tags, untagged)
            for digest in image.linked() - rest.linked():
                losses.setdefault(digest, []).append(image)
            expired += [
                (image.id, tag.id, tag.name, tag.digest, None, image.is_orphan(tag)) for tag in tags
            ]
            expired += [
                (image.id, None, None, f"sha256:{digest}", None, False) for digest in untagged
            ]
            expired += [
                (image.id, tag.id, tag.name, tag.digest, image.subject_of(tag), False)
                for tag in along
            ]
            for digest in sorted(referrers):
                subject = image.manifests[digest].subject
                assert subject is not None
                expired.append((image.id, None, None, f"sha256:{digest}", sha(subject), False))
        freed = self.model.freed_by_rules(losses)
        plan = self.run(self.store.retention.plan(namespace.id))
        shown = [
            (
                e.image_id,
                e.tag_id,
                e.tag,
                str(e.digest),
                e.belongs_to.raw.hex() if e.belongs_to else None,
                e.orphan,
            )
            for e in plan.expired
        ]
        assert shown == expired
        assert (plan.freed_bytes, plan.project_freed_bytes) == freed
        done = self.expect(self.store.retention.apply(namespace.id), outcome)
        if done is not None:
            assert done == plan
            for image, (tags, untagged) in gone.items():
                # The oldest first: what several of them need goes with the newest.
                for tag in sorted(tags, key=lambda tag: tag.moved):
                    self._tag_gone(image, tag)
                for digest in untagged:
                    self._untagged_gone(image, digest)

    # --- snapshots

    @rule()
    def take_snapshot(self) -> None:
        target = self._new("snapshot")
        made = finish(self.store.snapshot(target))
        if self.kind == "memory":
            self.expect(made, "Invalid")
            return
        self.run(made)
        self.snapshot = target, copy.deepcopy(self.model)

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def go_back(self) -> None:
        """Go on in a restored copy, with the state of the moment when it was made."""
        assert self.snapshot is not None
        source, self.model = self.snapshot
        self.snapshot = None
        self.model.now = self.clock.now
        self.model.sessions = []
        place = Place(self.kind, self._new("restored"), self.clock, self.limits)
        self.run(finish(Store.restore(source, place.path / "data")))
        for index, store in enumerate(self.stores):
            self.run(store.close())
            self.stores[index] = place.store()
            self.run(self.stores[index].start())
        self.place = place

    # --- OCI layouts

    @rule(pick=PICK, taking=PICK, name=IMAGE)
    def copy_image(self, pick: int, taking: int, name: str) -> None:
        """Export an image, and import it elsewhere."""
        source, target = self.listed(pick), self.namespace(taking)
        if source is None or not source.tags:
            return
        layout = self._new("layout")
        whole = exported(source)
        export = finish(export_layout(self.store, self._where(source), layout))
        self.expect(export, None if whole else "NotFound")
        if whole is None:
            return
        entries, documents = whole
        check_layout(layout, entries, documents)
        if target.most is not None or target.covers("v1") or target is source.namespace:
            return
        if self.model.crowded(target):
            return
        where = self._locate(target, name)
        outcome = "Locked" if target.locked else None
        self.expect(finish(import_layout(self.store, where, layout)), outcome)
        if outcome is None:
            self._imported(target, name, entries, documents)

    def _imported(
        self,
        namespace: Namespace,
        name: str,
        entries: dict[str, list[str]],
        documents: dict[str, Document],
    ) -> None:
        model = self.model
        told = model.told(model.image(namespace, name))
        for part in {part for document in documents.values() for part in document.content}:
            if sha(part) not in told:
                model.deliver(namespace, name, part, "sha256")
        image = model.enter(namespace, name)
        todo = list(documents.items())
        while todo:
            left = []
            for digest, document in todo:
                model.arrive(document.body)
                if model.keep(image, document):
                    left.append((digest, document))
                elif digest.startswith("sha512:"):
                    image.named.add(sha(document.body))
            assert len(left) < len(todo)
            todo = left
        if image.id is None:
            image.id, image.order = self._where(image).image_id, model.next()
        for digest, tags in entries.items():
            # Those of one push that were here have one time, before those that are new.
            known = {tag: image.tags[tag].order for tag in tags if tag in image.tags}
            for tag in sorted(tags, key=lambda tag: (tag not in known, known.get(tag, 0))):
                self._point(image, tag, digest, sha(documents[digest].body))
        self.flush()
        # Pushes that change nothing are written together, behind those that do.
        listed = self.run(self.store.tags.list(image.id or uuid4())).items
        for seen in sorted(listed, key=lambda tag: (tag.updated_at, tag.id)):
            image.tags[seen.name].moved = self.model.next()
        self.run(self._read_image(image))

    async def _read_image(self, image: Image) -> None:
        """Every blob through the image: exactly those that it may read."""
        where = await self._find(image.namespace, image.name)
        for algorithm in ALGORITHMS:
            allowed = self.model.readable(image, algorithm)
            for digest, data in self.model.blobs.items():
                if digest in allowed:
                    got = await read(self.store, named(data, algorithm), repository=where)
                    assert got == data
                else:
                    with pytest.raises(NotFound):
                        await read(self.store, named(data, algorithm), repository=where)


def exported(image: Image) -> tuple[dict[str, list[str]], dict[str, Document]] | None:
    """The tags of each entry of an export, and all manifests of it, by their digests; None where
    a child of an index was deleted.

    Tags come in order of their names, each followed by what refers to it or to what is below.
    """
    entries: dict[str, list[str]] = {}
    documents: dict[str, Document] = {}
    for name in sorted(image.tags):
        tag = image.tags[name]
        entries.setdefault(tag.digest, []).append(name)
        todo = [tag.digest]
        while todo:
            digest = todo.pop()
            if digest in documents:
                continue
            found = image.manifests[tag.sha if digest == tag.digest else digest[7:]]
            documents[digest] = found
            if any(sha(child) not in image.manifests for child in found.children):
                return None
            todo += map(sha256, found.children)
            for _, other in sorted(image.manifests.items()):
                if other.subject == found.body:
                    entries.setdefault(sha256(other.body), [])
                    todo.append(sha256(other.body))
    return entries, documents


def check_layout(
    layout: Path, entries: dict[str, list[str]], documents: dict[str, Document]
) -> None:
    """It holds these entries, and what they need bit by bit, and nothing else."""
    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert {(e["digest"], (e.get("annotations") or {}).get(REF_NAME)) for e in listed} == {
        (digest, name)
        for digest, names in entries.items()
        for name in [*names, *([] if names and not _refers(digest, documents) else [None])]
    }
    expected = {digest: document.body for digest, document in documents.items()}
    expected |= {sha256(part): part for found in documents.values() for part in found.content}
    files = [path for path in (layout / "blobs").rglob("*") if path.is_file()]
    assert {f"{path.parent.name}:{path.name}": path.read_bytes() for path in files} == expected


def _refers(digest: str, documents: dict[str, Document]) -> bool:
    """Whether it is listed as one that refers to another one here."""
    bodies = {document.body for document in documents.values()}
    return digest.startswith("sha256:") and documents[digest].subject in bodies
