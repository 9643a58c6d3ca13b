"""Limit rows: a namespace's own settings combined with the limits of its name and its project.

The tenant may change a namespace's own settings; only the operator sets limits. The limits of a
name are stored under project, region and name, so that they outlive the namespace: a new one of
that name has them. In force are the smaller quota, the patterns of both layers, and either lock.
"""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Limits, Namespace, ProjectLimits, load, save


def quota(row: Namespace) -> int:
    """Return the bytes that the namespace may keep, by both layers; -1 without a quota."""
    given = [each for each in (row.quota, row.limits.quota) if each >= 0]
    return min(given, default=-1)


def immutable(row: Namespace) -> tuple[str, ...]:
    """Return the patterns of immutable tags of both layers, each once."""
    if not row.limits.immutable:
        return row.immutable
    return tuple(dict.fromkeys((*row.limits.immutable, *row.immutable)))


def locked(row: Namespace) -> bool:
    """Return True if an operator locked the namespace, in either layer."""
    return row.locked or row.limits.locked


async def of_name(txn: Transaction, place: bytes) -> Limits | None:
    """Return the limits of a name (``layout.place``), or None if none are set. Raises Corrupt."""
    return await load(txn, Limits, layout.LIMITS + place)


async def of_project(txn: Transaction, project: bytes) -> ProjectLimits:
    """Return the limits of a project. Raises Corrupt."""
    return await load(txn, ProjectLimits, layout.PROJECT_LIMITS + project) or ProjectLimits()


async def save_of_name(txn: Transaction, place: bytes, limits: Limits) -> None:
    """Set the limits of a name. The caller must also write them into its namespace's row."""
    await save(txn, layout.LIMITS + place, limits)


async def of_new(txn: Transaction, place: bytes, project: bytes) -> Limits:
    """Return the limits of a new namespace of that name. Raises Corrupt.

    Those of the name, else the project's defaults, which become the limits of the name.
    """
    found = await of_name(txn, place)
    if found is not None:
        return found
    defaults = (await of_project(txn, project)).defaults
    if defaults != Limits():
        await save_of_name(txn, place, defaults)
    return defaults
