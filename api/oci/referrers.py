"""Handler of referrers, the manifests with a given subject (OCI distribution-spec, end-12)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from holdfast.api.http.oci_errors import OciError
from holdfast.engine import NotFound, Referrer, Repository

from .exchange import Exchange, next_link, page_size, read_digest

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"

PAGE_BYTES_MAX: Final = 3 << 20
"""Bytes of descriptors after which a page ends. With the last descriptor, a page stays near the
manifest size that clients accept. It is large because many clients read only the first page."""

_ROWS_PER_READ: Final = 50
"""Referrers per ledger read: the annotations of each may be as large as a manifest."""


async def listing(exchange: Exchange) -> web.StreamResponse:
    """Handle GET: return an image index of the referrers in digest order, empty if none."""
    repository = await exchange.repository()
    query = exchange.query
    types = query.all("artifactType")
    count = page_size(query)
    subject = exchange.target.item
    descriptors: list[msgspec.Raw] = []
    more: str | None = None
    if _is_supported(subject):
        after = query.first("last")
        descriptors, more = await _page(exchange, repository, subject, types, after, count)
    headers = {"Content-Type": INDEX_TYPE}
    if types:
        headers["OCI-Filters-Applied"] = "artifactType"
    if more is not None:
        path = exchange.location("referrers", subject)
        # The default number of results is not written into the link.
        number = {} if query.first("n") is None else {"n": str(count)}
        headers |= next_link(path, query, **number, last=more)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors}
    return web.Response(body=msgspec.json.encode(index), headers=headers)


def _is_supported(subject: str) -> bool:
    """Return True if the digest's algorithm is supported. Raises DIGEST_INVALID if malformed."""
    try:
        read_digest(subject, "MANIFEST_UNKNOWN")
    except OciError:
        return False
    return True


async def _page(
    exchange: Exchange,
    repository: Repository,
    subject: str,
    types: list[str],
    after: str | None,
    count: int,
) -> tuple[list[msgspec.Raw], str | None]:
    """Return encoded descriptors, and the last digest of the page if there are more."""
    descriptors: list[msgspec.Raw] = []
    shown: str | None = None
    room = PAGE_BYTES_MAX
    while count:
        try:
            batch = await exchange.store.manifests.referrers(
                repository, subject, artifact_types=types, after=after, limit=_ROWS_PER_READ
            )
        except NotFound:
            # A repository without a push has no referrers; the spec wants an empty index, not 404.
            break
        for referrer in batch:
            if len(descriptors) == count or room <= 0:
                return descriptors, shown
            encoded = msgspec.json.encode(_descriptor(referrer))
            room -= len(encoded)
            descriptors.append(msgspec.Raw(encoded))
            shown = str(referrer.digest)
        if len(batch) < _ROWS_PER_READ:
            break
        after = shown
    return descriptors, None


def _descriptor(referrer: Referrer) -> dict[str, Any]:
    descriptor: dict[str, Any] = {
        "mediaType": referrer.media_type,
        "digest": str(referrer.digest),
        "size": referrer.size,
    }
    if referrer.artifact_type is not None:
        descriptor["artifactType"] = referrer.artifact_type
    if referrer.annotations:
        descriptor["annotations"] = referrer.annotations
    return descriptor
