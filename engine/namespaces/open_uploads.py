"""Open uploads: how many a namespace has, and the bytes that count against its quotas.

The numbers come from the scratch ledger, so they are those of a moment before a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction


@dataclass(slots=True)
class UploadTotals:
    """Totals of open uploads to a namespace."""

    uploads: int = 0
    bytes: int = 0
    """Bytes that count: those received, and for sessions the allowance ahead of them."""
    project_bytes: int = 0
    """Bytes that count of all uploads to the namespace's project."""


@dataclass(frozen=True, slots=True)
class OtherUploads:
    """Open uploads other than that of a transaction, as of a moment before it."""

    uploads_max: int
    """Most open uploads of a namespace."""
    sessions: UploadTotals
    sessionless: UploadTotals
    """Totals of uploads in one request, without a session, in this process."""


async def session_totals(
    txn: Transaction, namespace_id: bytes, project: bytes = b""
) -> UploadTotals:
    """Read the totals of a namespace's upload sessions from the scratch ledger."""
    return UploadTotals(
        await txn.counter(layout.counter(layout.NAMESPACE_UPLOADS, namespace_id)),
        await txn.counter(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, namespace_id)),
        await txn.counter(layout.counter(layout.PROJECT_UPLOAD_BYTES, project)) if project else 0,
    )


async def of_project(txn: Transaction, project: bytes) -> int:
    """Read the bytes that the sessions of a project count for, from the scratch ledger."""
    return await txn.counter(layout.counter(layout.PROJECT_UPLOAD_BYTES, project))
