"""Network prefixes: the part of an address that one client has, as limits count clients."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

UNIX: Final = "unix"
"""Prefix that stands for the unix socket."""

_LOOPBACK: Final = ("127.", "::/64")
"""Beginnings of the prefixes of this machine itself."""


def network_prefix(address: str) -> str:
    """Return the prefix of an address: an IPv4 address, or the /64 of an IPv6 one.

    Clients of the unix socket, which have no address, share one.
    """
    if not address:
        return UNIX
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, 64), strict=False))
    return address


def is_local(prefix: str) -> bool:
    """Return True if a prefix is this machine itself: a loopback address, or the unix socket."""
    return prefix.startswith(_LOOPBACK) or prefix == UNIX
