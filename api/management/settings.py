"""Operations for settings of a namespace that Scaleway does not have.

They are immutable tags, quota, lock and sparse indexes.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .auth import namespace_of
from .errors import LockedBody, denied
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .parameters import change_of
from .views import SettingsAnswer, settings_answer

_PATH: Final = HOLDFAST_REGION + "/namespaces/{namespace_id}/settings"

Pattern = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._*?-]+$")]


Patterns = (
    Annotated[list[Pattern], Meta(max_length=32, description="Replaces the current patterns")]
    | None
)
Quota = (
    Annotated[int, Meta(ge=0, le=2**62 - 1, description="Quota in bytes; null removes it")]
    | UnsetType
    | None
)


class UpdateSettings(msgspec.Struct, kw_only=True):
    """Absent fields keep their value."""

    immutable_tags: Patterns = None
    quota: Quota = UNSET
    locked: Annotated[bool, Meta(description="Needs a key of all projects")] | None = None
    sparse_indexes: (
        Annotated[
            bool, Meta(description="Accept indexes with missing manifests; null: server default")
        ]
        | UnsetType
        | None
    ) = UNSET


def patterns_of(given: list[str] | None) -> tuple[str, ...] | None:
    """Return patterns as the engine takes them; None keeps the current ones."""
    return None if given is None else tuple(given)


@operation("GET", _PATH, "Get the settings of a namespace")
async def get_namespace_settings(call: Call[Nothing, Nothing]) -> SettingsAnswer:
    """Return the settings of a namespace."""
    return settings_answer(await namespace_of(call, "read"))


@operation("PATCH", _PATH, "Update the settings of a namespace", writes=True, errors=(LockedBody,))
async def update_namespace_settings(call: Call[Nothing, UpdateSettings]) -> SettingsAnswer:
    """Change the given settings. Only a key of all projects may lock or unlock."""
    namespace = await namespace_of(call, "write")
    body = call.body
    if body.locked is not None and call.project_id is not None:
        raise denied("namespace", "lock")
    changed = await call.store.namespaces.update(
        namespace.id,
        immutable_tags=patterns_of(body.immutable_tags),
        quota=change_of(body.quota),
        locked=body.locked,
        sparse_indexes=change_of(body.sparse_indexes),
    )
    return settings_answer(changed)


OPERATIONS: Final = (get_namespace_settings, update_namespace_settings)
