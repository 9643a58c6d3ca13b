"""Response structs of the management API, and their conversion from the engine's values.

The OpenAPI document is generated from the structs. Every field is always present, arrays are
never null, sizes are integers, and times are UTC with six digits and ``Z`` (existing clients parse
no other form).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import (
    Image,
    Key,
    Limits,
    ListedManifest,
    Namespace,
    NamespaceLimits,
    OpenUpload,
    Page,
    Permission,
    Problem,
    Progress,
    ProjectLimits,
    ReleasedHolds,
    Scrubbed,
    Stats,
    Tag,
    Trashed,
    TrashItem,
    Usage,
)

Timestamp = Annotated[
    str,
    Meta(
        description="RFC 3339 in UTC with six fractional digits",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
        extra_json_schema={"format": "date-time"},
    ),
]
Bytes = Annotated[int, Meta(ge=0, description="Bytes")]
Count = Annotated[int, Meta(ge=0)]
Pattern = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._*?/-]+$")]
Days = Annotated[int, Meta(ge=0, le=36_500)]
ObjectStatus = Literal["unknown", "ready", "deleting", "error", "locked"]
ImageVisibility = Literal["visibility_unknown", "inherit", "public", "private"]


def timestamp(value: datetime) -> str:
    """Format a time as ``2026-01-02T03:04:05.000006Z``: always six digits, always UTC."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class NamespaceAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """A namespace (Scaleway registry API, ``Namespace``)."""

    id_: UUID
    name: str
    description: str
    organization_id: UUID
    project_id: UUID
    status: ObjectStatus
    status_message: str
    endpoint: Annotated[
        str, Meta(description="Prefix of `/image:tag` for `docker push`, without a scheme")
    ]
    is_public: bool
    size: Annotated[int, Meta(ge=0, description="Sum of the sizes of its images in bytes")]
    image_count: Count
    region: str
    created_at: Timestamp
    updated_at: Timestamp


class ImageAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """An image (Scaleway registry API, ``Image``), which OCI calls a repository."""

    id_: UUID
    name: str
    namespace_id: UUID
    status: ObjectStatus
    status_message: str
    visibility: ImageVisibility
    size: Annotated[int, Meta(ge=0, description="Bytes of distinct configs and layers")]
    tags: Annotated[list[str], Meta(description="The first 1000 tag names, in byte order")]
    created_at: Timestamp
    updated_at: Timestamp


class TagAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """A tag (Scaleway registry API, ``Tag``)."""

    id_: UUID
    name: str
    image_id: UUID
    status: ObjectStatus
    digest: Annotated[str, Meta(description="Digest of the manifest, `sha256:<hex>`")]
    created_at: Timestamp
    updated_at: Timestamp


class NamespacesAnswer(msgspec.Struct):
    """A page of namespaces."""

    namespaces: list[NamespaceAnswer]
    total_count: Count


class ImagesAnswer(msgspec.Struct):
    """A page of images."""

    images: list[ImageAnswer]
    total_count: Count


class TagsAnswer(msgspec.Struct):
    """A page of tags."""

    tags: list[TagAnswer]
    total_count: Count


class NamespaceUsageAnswer(msgspec.Struct, kw_only=True):
    """The usage of a namespace, and the bytes that deleting it would free."""

    namespace_id: UUID
    size: Bytes
    image_count: Count
    unique_size: Annotated[int, Meta(ge=0, description="Bytes of its distinct blobs")]
    exclusive_size: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes of these blobs that no other namespace links: no namespace of the "
            "store for a key of all projects, else none of the same project",
        ),
    ]
    project_exclusive_size: Annotated[
        int,
        Meta(ge=0, description="Bytes that no other namespace of the same project links"),
    ]
    kept_size: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that the store keeps for the namespace, which a quota limits: the "
            "sum of the next five fields. Each blob counts once",
        ),
    ]
    content: Annotated[int, Meta(ge=0, description="Bytes of configs and layers of its manifests")]
    manifests: Annotated[int, Meta(ge=0, description="Bytes of the manifests themselves")]
    held: Annotated[int, Meta(ge=0, description="Bytes of held blobs that no manifest needs")]
    uploads: Annotated[int, Meta(ge=0, description="Bytes received by open uploads")]
    trash: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that only its images in the trash need, or namespaces of its name "
            "in the trash",
        ),
    ]
    would_free: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Bytes that deleting it frees, with the same scope as `exclusive_size`; "
            "null if not requested"
        ),
    ]


WouldFree = Annotated[
    int,
    Meta(
        ge=0,
        description="Bytes that deleting it frees: bytes on disk for a key of all projects, else "
        "sizes of blobs, as if no other project existed",
    ),
]


class ImageUsageAnswer(msgspec.Struct, kw_only=True):
    """The size of an image, and the bytes that deleting it would free."""

    image_id: UUID
    size: Bytes
    tag_count: Count
    would_free: WouldFree


class TagUsageAnswer(msgspec.Struct, kw_only=True):
    """The bytes that deleting a tag would free."""

    tag_id: UUID
    would_free: WouldFree


class SettingsAnswer(msgspec.Struct, kw_only=True):
    """Settings of a namespace that are not in Scaleway's API."""

    namespace_id: UUID
    immutable_tags: Annotated[
        list[str],
        Meta(description="Shell-style patterns; a matching tag cannot be moved or deleted"),
    ]
    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Maximum `kept_size` of the namespace in bytes; null for none"),
    ]
    locked: Annotated[
        bool, Meta(description="Locked namespaces refuse pushes, updates and deletes")
    ]
    sparse_indexes: Annotated[
        bool | None,
        Meta(description="True if indexes may have missing manifests; null: server default"),
    ]


