"""The trash: what was deleted and can still be brought back. Beyond Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .management_errors import AlreadyExistsBody, LockedBody
from .management_views import RestoredAnswer, TrashAnswer, trash_answer
from .operation import BEYOND, Call, Nothing, Operation


class ListTrash(msgspec.Struct, kw_only=True):
    """How much of it."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="At most this many items")] = 1000


async def list_trash(call: Call[ListTrash, Nothing]) -> TrashAnswer:
    """What can be brought back, what goes next first."""
    return trash_answer(await call.store.trash.list(limit=call.query.limit))


async def restore(call: Call[Nothing, Nothing]) -> RestoredAnswer:
    """The namespace, image or tag is back under its name and its id, with its content."""
    item_id = call.ids["item_id"]
    await call.store.trash.restore(item_id)
    return RestoredAnswer(item_id)


_ALL: Final = BEYOND + "/trash"

OPERATIONS: Final = (
    Operation(
        id="ListTrash",
        method="GET",
        path=_ALL,
        summary="List what can be brought back",
        handler=list_trash,
        answer=TrashAnswer,
        query=ListTrash,
        owner=True,
    ),
    Operation(
        id="RestoreFromTrash",
        method="POST",
        path=_ALL + "/{item_id}/restore",
        summary="Bring a deleted namespace, image or tag back",
        handler=restore,
        answer=RestoredAnswer,
        writes=True,
        owner=True,
        errors=(AlreadyExistsBody, LockedBody),
    ),
)
