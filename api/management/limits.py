"""Operations for limits of namespaces and projects, which only keys of all projects may change."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta

from .auth import namespace_of
from .errors import denied
from .operation import HOLDFAST, HOLDFAST_REGION, Call, Nothing, operation
from .parameters import change_of
from .settings import Patterns, Quota, patterns_of
from .views import (
    NamespaceLimitsAnswer,
    ProjectLimitsAnswer,
    limits_answer,
    project_limits_answer,
)

_NAMESPACE: Final = HOLDFAST_REGION + "/namespaces/{namespace_id}/limits"
_PROJECT: Final = HOLDFAST + "/projects/{project_id}/limits"


class UpdateLimits(msgspec.Struct, kw_only=True):
    """Absent fields keep their value."""

    quota: Quota = UNSET
    immutable_tags: Patterns = None
    locked: bool | None = None


class UpdateProjectLimits(msgspec.Struct, kw_only=True):
    """Absent fields keep their value."""

    quota: Quota = UNSET
    defaults: Annotated[
        UpdateLimits, Meta(description="Limits of new namespaces whose name has none")
    ] = msgspec.field(default_factory=UpdateLimits)


@operation("GET", _NAMESPACE, "Get the limits of a namespace")
async def get_namespace_limits(call: Call[Nothing, Nothing]) -> NamespaceLimitsAnswer:
    """Return the limits of a namespace's name, and the limits in force with its settings."""
    namespace = await namespace_of(call, "read")
    return limits_answer(namespace.id, await call.store.limits.namespace(namespace.id))


@operation("PATCH", _NAMESPACE, "Update the limits of a namespace", writes=True, owner=True)
async def update_namespace_limits(call: Call[Nothing, UpdateLimits]) -> NamespaceLimitsAnswer:
    """Change the given limits. They stay with the name when the namespace is created again."""
    namespace = await namespace_of(call, "write")
    changed = await call.store.limits.update_namespace(
        namespace.id,
        quota=change_of(call.body.quota),
        immutable_tags=patterns_of(call.body.immutable_tags),
        locked=call.body.locked,
    )
    return limits_answer(namespace.id, changed)


@operation("GET", _PROJECT, "Get the limits of a project")
async def get_project_limits(call: Call[Nothing, Nothing]) -> ProjectLimitsAnswer:
    """Return the limits of a project, and the size that its namespaces keep."""
    project_id = call.ids["project_id"]
    if not call.key.covers(project_id):
        raise denied("project", "read")
    return project_limits_answer(project_id, await call.store.limits.project(project_id))


@operation("PATCH", _PROJECT, "Update the limits of a project", writes=True, owner=True)
async def update_project_limits(call: Call[Nothing, UpdateProjectLimits]) -> ProjectLimitsAnswer:
    """Change the given limits. Defaults do not affect existing namespaces."""
    project_id, defaults = call.ids["project_id"], call.body.defaults
    changed = await call.store.limits.update_project(
        project_id,
        quota=change_of(call.body.quota),
        default_quota=change_of(defaults.quota),
        default_immutable_tags=patterns_of(defaults.immutable_tags),
        default_locked=defaults.locked,
    )
    return project_limits_answer(project_id, changed)


OPERATIONS: Final = (
    get_namespace_limits,
    update_namespace_limits,
    get_project_limits,
    update_project_limits,
)
