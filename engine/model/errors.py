"""Everything that can go wrong in a store, as a small tree of exceptions with fields.

The tree speaks of the store only: a service that exposes it over a protocol maps each class
to that protocol's codes in one table of its own. Every error carries what a program needs to
act on it as attributes; ``str(error)`` is one sentence for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

Kind = Literal[
    "blob",
    "manifest",
    "namespace",
    "image",
    "tag",
    "upload",
    "key",
    "root",
    "trash",
    "file",
    "claim",
    "counter",
    "record",
    "setting",
    "snapshot",
    "rule",
    "limit",
]
"""What an error is about."""


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""


class NotFound(EngineError):
    """Nothing of that kind exists under that name (or it was deleted)."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"{kind} {name} was not found")
        self.kind = kind
        self.name = name


class AlreadyExists(EngineError):
    """The name is taken by a living object of that kind."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"{kind} {name} already exists")
        self.kind = kind
        self.name = name


class Invalid(EngineError):
    """An argument breaks a rule of the store. ``argument`` names it, ``reason`` says which rule."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"{argument}: {reason}")
        self.argument = argument
        self.reason = reason


class InvalidDigest(Invalid):
    """A digest breaks the grammar of the OCI image-spec, or names an algorithm not kept here."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__("digest", reason)
        self.text = text


class DigestMismatch(Invalid):
    """The bytes that arrived do not have the digest that was promised for them."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__("digest", f"content has {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class SizeMismatch(Invalid):
    """A body was shorter or longer than announced. Sizes are in bytes."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__("size", f"{actual} bytes where {expected} were announced")
        self.expected = expected
        self.actual = actual


class DescriptorMismatch(SizeMismatch):
    """A manifest says other sizes of what its image has. ``wrong`` has each digest, the size that
    it has and the one that the manifest says, in bytes; ``actual`` and ``expected`` are the first.
    """

    def __init__(self, wrong: Sequence[tuple[str, int, int]]) -> None:
        digest, actual, said = wrong[0]
        super().__init__(said, actual)
        self.args = (f"{digest} has {actual} bytes, and the manifest says {said}",)
        self.wrong = tuple(wrong)


class InvalidManifest(Invalid):
    """A document is not a manifest or index that the store accepts."""

    def __init__(self, reason: str) -> None:
        super().__init__("manifest", reason)


class TooLarge(Invalid):
    """A bounded thing is over its bound. ``limit`` is in bytes, or in items where so said."""

    def __init__(self, argument: str, limit: int, unit: str = "bytes") -> None:
        super().__init__(argument, f"over the limit of {limit} {unit}")
        self.limit = limit


class MissingContent(EngineError):
    """A manifest needs content that its image neither links nor holds, or of another size."""

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__("content is missing in this image: " + ", ".join(digests))
        self.digests = tuple(digests)


class OffsetMismatch(EngineError):
    """An append would leave a gap or overlap. The session stays as it is, at ``offset``."""

    def __init__(self, offset: int, asked: int) -> None:
        super().__init__(f"the upload stands at byte {offset}, not {asked}")
        self.offset = offset
        self.asked = asked


class Conflict(EngineError):
    """The state of the store does not allow the step now; nothing was changed."""


class Busy(Conflict):
    """Another writer is using the object at this moment."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"{kind} {name} is in use by another writer")
        self.kind = kind
        self.name = name


class Locked(Conflict):
    """An operator locked the object: no pushes, updates or deletes."""

    def __init__(self, kind: Kind, name: str, object_id: UUID) -> None:
        super().__init__(f"{kind} {name} is locked")
        self.kind = kind
        self.name = name
        self.id = object_id


class InUse(Conflict):
    """The object is needed by others and cannot be removed on its own."""

    def __init__(self, kind: Kind, name: str, users: int) -> None:
        super().__init__(f"{kind} {name} is needed by {users} manifests of this image")
        self.kind = kind
        self.name = name
        self.users = users


class Immutable(Conflict):
    """A rule of the namespace forbids to move or delete this tag."""

    def __init__(self, name: str, pattern: str) -> None:
        super().__init__(f"tag {name} is immutable (pattern {pattern})")
        self.name = name
        self.pattern = pattern


class Unverified(Conflict):
    """Too many tags would have to be compared with a pattern before what holds them may go."""

    def __init__(self, pattern: str, most: int) -> None:
        super().__init__(
            f"over {most} tags would have to be compared with pattern {pattern}: delete some first,"
            " or change the pattern to one that does not begin with a wildcard"
        )
        self.pattern = pattern


class PreconditionFailed(Conflict):
    """The caller asked for a step on a certain state, and the state is another (``current``)."""

    def __init__(self, kind: Kind, name: str, current: str | None) -> None:
        super().__init__(f"{kind} {name} is at {current or 'nothing'}")
        self.kind = kind
        self.name = name
        self.current = current


class QuotaExceeded(Conflict):
    """The step would go over a limit that somebody set. All numbers in units of ``resource``."""

    def __init__(
        self, resource: str, quota: int, current: int, asked: int = 0, used_for: str = ""
    ) -> None:
        """``asked`` more would come to what is used; 0 where ``current`` has it in already.

        ``used_for`` says what the namespace uses its part for, and what gives some of it back.
        """
        told = f"{asked} more are asked for, and " if asked else ""
        parts = f" ({used_for})" if used_for else ""
        super().__init__(f"{resource}: {told}{current} of {quota} are used{parts}")
        self.resource = resource
        self.quota = quota
        self.current = current
        self.asked = asked

    @property
    def missing(self) -> int:
        """How much would have to go for the step to fit."""
        return self.current + self.asked - self.quota


class Unusable(EngineError):
    """The store, or a part of it, cannot be used; the message says what to do."""


class Corrupt(Unusable):
    """Stored data is damaged, and is not served. Pushing the same content again heals a blob."""

    def __init__(self, kind: Kind, name: str, reason: str) -> None:
        super().__init__(f"{kind} {name} is damaged: {reason}")
        self.kind = kind
        self.name = name
        self.reason = reason


class NotAStore(Unusable):
    """The path is not a data directory of this version."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StorageFull(Unusable):
    """No space is left: on the disk (``what`` is ``depot``), or in the ledger's map."""

    def __init__(self, what: Literal["depot", "ledger"]) -> None:
        super().__init__(f"no space is left in the {what}")
        self.what = what


class StorageFailed(Unusable):
    """The operating system refused a read or a write."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class Closed(Unusable):
    """The store is closed, or was never opened."""

    def __init__(self) -> None:
        super().__init__("the store is closed")
