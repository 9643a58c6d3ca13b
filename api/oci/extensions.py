"""Extensions of the distribution API, and how clients find them.

``_oci/ext/discover`` is the OCI extension "_oci". ``_holdfast/exists`` is this registry's own:
``POST /v2/<name>/_holdfast/exists`` with ``{"digests": [...]}``, at most 1000, answers
``{"present": [...], "missing": [...]}``: which of these blobs the repository links or holds.
Whoever may pull may ask.
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
"""Digests in one question; each is one read of the ledger."""

QUESTION_BYTES_MAX: Final = 256 * 1024
"""A thousand sha512 digests as JSON need 138 KB."""

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


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``_holdfast/exists``."""

    digests: list[str]


async def of_registry(exchange: Exchange) -> web.StreamResponse:
    """GET ``/v2/_oci/ext/discover``: what the registry as a whole extends."""
    return json_response({"extensions": [_DISCOVER]})


async def of_repository(exchange: Exchange) -> web.StreamResponse:
    """GET ``/v2/<name>/_oci/ext/discover``: what each repository extends."""
    await exchange.repository()
    return json_response({"extensions": [_DISCOVER, _EXISTS]})


async def exists(exchange: Exchange) -> web.StreamResponse:
    """POST ``/v2/<name>/_holdfast/exists``: present and missing digests, in the order asked."""
    repository = await exchange.repository()
    body = await read_bounded(exchange.request, QUESTION_BYTES_MAX, "SIZE_INVALID")
    try:
        question = msgspec.json.decode(body, type=Question)
    except msgspec.DecodeError as error:
        raise OciError("UNSUPPORTED", f"the body is no question: {error}", status=400) from error
    if len(question.digests) > DIGESTS_MAX:
        raise OciError("SIZE_INVALID", f"over the limit of {DIGESTS_MAX} digests", status=413)
    asked = list(dict.fromkeys(question.digests))
    kept = [digest for digest in map(_kept, asked) if digest is not None]
    present = await exchange.store.exists(kept, repository=repository)
    check_untagged(exchange.condition, exists=False)
    answer: dict[str, Any] = {
        "present": [digest for digest in asked if digest in present],
        "missing": [digest for digest in asked if digest not in present],
    }
    return json_response(answer)


def _kept(text: str) -> Digest | None:
    """The digest, or None for one of an algorithm that is not kept. Raises DIGEST_INVALID."""
    try:
        return read_digest(text, "BLOB_UNKNOWN")
    except OciError:
        return None
