"""Handler of ``/v2/_catalog``, the repositories that the caller may pull (Docker registry)."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from . import rights, tokens
from .exchange import Exchange, json_response, last_name, next_link, page_size

NAME_CHARS_MAX: Final = 255

_ROWS_PER_READ: Final = 100
"""Repositories per ledger read, which takes 10 µs for each."""


async def listing(exchange: Exchange) -> web.StreamResponse:
    """Handle GET: return at most ``n`` full names after ``last``, in byte order.

    A request without credentials gets 401, so that clients send theirs; an anonymous token lists
    the public images. The list has only names that the caller may pull.
    """
    caller = exchange.caller
    if not caller.presented:
        raise exchange.gate.unauthorized(scope="registry:catalog:*")
    if caller.scopes is not None and tokens.CATALOG not in caller.scopes:
        raise exchange.gate.unauthorized(scope="registry:catalog:*", error="insufficient_scope")
    query = exchange.query
    count = page_size(query)
    names = await _visible(exchange, last_name(query, NAME_CHARS_MAX), count + 1) if count else []
    shown = names[:count]
    headers: dict[str, str] = {}
    if len(names) > count and shown:
        path = f"{exchange.gate.prefix}/v2/_catalog"
        headers = next_link(path, query, n=str(count), last=shown[-1])
    return json_response({"repositories": shown}, headers)


async def _visible(exchange: Exchange, after: str, wanted: int) -> list[str]:
    """Return up to ``wanted`` names that the caller may pull, by key only.

    The token has the scope of the catalog, so it narrows no repository.
    """
    region, key = exchange.gate.origin.region, exchange.caller.key
    names: list[str] = []
    following: str | None = after
    while following is not None and len(names) < wanted:
        repositories, following = await exchange.store.repositories(
            region,
            project_id=None if key is None else key.project_id,
            public_only=key is None,
            after=following,
            limit=min(wanted - len(names), _ROWS_PER_READ),
        )
        # The store filters by project and visibility; the table of rights still decides.
        names += [
            repository.full_name
            for repository in repositories
            if rights.verdict(key, repository, "pull").allowed
        ]
        # A ledger read never waits: yield, so that other requests run between two reads.
        await asyncio.sleep(0)
    return names