class LimitsAnswer(msgspec.Struct, kw_only=True):
    """Limits of a namespace."""

    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Maximum `kept_size` in bytes; null for none"),
    ]
    immutable_tags: Annotated[
        list[str],
        Meta(description="Shell-style patterns; a matching tag cannot be moved or deleted"),
    ]
    locked: Annotated[
        bool, Meta(description="Locked namespaces refuse pushes, updates and deletes")
    ]


class NamespaceLimitsAnswer(LimitsAnswer, kw_only=True):
    """The limits of a namespace's name, which outlive the namespace."""

    namespace_id: UUID
    in_force: Annotated[
        LimitsAnswer,
        Meta(description="Combined with its settings: the smaller quota, the patterns of both"),
    ]


class ProjectLimitsAnswer(msgspec.Struct, kw_only=True):
    """Limits of a project."""

    project_id: UUID
    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Maximum `kept_size` in bytes; null for none"),
    ]
    defaults: Annotated[
        LimitsAnswer, Meta(description="Limits of new namespaces whose name has none")
    ]
    kept_size: Annotated[
        int, Meta(ge=0, description="Bytes that the store keeps for its namespaces")
    ]


class KeyAnswer(msgspec.Struct, kw_only=True):
    """A key, without its secret."""

    access_key: str
    project_id: Annotated[UUID | None, Meta(description="null: a key of all projects")]
    default_project_id: UUID
    organization_id: UUID
    permission: Permission
    description: str
    created_at: Timestamp
    expires_at: Timestamp | None


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """A new key with its secret, which no other response has."""

    secret_key: str


class KeysAnswer(msgspec.Struct):
    """A page of keys, in order of their access keys."""

    keys: list[KeyAnswer]
    total_count: Count


class StatsAnswer(msgspec.Struct, kw_only=True):
    """Statistics of the whole store."""

    blobs: Count
    blob_bytes: Annotated[int, Meta(ge=0, description="Bytes of all distinct blobs")]
    stored_bytes: Annotated[int, Meta(ge=0, description="Bytes on disk")]
    namespaces: Count
    images: Count
    uploads: Annotated[int, Meta(ge=0, description="Open upload sessions")]
    garbage: Annotated[int, Meta(ge=0, description="Entries of the garbage queue")]
    oldest_garbage: Timestamp | None
    freed_bytes: Annotated[int, Meta(ge=0, description="Bytes freed since the store was created")]
    trash: Annotated[int, Meta(ge=0, description="Deleted objects that can be restored")]
    aside: Annotated[
        int, Meta(ge=0, description="Queue entries set aside because of a damaged row")
    ]


class SweepAnswer(msgspec.Struct, kw_only=True):
    """The result of one sweep request."""

    entries: Annotated[int, Meta(ge=0, description="Holds, sessions, trash and garbage removed")]
    files: Annotated[int, Meta(ge=0, description="Files removed")]
    freed_bytes: Annotated[int, Meta(ge=0, description="Bytes freed")]
    finished: Annotated[
        bool, Meta(description="True if nothing more is due; else repeat the request")
    ]


