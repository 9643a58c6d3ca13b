"""Operations for the pull counts of images and tags; not in Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from .auth import image_of, tag_of
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .views import Timestamp, convert


class PullsAnswer(msgspec.Struct, kw_only=True):
    """Pull count of an image or tag; it lags by some seconds."""

    id: UUID
    pull_count: Annotated[int, Meta(ge=0)]
    pulled_at: Annotated[
        Timestamp | None, Meta(description="Time of the last pull; null if never pulled")
    ]


@operation(
    "GET",
    HOLDFAST_REGION + "/images/{image_id}/pulls",
    "Get the number of pulls of an image by digest",
)
async def get_image_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """Count GETs of the image's manifests by digest."""
    return convert(await image_of(call, "read"), PullsAnswer)


@operation("GET", HOLDFAST_REGION + "/tags/{tag_id}/pulls", "Get the number of pulls of a tag")
async def get_tag_pulls(call: Call[Nothing, Nothing]) -> PullsAnswer:
    """Count reads by the tag's name, and GETs of its manifest by digest."""
    return convert(await tag_of(call, "read"), PullsAnswer)


OPERATIONS: Final = (get_image_pulls, get_tag_pulls)
