"""Limits: the quotas, immutable tags and locks that operators set for namespaces and projects.

Tenants change a namespace's own settings through ``namespaces``; ``limit_rows`` combines the two
layers.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from holdfast.engine.core import Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Limits as Row
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.ledger.records import ProjectLimits as ProjectRow
from holdfast.engine.ledger.records import save
from holdfast.engine.model.names import check_patterns
from holdfast.engine.model.values import UNSET, Limits, NamespaceLimits, ProjectLimits, Unset

from . import identity, limit_rows, namespaces, open_uploads


def view(row: Row) -> Limits:
    """Return the public value of a row of limits."""
    return Limits(None if row.quota < 0 else row.quota, row.immutable, row.locked)


def both(row: NamespaceRow) -> NamespaceLimits:
    """Return a namespace's own limits and those in force."""
    in_force = Row(limit_rows.quota(row), limit_rows.immutable(row), limit_rows.locked(row))
    return NamespaceLimits(view(row.limits), view(in_force))


async def of_namespace(txn: Transaction, namespace_id: bytes) -> NamespaceLimits:
    """Return the limits of a namespace. Raises NotFound."""
    return both(await namespaces.require(txn, namespace_id))


async def bind_namespace(
    txn: Transaction, namespace_id: bytes, changes: dict[str, Any], now: int
) -> NamespaceLimits:
    """Change the limits of a namespace's name. Raises NotFound."""
    row = await namespaces.require(txn, namespace_id)
    row = await namespaces.bind(txn, row, msgspec.structs.replace(row.limits, **changes))
    row = msgspec.structs.replace(row, updated=await identity.tick(txn, now))
    await save(txn, layout.NAMESPACE + namespace_id, row)
    return both(row)


async def of_project(txn: Transaction, project: bytes, opened: int) -> ProjectLimits:
    """Return the limits of a project and its kept bytes, plus ``opened`` bytes of open uploads."""
    return await _project(txn, project, await limit_rows.of_project(txn, project), opened)


async def bind_project(
    txn: Transaction,
    project: bytes,
    changes: dict[str, int],
    defaults: dict[str, Any],
    opened: int,
) -> ProjectLimits:
    """Change the limits of a project; ``opened`` as in ``of_project``."""
    row = await limit_rows.of_project(txn, project)
    new = msgspec.structs.replace(row.defaults, **defaults)
    row = msgspec.structs.replace(row, defaults=new, **changes)
    await save(txn, layout.PROJECT_LIMITS + project, row)
    return await _project(txn, project, row, opened)


async def _project(txn: Transaction, project: bytes, row: ProjectRow, opened: int) -> ProjectLimits:
    return ProjectLimits(
        quota=None if row.quota < 0 else row.quota,
        defaults=view(row.defaults),
        kept_size=await txn.counter(layout.counter(layout.PROJECT_KEPT, project)) + opened,
    )


def _changes(
    quota: int | Unset | None, immutable_tags: tuple[str, ...] | None, locked: bool | None
) -> dict[str, Any]:
    """Return the fields of a row to change. Raises Invalid."""
    changes: dict[str, Any] = {}
    if not isinstance(quota, Unset):
        changes["quota"] = namespaces.check_quota(quota)
    if immutable_tags is not None:
        changes["immutable"] = check_patterns(immutable_tags)
    if locked is not None:
        changes["locked"] = locked
    return changes


class Bounds:
    """The limits of a store's namespaces and projects."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def namespace(self, namespace_id: UUID) -> NamespaceLimits:
        """Return the limits of a namespace's name, and those in force. Raises NotFound."""
        return await self._core.ledger.read(of_namespace, namespace_id.bytes)

    async def update_namespace(
        self,
        namespace_id: UUID,
        *,
        quota: int | Unset | None = UNSET,
        immutable_tags: tuple[str, ...] | None = None,
        locked: bool | None = None,
    ) -> NamespaceLimits:
        """Change the given limits of a namespace's name; None removes the quota (bytes).

        The limits outlive the namespace: a new one of that name, in its region and project, has
        them. A quota may be smaller than the kept bytes, which then must not grow. Raises
        NotFound, Invalid (``quota``, ``immutable_tags``).
        """
        changes = _changes(quota, immutable_tags, locked)
        return await self._core.ledger.transact(
            bind_namespace, namespace_id.bytes, changes, self._core.now()
        )

    async def project(self, project_id: UUID) -> ProjectLimits:
        """Return the limits of a project and its kept bytes; every id is that of a project."""
        opened = await self._opened(project_id)
        return await self._core.ledger.read(of_project, project_id.bytes, opened)

    async def _opened(self, project_id: UUID) -> int:
        return await self._core.scratch.read(open_uploads.of_project, project_id.bytes)

    async def update_project(
        self,
        project_id: UUID,
        *,
        quota: int | Unset | None = UNSET,
        default_quota: int | Unset | None = UNSET,
        default_immutable_tags: tuple[str, ...] | None = None,
        default_locked: bool | None = None,
    ) -> ProjectLimits:
        """Change the given limits of a project; the defaults apply only to new namespaces.

        Raises Invalid (``quota``, ``immutable_tags``).
        """
        changes = _changes(quota, None, None)
        defaults = _changes(default_quota, default_immutable_tags, default_locked)
        opened = await self._opened(project_id)
        return await self._core.ledger.transact(
            bind_project, project_id.bytes, changes, defaults, opened
        )
