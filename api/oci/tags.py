"""Handler of the tag list (OCI distribution-spec, end-8)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from .exchange import Exchange, json_response, last_name, next_link, page_size

TAG_CHARS_MAX: Final = 128


async def listing(exchange: Exchange) -> web.StreamResponse:
    """Handle GET: return at most ``n`` tag names after ``last``, in byte order."""
    repository = await exchange.repository()
    query = exchange.query
    count = page_size(query)
    last = last_name(query, TAG_CHARS_MAX)
    # Read one more than the page holds, to know if there is a next page.
    names = await exchange.store.tags.names(repository, after=last, limit=count + 1)
    shown = names[:count]
    headers: dict[str, str] = {}
    if shown and len(names) > count:
        path = exchange.location("tags/list")
        headers = next_link(path, query, n=str(count), last=shown[-1])
    return json_response({"name": exchange.target.name, "tags": shown}, headers)
