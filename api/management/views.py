"""Response structs of the management API, and their conversion from the engine's values.

The OpenAPI document is generated from the structs. Every field is always present, arrays are
never null, sizes are integers, and times are UTC with six digits and ``Z`` (existing clients parse
no other form).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import (
    Digest,
    Image,
    Namespace,
    NamespaceLimits,
    OpenUpload,
    Permission,
    ProjectLimits,
    Trashed,
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

A = TypeVar("A", bound=msgspec.Struct)


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


Quota = Annotated[
    Annotated[int, Meta(ge=0)] | None,
    Meta(description="Maximum `kept_size` in bytes; null for none"),
]
ImmutableTags = Annotated[
    list[str],
    Meta(description="Shell-style patterns; a matching tag cannot be moved or deleted"),
]
Locked = Annotated[bool, Meta(description="Locked namespaces refuse pushes, updates and deletes")]


class SettingsAnswer(msgspec.Struct, kw_only=True):
    """Settings of a namespace that are not in Scaleway's API."""

    namespace_id: UUID
    immutable_tags: ImmutableTags
    quota: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Maximum `kept_size` of the namespace in bytes; null for none"),
    ]
    locked: Locked
    sparse_indexes: Annotated[
        bool | None,
        Meta(description="True if indexes may have missing manifests; null: server default"),
    ]


class LimitsAnswer(msgspec.Struct, kw_only=True):
    """Limits of a namespace."""

    quota: Quota
    immutable_tags: ImmutableTags
    locked: Locked


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
    quota: Quota
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


def convert(value: object, answer: type[A], **given: object) -> A:
    """Make an answer from the attributes of a value that have the names of its fields.

    ``given`` has the fields that differ. Bounds are not checked: the engine keeps them.
    """
    names = zip(answer.__struct_fields__, answer.__struct_encode_fields__, strict=True)
    found = {field: getattr(value, name) for field, name in names if field not in given}
    return answer(**{field: _plain(item) for field, item in {**found, **given}.items()})


def _plain(value: object) -> object:
    """Return a time or digest as text, a tuple as list, and any other value unchanged."""
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, Digest):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def image_answer(value: Image) -> ImageAnswer:
    """Convert an image; the visibility ``inherit`` is not resolved."""
    return convert(value, ImageAnswer, status_message="")


def settings_answer(value: Namespace) -> SettingsAnswer:
    """Convert the settings of a namespace."""
    return convert(value, SettingsAnswer, namespace_id=value.id, locked=value.status == "locked")


def limits_answer(namespace_id: UUID, value: NamespaceLimits) -> NamespaceLimitsAnswer:
    """Convert the limits of a namespace."""
    in_force = convert(value.in_force, LimitsAnswer)
    return convert(
        value.limits, NamespaceLimitsAnswer, namespace_id=namespace_id, in_force=in_force
    )


def project_limits_answer(project_id: UUID, value: ProjectLimits) -> ProjectLimitsAnswer:
    """Convert the limits of a project."""
    defaults = convert(value.defaults, LimitsAnswer)
    return convert(value, ProjectLimitsAnswer, project_id=project_id, defaults=defaults)


def upload_answer(value: OpenUpload) -> UploadAnswer:
    """Convert an open upload."""
    return convert(
        value,
        UploadAnswer,
        counted_size=value.counted,
        declared_size=value.declared,
        last_byte_at=value.touched_at,
    )
