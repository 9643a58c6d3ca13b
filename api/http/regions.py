"""Regions, and where docker reaches each: the inverse of which region a Host header means.

A region is at its endpoint, if it has one; else at the port of this server that is its own, on
whatever host the client reached us under; else, without a port either, at ``<region>.<host>``. The
default region is also wherever no other is.

Both directions are here, so that ``docker push`` to what one says is a push to the region that it
was said of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

REGIONS_DEFAULT: Final = ("fr-par", "nl-ams", "pl-waw")
"""The regions of Scaleway's registry. The first is the default one."""


class Places(Protocol):
    """Where the regions are: the part of AppSettings that says it."""

    @property
    def regions(self) -> tuple[str, ...]:
        """All of them, the default one first."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Region to ``host[:port]``."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Region to the port that is its own."""

    @property
    def default_endpoint(self) -> str | None:
        """``host[:port]`` of the default region, where it is known."""


def region_at(host: str, scheme: str, places: Places) -> str:
    """The region that a ``host[:port]`` means; the scheme's own port may be left out."""
    default_port = ":443" if scheme == "https" else ":80"
    asked = host.lower().removesuffix(default_port)
    for region, endpoint in _endpoints(places):
        if endpoint.lower().removesuffix(default_port) == asked:
            return region
    name, port = _split(asked)
    label, dot, _ = name.partition(".")
    if dot and label in places.regions:
        return label
    number = port or default_port.removeprefix(":")
    for region, own in places.ports.items():
        if str(own) == number:
            return region
    return places.regions[0]


def endpoint_of(region: str, host: str, scheme: str, places: Places) -> str:
    """``host[:port]`` of a region as docker takes it, for a client that reached us at ``host``."""
    for known, endpoint in _endpoints(places):
        if known == region:
            return endpoint
    here = region_at(host, scheme, places)
    if here == region:
        return host
    name, port = _split(host)
    name = _without_label(name, places.regions)
    if region in places.ports:
        return f"{name}:{places.ports[region]}"
    base = places.default_endpoint
    if base is None:
        port = str(places.ports.get(places.regions[0], port))
        base = f"{name}:{port}" if port else name
        if region_at(base, scheme, places) == region:
            return base
    return f"{region}.{base}"


def _endpoints(places: Places) -> Iterable[tuple[str, str]]:
    yield from places.endpoints.items()
    default = places.regions[0]
    if places.default_endpoint is not None and default not in places.endpoints:
        yield default, places.default_endpoint


def _split(host: str) -> tuple[str, str]:
    """Name and port (or nothing); an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _without_label(name: str, regions: Iterable[str]) -> str:
    while (parts := name.partition("."))[1] and parts[0].lower() in regions:
        name = parts[2]
    return name
