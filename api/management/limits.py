"""Limits of namespaces and projects: set by keys of all projects, beside a namespace's settings."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from holdfast import engine

from .auth import namespace_of
from .errors import denied
from .operation import BEYOND, BEYOND_REGION, Call, Nothing, Operation
from .settings import Pattern
from .views import (
    NamespaceLimitsAnswer,
    ProjectLimitsAnswer,
    namespace_limits_answer,
    project_limits_answer,
)

Quota = (
    Annotated[int, Meta(ge=0, le=2**62 - 1, description="Bytes; null for none")] | UnsetType | None
)
Patterns = (
    Annotated[list[Pattern], Meta(max_length=32, description="Replaces the patterns there were")]
    | None
)


class UpdateLimits(msgspec.Struct, kw_only=True):
    """Absent fields stay as they are."""

    quota: Quota = UNSET
    immutable_tags: Patterns = None
    locked: bool | None = None


class UpdateProjectLimits(msgspec.Struct, kw_only=True):
    """Absent fields stay as they are."""

    quota: Quota = UNSET
    defaults: Annotated[
        UpdateLimits, Meta(description="For new namespaces whose name has no limits")
    ] = msgspec.field(default_factory=UpdateLimits)


def _quota(given: int | UnsetType | None) -> int | engine.Unset | None:
    return engine.UNSET if isinstance(given, UnsetType) else given


def _patterns(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


async def get_limits(call: Call[Nothing, Nothing]) -> NamespaceLimitsAnswer:
    """The limits of a namespace's name, and what is in force with its own settings."""
    namespace = await namespace_of(call, "read")
    return namespace_limits_answer(namespace.id, await call.store.limits.namespace(namespace.id))


async def update_limits(call: Call[Nothing, UpdateLimits]) -> NamespaceLimitsAnswer:
    """The limits as they are now. Another namespace that is made under the name has them too."""
    namespace = await namespace_of(call, "write")
    changed = await call.store.limits.update_namespace(
        namespace.id,
        quota=_quota(call.body.quota),
        immutable_tags=_patterns(call.body.immutable_tags),
        locked=call.body.locked,
    )
    return namespace_limits_answer(namespace.id, changed)


async def get_project_limits(call: Call[Nothing, Nothing]) -> ProjectLimitsAnswer:
    """The limits of a project, and what its namespaces keep."""
    project_id = call.ids["project_id"]
    if not call.key.covers(project_id):
        raise denied("project", "read")
    return project_limits_answer(project_id, await call.store.limits.project(project_id))


async def update_project_limits(call: Call[Nothing, UpdateProjectLimits]) -> ProjectLimitsAnswer:
    """The limits as they are now. Defaults change nothing for namespaces that are there."""
    project_id, defaults = call.ids["project_id"], call.body.defaults
    changed = await call.store.limits.update_project(
        project_id,
        quota=_quota(call.body.quota),
        default_quota=_quota(defaults.quota),
        default_immutable_tags=_patterns(defaults.immutable_tags),
        default_locked=defaults.locked,
    )
    return project_limits_answer(project_id, changed)


_NAMESPACE: Final = BEYOND_REGION + "/namespaces/{namespace_id}/limits"
_PROJECT: Final = BEYOND + "/projects/{project_id}/limits"

OPERATIONS: Final = (
    Operation(
        id="GetNamespaceLimits",
        method="GET",
        path=_NAMESPACE,
        summary="Get what bounds a namespace",
        handler=get_limits,
        answer=NamespaceLimitsAnswer,
    ),
    Operation(
        id="UpdateNamespaceLimits",
        method="PATCH",
        path=_NAMESPACE,
        summary="Update the limits of a namespace",
        handler=update_limits,
        answer=NamespaceLimitsAnswer,
        body=UpdateLimits,
        writes=True,
        owner=True,
    ),
    Operation(
        id="GetProjectLimits",
        method="GET",
        path=_PROJECT,
        summary="Get what bounds a project",
        handler=get_project_limits,
        answer=ProjectLimitsAnswer,
    ),
    Operation(
        id="UpdateProjectLimits",
        method="PATCH",
        path=_PROJECT,
        summary="Update the limits of a project",
        handler=update_project_limits,
        answer=ProjectLimitsAnswer,
        body=UpdateProjectLimits,
        writes=True,
        owner=True,
    ),
)
