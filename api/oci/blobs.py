"""Blobs: read, probed and unlinked by digest (OCI distribution-spec, end-2 and end-10)."""

from __future__ import annotations

from aiohttp import web

from holdfast.api.http.conditions import selected
from holdfast.api.http.oci_errors import OciError
from holdfast.api.http.ranges import Unsatisfiable, parse_range
from holdfast.api.http.transfer import OCTETS, file_head, send, send_parts, whole
from holdfast.engine import ALWAYS, BlobReader, Digest, Repository, Store

from .exchange import Exchange, content_headers, read_digest


def _headers(digest: Digest, repository: Repository) -> dict[str, str]:
    headers = content_headers(digest, fixed=True, public=repository.public)
    return {**headers, "Accept-Ranges": "bytes"}


async def head(exchange: Exchange) -> web.StreamResponse:
    """HEAD of a blob: its size, without opening it."""
    repository = await exchange.repository()
    response, _ = await summary(exchange.store, repository, exchange.target.item)
    return response


async def summary(store: Store, repository: Repository, item: str) -> tuple[web.Response, bool]:
    """The answer to HEAD of a blob, and whether it stays the same until the store changes.

    (A hold may run out before.) Raises OciError, EngineError.
    """
    blob = await store.stat(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    headers = _headers(blob.digest, repository)
    headers |= {"Content-Length": str(blob.size), "Content-Type": OCTETS}
    return web.Response(headers=headers), blob.held_until is None


async def at_hand(
    store: Store, repository: Repository, item: str
) -> tuple[web.StreamResponse, bool]:
    """The answer to GET of a blob: a ``web.Response``, or only the head where it lies in a file.

    The second part is as in ``summary``. Raises OciError, EngineError.
    """
    blob, data = await store.small(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    lasting, headers = blob.held_until is None, _headers(blob.digest, repository)
    if data is None:
        return file_head(200, headers, blob.size), lasting
    return whole(data, 200, headers), lasting


async def open_already(store: Store, repository: Repository, item: str) -> BlobReader | None:
    """A blob whose file is open, entered; None for another one. Raises OciError, EngineError."""
    reader = store.get(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    if not await reader.at_hand():
        return None
    if reader.file() is None:
        await reader.close()
        return None
    return reader


async def fetch(exchange: Exchange) -> web.StreamResponse:
    """GET of a blob, or of parts of it (RFC 9110 section 14)."""
    headers = exchange.request.headers
    if "Range" in headers or exchange.condition is not ALWAYS:
        return await _fetch_conditionally(exchange)
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    async with exchange.store.get(digest, repository=repository) as reader:
        return await send(exchange.plain, reader, 200, _headers(digest, repository))


async def _fetch_conditionally(exchange: Exchange) -> web.StreamResponse:
    """GET with a Range or a condition: the size is needed before anything is opened."""
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    # Not ``stat``, which means HEAD: what is held may be read until the hold ends.
    blob, _ = await exchange.store.small(digest, repository=repository)
    headers = _headers(blob.digest, repository)
    selection = selected(exchange.condition, web.Response(headers=headers))
    if selection.status == 304:
        return selection
    # If-Range wants a strong match (RFC 9110 section 13.1.5), and only this one can match.
    condition = exchange.request.headers.get("If-Range", headers["ETag"])
    asked = exchange.request.headers.get("Range") if condition == headers["ETag"] else None
    try:
        spans = parse_range(asked, blob.size)
    except Unsatisfiable:
        unsatisfied = {"Content-Range": f"bytes */{blob.size}"}
        raise OciError("RANGE_INVALID", headers=unsatisfied) from None
    request, store = exchange.plain, exchange.store
    if len(spans) != 1:
        async with store.get(blob.digest, repository=repository) as reader:
            if spans:
                return await send_parts(request, reader, spans, headers)
            return await send(request, reader, 200, headers)
    span = spans[0]
    headers["Content-Range"] = span.content_range(blob.size)
    part = store.get(blob.digest, offset=span.offset, length=span.length, repository=repository)
    async with part as reader:
        return await send(request, reader, 206, headers)


async def delete(exchange: Exchange) -> web.StreamResponse:
    """DELETE of a blob: this repository's right to it ends. Refused while a manifest needs it."""
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    await exchange.store.remove_blob(repository, digest, only_if=exchange.condition)
    return web.Response(status=202)
