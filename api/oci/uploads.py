"""Handlers of upload sessions and mounts (OCI distribution-spec, end-4 to 6, 11, 13 and 14).

A session keeps its Location for its whole life, so a client may use one from an earlier response.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from aiohttp import web

from holdfast.api.http.bodies import chunks
from holdfast.api.http.conditions import check_untagged
from holdfast.api.http.oci_errors import OciError, oci_error
from holdfast.api.http.ranges import Span, parse_content_range
from holdfast.api.http.whole_request import IncomingRequest
from holdfast.engine import (
    ALGORITHMS,
    ALWAYS,
    Blob,
    Digest,
    Invalid,
    InvalidDigest,
    NotFound,
    OffsetMismatch,
    Repository,
    Upload,
)

from .exchange import Exchange

SOURCES_MAX: Final = 100
"""Candidate repositories of a mount without ``from``."""


def _session_headers(exchange: Exchange, upload_id: UUID, offset: int) -> dict[str, str]:
    """Return the headers of a session. Clients parse ``0-0`` even before the first byte."""
    return {
        "Location": exchange.location("blobs/uploads", str(upload_id)),
        "Range": f"0-{max(offset - 1, 0)}",
        "Docker-Upload-UUID": str(upload_id),
    }


def _created(exchange: Exchange, digest: Digest) -> web.Response:
    headers = {
        "Location": exchange.location("blobs", str(digest)),
        "Docker-Content-Digest": str(digest),
    }
    return web.Response(status=201, headers=headers)


def _upload_id(exchange: Exchange) -> UUID:
    text = exchange.target.item
    try:
        upload_id = UUID(text)
    except ValueError:
        raise OciError("BLOB_UPLOAD_UNKNOWN") from None
    # UUID() also accepts braces and a urn prefix, which a Location never has.
    if str(upload_id) != text:
        raise OciError("BLOB_UPLOAD_UNKNOWN")
    return upload_id


def _digest_parameter(exchange: Exchange) -> Digest:
    text = exchange.query.first("digest")
    if text is None:
        raise OciError("DIGEST_INVALID", "the parameter digest is missing")
    return Digest.parse(text)


async def begin(exchange: Exchange) -> web.StreamResponse:
    """Handle POST: mount a blob, store a whole one, or open a session."""
    query, request = exchange.query, exchange.request
    mount, named = query.first("mount"), query.first("digest")
    # Refuse malformed parameters before anything is created.
    digest = Digest.parse(named) if named is not None and mount is None else None
    algorithm = query.first("digest-algorithm") or "sha256"
    if algorithm not in ALGORITHMS:
        raise InvalidDigest(algorithm, f"algorithm {algorithm[:64]} is not supported")
    repository = await exchange.repository(creates=True)
    check_untagged(exchange.condition, exists=False)
    if digest is not None:
        length = request.content_length
        await exchange.store.uploads.put(repository, digest, chunks(request), length=length)
        return _created(exchange, digest)
    if mount is not None:
        blob = await _mount(exchange, repository, mount, query.first("from"))
        if blob is not None:
            return _created(exchange, blob.digest)
    upload = await exchange.store.uploads.begin(repository, algorithm=algorithm)
    headers = _session_headers(exchange, upload.id, upload.offset)
    return web.Response(status=202, headers=headers)


async def _mount(
    exchange: Exchange, repository: Repository, text: str, source: str | None
) -> Blob | None:
    """Mount a blob from a repository that the caller may pull from.

    Return None if that is not possible; the caller then opens a session. A bad source is never
    an error: clients would report a failed push.
    """
    try:
        digest = Digest.parse(text)
    except InvalidDigest:
        return None
    store, gate = exchange.store, exchange.gate
    if source is None:
        candidates = await store.holders(gate.origin.region, digest, limit=SOURCES_MAX)
    else:
        try:
            found = await gate.find(source)
        except Invalid:
            return None
        candidates = [] if found is None else [found]
    for candidate in candidates:
        if not gate.may_pull(exchange.caller, candidate):
            continue
        try:
            blob = await store.mount(repository, digest, candidate)
        except NotFound:
            continue
        if blob is not None:
            return blob
    return None


async def status(exchange: Exchange) -> web.StreamResponse:
    """Handle GET of a session: return the number of stored bytes."""
    repository = await exchange.repository()
    upload = await exchange.store.uploads.get(repository, _upload_id(exchange))
    headers = _session_headers(exchange, upload.id, upload.offset)
    return web.Response(status=204, headers=headers)


async def append(exchange: Exchange) -> web.StreamResponse:
    """Handle PATCH: append a chunk, or a stream of unknown length."""
    repository = await exchange.repository()
    upload_id = _upload_id(exchange)
    upload = await _append(exchange, repository, upload_id)
    headers = _session_headers(exchange, upload.id, upload.offset)
    return web.Response(status=202, headers=headers)


async def _append(exchange: Exchange, repository: Repository, upload_id: UUID) -> Upload:
    offset, length = _chunk(exchange.request)
    await _check(exchange, repository, upload_id, offset)
    try:
        return await exchange.store.uploads.append(
            repository, upload_id, chunks(exchange.request), offset=offset, length=length
        )
    except OffsetMismatch as error:
        raise _out_of_order(exchange, upload_id, error) from error


async def finish(exchange: Exchange) -> web.StreamResponse:
    """Handle PUT: append the last chunk, if any, and publish the blob under its digest."""
    repository = await exchange.repository()
    upload_id = _upload_id(exchange)
    digest = _digest_parameter(exchange)
    request = exchange.request
    has_body = request.body_exists and request.content_length != 0
    offset, length = _chunk(request) if has_body else (None, None)
    await _check(exchange, repository, upload_id, offset)
    try:
        await exchange.store.uploads.finish(
            repository,
            upload_id,
            digest,
            chunks(request) if has_body else None,
            offset=offset,
            length=length,
        )
    except OffsetMismatch as error:
        raise _out_of_order(exchange, upload_id, error) from error
    return _created(exchange, digest)


async def cancel(exchange: Exchange) -> web.StreamResponse:
    """Handle DELETE of a session."""
    repository = await exchange.repository()
    upload_id = _upload_id(exchange)
    await _check(exchange, repository, upload_id)
    await exchange.store.uploads.abort(repository, upload_id)
    return web.Response(status=204)


async def _check(
    exchange: Exchange, repository: Repository, upload_id: UUID, offset: int | None = None
) -> None:
    """Check the condition of a request to a session after all other checks.

    Raises NotFound, or OciError 416 or 412.
    """
    condition = exchange.condition
    if condition is ALWAYS:
        return
    upload = await exchange.store.uploads.get(repository, upload_id)
    if offset not in (None, upload.offset):
        error = OffsetMismatch(upload.offset, offset)
        raise _out_of_order(exchange, upload_id, error)
    check_untagged(condition, exists=True)


def _chunk(request: IncomingRequest) -> tuple[int | None, int | None]:
    """Return offset and length of the body from its headers, None if not given.

    Raises SIZE_INVALID if Content-Range is malformed or contradicts Content-Length.
    """
    header = request.headers.get("Content-Range")
    length = request.content_length
    if header is None:
        return None, length
    span: Span | None = parse_content_range(header)
    if span is None:
        raise OciError("SIZE_INVALID", "Content-Range must be <first>-<last>")
    if length is not None and length != span.length:
        raise OciError(
            "SIZE_INVALID", f"Content-Range has {span.length} bytes, Content-Length {length}"
        )
    return span.offset, span.length


def _out_of_order(exchange: Exchange, upload_id: UUID, error: OffsetMismatch) -> OciError:
    """Return a 416 error with the offset of the session, from which the client continues."""
    answer = oci_error(error)
    answer.headers.update(_session_headers(exchange, upload_id, error.offset))
    return answer
