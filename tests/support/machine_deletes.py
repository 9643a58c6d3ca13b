"""The state machine's deletes, and what comes back."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from holdfast.engine import ALWAYS, ANY, Condition
from support.engine import (
    sha256,
)
from support.machine_driver import (
    ALGORITHM,
    PICK,
    named,
)
from support.machine_pushes import Pushing
from support.model import (
    HOLD,
    TRASH,
    UPLOAD,
    Document,
    Entry,
    Image,
    Limits,
    Tag,
    sha,
)

GUARD = st.sampled_from(["", "", "", "this", "any", "other", "not this", "absent"])


def condition(guard: str, body: bytes) -> Condition:
    """What a delete of a manifest of that body, or of a tag that leads to it, is conditional on."""
    this = frozenset((named(body, "sha256"), named(body, "sha512")))
    other = frozenset((sha256(b"other"),))
    match: dict[str, Condition] = {
        "this": Condition(match=this | other),
        "any": Condition(match=frozenset((ANY,)), none_match=other),
        "other": Condition(match=other),
        "not this": Condition(none_match=this),
        "absent": Condition(none_match=frozenset((ANY,))),
    }
    return match.get(guard, ALWAYS)


def unless(guard: str, outcome: str | None) -> str | None:
    """What becomes of it: the condition is the last thing that is looked at."""
    if outcome is None and guard in {"other", "not this", "absent"}:
        return "PreconditionFailed"
    return outcome


class Deleting(Pushing):
    """Tags, manifests and images go; what lies in the trash may come back."""

    def listed(self, pick: int) -> Image | None:
        images = self.model.listed()
        return images[pick % len(images)] if images else None

    def tag(self, pick: int) -> tuple[Image, Tag] | None:
        tags = [(image, tag) for image in self.model.listed() for tag in image.tags.values()]
        return tags[pick % len(tags)] if tags else None

    def _tag_refusal(self, image: Image, tag: Tag) -> str | None:
        if image.namespace.locked:
            return "Locked"
        return "Immutable" if image.namespace.covers(tag.name) else None

    def _throw_tag(
        self,
        image: Image,
        tag: Tag,
        documents: tuple[Document, ...],
        along: tuple[Tag, ...] = (),
    ) -> None:
        del image.tags[tag.name]
        assert tag.id is not None
        until = self.model.now + TRASH
        ids = tuple(one.id for one in along if one.id is not None)
        self.model.throw(
            Entry("tag", tag.id, tag.name, until, image.namespace, image, tag, documents, ids)
        )
        for one in along:
            self._throw_tag(image, one, ())

    @rule(pick=PICK, guard=GUARD)
    def untag(self, pick: int, guard: str) -> None:
        found = self.tag(pick)
        if found is None:
            return
        image, tag = found
        outcome = unless(guard, self._tag_refusal(image, tag))
        only_if = condition(guard, image.manifests[tag.sha].body)
        untag = self.store.tags.untag(self._where(image), tag.name, only_if=only_if)
        self.expect(untag, outcome)
        if outcome is None:
            self._throw_tag(image, tag, ())

    @rule(pick=PICK)
    def delete_tag(self, pick: int) -> None:
        found = self.tag(pick)
        if found is None:
            return
        image, tag = found
        assert tag.id is not None
        outcome = self._tag_refusal(image, tag)
        deleted = self.expect(self.store.tags.delete(tag.id), outcome)
        if deleted is not None:
            assert (deleted.status, deleted.name) == ("deleting", tag.name)
            self._tag_gone(image, tag)

    def _tag_gone(self, image: Image, tag: Tag) -> None:
        gone, along = image.leaving(tag.sha, tag)
        documents = tuple(image.manifests[digest] for digest in gone)
        self._throw_tag(image, tag, documents, tuple(along))
        image.drop(gone, self.model.now + max(TRASH, HOLD))

    def _untagged_gone(self, image: Image, digest: str) -> None:
        """A manifest that no tag keeps; it lies in the trash with the first tag that goes along."""
        gone, along = image.leaving(digest)
        documents = tuple(image.manifests[one] for one in gone)
        signed = any(image.subject_of(tag) == digest for tag in image.tags.values())
        if along:
            self._throw_tag(image, along[0], documents, tuple(along[1:]))
        image.drop(gone, self.model.now + (max(TRASH, HOLD) if signed else HOLD))

    @rule(pick=PICK, which=PICK, algorithm=ALGORITHM, guard=GUARD)
    def delete_manifest(self, pick: int, which: int, algorithm: str, guard: str) -> None:
        image = self.listed(pick)
        if image is None:
            return
        if not image.manifests:
            delete = self.store.manifests.delete(self._where(image), sha256(b"no manifest"))
            self.expect(delete, "Locked" if image.namespace.locked else "NotFound")
            return
        digest = list(image.manifests)[which % len(image.manifests)]
        document = image.manifests[digest]
        tags = [tag for tag in image.tags.values() if tag.sha == digest]
        outcome = None
        if image.namespace.locked:
            outcome = "Locked"
        elif algorithm == "sha512" and digest not in image.named:
            outcome = "NotFound"
        elif any(image.namespace.covers(tag.name) for tag in tags):
            outcome = "Immutable"
        outcome = unless(guard, outcome)
        text, only_if = named(document.body, algorithm), condition(guard, document.body)
        delete = self.store.manifests.delete(self._where(image), text, only_if=only_if)
        self.expect(delete, outcome)
        if outcome is None:
            for tag in tags:
                self._throw_tag(image, tag, (document,))
            image.drop({digest}, self.model.now + max(TRASH, HOLD))

    @rule(pick=PICK)
    def delete_image(self, pick: int) -> None:
        image = self.listed(pick)
        if image is None or image.id is None:
            self.expect(self.store.images.delete(uuid4()), "NotFound")
            return
        outcome = "Locked" if image.namespace.locked else None
        if outcome is None and self.model.protected([image]):
            outcome = "Immutable"
        deleted = self.expect(self.store.images.delete(image.id), outcome)
        if deleted is not None:
            assert deleted.status == "deleting"
            image.deleted = True
            until = self.model.now + TRASH
            entry = Entry("image", image.id, image.name, until, image.namespace, image)
            self.model.throw(entry)

    @rule(pick=PICK, visibility=st.sampled_from(["inherit", "public", "private", None]))
    def update_image(self, pick: int, visibility: Any) -> None:
        image = self.listed(pick)
        if image is None or image.id is None:
            return
        outcome = "Locked" if image.namespace.locked else None
        self.expect(self.store.images.update(image.id, visibility=visibility), outcome)
        if outcome is None and visibility is not None:
            image.visibility = visibility

    # --- trash

    @precondition(lambda self: self.model.trash)
    @rule(pick=PICK)
    def restore(self, pick: int) -> None:
        entry = self.model.trash[pick % len(self.model.trash)]
        outcome = self._restore(entry)
        self.expect(self.store.trash.restore(entry.id), outcome)

    def _restore(self, entry: Entry) -> str | None:
        model = self.model
        if model.due(entry):
            return "NotFound"
        if entry.kind == "namespace":
            same = [
                n
                for n in model.living()
                if (n.region, n.name) == (entry.namespace.region, entry.namespace.name)
            ]
            if same:
                return "AlreadyExists"
            entry.namespace.deleted = False
            entry.namespace.limits = model.limits.get(entry.namespace.place, Limits())
        else:
            assert entry.image is not None
            if entry.namespace.deleted:
                return "NotFound"
            if entry.kind == "image":
                if entry.namespace.locked:
                    return "Locked"
                if not self._vacate(entry.image):
                    return "AlreadyExists"
                entry.image.deleted = False
            else:
                refused = self._restore_tag(entry, entry.image)
                if refused is not None:
                    return refused
        model.trash.remove(entry)
        for tag_id in entry.along:
            for other in [e for e in model.trash if e.id == tag_id and not model.due(e)]:
                assert other.image is not None
                if self._restore_tag(other, other.image) is None:
                    model.trash.remove(other)
        return None

    def _vacate(self, image: Image) -> bool:
        """Whether the name of an image that comes back is free."""
        model = self.model
        other = model.image(image.namespace, image.name)
        if other is not None and (other.id or other.holds):
            return False
        for session in model.sessions:
            # One goes by the name, and does not take it.
            if session.image is other:
                session.image = image
        model.images = [known for known in model.images if known is not other]
        return True

    def _restore_tag(self, entry: Entry, image: Image) -> str | None:
        assert entry.tag is not None
        if image.deleted or not any(image is known for known in self.model.images):
            return "NotFound"
        if entry.namespace.locked:
            return "Locked"
        if entry.name in image.tags:
            return "AlreadyExists"
        if not entry.documents and entry.tag.sha not in image.manifests:
            entry.documents = self._gone_with_another(entry, image)
        saved = dict(image.manifests), dict(image.holds), dict(image.since)
        refused = self._bring_back(image, list(entry.documents))
        if refused is None and entry.tag.sha not in image.manifests:
            refused = "NotFound"
        if refused is not None:
            image.manifests, image.holds, image.since = saved
            return refused
        image.tags[entry.name] = entry.tag
        entry.tag.moved, entry.tag.updated = self.model.next(), self.model.now
        if entry.tag.digest.startswith("sha512:"):
            image.named.add(entry.tag.sha)
        return None

    def _gone_with_another(self, entry: Entry, image: Image) -> tuple[Document, ...]:
        """What went with the deleted tag of the same manifest that is due last."""
        assert entry.tag is not None
        others = [
            other
            for other in self.model.trash
            if other.tag is not None
            and other.image is image
            and other.tag.sha == entry.tag.sha
            and other.documents
        ]
        return max(others, key=lambda other: other.until).documents if others else ()

    def _bring_back(self, image: Image, documents: list[Document]) -> str | None:
        """Children come before what lists them, whatever order they went in."""
        if not all(image.has(sha(d.body), self.model.now) for d in documents):
            return "NotFound"
        while documents:
            ready = [d for d in documents if not self.model.keep(image, d)]
            if not ready:
                return "MissingContent"
            documents = [d for d in documents if d not in ready]
        return None

    @rule(kind=st.sampled_from(["tag", "image", "namespace"]), pick=PICK)
    def predict_and_delete(self, kind: str, pick: int) -> None:
        """What a delete frees is what was foretold, once nothing else waits to go."""
        self._settle()
        before = self.run(self.store.stats()).stored_bytes
        if kind == "tag":
            found = self.tag(pick)
            if found is None or found[1].id is None:
                return
            foretold = self.run(self.store.tags.would_free(found[1].id))
            self.delete_tag(pick)
            refused = self._tag_refusal(*found) is not None
        elif kind == "image":
            image = self.listed(pick)
            if image is None or image.id is None:
                return
            foretold = self.run(self.store.images.would_free(image.id))
            self.delete_image(pick)
            refused = self.raised is not None
        else:
            namespace = self.namespace(pick)
            if len(self.model.living()) == 1:
                return
            foretold = self.run(self.store.namespaces.would_free(namespace.id))
            self.delete_namespace(pick)
            refused = self.raised is not None
        self._settle()
        after = self.run(self.store.stats()).stored_bytes
        assert before - after == (0 if refused else foretold)

    def _settle(self) -> None:
        self.wait(UPLOAD * 2)
        self.sweep(early=False)
