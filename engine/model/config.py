"""Every limit and default of a store, in one frozen object, each with its unit and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from .errors import Invalid

INLINE_BYTES_CAP: Final = 60 * 1024
"""No value in the ledger is over 64 KiB; a row of inline content needs a little room around it."""

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""containerd reads no manifest over about 4.4 MB, and the OCI conformance suite pushes 3.92 MB."""

NEEDS_MAX: Final = 4096
"""Distinct references of one manifest: linked in one transaction, at about 20 µs each."""

DESCRIPTION_CHARS_MAX: Final = 1000

RESERVE_BYTES: Final = 256 * 1024 * 1024
RESERVE_SHARE: Final = 20

LEDGER_RESERVE_BYTES: Final = 16 * 1024 * 1024
"""With less room than this for rows (or an eighth of a map that is small, or a quarter of
``disk_reserve_bytes``) nothing is added to the ledger: a delete writes rows before it frees any."""

SET_ASIDE_BYTES: Final = 4 * 1024 * 1024
"""Of that, what the ledger's file has on the disk before it needs it, while a process sweeps: for
deletes where other programs take all the rest. Pages that one transaction frees the next but one
uses again, so it lasts for many."""

HOUR: Final = 3600.0
DAY: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How one process uses a store. Sizes are bytes, times are seconds.

    Raises Invalid when a value is out of its bounds.
    """

    inline_bytes: int = 32 * 1024
    """Blobs up to this size live in the ledger itself; larger ones are files. 0 to 60 KiB."""

    hold_seconds: float = 24 * HOUR
    """How long an image keeps its right to a blob that no manifest of it needs. It must outlive
    the longest push."""

    upload_seconds: float = 24 * HOUR
    """An upload session ends this long after its last use."""

    upload_idle_seconds: float = 300.0
    """A session without a byte for so long gives way where its namespace is at a limit."""

    trash_seconds: float = 24 * HOUR
    """How long deleted tags, images and namespaces can be brought back."""

    uploads_per_namespace_max: int = 1000
    """Open upload sessions of one namespace."""

    blob_bytes_max: int = 1 << 40
    """The largest blob accepted: 1 TiB."""

    manifest_bytes_max: int = MANIFEST_BYTES_MAX

    sparse_indexes: bool = False
    """Accept an index some of whose manifests the image does not have (mirrors want that)."""

    compression: Literal["auto", "never"] = "auto"
    """Whether ``recompress`` may store compressible blobs as framed zstd."""

    map_bytes: int = 1 << 40
    """Address space of the ledger's map: sparse, never resized, so choose it once and large. The
    last of it is left to deletes (``LEDGER_RESERVE_BYTES``)."""

    threads: int = 8
    """Threads for file and hash work of one process."""

    background: bool = True
    """Whether this process sweeps garbage, and recompresses, while the store is open."""

    sweep_entries_per_second: float = 2000.0
    """Upper bound on the background work, so that pushes and pulls do not feel it."""

    disk_reserve_bytes: int | None = None
    """Below this much free space the trash is emptied early and new uploads are refused. Running
    uploads get half of it; the rest stays for the ledger, and of that the last for deletes
    (``LEDGER_RESERVE_BYTES``).
    None: 256 MiB, or a twentieth of a file system where that is less."""

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
