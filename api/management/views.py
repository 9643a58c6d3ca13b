"""What the management API answers: one struct per object, and how the engine's values become it.

The structs are the answers' schemas too: the OpenAPI document is made from them. Every field is
always present, arrays are never null, sizes are integers, times are UTC with six digits and ``Z``
(clients in the wild parse no other form).
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
    """``2026-01-02T03:04:05.000006Z``: always six digits, always UTC."""
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
        str, Meta(description="What `docker push` takes in front of `/image:tag`; no scheme")
    ]
    is_public: bool
    size: Annotated[int, Meta(ge=0, description="Bytes: the sum of the sizes of its images")]
    image_count: Count
    region: str
    created_at: Timestamp
    updated_at: Timestamp


class ImageAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """An image (Scaleway registry API, ``Image``): what OCI calls a repository."""

    id_: UUID
    name: str
    namespace_id: UUID
    status: ObjectStatus
    status_message: str
    visibility: ImageVisibility
    size: Annotated[int, Meta(ge=0, description="Bytes of its distinct configs and layers")]
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
    """The numbers of a namespace, and what its deletion would free."""

    namespace_id: UUID
    size: Bytes
    image_count: Count
    unique_size: Annotated[int, Meta(ge=0, description="Bytes of its distinct blobs, once each")]
    exclusive_size: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes of these that no other namespace links: of the whole store for a "
            "key of all projects, else of the same project",
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
            description="Bytes that it makes the store keep: what a quota bounds, and the sum of "
            "the five parts that follow. Each blob counts once",
        ),
    ]
    content: Annotated[int, Meta(ge=0, description="Configs and layers of its manifests")]
    manifests: Annotated[int, Meta(ge=0, description="Bodies of its manifests")]
    held: Annotated[int, Meta(ge=0, description="What it holds and no manifest of it needs")]
    uploads: Annotated[int, Meta(ge=0, description="What came of its open uploads")]
    trash: Annotated[
        int,
        Meta(
            ge=0,
            description="What only its images in the trash need, or namespaces of its name that "
            "lie there",
        ),
    ]
    would_free: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Bytes that deleting it gives back, counted as exclusive_size is; null "
            "where it was not asked for"
        ),
    ]


WouldFree = Annotated[
    int,
    Meta(
        ge=0,
        description="Bytes that deleting it gives back: on the disk of the whole store for a key "
        "of all projects, else of the blobs themselves, as if there were no other project",
    ),
]


class ImageUsageAnswer(msgspec.Struct, kw_only=True):
    """What an image takes, and what its deletion would free."""

    image_id: UUID
    size: Bytes
    tag_count: Count
    would_free: WouldFree


class TagUsageAnswer(msgspec.Struct, kw_only=True):
    """What the deletion of a tag would free."""

    tag_id: UUID
    would_free: WouldFree


class SettingsAnswer(msgspec.Struct, kw_only=True):
    """What a namespace has beyond Scaleway's fields."""

    namespace_id: UUID
    immutable_tags: Annotated[
        list[str],
        Meta(description="Shell-style patterns: a matching tag is neither moved nor deleted"),
    ]
    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Upper bound of the namespace's `kept_size` in bytes; null for none"),
    ]
    locked: Annotated[
        bool, Meta(description="Locked namespaces refuse pushes, updates and deletes")
    ]
    sparse_indexes: Annotated[
        bool | None,
        Meta(description="Whether indexes may lack manifests; null is as the server has it"),
    ]


class LimitsAnswer(msgspec.Struct, kw_only=True):
    """What bounds a namespace."""

    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Upper bound of `kept_size` in bytes; null for none"),
    ]
    immutable_tags: Annotated[
        list[str],
        Meta(description="Shell-style patterns: a matching tag is neither moved nor deleted"),
    ]
    locked: Annotated[
        bool, Meta(description="Locked namespaces refuse pushes, updates and deletes")
    ]


