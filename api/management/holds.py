"""Holds of a namespace, which count in its quota: beyond Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .auth import namespace_of
from .errors import LockedBody
from .operation import BEYOND_REGION, Call, Nothing, Operation
from .views import ReleasedAnswer, released_answer


class ReleaseHolds(msgspec.Struct, kw_only=True):
    """Where to go on."""

    after: Annotated[str, Meta(description="That of the last answer")] | None = None


async def release_holds(call: Call[ReleaseHolds, Nothing]) -> ReleasedAnswer:
    """What was released: holds on content that no manifest needs, taken before the first request.

    A push that still means to put its manifest has to push that content again. What deleted tags
    need to come back stays: delete them from the trash first. It works for about a second; ask
    again, with ``after``, until that is null.
    """
    namespace = await namespace_of(call, "write")
    return released_answer(await call.store.holds.release(namespace.id, after=call.query.after))


OPERATIONS: Final = (
    Operation(
        id="ReleaseHolds",
        method="DELETE",
        path=BEYOND_REGION + "/namespaces/{namespace_id}/holds",
        summary="Give back what no manifest of a namespace needs",
        handler=release_holds,
        answer=ReleasedAnswer,
        query=ReleaseHolds,
        writes=True,
        errors=(LockedBody,),
    ),
)
