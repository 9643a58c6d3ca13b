"""Handlers of manifests and indexes (OCI distribution-spec, end-3, end-7 and end-9)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from holdfast.api.http.bodies import read_bounded
from holdfast.api.http.conditions import selected
from holdfast.api.http.oci_errors import OciError
from holdfast.engine import Digest, Invalid, Manifest, Repository, Store, check_tag_name

from . import access
from .access import Caller
from .exchange import Exchange, content_headers, expiry_warning, read_digest
from .paths import Target

TAG_PARAMETERS_MAX: Final = 100
"""Tags that a PUT may set in addition to its reference; the spec requires at least ten."""


def _is_digest(reference: str) -> bool:
    """Return True for a digest: only digests contain a colon."""
    return ":" in reference


def _read_reference(reference: str) -> str:
    """Return the reference of a path. Raises MANIFEST_UNKNOWN if no manifest can have it."""
    if _is_digest(reference):
        return str(read_digest(reference, "MANIFEST_UNKNOWN"))
    try:
        return check_tag_name(reference)
    except Invalid:
        raise OciError("MANIFEST_UNKNOWN") from None


async def fetch(exchange: Exchange) -> web.StreamResponse:
    """Handle GET and HEAD: send the bytes and type as pushed, whatever Accept says."""
    repository = await exchange.repository()
    pulled = counts(exchange.request.method, exchange.target.item)
    renewed = renews(exchange.target, exchange.caller, repository)
    return await _fetch_counted(exchange, repository, pulled=pulled, renewed=renewed)


async def _fetch_counted(
    exchange: Exchange, repository: Repository, *, pulled: bool, renewed: bool
) -> web.StreamResponse:
    """Return the response, and record the pull or the renewed age for retention.

    Conditions are checked first: a 304 counts as a pull by a client with a copy, a 412 does not.
    """
    store, item = exchange.store, exchange.target.item

    async def select() -> web.StreamResponse:
        return selected(exchange.condition, await answer(store, repository, item))

    if not (pulled or renewed):
        return await select()
    with store.pulls.passing() as gathers:
        response = await select()
        # Count in memory. That fails if the memory is full or a retention run is deciding.
        if gathers and store.pulls.count(repository, item, pulled=pulled, renews=renewed):
            return response
    # Write the pull at once. A retention run may have removed the manifest meanwhile, so look it
    # up again.
    await store.pulls.write_pull(repository, item, pulled=pulled, renews=renewed)
    return await select()


async def answer(store: Store, repository: Repository, item: str) -> web.Response:
    """Return 200 with the manifest under a tag or digest. Raises OciError or EngineError."""
    reference = _read_reference(item)
    return _response(await store.manifests.get(repository, reference), reference, repository)


async def at_hand(store: Store, repository: Repository, item: str) -> web.Response | None:
    """Return the response of ``answer``, or None if the manifest is in a file."""
    reference = _read_reference(item)
    manifest = await store.manifests.at_hand(repository, reference)
    return None if manifest is None else _response(manifest, reference, repository)


def _response(manifest: Manifest, reference: str, repository: Repository) -> web.Response:
    headers = content_headers(
        manifest.digest, fixed=_is_digest(reference), public=repository.public
    )
    headers["Content-Type"] = manifest.media_type
    return web.Response(body=manifest.body, headers=headers)


def counts(method: str, item: str) -> bool:
    """Return True if a read counts as a pull: every read by tag, and GET by digest."""
    return method == "GET" or not _is_digest(item)


def renews(target: Target, caller: Caller, repository: Repository) -> bool:
    """Return True if a read renews the age of a manifest.

    A client that may push reads by digest to skip the upload of a manifest, so it must stay.
    """
    if target.endpoint != "manifest" or not _is_digest(target.item):
        return False
    return access.may(caller, repository, "push")


async def push(exchange: Exchange) -> web.StreamResponse:
    """Handle PUT: store the bytes, link their content and move the tags in one transaction.

    The transaction also checks the condition of the request.
    """
    reference = exchange.target.item
    if _is_digest(reference):
        Digest.parse(reference)
    else:
        check_tag_name(reference)
    tags = exchange.query.all("tag")
    if len(tags) > TAG_PARAMETERS_MAX:
        raise OciError("UNSUPPORTED", f"more than {TAG_PARAMETERS_MAX} tag parameters", status=414)
    # Check the rights before the body is read.
    repository = await exchange.repository(creates=True)
    request = exchange.request
    limit = exchange.store.config.manifest_bytes_max
    body = await read_bounded(request, limit, "MANIFEST_INVALID")
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
    pushed = await exchange.store.manifests.put(
        repository,
        body,
        media_type=media_type or None,
        reference=reference,
        tags=tags,
        only_if=exchange.condition,
    )
    headers = {
        "Location": exchange.location("manifests", str(pushed.digest)),
        "Docker-Content-Digest": str(pushed.digest),
        **expiry_warning(exchange.caller.key),
    }
    if pushed.subject is not None:
        headers["OCI-Subject"] = str(pushed.subject)
    if tags:
        headers["OCI-Tag"] = ", ".join(dict.fromkeys(tags))
    return web.Response(status=201, headers=headers)


async def delete(exchange: Exchange) -> web.StreamResponse:
    """Handle DELETE: remove a tag, or a manifest with all its tags."""
    repository = await exchange.repository()
    reference = _read_reference(exchange.target.item)
    if _is_digest(reference):
        digest = Digest.parse(reference)
        await exchange.store.manifests.delete(repository, digest, only_if=exchange.condition)
    else:
        await exchange.store.tags.untag(repository, reference, only_if=exchange.condition)
    return web.Response(status=202)
