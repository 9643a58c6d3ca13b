"""How an application presents itself to clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Final
from uuid import UUID

from holdfast.api.limits.sizes import JSON_BYTES_DEFAULT

from .regions import REGIONS_DEFAULT

TOKEN_SECONDS_DEFAULT: Final = 300
"""Life of a bearer token. Clients assume 60 when told nothing, and ask again when it runs out."""

SERVER: Final = "holdfast"
"""What answers say of their server. Versions are nobody's business (RFC 9110 section 10.2.4)."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AppSettings:
    """How one application presents a store. The defaults suit an embedder; the server sets all.

    Raises ValueError when the fields contradict each other.
    """

    regions: tuple[str, ...] = REGIONS_DEFAULT
    """Accepted regions; requests that name none belong to the first."""

    endpoints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Region to ``host[:port]`` as ``docker push`` takes it. A request whose Host is one of these
    belongs to that region."""

    default_endpoint: str | None = None
    """``host[:port]`` of the default region, if it has no other endpoint; None takes it from the
    request's Host."""

    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Region to the port that it alone is at, whatever the host: of regions without an endpoint.
    One that has neither is at ``<region>.<host>`` (see ``regions``)."""

    public_url: str | None = None
    """``scheme://host[:port][/prefix]`` that clients reach this application under, without a
    trailing slash; None takes it from the request."""

    create_namespaces: bool = False
    """Whether a push into a namespace that does not exist creates it."""

    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose X-Forwarded-Proto, -Host and -For headers are believed."""

    trust_unix: bool = False
    """Whether those headers are believed of whoever connects to a unix socket."""

    organization_id: UUID | None = None
    """The one organization of the installation; None takes the one of the key in use."""

    token_seconds: int = TOKEN_SECONDS_DEFAULT
    """Life of a bearer token, 60 to 86400 seconds."""

    json_bytes_max: int = JSON_BYTES_DEFAULT
    """The largest body that the management API takes."""

    def __post_init__(self) -> None:
        if not self.regions:
            raise ValueError("regions: at least one is needed")
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("regions: one is named twice")
        for name, places in (("endpoints", self.endpoints), ("ports", self.ports)):
            unknown = sorted(set(places) - set(self.regions))
            if unknown:
                raise ValueError(f"{name}: {', '.join(unknown)} is not one of the regions")
        if not 60 <= self.token_seconds <= 86400:
            raise ValueError("token_seconds: must be 60 to 86400")

    @property
    def default_region(self) -> str:
        """The region of requests that name none."""
        return self.regions[0]
