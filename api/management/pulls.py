"""Operations for the pull counts of images and tags; not in Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from .auth import image_of, tag_of
from .operation import HOLDFAST_REGION, Call, Nothing, Operation
from .views import Timestamp, convert


class PullsAnswer(msgspec.Struct, kw_only=True):
    """Pull count of an image or tag; it lags by some seconds."""

    id: UUID
    pull_count: Annotated[int, Meta(ge=0)]
    pulled_at: Annotated[
        Timestamp | None, Meta(description="Time of the last pull; null if never pulled")
    ]


async def image_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """Count GETs of the image's manifests by digest."""
    return convert(await image_of(call, "read"), PullsAnswer)


async def tag_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """Count reads by the tag's name, and GETs of its manifest by digest."""
    return convert(await tag_of(call, "read"), PullsAnswer)


OPERATIONS: Final = (
    Operation(
        id="GetImagePulls",
        method="GET",
        path=HOLDFAST_REGION + "/images/{image_id}/pulls",
        summary="Get the number of pulls of an image by digest",
        handler=image_pulls,
        answer=PullsAnswer,
    ),
    Operation(
        id="GetTagPulls",
        method="GET",
        path=HOLDFAST_REGION + "/tags/{tag_id}/pulls",
        summary="Get the number of pulls of a tag",
        handler=tag_pulls,
        answer=PullsAnswer,
    ),
)
