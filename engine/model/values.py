"""The values that the store returns: frozen, plain, safe to keep.

Names follow the management API (namespace, image, tag) and the OCI specs (blob, manifest,
referrer). Sizes are bytes; times are aware datetimes in UTC with microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Generic, Literal, TypeVar
from uuid import UUID

from .digest import Digest

Visibility = Literal["inherit", "public", "private"]
Status = Literal["ready", "deleting", "locked"]
Permission = Literal["full", "read"]
Order = Literal[
    "created_at_asc",
    "created_at_desc",
    "name_asc",
    "name_desc",
    "description_asc",
    "description_desc",
]
"""Sort order of a listing; the id breaks ties. Only namespaces can be sorted by description."""

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Unset(Enum):
    """The value that means "unchanged" in updates, as opposed to None."""

    UNSET = 0


UNSET: Final = Unset.UNSET


def moment(count: int) -> datetime:
    """Return the time ``count`` microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def microseconds(value: datetime) -> int:
    """Return the microseconds from 1970 to an aware datetime: the inverse of ``moment``.

    The end of year 9999 in another time zone may be past ``MOMENT_MAX``.
    """
    return (value - _EPOCH) // timedelta(microseconds=1)


MOMENT_MAX: Final = microseconds(datetime.max.replace(tzinfo=UTC))
"""Largest argument of ``moment``, in microseconds."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes under a digest. ``digest`` has the algorithm of the caller's request."""

    digest: Digest
    size: int
    held_until: datetime | None = None
    """End of the hold, if the repository has no manifest that needs the blob; else None."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of one project in one region, with its exact numbers."""

    id: UUID
    region: str
    name: str
    project_id: UUID
    organization_id: UUID
    description: str
    is_public: bool
    status: Status
    size: int
    """Sum of the sizes of its images in bytes; a layer in two images counts twice (management
    API)."""
    image_count: int
    created_at: datetime
    updated_at: datetime
    immutable_tags: tuple[str, ...] = ()
    """Shell-style patterns; a tag that matches one can be neither moved nor deleted."""
    quota: int | None = None
    """Upper bound of its kept size (see ``Usage``) in bytes, or None."""
    sparse_indexes: bool | None = None
    """True if its indexes may lack children; None for ``StoreConfig.sparse_indexes``."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a namespace; OCI calls it a repository."""

    id: UUID
    namespace_id: UUID
    name: str
    status: Status
    visibility: Visibility
    size: int
    """Bytes of the distinct configs and layers that its manifests need, each counted once."""
    tags: tuple[str, ...]
    """First tag names in byte order, up to ``TAGS_SHOWN``."""
    tag_count: int
    created_at: datetime
    updated_at: datetime
    pull_count: int = 0
    """Number of GETs of its manifests by digest, some seconds late."""
    pulled_at: datetime | None = None


TAGS_SHOWN: Final = 1000
"""Tag names in an Image, at most, so that a listing of images stays bounded."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A name in an image that points to one manifest."""

    id: UUID
    image_id: UUID
    name: str
    status: Status
    digest: Digest
    created_at: datetime
    updated_at: datetime
    pull_count: int = 0
    """Number of reads by its name and GETs by its digest, some seconds late."""
    pulled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """A resolved repository name: its namespace, the name of the image, and the image if any.

    Operations on content take it as an argument. Each transaction checks that the namespace and
    the image are still the same, and raises NotFound otherwise.
    """

    namespace_id: UUID
    region: str
    project_id: UUID
    namespace: str
    """Name of the namespace."""
    is_public: bool
    """True if the namespace is public; images with visibility ``inherit`` follow it."""
    name: str
    """Name of the image, without the namespace."""
    key: bytes | None
    """Key of the image inside the ledger; None if no content was ever pushed under the name."""
    image_id: UUID | None
    """Id of the image; None before its first manifest, which makes it a listed image."""
    visibility: Visibility
    sparse_indexes: bool | None = None
    """Setting of the namespace (see ``Namespace``)."""

    @property
    def full_name(self) -> str:
        """``<name>`` of the OCI distribution-spec: ``namespace/image``."""
        return f"{self.namespace}/{self.name}"

    @property
    def public(self) -> bool:
        """True if everyone may pull, by the image's visibility or else by its namespace's."""
        if self.visibility == "inherit":
            return self.is_public
        return self.visibility == "public"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session with ``offset`` stored bytes; the next append must begin there."""

    id: UUID
    offset: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload session in a listing of its namespace."""

    id: UUID
    namespace_id: UUID
    image: str
    """Name of its image, without the namespace."""
    size: int
    """Bytes stored so far."""
    counted: int
    """Bytes counted in its namespace: up to a step more than ``size`` while bytes arrive."""
    declared: int | None
    """Upper bound of its size in bytes, if the client announced one."""
    created_at: datetime
    touched_at: datetime | None
    """Time of the last byte, up to a fifth of ``StoreConfig.upload_idle_seconds`` behind while
    bytes arrive; None if no byte arrived yet, or if unknown."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index with its bytes exactly as pushed."""

    digest: Digest
    media_type: str
    body: bytes
    tag: str | None = None
    """Tag by which the caller requested it, if any."""


