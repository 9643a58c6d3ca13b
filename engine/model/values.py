"""The values that the store hands out: frozen, plain, safe to keep.

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
"""How a listing is sorted; ties are broken by id. Descriptions order namespaces only."""

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Unset(Enum):
    """Tells "leave it" from None in updates."""

    UNSET = 0


UNSET: Final = Unset.UNSET


def moment(count: int) -> datetime:
    """The instant that many microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def microseconds(value: datetime) -> int:
    """How many microseconds after 1970 an aware datetime is: the inverse of ``moment``.

    The end of year 9999 in another zone may lie behind what ``moment`` can tell.
    """
    return (value - _EPOCH) // timedelta(microseconds=1)


MOMENT_MAX: Final = microseconds(datetime.max.replace(tzinfo=UTC))
"""The last one that ``moment`` takes."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes under a digest. ``digest`` is in the algorithm that the caller asked with."""

    digest: Digest
    size: int
    held_until: datetime | None = None
    """Of a blob found through a repository that holds it but has no manifest that needs it: when
    that right ends."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named place of one project in one region, with its exact numbers."""

    id: UUID
    region: str
    name: str
    project_id: UUID
    organization_id: UUID
    description: str
    is_public: bool
    status: Status
    size: int
    """Sum of the sizes of its images (design of the management API: a layer in two images
    counts twice)."""
    image_count: int
    created_at: datetime
    updated_at: datetime
    immutable_tags: tuple[str, ...] = ()
    """Shell-style patterns; a tag that matches one can be neither moved nor deleted."""
    quota: int | None = None
    """Upper bound of its kept size (see ``Usage``) in bytes, or None."""
    sparse_indexes: bool | None = None
    """Whether its indexes may lack children; None is as ``StoreConfig.sparse_indexes`` says."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a namespace: what OCI calls a repository."""

    id: UUID
    namespace_id: UUID
    name: str
    status: Status
    visibility: Visibility
    size: int
    """Sum of the distinct configs and layers that its manifests need, each once."""
    tags: tuple[str, ...]
    """Its first tag names in byte order: all of them, up to ``TAGS_SHOWN``."""
    tag_count: int
    created_at: datetime
    updated_at: datetime
    pull_count: int = 0
    """GETs of its manifests by digest, some seconds late."""
    pulled_at: datetime | None = None


TAGS_SHOWN: Final = 1000
"""Tag names carried in an Image, so that a listing of images stays bounded."""


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
    """Reads by its name, and GETs by its digest, some seconds late."""
    pulled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a name leads at this moment: a namespace, an image name in it, what is there.

    Handed to every operation on content. Each transaction checks that the namespace and the
    image are still the same; if not, it raises NotFound.
    """

    namespace_id: UUID
    region: str
    project_id: UUID
    namespace: str
    """The namespace's name."""
    is_public: bool
    """Whether the namespace is public: what an image with visibility ``inherit`` follows."""
    name: str
    """The image's name, without the namespace."""
    key: bytes | None
    """The image's key inside the ledger, or None where nothing was ever pushed under the name."""
    image_id: UUID | None
    """None until the first manifest makes the image a listed one."""
    visibility: Visibility
    sparse_indexes: bool | None = None
    """As the namespace's."""

    @property
    def full_name(self) -> str:
        """``namespace/image`` as the OCI distribution-spec's ``<name>``."""
        return f"{self.namespace}/{self.name}"

    @property
    def public(self) -> bool:
        """Whether anyone may pull from it: the image's own word, or its namespace's."""
        if self.visibility == "inherit":
            return self.is_public
        return self.visibility == "public"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session: ``offset`` bytes are kept; the next append goes there."""

    id: UUID
    offset: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload session as a listing of its namespace tells of it."""

    id: UUID
    namespace_id: UUID
    image: str
    """Name of its image, without the namespace."""
    size: int
    """Bytes that are kept of it."""
    counted: int
    """Bytes that it counts for in its namespace: a step more than those kept while some come."""
    declared: int | None
    """Bytes that it will have at most, where that was said."""
    created_at: datetime
    touched_at: datetime | None
    """When a byte came last, up to a fifth of ``StoreConfig.upload_idle_seconds`` behind while
    some come; None where none came yet, or that is not known."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index with its bytes exactly as pushed."""

    digest: Digest
    media_type: str
    body: bytes
    tag: str | None = None
    """The tag it was asked for by, if it was."""


