"""Finds the address of a client behind trusted proxies."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from .app_settings import AppSettings
from .origin import from_proxy, is_trusted

if TYPE_CHECKING:
    from aiohttp import web

HOPS_MAX: Final = 32
"""Entries of X-Forwarded-For that are read, from the nearest on."""


def client_address(request: web.Request, settings: AppSettings) -> str:
    """Return the nearest address that is no trusted proxy; empty on a unix socket."""
    nearest = request.remote or ""
    if not from_proxy(request, settings):
        return nearest
    header = ",".join(request.headers.getall("X-Forwarded-For", ()))
    return address_behind(nearest, header, settings)


def address_behind(nearest: str, header: str, settings: AppSettings) -> str:
    """Return the client's address, from a trusted proxy's own address and its X-Forwarded-For.

    Each proxy appends the address that connected to it. So the list is read from the end, and only
    as far as proxies are trusted: entries that the client wrote itself never count.
    """
    for text in reversed(header.rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
        address = _address_of(text)
        if address is None:
            return nearest
        nearest = address
        if not is_trusted(nearest, settings):
            break
    return nearest


def _address_of(entry: str) -> str | None:
    """Return the address of an entry, which some proxies write with a port; None if malformed."""
    host, port = entry.strip(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return None
    try:
        return str(ip_address(host))
    except ValueError:
        return None
