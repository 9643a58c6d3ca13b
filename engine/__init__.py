"""Holdfast's engine: an embeddable content-addressed blob store with exact usage numbers.

    async with Store.open("data") as store:
        blob = await store.put(b"hello")
        async with store.get(blob.digest) as reader:
            async for chunk in reader: ...

This module exports the whole public API. The attributes of a ``Store`` (``namespaces``,
``images``, ``tags``, ``manifests``, ``uploads`` ...) hold its parts. All errors derive from
``EngineError``; ``StoreConfig`` sets the limits.
"""

from .blobs.sources import BUFFERS_IN_FLIGHT
from .check.check import check_directory
from .check.dump import KINDS as ROW_KINDS
from .check.dump import StoredRow, read_rows
from .ledger.group_commit import GROUP_BOUNDS
from .ledger.interface import Change
from .ledger.slow_reads import READ_OWNER
from .maintenance.dead_letters import SetAside
from .maintenance.recompress import Recompressed
from .maintenance.retention import Expired, Plan
from .maintenance.scrub import Scrubbed, ScrubProgress
from .maintenance.snapshot import Copied
from .maintenance.sweep import Progress
from .model.conditions import ALWAYS, ANY, Condition
from .model.config import (
    DESCRIPTION_CHARS_MAX,
    INLINE_BYTES_CAP,
    MANIFEST_BYTES_MAX,
    NEEDS_MAX,
    StoreConfig,
)
from .model.digest import ALGORITHMS, Digest, is_digest
from .model.documents import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from .model.errors import (
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
from .model.names import (
    check_image_name,
    check_namespace_name,
    check_region,
    check_tag_name,
    split_full_name,
)
from .model.problem import Problem
from .model.values import (
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
from .repositories.reader import BlobReader
from .store import Store
from .tasks.timing import WAITS, Waits, record_wait
from .transfer.docker_registry import FoundRepository, Migrated, import_registry, list_registry
from .transfer.image_import import Transferred
from .transfer.interface import Registry
from .transfer.oci_export import export_layout
from .transfer.oci_layout import import_layout
from .transfer.registry_names import Renames

__all__ = [
    "ALGORITHMS",
    "ALWAYS",
    "ANY",
    "DESCRIPTION_CHARS_MAX",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "GROUP_BOUNDS",
    "ROW_KINDS",
    "INLINE_BYTES_CAP",
    "BUFFERS_IN_FLIGHT",
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
    "READ_OWNER",
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
    "StoredRow",
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
    "read_rows",
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
    "record_wait",
]
