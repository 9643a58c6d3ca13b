"""Maps a Host header to its region, and a region to the host under which docker reaches it.

A region's host is its endpoint, if it has one; else the server's host with the port of that region;
else ``<region>.<host>``. A host that fits no region means the default region.

Both directions are in this module and are inverse: a ``docker push`` to the host that
``endpoint_of`` returns for a region goes to that region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class RegionSettings(Protocol):
    """The part of AppSettings that names the hosts of regions."""

    @property
    def regions(self) -> tuple[str, ...]:
        """All regions, the default one first."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Endpoint ``host[:port]`` by region."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Port of its own by region."""

    @property
    def default_endpoint(self) -> str | None:
        """``host[:port]`` of the default region; None if not known."""


def region_at(host: str, scheme: str, settings: RegionSettings) -> str:
    """Return the region of a ``host[:port]``; the scheme's own port may be left out."""
    default_port = ":443" if scheme == "https" else ":80"
    wanted = host.lower().removesuffix(default_port)
    for region, endpoint in _endpoints(settings):
        if endpoint.lower().removesuffix(default_port) == wanted:
            return region
    name, port = _split(wanted)
    label, dot, _ = name.partition(".")
    if dot and label in settings.regions:
        return label
    number = port or default_port.removeprefix(":")
    for region, own in settings.ports.items():
        if str(own) == number:
            return region
    return settings.regions[0]


def endpoint_of(region: str, host: str, scheme: str, settings: RegionSettings) -> str:
    """Return ``host[:port]`` of a region as docker takes it, for a client that used ``host``."""
    for named, endpoint in _endpoints(settings):
        if named == region:
            return endpoint
    current = region_at(host, scheme, settings)
    if current == region:
        return host
    name, port = _split(host)
    # The client's host may begin with another region's label, which must not be kept.
    name = _without_label(name, settings.regions)
    if region in settings.ports:
        return f"{name}:{settings.ports[region]}"
    base = settings.default_endpoint
    if base is None:
        port = str(settings.ports.get(settings.regions[0], port))
        base = f"{name}:{port}" if port else name
        # The bare host may mean this region already, so it needs no label.
        if region_at(base, scheme, settings) == region:
            return base
    return f"{region}.{base}"


def _endpoints(settings: RegionSettings) -> Iterable[tuple[str, str]]:
    yield from settings.endpoints.items()
    default = settings.regions[0]
    if settings.default_endpoint is not None and default not in settings.endpoints:
        yield default, settings.default_endpoint


def _split(host: str) -> tuple[str, str]:
    """Split a host into name and port (maybe empty); an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _without_label(name: str, regions: Iterable[str]) -> str:
    while (parts := name.partition("."))[1] and parts[0].lower() in regions:
        name = parts[2]
    return name
