"""Holdfast's engine: a content-addressed blob store with exact accounts, for embedding.

    async with Store.open("data") as store:
        blob = await store.put(b"hello")
        async with store.get(blob.digest) as reader:
            async for chunk in reader: ...

Everything public is here. A ``Store`` gives namespaces, images, tags, manifests and uploads by
the attributes of those names; errors are a tree under ``EngineError``; limits are a
``StoreConfig``.
"""

from .aside import SetAside
from .check import check_directory
from .conditions import ALWAYS, ANY, Condition
from .config import (
    DESCRIPTION_CHARS_MAX,
    INLINE_BYTES_CAP,
    MANIFEST_BYTES_MAX,
    NEEDS_MAX,
    StoreConfig,
)
from .digest import ALGORITHMS, Digest, is_digest
from .documents import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from .errors import (
    AlreadyExists,
    Busy,
    Closed,
    Conflict,
    Corrupt,
    DescriptorMismatch,
    DigestMismatch,
    EngineError,
    Immutable,
    InUse,
    Invalid,
    InvalidDigest,
    InvalidManifest,
    Locked,
    MissingContent,
    NotAStore,
    NotFound,
    OffsetMismatch,
    PreconditionFailed,
    QuotaExceeded,
    SizeMismatch,
    StorageFailed,
    StorageFull,
    TooLarge,
    Unusable,
    Unverified,
)
from .group_commit import GROUP_BOUNDS
from .image_import import Transferred
from .ledger import Change
from .models import (
    TAGS_SHOWN,
    UNSET,
    Blob,
    Image,
    Key,
    Limits,
    ListedManifest,
    Manifest,
    Namespace,
    NamespaceLimits,
    OpenUpload,
    Order,
    Page,
    Permission,
    ProjectLimits,
    Pushed,
    Referrer,
    ReleasedHolds,
    Repository,
    RetentionRule,
    SigningKey,
    Stats,
    Status,
    Tag,
    Trashed,
    TrashItem,
    Unset,
    Upload,
    Usage,
    Visibility,
)
from .names import (
    check_image_name,
    check_namespace_name,
    check_region,
    check_tag_name,
    split_full_name,
)
from .oci_export import export_layout
from .oci_layout import import_layout
from .problem import Problem
from .reading import BlobReader
from .recompress import Recompressed
from .registry import Registry
from .registry_import import FoundRepository, Migrated, import_registry, list_registry
from .registry_names import Renames
from .retention import Expired, Plan
from .scrub import Scrubbed, ScrubProgress
from .slow_reads import PARTY
from .snapshot import Copied
from .sources import LENT
from .store import Store
from .sweep import Progress
from .waits import WAITS, Waits, tell_wait

__all__ = [
    "ALGORITHMS",
    "ALWAYS",
    "ANY",
    "DESCRIPTION_CHARS_MAX",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "GROUP_BOUNDS",
    "INLINE_BYTES_CAP",
    "LENT",
    "ListedManifest",
    "MANIFEST_BYTES_MAX",
    "NEEDS_MAX",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "TAGS_SHOWN",
    "UNSET",
    "AlreadyExists",
    "Blob",
    "BlobReader",
    "Change",
    "Busy",
    "Closed",
    "Condition",
    "Conflict",
    "Copied",
    "Corrupt",
    "DescriptorMismatch",
    "Digest",
    "DigestMismatch",
    "EngineError",
    "FoundRepository",
    "Image",
    "Immutable",
    "InUse",
    "Invalid",
    "InvalidDigest",
    "InvalidManifest",
    "Key",
    "Limits",
    "Locked",
    "Manifest",
    "Migrated",
    "MissingContent",
    "Namespace",
    "NamespaceLimits",
    "NotAStore",
    "NotFound",
    "OffsetMismatch",
    "OpenUpload",
    "Order",
    "PARTY",
    "Page",
    "Permission",
    "PreconditionFailed",
    "Problem",
    "Progress",
    "ProjectLimits",
    "Pushed",
    "QuotaExceeded",
    "Recompressed",
    "Referrer",
    "Registry",
    "ReleasedHolds",
    "Renames",
    "Repository",
    "RetentionRule",
    "Expired",
    "Plan",
    "Scrubbed",
    "ScrubProgress",
    "WAITS",
    "SetAside",
    "SigningKey",
    "SizeMismatch",
    "Stats",
    "Status",
    "StorageFailed",
    "StorageFull",
    "Store",
    "StoreConfig",
    "Tag",
    "TooLarge",
    "Transferred",
    "TrashItem",
    "Trashed",
    "Unset",
    "Unusable",
    "Unverified",
    "Upload",
    "Usage",
    "Visibility",
    "Waits",
    "check_directory",
    "check_image_name",
    "check_namespace_name",
    "check_region",
    "check_tag_name",
    "export_layout",
    "import_layout",
    "import_registry",
    "is_digest",
    "list_registry",
    "split_full_name",
    "tell_wait",
]
