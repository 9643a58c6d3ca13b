"""Settings of a namespace that Scaleway does not have: immutable tags, quota, lock,
and whether indexes may be sparse."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from holdfast import engine

from .auth import namespace_of
from .errors import LockedBody, denied
from .operation import BEYOND_REGION, Call, Nothing, Operation
from .views import SettingsAnswer, settings_answer

Pattern = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._*?-]+$")]


class UpdateSettings(msgspec.Struct, kw_only=True):
    """Absent fields stay as they are."""

    immutable_tags: (
        Annotated[
            list[Pattern], Meta(max_length=32, description="Replaces the patterns there were")
        ]
        | None
    ) = None
    quota: (
        Annotated[int, Meta(ge=0, le=2**62 - 1, description="Bytes; null for none")]
        | UnsetType
        | None
    ) = UNSET
    locked: Annotated[bool, Meta(description="For keys of all projects only")] | None = None
    sparse_indexes: (
        Annotated[bool, Meta(description="Take an index that lacks manifests; null: as the server")]
        | UnsetType
        | None
    ) = UNSET


async def get_settings(call: Call[Nothing, Nothing]) -> SettingsAnswer:
    """The settings as they are."""
    return settings_answer(await namespace_of(call, "read"))


async def update_settings(call: Call[Nothing, UpdateSettings]) -> SettingsAnswer:
    """The settings as they are now. Only a key of all projects may lock or unlock."""
    namespace = await namespace_of(call, "write")
    body = call.body
    if body.locked is not None and call.project_id is not None:
        raise denied("namespace", "lock")
    changed = await call.store.namespaces.update(
        namespace.id,
        immutable_tags=None if body.immutable_tags is None else tuple(body.immutable_tags),
        quota=engine.UNSET if isinstance(body.quota, UnsetType) else body.quota,
        locked=body.locked,
        sparse_indexes=(
            engine.UNSET if isinstance(body.sparse_indexes, UnsetType) else body.sparse_indexes
        ),
    )
    return settings_answer(changed)


_PATH: Final = BEYOND_REGION + "/namespaces/{namespace_id}/settings"

OPERATIONS: Final = (
    Operation(
        id="GetNamespaceSettings",
        method="GET",
        path=_PATH,
        summary="Get the settings of a namespace",
        handler=get_settings,
        answer=SettingsAnswer,
    ),
    Operation(
        id="UpdateNamespaceSettings",
        method="PATCH",
        path=_PATH,
        summary="Update the settings of a namespace",
        handler=update_settings,
        answer=SettingsAnswer,
        body=UpdateSettings,
        writes=True,
        errors=(LockedBody,),
    ),
)
