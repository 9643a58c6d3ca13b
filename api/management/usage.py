"""What things take, and what deleting them would free: beyond Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of, namespace_of, tag_of
from .operation import BEYOND_REGION, Call, Nothing, Operation
from .views import ImageUsageAnswer, NamespaceUsageAnswer, TagUsageAnswer, namespace_usage_answer


class NamespaceUsage(msgspec.Struct, kw_only=True):
    """How much to tell."""

    would_free: Annotated[
        bool, Meta(description="Find out `would_free` too: takes time in proportion to the content")
    ] = False


async def namespace_usage(call: Call[NamespaceUsage, Nothing]) -> NamespaceUsageAnswer:
    """The numbers of a namespace; those about other namespaces keep to what the key covers."""
    namespace = await namespace_of(call, "read")
    usage = await call.store.namespaces.usage(namespace.id)
    whole_store = call.project_id is None
    would_free = None
    if call.query.would_free:
        # What a delete frees depends on who else links the same bytes; a key of one project must
        # not learn that of strangers, so it gets the number within its project.
        would_free = usage.project_exclusive_size
        if whole_store:
            would_free = await call.store.namespaces.would_free(namespace.id)
    return namespace_usage_answer(
        namespace.id, usage, whole_store=whole_store, would_free=would_free
    )


async def image_usage(call: Call[Nothing, Nothing]) -> ImageUsageAnswer:
    """What an image takes, and what its deletion would free."""
    image = await image_of(call, "read")
    return ImageUsageAnswer(
        image_id=image.id,
        size=image.size,
        tag_count=image.tag_count,
        would_free=await call.store.images.would_free(
            image.id, project_only=call.project_id is not None
        ),
    )


async def tag_usage(call: Call[Nothing, Nothing]) -> TagUsageAnswer:
    """What the deletion of a tag would free."""
    tag = await tag_of(call, "read")
    would_free = await call.store.tags.would_free(tag.id, project_only=call.project_id is not None)
    return TagUsageAnswer(tag_id=tag.id, would_free=would_free)


OPERATIONS: Final = (
    Operation(
        id="GetNamespaceUsage",
        method="GET",
        path=BEYOND_REGION + "/namespaces/{namespace_id}/usage",
        summary="What a namespace takes",
        handler=namespace_usage,
        answer=NamespaceUsageAnswer,
        query=NamespaceUsage,
    ),
    Operation(
        id="GetImageUsage",
        method="GET",
        path=BEYOND_REGION + "/images/{image_id}/usage",
        summary="What an image takes",
        handler=image_usage,
        answer=ImageUsageAnswer,
    ),
    Operation(
        id="GetTagUsage",
        method="GET",
        path=BEYOND_REGION + "/tags/{tag_id}/usage",
        summary="What the deletion of a tag would free",
        handler=tag_usage,
        answer=TagUsageAnswer,
    ),
)
