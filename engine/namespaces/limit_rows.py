"""What bounds a namespace: its own settings, and the limits of its name and of its project.

A namespace's own settings are its tenant's to change. Limits are set by the operator alone; those
of a name are kept under project, region and name, so that they outlive the namespace: one made
anew under that name has them. What is in force is the smaller quota, and the patterns of both.
"""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Limits, Namespace, ProjectLimits, load, save


def quota(row: Namespace) -> int:
    """Bytes that the namespace may keep, by both layers; -1 for any number."""
    given = [each for each in (row.quota, row.limits.quota) if each >= 0]
    return min(given, default=-1)


def immutable(row: Namespace) -> tuple[str, ...]:
    """Patterns of tags that can be neither moved nor deleted, by both layers, each once."""
    if not row.limits.immutable:
        return row.immutable
    return tuple(dict.fromkeys((*row.limits.immutable, *row.immutable)))


def locked(row: Namespace) -> bool:
    """Whether an operator locked the namespace, by either layer."""
    return row.locked or row.limits.locked


async def of_name(txn: Transaction, place: bytes) -> Limits | None:
    """The limits of a name (``layout.place``), or None where none were set. Raises Corrupt."""
    return await load(txn, Limits, layout.LIMITS + place)


async def of_project(txn: Transaction, project: bytes) -> ProjectLimits:
    """The limits of a project. Raises Corrupt."""
    return await load(txn, ProjectLimits, layout.PROJECT_LIMITS + project) or ProjectLimits()


async def save_of_name(txn: Transaction, place: bytes, limits: Limits) -> None:
    """Set the limits of a name. The caller writes them into the row of its namespace too."""
    await save(txn, layout.LIMITS + place, limits)


async def of_new(txn: Transaction, place: bytes, project: bytes) -> Limits:
    """The limits of a namespace that is made under that name: those that the name has, else the
    defaults of its project, which are the name's from now on. Raises Corrupt."""
    found = await of_name(txn, place)
    if found is not None:
        return found
    defaults = (await of_project(txn, project)).defaults
    if defaults != Limits():
        await save_of_name(txn, place, defaults)
    return defaults
