"""Manifests and indexes by tag or digest (OCI distribution-spec, end-3, 7 and 9)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from holdfast.engine import (
    Digest,
    Invalid,
    InvalidDigest,
    Manifest,
    NotFound,
    PreconditionFailed,
    Repository,
    Store,
    check_tag_name,
)

from .bodies import read_bounded
from .exchange import (
    Exchange,
    content_headers,
    etags,
    expiry_warning,
    read_digest,
)
from .oci_errors import OciError

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
    response = await answer(exchange.store, repository, exchange.target.item)
    if counts(exchange.request.method, exchange.target.item):
        exchange.store.pulls.count(repository, exchange.target.item)
    if exchange.not_modified(response.headers["Docker-Content-Digest"]):
        del response.headers["Content-Type"]
        return web.Response(status=304, headers=response.headers)
    return response


async def answer(store: Store, repository: Repository, item: str) -> web.Response:
    """200 with the manifest under a tag or a digest. Raises OciError, EngineError."""
    reference = _read_reference(item)
    return _response(await store.manifests.get(repository, reference), reference)


async def at_hand(store: Store, repository: Repository, item: str) -> web.Response | None:
    """As ``answer``, or None for a manifest that lies in a file."""
    reference = _read_reference(item)
    manifest = await store.manifests.at_hand(repository, reference)
    return None if manifest is None else _response(manifest, reference)


def _response(manifest: Manifest, reference: str) -> web.Response:
    headers = content_headers(manifest.digest, fixed=_is_digest(reference))
    headers["Content-Type"] = manifest.media_type
    return web.Response(body=manifest.body, headers=headers)


def counts(method: str, item: str) -> bool:
    """Whether reading a manifest that is there is a pull: by tag always, by digest only GET."""
    return method == "GET" or not _is_digest(item)


async def push(exchange: Exchange) -> web.StreamResponse:
    """PUT: keep the bytes, link what they need, and move the tag, in one step.

    ``If-Match`` and ``If-None-Match: *`` make that step conditional: 412 DENIED, with the digest
    that the tag is at in ``detail.current``, when the state is another.
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
    if_match, if_absent = await _conditions(exchange, repository, reference)
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
        if_match=if_match,
        if_absent=if_absent,
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


async def _conditions(
    exchange: Exchange, repository: Repository, reference: str
) -> tuple[str | None, bool]:
    """``if_match`` and ``if_absent`` of a PUT (RFC 9110 sections 13.1.1 and 13.1.2).

    Of several entity tags the one that the reference is at now is chosen, and checked again in
    the step itself. Weak and foreign tags match nothing.
    """
    headers = exchange.request.headers
    none_match = headers.get("If-None-Match")
    if none_match is not None and none_match.strip() != "*":
        raise OciError("UNSUPPORTED", "If-None-Match of a PUT can only be *", status=400)
    match = headers.get("If-Match")
    if match is None or match.strip() == "*":
        return (None if match is None else "*"), none_match is not None
    strong = [tag for tag in match.split(",") if not tag.strip().startswith("W/")]
    wanted = [tag for text in strong for tag in etags(text) if _parses(tag)]
    current = await _current(exchange, repository, reference)
    if current is None or current not in wanted:
        raise PreconditionFailed("tag", reference, current)
    return current, none_match is not None


def _parses(digest: str) -> bool:
    try:
        Digest.parse(digest)
    except InvalidDigest:
        return False
    return True


async def _current(exchange: Exchange, repository: Repository, reference: str) -> str | None:
    try:
        return str((await exchange.store.manifests.get(repository, reference)).digest)
    except NotFound:
        return None


async def delete(exchange: Exchange) -> web.StreamResponse:
    """DELETE: a tag alone, or a manifest with every tag on it."""
    repository = await exchange.repository()
    reference = _read_reference(exchange.target.item)
    if _is_digest(reference):
        await exchange.store.manifests.delete(repository, Digest.parse(reference))
    else:
        await exchange.store.tags.untag(repository, reference)
    return web.Response(status=202)
