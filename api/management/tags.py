"""Operations for tags: list, get, delete. A push creates and moves tags."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of, tag_of
from .errors import LockedBody, PreconditionFailedBody
from .operation import SCALEWAY, Call, Nothing, operation
from .paging import Order, PageNumber, PageSize
from .views import TagAnswer, TagsAnswer, convert

_ONE: Final = SCALEWAY + "/tags/{tag_id}"


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


@operation("GET", SCALEWAY + "/images/{image_id}/tags", "List the tags of an image")
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


@operation("GET", _ONE, "Get a tag")
async def get_tag(call: Call[Nothing, Nothing]) -> TagAnswer:
    """Return a tag with the digest it points to."""
    return convert(await tag_of(call, "read"), TagAnswer)


@operation("DELETE", _ONE, "Delete a tag", writes=True, errors=(LockedBody, PreconditionFailedBody))
async def delete_tag(call: Call[DeleteTag, Nothing]) -> TagAnswer:
    """Delete a tag, and its manifest if nothing else refers to that."""
    tag = await tag_of(call, "delete")
    return convert(await call.store.tags.delete(tag.id), TagAnswer)


OPERATIONS: Final = (list_tags, get_tag, delete_tag)