class ScrubAnswer(msgspec.Struct, kw_only=True):
    """The result of one scrub request."""

    blobs: Count
    bytes: Annotated[int, Meta(ge=0, description="Bytes read from disk")]
    damaged: Annotated[
        list[str], Meta(description="Digests that were quarantined now, at most 1000")
    ]
    damaged_count: Count
    finished: Annotated[bool, Meta(description="True if every blob has been read since `origin`")]
    paused: Annotated[bool, Meta(description="True if there is more to do: repeat the request")]
    origin: Annotated[
        str, Meta(description="Start of the scrub: the sha256 before its first blob, or empty")
    ]


class ProblemAnswer(msgspec.Struct, kw_only=True):
    """A problem of the store."""

    kind: str
    name: str
    reason: str


class CheckAnswer(msgspec.Struct, kw_only=True):
    """The result of a check."""

    problems: Annotated[list[ProblemAnswer], Meta(description="At most 1000")]
    problem_count: Count


class ManifestAnswer(msgspec.Struct, kw_only=True):
    """A manifest or index of an image."""

    digest: str
    media_type: str
    artifact_type: str | None
    size: Annotated[int, Meta(ge=0, description="Bytes of the manifest itself")]
    created_at: Timestamp
    tags: Annotated[list[str], Meta(description="First tags in byte order, at most 100")]
    more_tags: Annotated[bool, Meta(description="True if it has more tags")]
    subject: Annotated[
        str | None,
        Meta(description="Digest of the subject of a referrer, which need not exist here"),
    ]


class ManifestsAnswer(msgspec.Struct):
    """Manifests of an image, in order of their digests."""

    manifests: list[ManifestAnswer]
    after: Annotated[str | None, Meta(description="Position of the next page; null at the end")]


class UploadAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """An open upload."""

    id_: UUID
    namespace_id: UUID
    image: Annotated[str, Meta(description="Name of the image, without the namespace")]
    size: Annotated[int, Meta(ge=0, description="Bytes stored")]
    counted_size: Annotated[
        int,
        Meta(ge=0, description="Bytes counted in the quota: a step more while bytes arrive"),
    ]
    declared_size: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Maximum final size in bytes; null if the client gave none"),
    ]
    created_at: Timestamp
    last_byte_at: Annotated[
        Timestamp | None,
        Meta(description="Lags up to a minute while bytes arrive; null before the first byte"),
    ]
    expires_at: Timestamp


class UploadsAnswer(msgspec.Struct):
    """Open uploads of a namespace, in order of their ids."""

    uploads: list[UploadAnswer]
    total_count: Count
    after: Annotated[UUID | None, Meta(description="Position of the next page; null at the end")]


class TrashItemAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """A deleted object that can be restored until ``purge_at``."""

    id_: UUID
    kind: Trashed
    name: str
    region: str
    project_id: UUID
    namespace_id: UUID
    namespace: Annotated[
        str, Meta(description="Name of the deleted namespace, or of the object's namespace")
    ]
    image: Annotated[
        str | None,
        Meta(description="Name of the deleted image, or of the tag's image"),
    ]
    purge_at: Timestamp


class PurgedAnswer(TrashItemAnswer, kw_only=True, rename={"id_": "id"}):
    """An object that was deleted from the trash, for good."""

    finished: Annotated[
        bool, Meta(description="True if all its content is released; else the server continues")
    ]


class ReleasedAnswer(msgspec.Struct, kw_only=True):
    """The result of a release of holds."""

    released: Annotated[int, Meta(ge=0, description="Number of released holds")]
    released_size: Annotated[
        int,
        Meta(ge=0, description="Bytes of released blobs; a blob held by two images counts twice"),
    ]
    kept: Annotated[
        int, Meta(ge=0, description="Number of holds kept for the restore of deleted tags")
    ]
    after: Annotated[str | None, Meta(description="Position of the next page; null at the end")]


class TrashAnswer(msgspec.Struct):
    """A page of deleted objects; the next one to be purged comes first."""

    items: list[TrashItemAnswer]
    total_count: Count


