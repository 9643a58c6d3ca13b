"""Handler of ``/token``, which issues the bearer tokens that challenges of ``/v2/`` ask for.

GET follows the Docker token specification, POST its OAuth 2.0 form (RFC 6749: grant types
``password`` and ``refresh_token``). A token gets the requested scopes that the caller's key allows
at this moment; a smaller or empty grant is not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from holdfast.api.http.app_keys import SETTINGS, STORE
from holdfast.api.http.bodies import read_bounded
from holdfast.api.http.oci_errors import JSON, OciError, too_many
from holdfast.api.http.origin import origin_of
from holdfast.api.http.queries import Query, parse_query
from holdfast.api.http.transfer import NO_STORE
from holdfast.api.telemetry.request_record import note_key
from holdfast.engine import Invalid, Key, Store

from . import rights, tokens
from .access import (
    Gate,
    Unauthenticated,
    basic_secret,
    credentials_of,
    key_of_claims,
    key_of_secret,
    unix_now,
)

FORM_BYTES_MAX: Final = 64 * 1024
"""Limit of the form; 64 scopes and a refresh token need under 48 KiB."""


async def answer_get(request: web.Request, gate: Gate) -> web.Response:
    """Handle GET: query ``service``, ``scope`` (repeated), ``offline_token``; Basic optional."""
    query = parse_query(request.rel_url.raw_query_string, form=True)
    credentials = credentials_of(request)
    secret = ""  # nosec B105 # none yet
    if credentials is not None:
        scheme, value = credentials
        if scheme != "basic":
            raise Unauthenticated("malformed")
        secret = basic_secret(value)
    key = await key_of_secret(gate.store, secret) if secret else None
    offline = query.first("offline_token") in ("true", "1")
    return await _tokens(gate, key, query.all("scope"), offline=offline)


async def answer_post(request: web.Request, gate: Gate) -> web.Response:
    """Handle POST: form ``grant_type``, ``scope``, and a password or a refresh token."""
    body = await read_bounded(request, FORM_BYTES_MAX, "UNSUPPORTED")
    query = parse_query(body.decode("latin-1"), form=True)
    grant = query.first("grant_type")
    offline = query.first("access_type") == "offline"
    if grant == "password":
        secret = query.first("password") or ""
        key = await key_of_secret(gate.store, secret) if secret else None
        return await _tokens(gate, key, query.all("scope"), offline=offline)
    if grant == "refresh_token":
        return await _refreshed(gate, query)
    raise OciError("UNSUPPORTED", "grant_type must be password or refresh_token", status=400)


async def _refreshed(gate: Gate, query: Query) -> web.Response:
    refresh = query.first("refresh_token") or ""
    try:
        claims = tokens.read(await gate.store.keys.signing_keys(), refresh, "refresh")
    except tokens.BadToken:
        raise Unauthenticated("token") from None
    key = await key_of_claims(gate.store, claims, gate.origin.region)
    return await _tokens(gate, key, query.all("scope"), refresh=refresh)


async def _tokens(
    gate: Gate,
    key: Key | None,
    requested: Sequence[str],
    *,
    offline: bool = False,
    refresh: str | None = None,
) -> web.Response:
    """Return the response: the access token under both names, and a requested refresh token."""
    if wait := note_key(key):
        raise too_many(wait, "too many requests with this key")
    granted = await _grant(gate, key, tokens.parse_scopes(requested))
    signing_key = await gate.store.keys.signing_key()
    now, seconds = unix_now(), gate.settings.token_seconds
    access_key = key.access_key if key is not None else None
    region = gate.origin.region

    def make(use: tokens.Use, scopes: tokens.Scopes, seconds: int) -> str:
        return tokens.issue(
            signing_key,
            use,
            access_key=access_key,
            region=region,
            scopes=scopes,
            now=now,
            seconds=seconds,
        )

    access = make("access", granted, seconds)
    answer: dict[str, Any] = {
        "token": access,
        "access_token": access,
        "token_type": "Bearer",  # nosec B105 # a scheme
        "scope": tokens.format_scopes(granted),
        "expires_in": seconds,
        "issued_at": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if refresh is None and offline and key is not None:
        refresh = make("refresh", {}, tokens.REFRESH_SECONDS)
    if refresh is not None:
        answer["refresh_token"] = refresh
    return web.Response(
        body=msgspec.json.encode(answer),
        headers={"Content-Type": JSON, "Cache-Control": NO_STORE},
    )


async def _grant(gate: Gate, key: Key | None, requested: tokens.Scopes) -> tokens.Scopes:
    """Return the requested scopes that the key allows now."""
    granted: dict[tuple[str, str], frozenset[str]] = {}
    for (kind, name), actions in requested.items():
        if (kind, name) == tokens.CATALOG:
            granted[kind, name] = actions
            continue
        if kind != "repository":
            continue
        # A scope that cannot be granted is left out; it is not an error.
        try:
            repository = await gate.find(name)
        except Invalid:
            continue
        allowed = actions & rights.grantable(key, repository)
        if allowed:
            granted[kind, name] = allowed
    return granted


async def token(request: web.Request) -> web.StreamResponse:
    """Handle ``/token`` for every method."""
    store: Store = request.app[STORE]
    settings = request.app[SETTINGS]
    gate = Gate(store, settings, origin_of(request, settings), "")
    try:
        if request.method in ("GET", "HEAD"):
            return await answer_get(request, gate)
        if request.method == "POST":
            return await answer_post(request, gate)
    except Unauthenticated as error:
        raise OciError(
            "UNAUTHORIZED",
            str(error),
            headers={"WWW-Authenticate": f'Basic realm="{tokens.SERVICE}"'},
        ) from error
    raise OciError("UNSUPPORTED", headers={"Allow": "GET, HEAD, POST"})
