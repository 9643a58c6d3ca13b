"""The trash: what was deleted and can still be brought back. Beyond Scaleway's API.

A key of one project sees what was deleted in that project, and may bring it back, or
delete it for good.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Trashed, TrashItem

from .errors import AlreadyExistsBody, LockedBody, PreconditionFailedBody, TransientState, not_found
from .operation import BEYOND, Call, Nothing, Operation
from .paging import PageNumber, PageSize
from .views import (
    PurgedAnswer,
    TrashAnswer,
    TrashItemAnswer,
    purged_answer,
    trash_answer,
    trash_item_answer,
)


class ListTrash(msgspec.Struct, kw_only=True):
    """Filters are combined with AND; names are exact."""

    page: PageNumber = 1
    page_size: PageSize = 20
    region: str | None = None
    project_id: UUID | None = None
    kind: Trashed | None = None
    namespace: (
        Annotated[str, Meta(description="Name of the namespace, or of that which it was in")] | None
    ) = None
    image: (
        Annotated[str, Meta(description="Name of the image, or of that which the tag was in")]
        | None
    ) = None
    tag: Annotated[str, Meta(description="Name of the tag")] | None = None


async def list_trash(call: Call[ListTrash, Nothing]) -> TrashAnswer:
    """What can be brought back, what goes next first."""
    query = call.query
    if not call.lists(query.project_id, None):
        return TrashAnswer([], 0)
    page = await call.store.trash.list(
        region=query.region,
        project_id=query.project_id or call.project_id,
        kind=query.kind,
        namespace=query.namespace,
        image=query.image,
        tag=query.tag,
        page=query.page,
        page_size=query.page_size,
    )
    return trash_answer(page)


async def restore(call: Call[Nothing, Nothing]) -> TrashItemAnswer:
    """What is back under its name and its id, with its content: as it lay in the trash."""
    item = await _item_of(call)
    await call.store.trash.restore(item.id)
    return trash_item_answer(item)


async def delete(call: Call[Nothing, Nothing]) -> PurgedAnswer:
    """What cannot be brought back any more, as it lay in the trash: its bytes go now, as far as
    nothing else needs them."""
    item = await _item_of(call)
    finished = await call.store.trash.purge(item.id)
    return purged_answer(item, finished=finished)


async def _item_of(call: Call[Any, Any]) -> TrashItem:
    """The item of the path; a stranger's answers as an absent one."""
    item_id = call.ids["item_id"]
    item = await call.store.trash.get(item_id)
    if not call.key.covers(item.project_id):
        raise not_found("trash", item_id)
    return item


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
    ),
    Operation(
        id="DeleteFromTrash",
        method="DELETE",
        path=_ALL + "/{item_id}",
        summary="Delete something for good before its time",
        handler=delete,
        answer=PurgedAnswer,
        writes=True,
        errors=(LockedBody,),
    ),
    Operation(
        id="RestoreFromTrash",
        method="POST",
        path=_ALL + "/{item_id}/restore",
        summary="Bring a deleted namespace, image or tag back",
        handler=restore,
        answer=TrashItemAnswer,
        writes=True,
        errors=(
            AlreadyExistsBody,
            LockedBody,
            PreconditionFailedBody,
            TransientState,
        ),
    ),
)