@dataclass(frozen=True, slots=True)
class ListedManifest:
    """A manifest as a listing of its image tells of it."""

    digest: Digest
    media_type: str
    artifact_type: str | None
    size: int
    """Of itself, without what it needs."""
    created_at: datetime
    tags: tuple[str, ...]
    """Its first tag names in byte order."""
    more_tags: bool
    """Whether it has more than are shown."""
    subject: Digest | None
    """Of a referrer: what it refers to, which need not be here."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a PUT of a manifest did (OCI distribution-spec, "Pushing Manifests")."""

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
        """Whether this key is one of that project (or of all)."""
        return self.project_id is None or self.project_id == project_id


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What tokens are signed with: 32 bytes, and until when (microseconds since 1970) what they
    signed counts. The key in use has no end."""

    secret: bytes
    until: int = MOMENT_MAX


@dataclass(frozen=True, slots=True)
class Usage:
    """The numbers of one namespace, in bytes, each read in constant time."""

    size: int
    image_count: int
    unique_size: int
    """Its distinct linked blobs, once each."""
    exclusive_size: int
    """Of these, what no other namespace of the whole store links."""
    project_exclusive_size: int
    """Of these, what no other namespace of the same project links."""
    content: int = 0
    """Distinct blobs that it keeps as configs and layers; here and below, each blob once."""
    manifests: int = 0
    """Bodies of manifests that it keeps."""
    held: int = 0
    """What it holds, and no manifest of it needs."""
    uploads: int = 0
    """What came of its open uploads."""
    trash: int = 0
    """What only its images in the trash need, or namespaces of its name in the trash."""

    @property
    def kept_size(self) -> int:
        """What a quota bounds: the sum of ``content``, ``manifests``, ``held``, ``uploads`` and
        ``trash``."""
        return self.content + self.manifests + self.held + self.uploads + self.trash


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a namespace, whatever its own settings say."""

    quota: int | None = None
    """Upper bound of its kept size in bytes, or None."""
    immutable_tags: tuple[str, ...] = ()
    locked: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceLimits:
    """The limits of a namespace's name, and what is in force with its own settings."""

    limits: Limits
    in_force: Limits
    """The smaller quota, and the patterns of both."""


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """What bounds a project."""

    quota: int | None
    """Upper bound of the sum of its namespaces' kept sizes in bytes, or None."""
    defaults: Limits
    """What a new namespace gets whose name has no limits."""
    kept_size: int
    """That sum, open uploads included."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers of the whole store: for its operator, not for tenants."""

    blobs: int
    blob_bytes: int
    """Sum of the blobs' own sizes, each stored once."""
    stored_bytes: int
    """What they take on disk: less where recompressed."""
    namespaces: int
    images: int
    uploads: int
    holds: int
    """Rights to blobs that no manifest needs yet, or any more."""
    garbage: int
    """Entries of the garbage queue."""
    oldest_garbage: datetime | None
    freed_bytes: int
    """Bytes that sweeping gave back since the store was made."""
    trash: int
    aside: int = 0
    """Entries of the sweep's queues that met a damaged row and wait aside: ``Sweeper.aside``."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """What may go by itself in a namespace; None where the rule does not look at something.

    A tag goes when it matches, is not among the ``keep_last`` newest that match, and has reached
    every age that is named.
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
    """Of manifests without a tag, an index or a subject: days since they were pushed."""


Trashed = Literal["namespace", "image", "tag"]
"""Kinds of what can be brought back."""


@dataclass(frozen=True, slots=True)
class TrashItem:
    """Something deleted that can be brought back until ``purge_at``."""

    kind: Trashed
    id: UUID
    name: str
    region: str
    project_id: UUID
    namespace_id: UUID
    namespace: str
    """Name of the namespace, or of that which it was in."""
    image: str | None
    """Name of the image, or of that which the tag was in."""
    purge_at: datetime


@dataclass(frozen=True, slots=True)
class ReleasedHolds:
    """What a release of holds did."""

    released: int
    size: int
    """Bytes that they were of; a blob that two images held counts twice."""
    kept: int
    """Holds that stay, since deleted tags need them to come back."""
    after: str | None
    """To go on with; None where all was looked at."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing, and how many there are in all."""

    items: Sequence[T]
    total: int