class Rule(msgspec.Struct, kw_only=True):
    """Conditions for the removal of tags and manifests; null turns a condition off."""

    images: Annotated[list[Pattern], Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    tags: Annotated[list[Pattern], Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    keep_last: (
        Annotated[
            int, Meta(ge=0, le=1_000_000, description="Number of newest matching tags to keep")
        ]
        | None
    ) = None
    older_than_days: (
        Annotated[Days, Meta(description="Days since the last push of the tag")] | None
    ) = None
    not_pulled_for_days: (
        Annotated[Days, Meta(description="Days since the last pull or push of the tag")] | None
    ) = None
    untagged_older_than_days: (
        Annotated[
            Days,
            Meta(description="Days since the push of a manifest without tag, index or subject"),
        ]
        | None
    ) = None


class RulesAnswer(msgspec.Struct, kw_only=True):
    """The rules of a namespace."""

    namespace_id: UUID
    rules: list[Rule]


class ExpiredAnswer(msgspec.Struct, kw_only=True):
    """A tag to remove, or an untagged manifest if ``tag`` is null."""

    image_id: UUID
    image: str
    tag_id: UUID | None
    tag: str | None
    digest: str
    belongs_to: Annotated[
        str | None,
        Meta(
            description="For a signature, an SBOM or an attestation: digest of the manifest that "
            "it is removed with, by the name of its tag or by its subject"
        ),
    ]
    artifact_type: str | None
    orphan: Annotated[
        bool,
        Meta(description="The tag names an absent manifest, so it expires like any other tag"),
    ]


class PlanAnswer(msgspec.Struct, kw_only=True):
    """The exact result of the rules."""

    namespace_id: UUID
    expired: list[ExpiredAnswer]
    freed_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that the removal frees after holds and trash have expired: bytes on "
            "disk for a key of all projects, else sizes of blobs, as if no other project existed",
        ),
    ]
    complete: Annotated[
        bool,
        Meta(description="False if there is more: a run stops at 10,000, and the next continues"),
    ] = True


def namespace_answer(value: Namespace, endpoint: str) -> NamespaceAnswer:
    """Convert a namespace; ``endpoint`` is its region's host and port, without a scheme."""
    return NamespaceAnswer(
        id_=value.id,
        name=value.name,
        description=value.description,
        organization_id=value.organization_id,
        project_id=value.project_id,
        status=value.status,
        status_message="",
        endpoint=f"{endpoint}/{value.name}",
        is_public=value.is_public,
        size=value.size,
        image_count=value.image_count,
        region=value.region,
        created_at=timestamp(value.created_at),
        updated_at=timestamp(value.updated_at),
    )


def image_answer(value: Image) -> ImageAnswer:
    """Convert an image; the visibility ``inherit`` is not resolved."""
    return ImageAnswer(
        id_=value.id,
        name=value.name,
        namespace_id=value.namespace_id,
        status=value.status,
        status_message="",
        visibility=value.visibility,
        size=value.size,
        tags=list(value.tags),
        created_at=timestamp(value.created_at),
        updated_at=timestamp(value.updated_at),
    )


def tag_answer(value: Tag) -> TagAnswer:
    """Convert a tag."""
    return TagAnswer(
        id_=value.id,
        name=value.name,
        image_id=value.image_id,
        status=value.status,
        digest=str(value.digest),
        created_at=timestamp(value.created_at),
        updated_at=timestamp(value.updated_at),
    )


def images_answer(page: Page[Image]) -> ImagesAnswer:
    """Convert a page of images, with the total number."""
    return ImagesAnswer([image_answer(item) for item in page.items], page.total)


def tags_answer(page: Page[Tag]) -> TagsAnswer:
    """Convert a page of tags, with the total number."""
    return TagsAnswer([tag_answer(item) for item in page.items], page.total)


def namespace_usage_answer(
    namespace_id: UUID, value: Usage, *, whole_store: bool, would_free: int | None
) -> NamespaceUsageAnswer:
    """Convert a usage; ``whole_store`` reveals other projects: for keys of all projects only."""
    return NamespaceUsageAnswer(
        namespace_id=namespace_id,
        size=value.size,
        image_count=value.image_count,
        unique_size=value.unique_size,
        exclusive_size=value.exclusive_size if whole_store else value.project_exclusive_size,
        project_exclusive_size=value.project_exclusive_size,
        kept_size=value.kept_size,
        content=value.content,
        manifests=value.manifests,
        held=value.held,
        uploads=value.uploads,
        trash=value.trash,
        would_free=would_free,
    )


def limits_answer(value: Limits) -> LimitsAnswer:
    """Convert limits, of one level or in force."""
    return LimitsAnswer(
        quota=value.quota, immutable_tags=list(value.immutable_tags), locked=value.locked
    )


def namespace_limits_answer(namespace_id: UUID, value: NamespaceLimits) -> NamespaceLimitsAnswer:
    """Convert the limits of a namespace."""
    return NamespaceLimitsAnswer(
        namespace_id=namespace_id,
        quota=value.limits.quota,
        immutable_tags=list(value.limits.immutable_tags),
        locked=value.limits.locked,
        in_force=limits_answer(value.in_force),
    )