class NamespaceLimitsAnswer(LimitsAnswer, kw_only=True):
    """The limits of a namespace's name, which outlive the namespace."""

    namespace_id: UUID
    in_force: Annotated[
        LimitsAnswer,
        Meta(description="With its own settings: the smaller quota, and the patterns of both"),
    ]


class ProjectLimitsAnswer(msgspec.Struct, kw_only=True):
    """What bounds a project."""

    project_id: UUID
    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Upper bound of `kept_size` in bytes; null for none"),
    ]
    defaults: Annotated[
        LimitsAnswer, Meta(description="Limits of new namespaces whose name has none yet")
    ]
    kept_size: Annotated[
        int, Meta(ge=0, description="Bytes that its namespaces make the store keep")
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
    """A new key: the only answer that ever carries its secret."""

    secret_key: str


class KeysAnswer(msgspec.Struct):
    """A page of keys, in order of their access keys."""

    keys: list[KeyAnswer]
    total_count: Count


class StatsAnswer(msgspec.Struct, kw_only=True):
    """Numbers of the whole store, for its operator."""

    blobs: Count
    blob_bytes: Annotated[int, Meta(ge=0, description="Bytes of all blobs, once each")]
    stored_bytes: Annotated[int, Meta(ge=0, description="Bytes on disk")]
    namespaces: Count
    images: Count
    uploads: Annotated[int, Meta(ge=0, description="Open upload sessions")]
    garbage: Annotated[int, Meta(ge=0, description="Entries of the garbage queue")]
    oldest_garbage: Timestamp | None
    freed_bytes: Annotated[int, Meta(ge=0, description="Bytes given back since the store was made")]
    trash: Annotated[int, Meta(ge=0, description="Deleted things that can still be brought back")]
    aside: Annotated[
        int, Meta(ge=0, description="Entries of queues that met a damaged row, and wait aside")
    ]


class SweepAnswer(msgspec.Struct, kw_only=True):
    """What one request swept."""

    entries: Annotated[int, Meta(ge=0, description="Holds, sessions, trash and garbage taken")]
    files: Annotated[int, Meta(ge=0, description="Files removed")]
    freed_bytes: Annotated[int, Meta(ge=0, description="Bytes given back")]
    finished: Annotated[bool, Meta(description="Whether nothing is due any more; else ask again")]


class ScrubAnswer(msgspec.Struct, kw_only=True):
    """What one request read again."""

    blobs: Count
    bytes: Annotated[int, Meta(ge=0, description="Bytes as they lie on disk")]
    damaged: Annotated[
        list[str], Meta(description="Digests that are in quarantine since now, at most 1000")
    ]
    damaged_count: Count
    finished: Annotated[bool, Meta(description="Whether every blob was read since `origin`")]
    paused: Annotated[bool, Meta(description="Whether there is more to do: ask again")]
    origin: Annotated[
        str, Meta(description="Where the walk began: the sha256 before it, or nothing")
    ]


class ProblemAnswer(msgspec.Struct, kw_only=True):
    """One thing that is wrong."""

    kind: str
    name: str
    reason: str


class CheckAnswer(msgspec.Struct, kw_only=True):
    """What a check found."""

    problems: Annotated[list[ProblemAnswer], Meta(description="At most 1000")]
    problem_count: Count


class ManifestAnswer(msgspec.Struct, kw_only=True):
    """A manifest or index of an image."""

    digest: str
    media_type: str
    artifact_type: str | None
    size: Annotated[int, Meta(ge=0, description="Bytes of itself, without what it needs")]
    created_at: Timestamp
    tags: Annotated[list[str], Meta(description="Its first tags in byte order, at most 100")]
    more_tags: Annotated[bool, Meta(description="Whether it has more of them")]
    subject: Annotated[
        str | None,
        Meta(description="Digest that a referrer refers to, which need not be here"),
    ]


class ManifestsAnswer(msgspec.Struct):
    """Manifests of an image, in order of their digests."""

    manifests: list[ManifestAnswer]
    after: Annotated[str | None, Meta(description="To go on with; null where nothing is left")]


class UploadAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """An open upload."""

    id_: UUID
    namespace_id: UUID
    image: Annotated[str, Meta(description="Name of the image, without the namespace")]
    size: Annotated[int, Meta(ge=0, description="Bytes that are kept of it")]
    counted_size: Annotated[
        int,
        Meta(
            ge=0, description="Bytes that it counts for in the quota: a step more while some come"
        ),
    ]
    declared_size: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Bytes that it will have at most; null where that was not said"),
    ]
    created_at: Timestamp
    last_byte_at: Annotated[
        Timestamp | None,
        Meta(description="Up to a minute behind while bytes come; null before the first one"),
    ]
    expires_at: Timestamp


