"""Manifests and indexes by tag or digest (OCI distribution-spec, end-3, 7 and 9)."""

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
"""Tags that one PUT may set beside its reference; the spec asks for at least ten."""


def _is_digest(reference: str) -> bool:
    """A reference is a digest exactly if it has a colon."""
    return ":" in reference


def _read_reference(reference: str) -> str:
    """The reference of the path, if anything can be there. Raises MANIFEST_UNKNOWN."""
    if _is_digest(reference):
        return str(read_digest(reference, "MANIFEST_UNKNOWN"))
    try:
        return check_tag_name(reference)
    except Invalid:
        raise OciError("MANIFEST_UNKNOWN") from None


async def fetch(exchange: Exchange) -> web.StreamResponse:
    """GET and HEAD: the bytes and the type as pushed; Accept is not negotiated over."""
    repository = await exchange.repository()
    pulled = counts(exchange.request.method, exchange.target.item)
    renewed = renews(exchange.target, exchange.caller, repository)
    return await _noted(exchange, repository, pulled=pulled, renewed=renewed)


async def _noted(
    exchange: Exchange, repository: Repository, *, pulled: bool, renewed: bool
) -> web.StreamResponse:
    """The answer, and all that retention goes by noted.

    Conditions come first: 304 counts as a pull of a client that has it, 412 as none.
    """
    store, item = exchange.store, exchange.target.item

    async def select() -> web.StreamResponse:
        return selected(exchange.condition, await answer(store, repository, item))

    if not (pulled or renewed):
        return await select()
    with store.pulls.passing() as gathers:
        response = await select()
        if gathers and store.pulls.count(repository, item, pulled=pulled, renews=renewed):
            return response
    # A retention run decides by pulls at this moment, and may have removed what was found.
    await store.pulls.write(repository, item, pulled=pulled, renews=renewed)
    return await select()


async def answer(store: Store, repository: Repository, item: str) -> web.Response:
    """200 with the manifest under a tag or a digest. Raises OciError, EngineError."""
    reference = _read_reference(item)
    return _response(await store.manifests.get(repository, reference), reference, repository)


async def at_hand(store: Store, repository: Repository, item: str) -> web.Response | None:
    """As ``answer``, or None for a manifest that lies in a file."""
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
    """Whether reading a manifest that is there is a pull: by tag always, by digest only GET."""
    return method == "GET" or not _is_digest(item)


def renews(target: Target, caller: Caller, repository: Repository) -> bool:
    """Whether reading a manifest that is there tells a pusher that he need not send it."""
    if target.endpoint != "manifest" or not _is_digest(target.item):
        return False
    return access.may(caller, repository, "push")


async def push(exchange: Exchange) -> web.StreamResponse:
    """PUT: keep the bytes, link what they need, and move the tag, in one step.

    A condition of the request is one of that step.
    """
    reference = exchange.target.item
    if _is_digest(reference):
        Digest.parse(reference)
    else:
        check_tag_name(reference)
    tags = exchange.query.all("tag")
    if len(tags) > TAG_PARAMETERS_MAX:
        raise OciError("UNSUPPORTED", f"over {TAG_PARAMETERS_MAX} parameters tag", status=414)
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
    """DELETE: a tag alone, or a manifest with every tag on it."""
    repository = await exchange.repository()
    reference = _read_reference(exchange.target.item)
    if _is_digest(reference):
        digest = Digest.parse(reference)
        await exchange.store.manifests.delete(repository, digest, only_if=exchange.condition)
    else:
        await exchange.store.tags.untag(repository, reference, only_if=exchange.condition)
    return web.Response(status=202)
