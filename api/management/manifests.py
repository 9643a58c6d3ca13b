"""Manifests of an image, those without a tag included. Beyond Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of
from .operation import BEYOND_REGION, Call, Nothing, Operation
from .paging import PageSize
from .views import ManifestsAnswer, manifest_answer


class ListManifests(msgspec.Struct, kw_only=True):
    """Which, where to go on, and how far."""

    tagged: (
        Annotated[bool, Meta(description="Only those with a tag, or only those without one")] | None
    ) = None
    after: (
        Annotated[
            str,
            Meta(
                pattern="^sha256:[0-9a-f]{64}$",
                description="That of the last answer: what comes behind it",
            ),
        ]
        | None
    ) = None
    page_size: PageSize = 20


async def list_manifests(call: Call[ListManifests, Nothing]) -> ManifestsAnswer:
    """Manifests, in order of their digests. Ask again, with ``after``, until it is null.

    One request looks at 10,000 manifests at most, so with ``tagged`` it may answer fewer than were
    asked for, even none, before the end.
    """
    image = await image_of(call, "read")
    query = call.query
    found, rest = await call.store.manifests.of_image(
        image.id, tagged=query.tagged, after=query.after, limit=query.page_size
    )
    after = None if rest is None else str(rest)
    return ManifestsAnswer([manifest_answer(item) for item in found], after)


OPERATIONS: Final = (
    Operation(
        id="ListManifests",
        method="GET",
        path=BEYOND_REGION + "/images/{image_id}/manifests",
        summary="List the manifests of an image, with or without a tag",
        handler=list_manifests,
        answer=ManifestsAnswer,
        query=ListManifests,
    ),
)