class UploadsAnswer(msgspec.Struct):
    """Open uploads of a namespace, in order of their ids."""

    uploads: list[UploadAnswer]
    total_count: Count
    after: Annotated[UUID | None, Meta(description="To go on with; null where nothing is left")]


class TrashItemAnswer(msgspec.Struct, kw_only=True, rename={"id_": "id"}):
    """Something deleted that can be brought back until ``purge_at``."""

    id_: UUID
    kind: Trashed
    name: str
    region: str
    project_id: UUID
    namespace_id: UUID
    namespace: Annotated[str, Meta(description="Name of the namespace, or of that which it was in")]
    image: Annotated[
        str | None,
        Meta(description="Name of the image, or of that which the tag was in"),
    ]
    purge_at: Timestamp


class PurgedAnswer(TrashItemAnswer, kw_only=True, rename={"id_": "id"}):
    """Something that was taken out of the trash for good."""

    finished: Annotated[
        bool, Meta(description="Whether all its content is given up; else the server goes on")
    ]


class ReleasedAnswer(msgspec.Struct, kw_only=True):
    """What a release of holds gave back."""

    released: Annotated[int, Meta(ge=0, description="Holds that ended")]
    released_size: Annotated[
        int, Meta(ge=0, description="Bytes that they were of; twice where two images held a blob")
    ]
    kept: Annotated[
        int, Meta(ge=0, description="Holds that stay: deleted tags need them to come back")
    ]
    after: Annotated[str | None, Meta(description="To go on with; null where nothing is left")]


class TrashAnswer(msgspec.Struct):
    """A page of what can be brought back, what goes next first."""

    items: list[TrashItemAnswer]
    total_count: Count


class Rule(msgspec.Struct, kw_only=True):
    """What may go by itself; null where the rule does not look at something."""

    images: Annotated[list[Pattern], Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    tags: Annotated[list[Pattern], Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    keep_last: (
        Annotated[
            int, Meta(ge=0, le=1_000_000, description="The newest tags that match always stay")
        ]
        | None
    ) = None
    older_than_days: Annotated[Days, Meta(description="Since the last push of the tag")] | None = (
        None
    )
    not_pulled_for_days: (
        Annotated[Days, Meta(description="Since the last pull or push of the tag")] | None
    ) = None
    untagged_older_than_days: (
        Annotated[
            Days, Meta(description="Of manifests that no tag, index or subject keeps: since pushed")
        ]
        | None
    ) = None


class RulesAnswer(msgspec.Struct, kw_only=True):
    """The rules of a namespace."""

    namespace_id: UUID
    rules: list[Rule]


class ExpiredAnswer(msgspec.Struct, kw_only=True):
    """A tag that goes, or (``tag`` is null) a manifest without one."""

    image_id: UUID
    image: str
    tag_id: UUID | None
    tag: str | None
    digest: str
    belongs_to: Annotated[
        str | None,
        Meta(
            description="Of a signature, an SBOM or an attestation: digest of the manifest that it "
            "goes with, by the name of its tag or by the subject that it names"
        ),
    ]
    artifact_type: str | None
    orphan: Annotated[
        bool,
        Meta(description="Its tag names a manifest that is not here, so it ages as any tag does"),
    ]


class PlanAnswer(msgspec.Struct, kw_only=True):
    """What the rules remove, exactly."""

    namespace_id: UUID
    expired: list[ExpiredAnswer]
    freed_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that it gives back when holds and trash are over: on the disk of "
            "the whole store for a key of all projects, else of the blobs themselves, as if there "
            "were no other project",
        ),
    ]
    complete: Annotated[
        bool,
        Meta(description="Whether that is all; one answer holds 10,000, and the next run goes on"),
    ] = True


