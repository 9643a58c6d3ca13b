"""How often and when images and tags were pulled: beyond Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from .auth import image_of, tag_of
from .operation import BEYOND_REGION, Call, Nothing, Operation
from .views import Timestamp, timestamp


class PullsAnswer(msgspec.Struct, kw_only=True):
    """Pulls of one image or tag; some seconds late."""

    id: UUID
    pull_count: Annotated[int, Meta(ge=0)]
    pulled_at: Annotated[Timestamp | None, Meta(description="null: never")]


async def image_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """GETs of the image's manifests by digest."""
    image = await image_of(call, "read")
    last = None if image.pulled_at is None else timestamp(image.pulled_at)
    return PullsAnswer(id=image.id, pull_count=image.pull_count, pulled_at=last)


async def tag_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """Reads by the tag's name, and GETs of its manifest by digest."""
    tag = await tag_of(call, "read")
    last = None if tag.pulled_at is None else timestamp(tag.pulled_at)
    return PullsAnswer(id=tag.id, pull_count=tag.pull_count, pulled_at=last)


OPERATIONS: Final = (
    Operation(
        id="GetImagePulls",
        method="GET",
        path=BEYOND_REGION + "/images/{image_id}/pulls",
        summary="How often an image was pulled by digest",
        handler=image_pulls,
        answer=PullsAnswer,
    ),
    Operation(
        id="GetTagPulls",
        method="GET",
        path=BEYOND_REGION + "/tags/{tag_id}/pulls",
        summary="How often a tag was pulled",
        handler=tag_pulls,
        answer=PullsAnswer,
    ),
)
