"""Operations for open uploads of a namespace, which count in its quota; not in Scaleway's API."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from .auth import namespace_of
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .paging import PageSize
from .views import UploadAnswer, UploadsAnswer, upload_answer

_ALL: Final = HOLDFAST_REGION + "/namespaces/{namespace_id}/uploads"


class ListUploads(msgspec.Struct, kw_only=True):
    """Position and size of a page of uploads."""

    after: (
        Annotated[UUID, Meta(description="`after` of the last response, to get the next page")]
        | None
    ) = None
    page_size: PageSize = 20


@operation("GET", _ALL, "List the open uploads of a namespace")
async def list_uploads(call: Call[ListUploads, Nothing]) -> UploadsAnswer:
    """Return open uploads in order of their ids. Repeat with ``after`` until it is null."""
    namespace = await namespace_of(call, "read")
    query = call.query
    found, rest, total = await call.store.uploads.list(
        namespace.id, after=query.after, limit=query.page_size
    )
    return UploadsAnswer([upload_answer(item) for item in found], total, rest)


@operation("DELETE", _ALL + "/{upload_id}", "End an open upload and delete its bytes", writes=True)
async def end_upload(call: Call[Nothing, Nothing]) -> UploadAnswer:
    """End an upload. Its space is free at once; a client that continues it gets 404."""
    namespace = await namespace_of(call, "write")
    ended = await call.store.uploads.dismiss(namespace.id, call.ids["upload_id"])
    return upload_answer(ended)


OPERATIONS: Final = (list_uploads, end_upload)
