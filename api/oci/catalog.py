"""``/v2/_catalog``: the repositories of the region that the caller may pull (Docker registry)."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from . import rights, tokens
from .exchange import RESULTS_MAX, Exchange, json_response, last_name, next_link, page_size

NAME_CHARS_MAX: Final = 255

_BATCH: Final = 100
"""Repositories looked at in one ledger read, which takes 10 µs for each."""


async def listing(exchange: Exchange) -> web.StreamResponse:
    """GET: full names in byte order, after ``last``, at most ``n``.

    Without credentials 401, so that clients come back with what they have; an anonymous token
    lists the public images. Names that the caller may not see are passed over, never shown.
    """
    caller = exchange.caller
    if not caller.presented:
        raise exchange.gate.unauthorized(scope="registry:catalog:*")
    if caller.scopes is not None and tokens.CATALOG not in caller.scopes:
        raise exchange.gate.unauthorized(scope="registry:catalog:*", error="insufficient_scope")
    query = exchange.query
    asked = page_size(query)
    count = RESULTS_MAX if asked is None else asked
    names = await _visible(exchange, last_name(query, NAME_CHARS_MAX), count + 1) if count else []
    shown = names[:count]
    headers: dict[str, str] = {}
    if len(names) > count and shown:
        path = f"{exchange.gate.prefix}/v2/_catalog"
        headers = next_link(path, query, n=str(count), last=shown[-1])
    return json_response({"repositories": shown}, headers)


async def _visible(exchange: Exchange, after: str, wanted: int) -> list[str]:
    """Up to ``wanted`` names that the caller may pull; the token's scope is the catalog's."""
    region, key = exchange.gate.origin.region, exchange.caller.key
    names: list[str] = []
    following: str | None = after
    while following is not None and len(names) < wanted:
        repositories, following = await exchange.store.repositories(
            region,
            project_id=None if key is None else key.project_id,
            public_only=key is None,
            after=following,
            limit=min(wanted - len(names), _BATCH),
        )
        # The store looks only where there is something to see; the table still decides.
        names += [
            repository.full_name
            for repository in repositories
            if rights.verdict(key, repository, "pull").allowed
        ]
        # A read waits for nothing, so others have their turn here.
        await asyncio.sleep(0)
    return names