def project_limits_answer(project_id: UUID, value: ProjectLimits) -> ProjectLimitsAnswer:
    """Convert the limits of a project."""
    return ProjectLimitsAnswer(
        project_id=project_id,
        quota=value.quota,
        defaults=limits_answer(value.defaults),
        kept_size=value.kept_size,
    )


def settings_answer(value: Namespace) -> SettingsAnswer:
    """Convert the settings of a namespace."""
    return SettingsAnswer(
        namespace_id=value.id,
        immutable_tags=list(value.immutable_tags),
        quota=value.quota,
        locked=value.status == "locked",
        sparse_indexes=value.sparse_indexes,
    )


def key_answer(value: Key) -> KeyAnswer:
    """Convert a key, without its secret."""
    return KeyAnswer(
        access_key=value.access_key,
        project_id=value.project_id,
        default_project_id=value.default_project_id,
        organization_id=value.organization_id,
        permission=value.permission,
        description=value.description,
        created_at=timestamp(value.created_at),
        expires_at=None if value.expires_at is None else timestamp(value.expires_at),
    )


def new_key_answer(value: Key, secret: str) -> NewKeyAnswer:
    """Convert a new key, with its secret."""
    return NewKeyAnswer(secret_key=secret, **msgspec.structs.asdict(key_answer(value)))


def stats_answer(value: Stats) -> StatsAnswer:
    """Convert the statistics of the store."""
    oldest = value.oldest_garbage
    return StatsAnswer(
        blobs=value.blobs,
        blob_bytes=value.blob_bytes,
        stored_bytes=value.stored_bytes,
        namespaces=value.namespaces,
        images=value.images,
        uploads=value.uploads,
        garbage=value.garbage,
        oldest_garbage=None if oldest is None else timestamp(oldest),
        freed_bytes=value.freed_bytes,
        trash=value.trash,
        aside=value.aside,
    )


def sweep_answer(value: Progress) -> SweepAnswer:
    """Convert the result of a sweep."""
    return SweepAnswer(
        entries=value.entries,
        files=value.files,
        freed_bytes=value.freed_bytes,
        finished=value.finished,
    )


def scrub_answer(value: Scrubbed) -> ScrubAnswer:
    """Convert the result of a scrub."""
    return ScrubAnswer(
        blobs=value.blobs,
        bytes=value.bytes,
        damaged=value.damaged,
        damaged_count=value.damaged_count,
        finished=value.finished,
        paused=value.paused,
        origin=value.origin,
    )


def problem_answer(value: Problem) -> ProblemAnswer:
    """Convert a problem."""
    return ProblemAnswer(kind=value.kind, name=value.name, reason=value.reason)


def manifest_answer(value: ListedManifest) -> ManifestAnswer:
    """Convert a manifest."""
    return ManifestAnswer(
        digest=str(value.digest),
        media_type=value.media_type,
        artifact_type=value.artifact_type,
        size=value.size,
        created_at=timestamp(value.created_at),
        tags=list(value.tags),
        more_tags=value.more_tags,
        subject=None if value.subject is None else str(value.subject),
    )


def upload_answer(value: OpenUpload) -> UploadAnswer:
    """Convert an open upload."""
    return UploadAnswer(
        id_=value.id,
        namespace_id=value.namespace_id,
        image=value.image,
        size=value.size,
        counted_size=value.counted,
        declared_size=value.declared,
        created_at=timestamp(value.created_at),
        last_byte_at=None if value.touched_at is None else timestamp(value.touched_at),
        expires_at=timestamp(value.expires_at),
    )


def trash_item_answer(value: TrashItem) -> TrashItemAnswer:
    """Convert an item of the trash."""
    return TrashItemAnswer(
        id_=value.id,
        kind=value.kind,
        name=value.name,
        region=value.region,
        project_id=value.project_id,
        namespace_id=value.namespace_id,
        namespace=value.namespace,
        image=value.image,
        purge_at=timestamp(value.purge_at),
    )


def purged_answer(value: TrashItem, *, finished: bool) -> PurgedAnswer:
    """Convert an item that was deleted from the trash."""
    item = trash_item_answer(value)
    return PurgedAnswer(finished=finished, **msgspec.structs.asdict(item))


def released_answer(value: ReleasedHolds) -> ReleasedAnswer:
    """Convert the result of a release of holds."""
    return ReleasedAnswer(
        released=value.released,
        released_size=value.size,
        kept=value.kept,
        after=value.after,
    )


def trash_answer(page: Page[TrashItem]) -> TrashAnswer:
    """Convert a page of the trash."""
    return TrashAnswer([trash_item_answer(item) for item in page.items], page.total)
