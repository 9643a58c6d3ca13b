"""The address of a client, seen through proxies that are believed."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from .app_settings import AppSettings
from .origin import from_proxy, is_trusted

if TYPE_CHECKING:
    from aiohttp import web

HOPS_MAX: Final = 32
"""Entries of X-Forwarded-For that are looked at, from the nearest on."""


def client_address(request: web.Request, settings: AppSettings) -> str:
    """The nearest address that is no trusted proxy; empty on a unix socket."""
    nearest = request.remote or ""
    if not from_proxy(request, settings):
        return nearest
    header = ",".join(request.headers.getall("X-Forwarded-For", ()))
    return address_behind(nearest, header, settings)


def address_behind(nearest: str, header: str, settings: AppSettings) -> str:
    """As ``client_address``, from a trusted proxy's own address and what it says.

    Each proxy adds whom it was asked by at the end of X-Forwarded-For, so the list is read from
    there, and only as far as proxies are trusted: what a client wrote itself is never believed.
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
    """The address of an entry of X-Forwarded-For, which some proxies write with the port."""
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
