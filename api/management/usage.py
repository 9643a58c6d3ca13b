"""Operations for the usage of resources, and the bytes a delete frees; not in Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of, namespace_of, tag_of
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .views import ImageUsageAnswer, NamespaceUsageAnswer, TagUsageAnswer, convert


class NamespaceUsage(msgspec.Struct, kw_only=True):
    """Options of the usage of a namespace."""

    would_free: Annotated[
        bool, Meta(description="Also compute `would_free`; takes time in proportion to the content")
    ] = False


@operation(
    "GET", HOLDFAST_REGION + "/namespaces/{namespace_id}/usage", "Get the usage of a namespace"
)
async def get_namespace_usage(call: Call[NamespaceUsage, Nothing]) -> NamespaceUsageAnswer:
    """Return the usage of a namespace, compared only with namespaces that the key covers."""
    namespace = await namespace_of(call, "read")
    usage = await call.store.namespaces.usage(namespace.id)
    whole_store = call.project_id is None
    would_free = None
    if call.query.would_free:
        # The number depends on other links to the same bytes. A key of one project must not learn
        # what other projects store, so it gets the number within its project.
        would_free = usage.project_exclusive_size
        if whole_store:
            would_free = await call.store.namespaces.would_free(namespace.id)
    return convert(
        usage,
        NamespaceUsageAnswer,
        namespace_id=namespace.id,
        # As above: its namespaces alone, for a key of one project.
        exclusive_size=usage.exclusive_size if whole_store else usage.project_exclusive_size,
        would_free=would_free,
    )


@operation("GET", HOLDFAST_REGION + "/images/{image_id}/usage", "Get the usage of an image")
async def get_image_usage(call: Call[Nothing, Nothing]) -> ImageUsageAnswer:
    """Return the size of an image, and the bytes that deleting it would free."""
    image = await image_of(call, "read")
    would_free = await call.store.images.would_free(
        image.id, project_only=call.project_id is not None
    )
    return convert(image, ImageUsageAnswer, image_id=image.id, would_free=would_free)


@operation(
    "GET", HOLDFAST_REGION + "/tags/{tag_id}/usage", "Get the bytes that deleting a tag would free"
)
async def get_tag_usage(call: Call[Nothing, Nothing]) -> TagUsageAnswer:
    """Return the bytes that deleting a tag would free."""
    tag = await tag_of(call, "read")
    would_free = await call.store.tags.would_free(tag.id, project_only=call.project_id is not None)
    return TagUsageAnswer(tag_id=tag.id, would_free=would_free)


OPERATIONS: Final = (get_namespace_usage, get_image_usage, get_tag_usage)