@dataclass(frozen=True, slots=True)
class ListedManifest:
    """A manifest in a listing of its image."""

    digest: Digest
    media_type: str
    artifact_type: str | None
    size: int
    """Bytes of the manifest itself, without the content that it needs."""
    created_at: datetime
    tags: tuple[str, ...]
    """First tag names in byte order."""
    more_tags: bool
    """True if it has more tags than ``tags``."""
    subject: Digest | None
    """Subject of a referrer, which need not exist; else None."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a PUT of a manifest (OCI distribution-spec, "Pushing Manifests")."""

    digest: Digest
    subject: Digest | None
    tags: tuple[str, ...]
    image_id: UUID


@dataclass(frozen=True, slots=True)
class Referrer:
    """A descriptor of a manifest that names another as its subject."""

    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class Key:
    """A credential, without its secret. ``project_id`` is None for all projects."""

    access_key: str
    project_id: UUID | None
    default_project_id: UUID
    organization_id: UUID
    permission: Permission
    description: str
    created_at: datetime
    expires_at: datetime | None

    def covers(self, project_id: UUID) -> bool:
        """Return True if this is a key of that project, or of all."""
        return self.project_id is None or self.project_id == project_id


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens. The key in use has no end."""

    secret: bytes
    """32 bytes."""
    until: int = MOMENT_MAX
    """Time until which its signatures are valid, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one namespace in bytes; each number is read in constant time."""

    size: int
    image_count: int
    unique_size: int
    """Bytes of its distinct linked blobs, each counted once."""
    exclusive_size: int
    """Part of ``unique_size`` that no other namespace of the store links."""
    project_exclusive_size: int
    """Part of ``unique_size`` that no other namespace of the same project links."""
    content: int = 0
    """Distinct blobs kept as configs and layers; here and below, each blob counts once."""
    manifests: int = 0
    """Bodies of manifests that it keeps."""
    held: int = 0
    """Blobs that it holds and none of its manifests needs."""
    uploads: int = 0
    """Received bytes of its open uploads."""
    trash: int = 0
    """Blobs needed only by images in the trash, of it or of deleted namespaces of its name."""

    @property
    def kept_size(self) -> int:
        """Bytes that a quota bounds: the sum of ``content``, ``manifests``, ``held``, ``uploads``
        and ``trash``."""
        return self.content + self.manifests + self.held + self.uploads + self.trash


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a namespace, in addition to its own settings."""

    quota: int | None = None
    """Upper bound of its kept size in bytes, or None."""
    immutable_tags: tuple[str, ...] = ()
    locked: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceLimits:
    """The limits of a namespace's name, and those in force together with its own settings."""

    limits: Limits
    in_force: Limits
    """The smaller quota, and the patterns of both."""


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """The limits of a project."""

    quota: int | None
    """Upper bound of the sum of its namespaces' kept sizes in bytes, or None."""
    defaults: Limits
    """Limits that a new namespace gets if its name has none."""
    kept_size: int
    """Sum of its namespaces' kept sizes in bytes, open uploads included."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers of the whole store, for its operator and not for tenants."""

    blobs: int
    blob_bytes: int
    """Sum of the blobs' own sizes, each counted once."""
    stored_bytes: int
    """Bytes that they take on disk: less if recompressed."""
    namespaces: int
    images: int
    uploads: int
    holds: int
    """Rights of images to blobs that none of their manifests needs yet, or any more."""
    garbage: int
    """Entries of the garbage queue."""
    oldest_garbage: datetime | None
    freed_bytes: int
    """Bytes that the sweep has freed since the store was created."""
    trash: int
    aside: int = 0
    """Dead letters: entries of the sweep's queues that met a damaged row (``Sweeper.aside``)."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """A rule by which retention removes tags and manifests of a namespace; None for no condition.

    It removes a tag that matches, is not among the ``keep_last`` newest that match, and has
    reached all the ages that are set.
    """

    images: tuple[str, ...] = ("*",)
    """Shell-style patterns of image names."""
    tags: tuple[str, ...] = ("*",)
    keep_last: int | None = None
    older_than_days: int | None = None
    """Days since the tag was pushed last."""
    not_pulled_for_days: int | None = None
    """Days since it was pulled or pushed last."""
    untagged_older_than_days: int | None = None
    """Days since the push of manifests without a tag, an index or a subject."""


Trashed = Literal["namespace", "image", "tag"]
"""Kinds of objects in the trash."""


@dataclass(frozen=True, slots=True)
class TrashItem:
    """A deleted object that can be restored until ``purge_at``."""

    kind: Trashed
    id: UUID
    name: str
    region: str
    project_id: UUID
    namespace_id: UUID
    namespace: str
    """Name of the namespace, which for other kinds is the one that the object was in."""
    image: str | None
    """Name of the image, which for a tag is the one that it was in; None for a namespace."""
    purge_at: datetime


@dataclass(frozen=True, slots=True)
class ReleasedHolds:
    """The result of a release of holds."""

    released: int
    size: int
    """Bytes of the released blobs; a blob that two images held counts twice."""
    kept: int
    """Holds that stay, since a restore of deleted tags needs them."""
    after: str | None
    """Cursor for the next call; None at the end."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing."""

    items: Sequence[T]
    total: int
    """Number of items on all pages."""
