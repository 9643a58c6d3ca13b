"""Extensions of the distribution API, and their discovery.

``_oci/ext/discover`` is the OCI extension "_oci". ``_holdfast/exists`` is this registry's own:
``POST /v2/<name>/_holdfast/exists`` with ``{"digests": [...]}`` (at most 1000) returns
``{"present": [...], "missing": [...]}``: a blob is present if the repository links or holds it.
The request needs the right to pull.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from holdfast.api.http.bodies import read_bounded
from holdfast.api.http.conditions import check_untagged
from holdfast.api.http.oci_errors import OciError
from holdfast.engine import Digest

from .exchange import Exchange, json_response, read_digest

DIGESTS_MAX: Final = 1000
"""Digests per request; each is one read of the ledger."""

EXISTS_BYTES_MAX: Final = 256 * 1024
"""Limit of the request body; 1,000 sha512 digests as JSON need 138 KB."""

_DISCOVER: Final = {
    "name": "_oci",
    "description": "discovery of extensions",
    "url": "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md",
    "endpoints": ["_oci/ext/discover"],
}
_EXISTS: Final = {
    "name": "_holdfast",
    "description": "which of many blobs a repository has, in one request:"
    ' POST {"digests": [...]} answers {"present": [...], "missing": [...]}',
    "endpoints": ["_holdfast/exists"],
}


class ExistsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``_holdfast/exists``."""

    digests: list[str]


async def of_registry(exchange: Exchange) -> web.StreamResponse:
    """Handle GET ``/v2/_oci/ext/discover``: list the extensions of the registry."""
    return json_response({"extensions": [_DISCOVER]})


async def of_repository(exchange: Exchange) -> web.StreamResponse:
    """Handle GET ``/v2/<name>/_oci/ext/discover``: list the extensions of a repository."""
    await exchange.repository()
    return json_response({"extensions": [_DISCOVER, _EXISTS]})


async def exists(exchange: Exchange) -> web.StreamResponse:
    """Handle POST ``/v2/<name>/_holdfast/exists``: split digests into present and missing ones.

    Both lists keep the order of the request.
    """
    repository = await exchange.repository()
    body = await read_bounded(exchange.request, EXISTS_BYTES_MAX, "SIZE_INVALID")
    try:
        asked = msgspec.json.decode(body, type=ExistsRequest)
    except msgspec.DecodeError as error:
        raise OciError("UNSUPPORTED", f"the body is not valid: {error}", status=400) from error
    if len(asked.digests) > DIGESTS_MAX:
        raise OciError("SIZE_INVALID", f"more than {DIGESTS_MAX} digests", status=413)
    # Each digest once, in the order of the request.
    digests = list(dict.fromkeys(asked.digests))
    supported = [digest for digest in map(_supported, digests) if digest is not None]
    present = await exchange.store.exists(supported, repository=repository)
    check_untagged(exchange.condition, exists=False)
    answer: dict[str, Any] = {
        "present": [digest for digest in digests if digest in present],
        "missing": [digest for digest in digests if digest not in present],
    }
    return json_response(answer)


def _supported(text: str) -> Digest | None:
    """Parse a digest; return None if its algorithm is not supported. Raises DIGEST_INVALID."""
    try:
        return read_digest(text, "BLOB_UNKNOWN")
    except OciError:
        return None
