"""Handlers of blobs: GET, HEAD and DELETE (OCI distribution-spec, end-2 and end-10)."""

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
    """Handle HEAD of a blob: return its size without opening it."""
    repository = await exchange.repository()
    response, _ = await summary(exchange.store, repository, exchange.target.item)
    return response


async def summary(store: Store, repository: Repository, item: str) -> tuple[web.Response, bool]:
    """Return the response to HEAD of a blob, and True if it holds until the store changes.

    It does not if a hold, which may expire earlier, gives the access. Raises OciError or
    EngineError.
    """
    blob = await store.stat(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    headers = _headers(blob.digest, repository)
    headers |= {"Content-Length": str(blob.size), "Content-Type": OCTETS}
    return web.Response(headers=headers), blob.held_until is None


async def at_hand(
    store: Store, repository: Repository, item: str
) -> tuple[web.StreamResponse, bool]:
    """Return the response to GET of a blob: a ``web.Response``, or only the head of a file.

    The second value is as in ``summary``. Raises OciError or EngineError.
    """
    blob, data = await store.small(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    lasting, headers = blob.held_until is None, _headers(blob.digest, repository)
    if data is None:
        return file_head(200, headers, blob.size), lasting
    return whole(data, 200, headers), lasting


async def open_already(store: Store, repository: Repository, item: str) -> BlobReader | None:
    """Return the entered reader of a blob whose file is already open, else None.

    Raises OciError or EngineError.
    """
    reader = store.get(read_digest(item, "BLOB_UNKNOWN"), repository=repository)
    if not await reader.at_hand():
        return None
    if reader.file() is None:  # its bytes are in the ledger
        await reader.close()
        return None
    return reader


async def fetch(exchange: Exchange) -> web.StreamResponse:
    """Handle GET of a blob or of ranges of it (RFC 9110 section 14)."""
    headers = exchange.request.headers
    if "Range" in headers or exchange.condition is not ALWAYS:
        return await _fetch_conditionally(exchange)
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    async with exchange.store.get(digest, repository=repository) as reader:
        return await send(exchange.plain, reader, 200, _headers(digest, repository))


async def _fetch_conditionally(exchange: Exchange) -> web.StreamResponse:
    """Handle GET with a Range or a condition, which need the size before the blob is opened."""
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    # Not ``stat``, which serves HEAD: it finds a held blob only while half of the hold is left.
    blob, _ = await exchange.store.small(digest, repository=repository)
    headers = _headers(blob.digest, repository)
    selection = selected(exchange.condition, web.Response(headers=headers))
    if selection.status == 304:
        return selection
    # If-Range needs a strong comparison (RFC 9110 section 13.1.5): only this ETag matches.
    condition = exchange.request.headers.get("If-Range", headers["ETag"])
    requested = exchange.request.headers.get("Range") if condition == headers["ETag"] else None
    try:
        spans = parse_range(requested, blob.size)
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
    """Handle DELETE of a blob: unlink it from the repository, unless a manifest needs it."""
    repository = await exchange.repository()
    digest = read_digest(exchange.target.item, "BLOB_UNKNOWN")
    await exchange.store.remove_blob(repository, digest, only_if=exchange.condition)
    return web.Response(status=202)
