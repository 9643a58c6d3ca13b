"""What open uploads count for in their namespace: as of a moment, from the scratch ledger."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction


@dataclass(slots=True)
class UploadTotals:
    """Uploads on their way to a namespace."""

    uploads: int = 0
    bytes: int = 0
    """What they count for: what came of them, and for sessions a step ahead of that."""
    project_bytes: int = 0
    """The same for all uploads to the namespace's project."""


@dataclass(frozen=True, slots=True)
class OtherUploads:
    """The uploads beside the work of a transaction, as of a moment before it."""

    uploads_max: int
    """Open uploads that a namespace may have."""
    sessions: UploadTotals
    sessionless: UploadTotals
    """Uploads without a session."""


async def session_totals(
    txn: Transaction, namespace_id: bytes, project: bytes = b""
) -> UploadTotals:
    """What the sessions of a namespace are, and count for: from the scratch ledger."""
    return UploadTotals(
        await txn.counter(layout.counter(layout.NAMESPACE_UPLOADS, namespace_id)),
        await txn.counter(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, namespace_id)),
        await txn.counter(layout.counter(layout.PROJECT_UPLOAD_BYTES, project)) if project else 0,
    )


async def of_project(txn: Transaction, project: bytes) -> int:
    """What the sessions of a project count for, in bytes: from the scratch ledger."""
    return await txn.counter(layout.counter(layout.PROJECT_UPLOAD_BYTES, project))
