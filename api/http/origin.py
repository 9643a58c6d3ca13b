"""Finds the scheme, host and region under which a client reached the server.

Forwarded headers count only from configured proxies (``AppSettings.trusted_proxies``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from .app_settings import AppSettings
from .regions import region_at

if TYPE_CHECKING:
    from aiohttp import web

HOST_CHARS_MAX: Final = 255
_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)", re.ASCII)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """The address that the client uses: ``host`` is ``host[:port]``, safe to put into a header."""

    scheme: str
    host: str
    region: str


def from_proxy(request: web.Request, settings: AppSettings) -> bool:
    """Return True if the other end of the connection is a trusted proxy."""
    if not request.remote and request.transport is None:
        return False
    return is_proxy(request.remote or "", settings)


def is_proxy(peer: str, settings: AppSettings) -> bool:
    """Return True if a peer address is a trusted proxy's; the empty one is a unix socket."""
    return is_trusted(peer, settings) if peer else settings.trust_unix


def is_trusted(text: str, settings: AppSettings) -> bool:
    """Return True if an address is in ``trusted_proxies``."""
    if not settings.trusted_proxies:
        return False
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in settings.trusted_proxies)


def _first(value: str | None) -> str:
    """Return the first member of a comma list: the value that the outermost proxy received."""
    return (value or "").partition(",")[0].strip()


def target_host(target: str) -> str | None:
    """Return ``host[:port]`` of a request target in absolute form; None for another form.

    RFC 9112 section 3.2.2. The host may be anything that has no slash.
    """
    match = None if target.startswith("/") else _ABSOLUTE.match(target)
    return None if match is None else match[2]


def is_foreign(target: str) -> bool:
    """Return True if a request target in absolute form is not one of an HTTP server.

    RFC 9110 section 4.2: another scheme, no host, or user information before it.
    """
    match = None if target.startswith("/") else _ABSOLUTE.match(target)
    if match is None:
        return False
    host = match[2]
    return match[1].lower() not in ("http", "https") or host[:1] in ("", ":") or "@" in host


def origin_of(request: web.Request, settings: AppSettings) -> Origin:
    """Return scheme, host and region of a request. A malformed host becomes the default endpoint.

    A target in absolute form overrides the Host header (RFC 9112 section 3.2.2); the scheme is that
    of the connection.
    """
    headers = request.headers
    scheme, host = request.scheme, target_host(request.raw_path)
    if host is None:
        host = headers.get("Host", "")
    if not from_proxy(request, settings):
        return origin_from(scheme, host, settings)
    proto, asked = headers.get("X-Forwarded-Proto"), headers.get("X-Forwarded-Host")
    return forwarded_origin(scheme, host, proto, asked, settings)


def forwarded_origin(
    scheme: str, host: str, proto: str | None, asked: str | None, settings: AppSettings
) -> Origin:
    """Return the origin from X-Forwarded-Proto and X-Forwarded-Host of a trusted proxy."""
    said = _first(proto).lower()
    return origin_from(
        said if said in ("http", "https") else scheme, _first(asked) or host, settings
    )


def origin_from(scheme: str, host: str, settings: AppSettings) -> Origin:
    """Return the origin from scheme and Host alone."""
    if len(host) > HOST_CHARS_MAX or not _HOST.fullmatch(host):
        host = settings.default_endpoint or "localhost"
    return Origin(scheme, host, region_at(host, scheme, settings))


def token_url(origin: Origin, settings: AppSettings, prefix: str) -> str:
    """Return the absolute URL of the token service for this client, on its region's host.

    ``prefix`` is where the application is mounted; a configured public URL has its own.
    """
    if settings.public_url is None:
        return f"{origin.scheme}://{origin.host}{prefix}/token"
    if origin.region == settings.default_region:
        return f"{settings.public_url}/token"
    public = urlsplit(settings.public_url)
    return f"{public.scheme}://{origin.host}{public.path}/token"
