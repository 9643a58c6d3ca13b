"""Operations for the trash, deleted objects that can be restored; not in Scaleway's API.

A key of one project sees the deleted objects of that project, and may restore them or delete them
for good.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Trashed, TrashItem

from .errors import AlreadyExistsBody, LockedBody, PreconditionFailedBody, TransientState, not_found
from .operation import HOLDFAST, Call, Nothing, operation
from .paging import PageNumber, PageSize
from .views import PurgedAnswer, TrashAnswer, TrashItemAnswer, convert

_ALL: Final = HOLDFAST + "/trash"


class ListTrash(msgspec.Struct, kw_only=True):
    """Filters are combined with AND; names are exact."""

    page: PageNumber = 1
    page_size: PageSize = 20
    region: str | None = None
    project_id: UUID | None = None
    kind: Trashed | None = None
    namespace: (
        Annotated[
            str, Meta(description="Name of the deleted namespace, or of the object's namespace")
        ]
        | None
    ) = None
    image: (
        Annotated[str, Meta(description="Name of the deleted image, or of the tag's image")] | None
    ) = None
    tag: Annotated[str, Meta(description="Name of the deleted tag")] | None = None


@operation("GET", _ALL, "List deleted objects that can be restored")
async def list_trash(call: Call[ListTrash, Nothing]) -> TrashAnswer:
    """Return a page of deleted objects; the next one to be purged comes first."""
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
    return TrashAnswer([convert(item, TrashItemAnswer) for item in page.items], page.total)


@operation(
    "POST",
    _ALL + "/{item_id}/restore",
    "Restore a deleted namespace, image or tag",
    writes=True,
    errors=(
        AlreadyExistsBody,
        LockedBody,
        PreconditionFailedBody,
        TransientState,
    ),
)
async def restore_from_trash(call: Call[Nothing, Nothing]) -> TrashItemAnswer:
    """Restore a deleted object under its name and id, with its content."""
    item = await _item_of(call)
    await call.store.trash.restore(item.id)
    return convert(item, TrashItemAnswer)


@operation(
    "DELETE",
    _ALL + "/{item_id}",
    "Delete an object from the trash, for good",
    writes=True,
    errors=(LockedBody,),
)
async def delete_from_trash(call: Call[Nothing, Nothing]) -> PurgedAnswer:
    """Delete an object from the trash, for good.

    Its space is freed now, except for content that other objects need.
    """
    item = await _item_of(call)
    finished = await call.store.trash.purge(item.id)
    return convert(item, PurgedAnswer, finished=finished)


async def _item_of(call: Call[Any, Any]) -> TrashItem:
    """Return the item of the path. Raises 404 also for an item of another project."""
    item_id = call.ids["item_id"]
    item = await call.store.trash.get(item_id)
    if not call.key.covers(item.project_id):
        raise not_found("trash", item_id)
    return item


OPERATIONS: Final = (list_trash, delete_from_trash, restore_from_trash)
