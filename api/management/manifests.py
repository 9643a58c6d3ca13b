"""Operation that lists the manifests of an image, tagged or not; not in Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import image_of
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .paging import PageSize
from .views import ManifestAnswer, ManifestsAnswer, convert


class ListManifests(msgspec.Struct, kw_only=True):
    """Filter and position of a page of manifests."""

    tagged: (
        Annotated[bool, Meta(description="Only manifests with a tag (true) or without one (false)")]
        | None
    ) = None
    after: (
        Annotated[
            str,
            Meta(
                pattern="^sha256:[0-9a-f]{64}$",
                description="`after` of the last response, to get the next page",
            ),
        ]
        | None
    ) = None
    page_size: PageSize = 20


@operation(
    "GET",
    HOLDFAST_REGION + "/images/{image_id}/manifests",
    "List the manifests of an image, with or without a tag",
)
async def list_manifests(call: Call[ListManifests, Nothing]) -> ManifestsAnswer:
    """Return manifests in order of their digests. Repeat with ``after`` until it is null.

    A request reads at most 10,000 manifests, so with ``tagged`` a page may have fewer items than
    requested, even none, before the last one.
    """
    image = await image_of(call, "read")
    query = call.query
    found, rest = await call.store.manifests.of_image(
        image.id, tagged=query.tagged, after=query.after, limit=query.page_size
    )
    after = None if rest is None else str(rest)
    return ManifestsAnswer([convert(item, ManifestAnswer) for item in found], after)


OPERATIONS: Final = (list_manifests,)
