"""The state machine's pushes: uploads, mounts, manifests."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from holdfast.engine import (
    ANY,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Condition,
    DigestMismatch,
    Locked,
    MissingContent,
    NotFound,
    QuotaExceeded,
)
from support.engine import index, manifest, once, sha256
from support.machine_driver import (
    ALGORITHM,
    BLOB,
    BLOBS,
    CONFIG,
    IMAGE,
    IMAGES,
    INLINE,
    PICK,
    TAG,
    Driver,
    choose,
    named,
)
from support.model import (
    UPLOAD,
    Document,
    Image,
    Namespace,
    Session,
    Tag,
    sha,
)


class Uploading(Driver):
    """Content on its way into images."""

    @rule(pick=PICK, name=IMAGE, data=BLOB, algorithm=ALGORITHM)
    def upload_whole(self, pick: int, name: str, data: bytes, algorithm: str) -> None:
        namespace = self.namespace(pick)
        self._deliver(namespace, name, data, algorithm)

    def _deliver(self, namespace: Namespace, name: str, data: bytes, algorithm: str) -> None:
        where = self._locate(namespace, name)
        half = len(data) // 2
        done = self.expect(
            self.store.uploads.put(
                where, named(data, algorithm), once(data[:half], data[half:]), length=len(data)
            ),
            *self.model.delivery(namespace, data),
        )
        if done is not None:
            self.model.deliver(namespace, name, data, algorithm)

    @rule(pick=PICK, name=IMAGE, data=BLOB)
    def upload_of_other_content(self, pick: int, name: str, data: bytes) -> None:
        namespace = self.namespace(pick)
        where = self._locate(namespace, name)
        put = self.store.uploads.put(where, sha256(data + b"?"), once(data))
        self.expect(put, "DigestMismatch")

    @rule(pick=PICK, name=IMAGE, declared=st.sampled_from([None, None, 6_000]), algorithm=ALGORITHM)
    def begin_upload(self, pick: int, name: str, declared: int | None, algorithm: str) -> None:
        namespace = self.namespace(pick)
        outcomes: tuple[str | None, ...] = self.model.room(namespace, declared or 0)
        if namespace.locked:
            outcomes = ("Locked",)
        elif self.model.crowded(namespace):
            outcomes = ("QuotaExceeded",)
        where = self._locate(namespace, name)
        begun = self.expect(
            self.store.uploads.begin(where, size=declared, algorithm=algorithm), *outcomes
        )
        if begun is not None:
            image = self.model.enter(namespace, name)
            session = Session(begun.id, image, declared, self.model.now, self.model.now)
            self.model.sessions.append(session)

    def session(self, pick: int) -> Session | None:
        """One of those that are open, or else a new one."""
        for _ in range(2):
            living = [s for s in self.model.sessions if s.image.living]
            if living:
                return living[pick % len(living)]
            self.begin_upload(pick, IMAGES[pick % 2], None, "sha256")
        return None

    @rule(pick=PICK, data=BLOB, cut=st.integers(0, 100_000), skew=st.sampled_from([0, 0, 0, 1]))
    def append(self, pick: int, data: bytes, cut: int, skew: int) -> None:
        session = self.session(pick)
        if session is None:
            return
        where = self._where(session.image)
        piece = data[: cut % (len(data) + 1)]
        offset = len(session.data) + skew
        append = self.store.uploads.append(where, session.id, once(piece), offset=offset)
        outcomes = ("OffsetMismatch",) if skew else self._growth(session, piece)
        view = self.expect(append, *outcomes)
        if view is not None:
            self._grow(session, piece)
            assert view.offset == len(session.data)
            assert view.expires_at.timestamp() > self.model.now + UPLOAD / 2
        if self._refused_for_good(session):
            return
        kept = self.run(self.store.uploads.get(where, session.id))
        assert kept.offset == len(session.data)

    def _ended(self, session: Session) -> None:
        """It may have been idle, and gone from the model already."""
        self.model.sessions = [s for s in self.model.sessions if s is not session]

    def _refused_for_good(self, session: Session) -> bool:
        """Whether the last step ended the session, so that its client hears of the refusal."""
        if not isinstance(self.raised, DigestMismatch | QuotaExceeded | Locked):
            return False
        where = self._where(session.image)
        with pytest.raises(NotFound):
            self.run(self.store.uploads.get(where, session.id))
        self._ended(session)
        return True

    def _growth(self, session: Session, piece: bytes) -> tuple[str | None, ...]:
        """What may become of an append of that piece."""
        size = len(session.data) + len(piece)
        if not piece:
            return (None,)
        if session.declared is not None and size > session.declared:
            return ("SizeMismatch",)
        if size <= session.counted:
            return (None,)
        return self.model.room(session.image.namespace, size, session)

    def _grow(self, session: Session, piece: bytes) -> None:
        old = len(session.data)
        session.data += piece
        session.used = self.model.now
        if piece:
            session.fed = self.model.now
        limited = session.image.namespace.most is not None and bool(piece)
        if limited or old <= INLINE:
            session.counted = len(session.data)

    @rule(pick=PICK, data=BLOB, algorithm=ALGORITHM, wrong=st.sampled_from([False, False, True]))
    def finish_upload(self, pick: int, data: bytes, algorithm: str, wrong: bool) -> None:
        session = self.session(pick)
        if session is None:
            return
        where = self._where(session.image)
        whole = session.data + data
        digest = named(whole + b"?" if wrong else whole, algorithm)
        growth = self._growth(session, data)
        namespace = session.image.namespace
        known = algorithm == "sha256" and not wrong and sha(whole) in self.model.keeps(namespace)
        if known and growth != ("SizeMismatch",):
            growth = (None,)
        # The last look is at all of it, also where it may have so many bytes.
        end = self.model.growth(namespace, sha(whole), len(whole), session)
        outcomes = set(growth)
        if None in growth:
            outcomes |= {"DigestMismatch"} if wrong else set(end)
            if wrong:
                outcomes.discard(None)
        elif wrong and growth == ("QuotaExceeded",):
            # Of the few bytes that lie in no file, the digest is looked at first.
            outcomes.add("DigestMismatch")
        finish = self.store.uploads.finish(where, session.id, digest, once(data))
        done = self.expect(finish, *outcomes)
        if done is not None:
            self._ended(session)
            self.model.hold(session.image, self.model.arrive(whole), algorithm)
        elif not self._refused_for_good(session):
            kept = self.run(self.store.uploads.get(where, session.id))
            assert kept.offset == len(session.data)

    @rule(pick=PICK)
    def abort_upload(self, pick: int) -> None:
        session = self.session(pick)
        if session is not None:
            where = self._where(session.image)
            self.run(self.store.uploads.abort(where, session.id))
            self.expect(self.store.uploads.get(where, session.id), "NotFound")
            self._ended(session)

    @rule(giving=PICK, given=IMAGE, taking=PICK, taken=IMAGE, data=BLOB, algorithm=ALGORITHM)
    def mount(
        self, giving: int, given: str, taking: int, taken: str, data: bytes, algorithm: str
    ) -> None:
        origin, place = self.namespace(giving), self.namespace(taking)
        where, source = self._locate(place, taken), self._locate(origin, given)
        room = self.model.growth(place, sha(data), len(data))
        readable = sha(data) in self.model.readable(self.model.image(origin, given), algorithm)
        if readable and not place.locked and room != (None,):
            if len(room) == 1:
                self.expect(self.store.mount(where, named(data, algorithm), source), *room)
            return
        outcome = self.model.mount(self.model.image(origin, given), place, taken, data, algorithm)
        mount = self.store.mount(where, named(data, algorithm), source)
        if outcome == "None":
            assert self.run(mount) is None
        else:
            self.expect(mount, outcome)

    @rule(pick=PICK, name=IMAGE, which=PICK)
    def remove_blob(self, pick: int, name: str, which: int) -> None:
        namespace = self.namespace(pick)
        image = self.model.image(namespace, name)
        data = choose(which, [data for data in BLOBS if image and sha(data) in image.holds])
        outcome = None
        if image is None:
            outcome = "NotFound"
        elif namespace.locked:
            outcome = "Locked"
        elif sha(data) not in self.model.readable(image):
            outcome = "NotFound"
        elif sha(data) in image.linked():
            outcome = "InUse"
        self.expect(self.store.remove_blob(self._locate(namespace, name), sha256(data)), outcome)
        if outcome is None and image is not None:
            del image.holds[sha(data)]


class Pushing(Uploading):
    """Manifests, indexes, and what they are refused for."""

    def document(self, pick: int) -> Document | None:
        return self.documents[pick % len(self.documents)] if self.documents else None

    def _image_document(
        self, parts: tuple[bytes, ...], subject: Document | None, docker: bool
    ) -> Document:
        about = None if docker or subject is None else subject.body
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        body = manifest(parts[0], parts[1:], subject=about, media_type=media_type)
        return self._known(
            Document(body, media_type, content=parts, subject=about, artifact_type=CONFIG)
        )

    def _known(self, document: Document) -> Document:
        for known in self.documents:
            if known.body == document.body:
                return known
        self.documents.append(document)
        return document

    @rule(
        pick=PICK,
        name=IMAGE,
        parts=st.lists(BLOB, min_size=1, max_size=3).map(tuple),
        upload=st.sampled_from([True, True, True, False]),
        tag=st.none() | TAG,
        subject=st.none() | PICK,
        docker=st.booleans(),
        algorithm=ALGORITHM,
    )
    def push_image(
        self,
        pick: int,
        name: str,
        parts: tuple[bytes, ...],
        *,
        upload: bool,
        tag: str | None,
        subject: int | None,
        docker: bool,
        algorithm: str,
    ) -> None:
        namespace = self.namespace(pick)
        about = None if subject is None else self.document(subject)
        document = self._image_document(parts, about, docker)
        if upload:
            for part in parts:
                self._deliver(namespace, name, part, "sha256")
        self._put(namespace, name, document, tag, algorithm)

    @rule(pick=PICK, name=IMAGE, parts=st.lists(BLOB, min_size=1, max_size=2).map(tuple), tag=TAG)
    def push_tagged(self, pick: int, name: str, parts: tuple[bytes, ...], tag: str) -> None:
        """What clients do most, so it comes more often than the rest."""
        self.push_image(
            pick,
            name,
            parts,
            upload=True,
            tag=tag,
            subject=None,
            docker=False,
            algorithm="sha256",
        )

    @rule(
        pick=PICK,
        which=PICK,
        part=BLOB,
        end=st.sampled_from(["", ".sig", ".sig", ".att", ".sbom"]),
        algorithm=ALGORITHM,
        about=st.booleans(),
    )
    def sign(
        self, pick: int, which: int, part: bytes, end: str, algorithm: str, about: bool
    ) -> None:
        """Tag something by the digest of a manifest that is there, or (now and then) is not."""
        images = self.model.listed()
        if not images:
            return
        image = images[pick % len(images)]
        there = list(image.manifests.values())
        subject = there[which % len(there)] if there and which % 5 else None
        named_body = b"not there" if subject is None else subject.body
        document = self._image_document((part,), subject if about else None, docker=False)
        self._deliver(image.namespace, image.name, part, "sha256")
        hexadecimal = named(named_body, algorithm).partition(":")[2]
        name = f"{algorithm}-{hexadecimal[:64]}{end}"
        self._put(image.namespace, image.name, document, name, "sha256")

    @rule(
        pick=PICK,
        name=IMAGE,
        children=st.lists(PICK, max_size=3),
        tag=st.none() | TAG,
        subject=st.none() | PICK,
        docker=st.booleans(),
        algorithm=ALGORITHM,
    )
    def push_index(
        self,
        pick: int,
        name: str,
        children: list[int],
        tag: str | None,
        subject: int | None,
        docker: bool,
        algorithm: str,
    ) -> None:
        namespace = self.namespace(pick)
        image = self.model.image(namespace, name)
        there = list(image.manifests.values()) if image else []
        chosen = {c.body: c for c in (there[n % len(there)] for n in children if there)}
        about = None if subject is None or docker else self.document(subject)
        media_type = DOCKER_LIST if docker else OCI_INDEX
        body = index(
            {child.body: child.media_type for child in chosen.values()},
            subject=None if about is None else about.body,
            media_type=media_type,
        )
        document = Document(
            body,
            media_type,
            children=tuple(chosen),
            subject=None if about is None else about.body,
        )
        self._put(namespace, name, self._known(document), tag, algorithm)

    @rule(
        pick=PICK,
        name=IMAGE,
        which=PICK,
        tag=TAG,
        guard=st.sampled_from(["", "", "absent", "any", "other"]),
    )
    def put_again(self, pick: int, name: str, which: int, tag: str, guard: str) -> None:
        """Any known document, wherever its content may be: often refused."""
        namespace, document = self.namespace(pick), self.document(which)
        if document is not None:
            self._put(namespace, name, document, tag, "sha256", guard)

    def _put(
        self,
        namespace: Namespace,
        name: str,
        document: Document,
        tag: str | None,
        algorithm: str,
        guard: str = "",
    ) -> None:
        # Times tell which push was the later one.
        self.wait(0.001)
        model = self.model
        digest = named(document.body, algorithm)
        more: dict[str, Any] = {"reference": tag or digest}
        if tag is not None and algorithm != "sha256":
            more = {"reference": digest, "tags": (tag,)}
        if guard == "absent":
            more["only_if"] = Condition(none_match=frozenset((ANY,)))
        elif guard:
            wanted = ANY if guard == "any" else sha256(b"other")
            more["only_if"] = Condition(match=frozenset((wanted,)))
        where = self._locate(namespace, name)
        known = model.image(namespace, name)
        image = known or Image(namespace, name)
        if len(self.model.growth(namespace, sha(document.body), len(document.body))) > 1:
            return
        outcome, missing = self._keep(image, document, tag, guard)
        put = self.store.manifests.put(where, document.body, media_type=document.media_type, **more)
        pushed = self.expect(put, outcome)
        if isinstance(self.raised, MissingContent):
            assert set(self.raised.digests) == {f"sha256:{digest}" for digest in missing}
        if pushed is None:
            return
        if algorithm == "sha512":
            image.named.add(model.arrive(document.body))
        if known is None:
            model.images.append(image)
        if image.id is None:
            image.id, image.order = pushed.image_id, model.next()
        assert pushed.image_id == image.id
        assert pushed.tags == (() if tag is None else (tag,))
        if tag is not None:
            self._point(image, tag, digest, sha(document.body))
        self.flush()

    def _keep(
        self, image: Image, document: Document, tag: str | None, guard: str
    ) -> tuple[str | None, set[str]]:
        """Add a manifest to the model, or say why not, and what is missing for it."""
        outcome = self._refusal(image, tag, guard)
        if outcome is not None:
            return outcome, set()
        before = dict(image.manifests), dict(image.holds), dict(self.model.blobs)
        # ``_put`` has left out those of which one cannot tell.
        [self._over] = self.model.growth(image.namespace, sha(document.body), len(document.body))
        since = dict(image.since)
        self.model.arrive(document.body)
        missing = self.model.keep(image, document)
        outcome = "MissingContent" if missing else self._late_refusal(image, document, tag)
        if outcome is not None:
            image.manifests, image.holds, self.model.blobs = before
            image.since = since
        return outcome, missing

    def _refusal(self, image: Image, tag: str | None, guard: str) -> str | None:
        if image.namespace.locked:
            return "Locked"
        current = image.tags.get(tag or "")
        if (guard == "absent" and current) or (guard == "any" and not current):
            return "PreconditionFailed"
        return "PreconditionFailed" if guard == "other" else None

    def _late_refusal(self, image: Image, document: Document, tag: str | None) -> str | None:
        if self._over is not None:
            return self._over
        old = image.tags.get(tag or "")
        if old and old.sha != sha(document.body) and image.namespace.covers(old.name):
            return "Immutable"
        return None

    def _point(self, image: Image, name: str, digest: str, target: str) -> None:
        tag = image.tags.get(name)
        if tag is None:
            tag = image.tags[name] = Tag(name, digest, target, order=self.model.next())
            for found in self.run(self.store.tags.list(image.id or uuid4())).items:
                if found.name == name:
                    tag.id = found.id
        tag.digest, tag.sha = digest, target
        tag.moved, tag.updated = self.model.next(), self.model.now
