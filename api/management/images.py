"""Operations for images: list, get, update, delete. A push creates images."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Namespace, NotFound

from .auth import image_of
from .errors import LockedBody, PreconditionFailedBody
from .operation import SCALEWAY, Call, Nothing, operation
from .paging import Order, PageNumber, PageSize
from .views import ImageAnswer, ImagesAnswer, ImageVisibility, image_answer

_ALL: Final = SCALEWAY + "/images"
_ONE: Final = _ALL + "/{image_id}"


class ListImages(msgspec.Struct, kw_only=True):
    """Filters are combined with AND."""

    page: PageNumber = 1
    page_size: PageSize = 20
    order_by: Order = "created_at_asc"
    namespace_id: UUID | None = None
    name: Annotated[str, Meta(description="Exact name, without the namespace")] | None = None
    organization_id: UUID | None = None
    project_id: UUID | None = None


class UpdateImage(msgspec.Struct, kw_only=True):
    """With ``visibility_unknown``, null or no field the visibility stays the same."""

    visibility: ImageVisibility | None = None


@operation("GET", _ALL, "List images")
async def list_images(call: Call[ListImages, Nothing]) -> ImagesAnswer:
    """Return a page of the images that the key covers, of one namespace or of all."""
    query = call.query
    project_id = query.project_id or call.project_id
    if not call.lists(query.project_id, query.organization_id):
        return ImagesAnswer([], 0)
    if query.namespace_id is not None:
        namespace = await _find(call, query.namespace_id)
        if namespace is None or project_id not in (None, namespace.project_id):
            return ImagesAnswer([], 0)
    page = await call.store.images.list(
        call.region,
        order=query.order_by,
        page=query.page,
        page_size=query.page_size,
        project_id=project_id,
        namespace_id=query.namespace_id,
        name=query.name,
    )
    return ImagesAnswer([image_answer(item) for item in page.items], page.total)


async def _find(call: Call[ListImages, Nothing], namespace_id: UUID) -> Namespace | None:
    """Return the namespace of a filter, or None if it is absent or in another region."""
    try:
        namespace = await call.store.namespaces.get(namespace_id)
    except NotFound:
        return None
    return namespace if namespace.region == call.region else None


@operation("GET", _ONE, "Get an image")
async def get_image(call: Call[Nothing, Nothing]) -> ImageAnswer:
    """Return an image with its exact size and its tags."""
    return image_answer(await image_of(call, "read"))


@operation("PATCH", _ONE, "Update an image", writes=True, errors=(LockedBody,))
async def update_image(call: Call[Nothing, UpdateImage]) -> ImageAnswer:
    """Change an image. ``updated_at`` changes even if nothing else does."""
    image = await image_of(call, "write")
    requested = call.body.visibility
    # The Go client always sends the field; its zero value means "not set".
    visibility = None if requested == "visibility_unknown" else requested
    return image_answer(await call.store.images.update(image.id, visibility=visibility))


@operation(
    "DELETE",
    _ONE,
    "Delete an image and its tags",
    writes=True,
    errors=(LockedBody, PreconditionFailedBody),
)
async def delete_image(call: Call[Nothing, Nothing]) -> ImageAnswer:
    """Delete an image with its tags. Its name is free at once."""
    image = await image_of(call, "delete")
    return image_answer(await call.store.images.delete(image.id))


OPERATIONS: Final = (list_images, get_image, update_image, delete_image)
