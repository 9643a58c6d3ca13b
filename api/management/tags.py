"""Operations for tags: list, get, delete. A push creates and moves tags."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of, tag_of
from .errors import LockedBody, PreconditionFailedBody
from .operation import SCALEWAY, Call, Nothing, Operation
from .paging import Order, PageNumber, PageSize
from .views import TagAnswer, TagsAnswer, convert


class ListTags(msgspec.Struct, kw_only=True):
    """Filters are combined with AND."""

    page: PageNumber = 1
    page_size: PageSize = 20
    order_by: Order = "created_at_asc"
    name: Annotated[str, Meta(description="Exact name")] | None = None


class DeleteTag(msgspec.Struct, kw_only=True):
    """Parameters that Scaleway's clients send; none has an effect."""

    force: Annotated[
        bool,
        Meta(description="Ignored: a sibling tag of the same digest always stays"),
    ] = False


async def list_tags(call: Call[ListTags, Nothing]) -> TagsAnswer:
    """Return a page of the tags of an image."""
    image = await image_of(call, "read")
    query = call.query
    page = await call.store.tags.list(
        image.id,
        order=query.order_by,
        page=query.page,
        page_size=query.page_size,
        name=query.name,
    )
    return TagsAnswer([convert(item, TagAnswer) for item in page.items], page.total)


async def get_tag(call: Call[Nothing, Nothing]) -> TagAnswer:
    """Return a tag with the digest it points to."""
    return convert(await tag_of(call, "read"), TagAnswer)


async def delete_tag(call: Call[DeleteTag, Nothing]) -> TagAnswer:
    """Delete a tag, and its manifest if nothing else refers to that."""
    tag = await tag_of(call, "delete")
    return convert(await call.store.tags.delete(tag.id), TagAnswer)


_ONE: Final = SCALEWAY + "/tags/{tag_id}"

OPERATIONS: Final = (
    Operation(
        id="ListTags",
        method="GET",
        path=SCALEWAY + "/images/{image_id}/tags",
        summary="List the tags of an image",
        handler=list_tags,
        answer=TagsAnswer,
        query=ListTags,
    ),
    Operation(
        id="GetTag",
        method="GET",
        path=_ONE,
        summary="Get a tag",
        handler=get_tag,
        answer=TagAnswer,
    ),
    Operation(
        id="DeleteTag",
        method="DELETE",
        path=_ONE,
        summary="Delete a tag",
        handler=delete_tag,
        answer=TagAnswer,
        query=DeleteTag,
        writes=True,
        errors=(LockedBody, PreconditionFailedBody),
    ),
)
