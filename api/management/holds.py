"""Operation that releases holds of a namespace, which count in its quota.

It is not in Scaleway's API.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import namespace_of
from .errors import LockedBody
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .views import ReleasedAnswer, convert


class ReleaseHolds(msgspec.Struct, kw_only=True):
    """Position in the holds."""

    after: Annotated[str, Meta(description="`after` of the last response")] | None = None


@operation(
    "DELETE",
    HOLDFAST_REGION + "/namespaces/{namespace_id}/holds",
    "Release the content that no manifest of a namespace needs",
    writes=True,
    errors=(LockedBody,),
)
async def release_holds(call: Call[ReleaseHolds, Nothing]) -> ReleasedAnswer:
    """Release holds on content that no manifest needs, taken before the first request.

    A push whose manifest is still to come has to push that content again. Content that deleted
    tags need for a restore is kept: delete them from the trash first. A request works for about a
    second; repeat it with ``after`` until that is null.
    """
    namespace = await namespace_of(call, "write")
    done = await call.store.holds.release(namespace.id, after=call.query.after)
    return convert(done, ReleasedAnswer, released_size=done.size)


OPERATIONS: Final = (release_holds,)