def namespace_answer(value: Namespace, endpoint: str) -> NamespaceAnswer:
    """``endpoint`` is the host (and port) of the namespace's region, without a scheme."""
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
    """The engine's image in Scaleway's form; ``inherit`` is answered as it is."""
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
    """The engine's tag in Scaleway's form."""
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
    """A page of images with the number of all."""
    return ImagesAnswer([image_answer(item) for item in page.items], page.total)


def tags_answer(page: Page[Tag]) -> TagsAnswer:
    """A page of tags with the number of all."""
    return TagsAnswer([tag_answer(item) for item in page.items], page.total)


def namespace_usage_answer(
    namespace_id: UUID, value: Usage, *, whole_store: bool, would_free: int | None
) -> NamespaceUsageAnswer:
    """``whole_store`` is for keys of all projects only: it tells what strangers store."""
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
    """Limits of one layer, or those in force."""
    return LimitsAnswer(
        quota=value.quota, immutable_tags=list(value.immutable_tags), locked=value.locked
    )


def namespace_limits_answer(namespace_id: UUID, value: NamespaceLimits) -> NamespaceLimitsAnswer:
    """What bounds a namespace."""
    return NamespaceLimitsAnswer(
        namespace_id=namespace_id,
        quota=value.limits.quota,
        immutable_tags=list(value.limits.immutable_tags),
        locked=value.limits.locked,
        in_force=limits_answer(value.in_force),
    )


def project_limits_answer(project_id: UUID, value: ProjectLimits) -> ProjectLimitsAnswer:
    """What bounds a project."""
    return ProjectLimitsAnswer(
        project_id=project_id,
        quota=value.quota,
        defaults=limits_answer(value.defaults),
        kept_size=value.kept_size,
    )


def settings_answer(value: Namespace) -> SettingsAnswer:
    """The settings of a namespace."""
    return SettingsAnswer(
        namespace_id=value.id,
        immutable_tags=list(value.immutable_tags),
        quota=value.quota,
        locked=value.status == "locked",
        sparse_indexes=value.sparse_indexes,
    )


def key_answer(value: Key) -> KeyAnswer:
    """A key for listings."""
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
    """The answer to the creation of a key."""
    return NewKeyAnswer(secret_key=secret, **msgspec.structs.asdict(key_answer(value)))


def stats_answer(value: Stats) -> StatsAnswer:
    """The numbers of the store."""
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
    """What was swept."""
    return SweepAnswer(
        entries=value.entries,
        files=value.files,
        freed_bytes=value.freed_bytes,
        finished=value.finished,
    )


def scrub_answer(value: Scrubbed) -> ScrubAnswer:
    """What was read again."""
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
    """One thing that is wrong."""
    return ProblemAnswer(kind=value.kind, name=value.name, reason=value.reason)


def manifest_answer(value: ListedManifest) -> ManifestAnswer:
    """A manifest of an image."""
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
    """An open upload."""
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
    """Something that can be brought back."""
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
    """Something that was taken out of the trash for good."""
    item = trash_item_answer(value)
    return PurgedAnswer(finished=finished, **msgspec.structs.asdict(item))


def released_answer(value: ReleasedHolds) -> ReleasedAnswer:
    """What a release of holds gave back."""
    return ReleasedAnswer(
        released=value.released,
        released_size=value.size,
        kept=value.kept,
        after=value.after,
    )


def trash_answer(page: Page[TrashItem]) -> TrashAnswer:
    """A page of the trash."""
    return TrashAnswer([trash_item_answer(item) for item in page.items], page.total)
