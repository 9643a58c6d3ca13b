"""The settings of an application: regions, public address, trust, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from .defaults import JSON_BYTES_DEFAULT, REGIONS_DEFAULT, TOKEN_SECONDS, TOKEN_SECONDS_DEFAULT

if TYPE_CHECKING:
    from uuid import UUID

SERVER: Final = "holdfast"
"""Server header of all answers, without a version (RFC 9110 section 10.2.4)."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Presentation of a store by one application. The defaults suit an embedder; the server
    sets all fields.

    Raises ValueError if the fields contradict each other.
    """

    regions: tuple[str, ...] = REGIONS_DEFAULT
    """Accepted regions; requests that name none belong to the first."""

    endpoints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """``host[:port]`` by region, as ``docker push`` takes it. A request with one of these as its
    Host belongs to that region."""

    default_endpoint: str | None = None
    """``host[:port]`` of the default region, if it has no other endpoint; None takes it from the
    request's Host."""

    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Port by region, for regions without an endpoint: the region is at that port of any host. A
    region without either is at ``<region>.<host>`` (see ``regions``)."""

    public_url: str | None = None
    """``scheme://host[:port][/prefix]`` of this application for clients, without a trailing slash;
    None takes it from the request."""

    create_namespaces: bool = False
    """True if a push into a missing namespace creates it."""

    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose X-Forwarded-Proto, -Host and -For headers count."""

    trust_unix: bool = False
    """True if those headers count from clients of a unix socket."""

    organization_id: UUID | None = None
    """The one organization of the installation; None takes the one of the key in use."""

    token_seconds: int = TOKEN_SECONDS_DEFAULT
    """Life of a bearer token, 60 to 86400 seconds."""

    json_bytes_max: int = JSON_BYTES_DEFAULT
    """Largest body of the management API, in bytes."""

    def __post_init__(self) -> None:
        if not self.regions:
            raise ValueError("regions: must name at least one region")
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("regions: must not name a region twice")
        for name, regions_named in (("endpoints", self.endpoints), ("ports", self.ports)):
            unknown = sorted(set(regions_named) - set(self.regions))
            if unknown:
                raise ValueError(f"{name}: {', '.join(unknown)} is not one of the regions")
        least, most = TOKEN_SECONDS
        if not least <= self.token_seconds <= most:
            raise ValueError(f"token_seconds: must be {least} to {most}")

    @property
    def default_region(self) -> str:
        """The region of requests that name none."""
        return self.regions[0]
