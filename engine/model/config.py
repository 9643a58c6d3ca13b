"""Limits and defaults of a store, in one frozen object, each with its unit and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from .errors import Invalid

INLINE_BYTES_CAP: Final = 60 * 1024
"""Upper bound of ``inline_bytes``: a value in the ledger has at most 64 KiB, and a row of inline
content needs some room besides."""

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""Upper bound of a manifest: containerd reads none over about 4.4 MB, and the OCI conformance
suite pushes one of 3.92 MB."""

NEEDS_MAX: Final = 4096
"""Distinct references of one manifest: linked in one transaction, at about 20 µs each."""

DESCRIPTION_CHARS_MAX: Final = 1000

RESERVE_BYTES: Final = 256 * 1024 * 1024
RESERVE_SHARE: Final = 20

LEDGER_RESERVE_BYTES: Final = 16 * 1024 * 1024
"""Room for rows that is left to deletes, which write rows before they free any.

Below it, or below an eighth of a small map or a quarter of ``disk_reserve_bytes``, transactions
that add rows are refused."""

PREALLOCATED_BYTES: Final = 4 * 1024 * 1024
"""Part of that reserve that the ledger's file has on disk in advance, while a process sweeps.

Deletes use it when other programs have filled the disk. The transaction after next reuses the
pages that one frees, so it lasts for many."""

HOUR: Final = 3600.0
DAY: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Settings of one process for a store. Sizes are in bytes, times in seconds.

    Raises Invalid if a value is out of its bounds.
    """

    inline_bytes: int = 32 * 1024
    """Size up to which a blob is stored in the ledger; larger ones are files. 0 to 60 KiB."""

    hold_seconds: float = 24 * HOUR
    """Time that an image keeps its right to a blob that none of its manifests needs. Must be
    longer than the longest push."""

    upload_seconds: float = 24 * HOUR
    """Time after its last use at which an upload session expires."""

    upload_idle_seconds: float = 300.0
    """Time without a byte after which a session may be ended if its namespace is at a limit."""

    trash_seconds: float = 24 * HOUR
    """Time for which deleted tags, images and namespaces can be restored."""

    uploads_per_namespace_max: int = 1000
    """Open upload sessions of one namespace, at most."""

    blob_bytes_max: int = 1 << 40
    """Size of the largest blob accepted: 1 TiB."""

    manifest_bytes_max: int = MANIFEST_BYTES_MAX
    """Size of the largest manifest accepted."""

    sparse_indexes: bool = False
    """Accept an index if its image lacks some of the manifests (for mirrors)."""

    compression: Literal["auto", "never"] = "never"
    """``auto`` stores compressible blobs as zstd in the background: less disk, slower reads."""

    map_bytes: int = 1 << 40
    """Address space of the ledger's map. The map is sparse and never resized, so choose a large
    value once. Its last part is left to deletes (``LEDGER_RESERVE_BYTES``)."""

    threads: int = 8
    """Threads of this process for file and hash work."""

    background: bool = True
    """True if this process sweeps garbage and recompresses while the store is open."""

    sweep_entries_per_second: float = 2000.0
    """Upper bound of the background work, so that it does not slow pushes and pulls."""

    disk_reserve_bytes: int | None = None
    """Free space below which the sweep empties the trash early and new uploads are refused.

    Running uploads may use half of it. The rest is for the ledger, and its last part for deletes
    (``LEDGER_RESERVE_BYTES``). None: 256 MiB, or a twentieth of a smaller file system."""

    def __post_init__(self) -> None:
        if not 0 <= self.inline_bytes <= INLINE_BYTES_CAP:
            raise Invalid("inline_bytes", f"must be 0 to {INLINE_BYTES_CAP}")
        for name in ("hold_seconds", "upload_seconds", "upload_idle_seconds", "trash_seconds"):
            if not 0 <= getattr(self, name) <= 10 * 365 * 24 * HOUR:
                raise Invalid(name, "must be 0 to ten years")
        if not 1 <= self.threads <= 256:
            raise Invalid("threads", "must be 1 to 256")
        if self.map_bytes < 16 * 1024 * 1024:
            raise Invalid("map_bytes", "must be at least 16 MiB")
        if not 0 < self.manifest_bytes_max <= MANIFEST_BYTES_MAX:
            raise Invalid("manifest_bytes_max", f"must be 1 to {MANIFEST_BYTES_MAX}")
