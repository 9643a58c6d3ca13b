"""The exceptions of the store, as a small tree of classes with fields.

They know no protocol: a service maps each class to its protocol's codes in one table of its own.
Programs read the attributes of an error; ``str(error)`` is one sentence for people.
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
"""Kind of the object that an error concerns."""


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""


class NotFound(EngineError):
    """No object of that kind exists under that name (or it was deleted)."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"{kind} {name} was not found")
        self.kind = kind
        self.name = name


class AlreadyExists(EngineError):
    """Another object of that kind, not deleted, has the name."""

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
    """A digest breaks the grammar of the OCI image-spec, or its algorithm is not supported."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__("digest", reason)
        self.text = text


class DigestMismatch(Invalid):
    """Received bytes do not have the expected digest."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__("digest", f"content has {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class SizeMismatch(Invalid):
    """A body is shorter or longer than announced. Sizes are in bytes."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__("size", f"{actual} bytes where {expected} were announced")
        self.expected = expected
        self.actual = actual


class DescriptorMismatch(SizeMismatch):
    """Descriptors of a manifest have other sizes than the image's content.

    ``wrong`` lists digest, actual size and the manifest's size, in bytes; ``actual`` and
    ``expected`` are those of the first.
    """

    def __init__(self, wrong: Sequence[tuple[str, int, int]]) -> None:
        digest, actual, expected = wrong[0]
        super().__init__(expected, actual)
        self.args = (f"{digest} has {actual} bytes, and the manifest says {expected}",)
        self.wrong = tuple(wrong)


class InvalidManifest(Invalid):
    """A document is not a manifest or index that the store accepts."""

    def __init__(self, reason: str) -> None:
        super().__init__("manifest", reason)


class TooLarge(Invalid):
    """An argument is over its limit. ``limit`` is in bytes, or in the ``unit`` that is given."""

    def __init__(self, argument: str, limit: int, unit: str = "bytes") -> None:
        super().__init__(argument, f"over the limit of {limit} {unit}")
        self.limit = limit


class MissingContent(EngineError):
    """A manifest needs content that its image neither links nor holds, or has in another size."""

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
    """The state of the store does not allow the operation now; nothing was changed."""


class Busy(Conflict):
    """Another writer uses the object now."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"{kind} {name} is in use by another writer")
        self.kind = kind
        self.name = name


class Locked(Conflict):
    """An operator locked the object against pushes, updates and deletes."""

    def __init__(self, kind: Kind, name: str, object_id: UUID) -> None:
        super().__init__(f"{kind} {name} is locked")
        self.kind = kind
        self.name = name
        self.id = object_id


class InUse(Conflict):
    """Other objects need this one, so it cannot be removed alone."""

    def __init__(self, kind: Kind, name: str, users: int) -> None:
        super().__init__(f"{kind} {name} is needed by {users} manifests of this image")
        self.kind = kind
        self.name = name
        self.users = users


class Immutable(Conflict):
    """An immutable pattern of the namespace forbids moving or deleting this tag."""

    def __init__(self, name: str, pattern: str) -> None:
        super().__init__(f"tag {name} is immutable (pattern {pattern})")
        self.name = name
        self.pattern = pattern


class Unverified(Conflict):
    """A delete would need to compare too many tags with an immutable pattern."""

    def __init__(self, pattern: str, most: int) -> None:
        super().__init__(
            f"cannot compare over {most} tags with pattern {pattern}: delete some tags first,"
            " or use a pattern that does not begin with a wildcard"
        )
        self.pattern = pattern


class PreconditionFailed(Conflict):
    """A precondition of the caller does not hold: the name is at ``current``."""

    def __init__(self, kind: Kind, name: str, current: str | None) -> None:
        super().__init__(f"{kind} {name} is at {current or 'nothing'}")
        self.kind = kind
        self.name = name
        self.current = current


class QuotaExceeded(Conflict):
    """The operation would exceed a quota or limit. All numbers are in units of ``resource``."""

    def __init__(
        self, resource: str, quota: int, current: int, asked: int = 0, used_for: str = ""
    ) -> None:
        """Set the numbers; ``asked`` is what the operation adds, 0 if ``current`` includes it.

        ``used_for`` describes for the message how the quota is used, and how to free some.
        """
        request = f"{asked} more are asked for, and " if asked else ""
        parts = f" ({used_for})" if used_for else ""
        super().__init__(f"{resource}: {request}{current} of {quota} are used{parts}")
        self.resource = resource
        self.quota = quota
        self.current = current
        self.asked = asked

    @property
    def missing(self) -> int:
        """Units to free before the operation fits."""
        return self.current + self.asked - self.quota


class Unusable(EngineError):
    """The store, or a part of it, cannot be used; the message says what to do."""


class Corrupt(Unusable):
    """Stored data is damaged and not served. Pushing the same content again heals a blob."""

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
    """No space is left: on the disk (``what`` is ``depot``) or in the ledger's map."""

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
