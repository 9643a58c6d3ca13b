"""Addresses of clients, as limits count them: one machine, or one network prefix."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

UNIX: Final = "unix"
"""The neighbourhood of the unix socket."""

_LOOPBACK: Final = ("127.", "::/64")
"""How those begin that are this machine itself."""


def network_prefix(address: str) -> str:
    """What one client can have: an IPv4 address, or the /64 of an IPv6 one.

    All who come through the unix socket, and bring no address, are one.
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


def is_local(who: str) -> bool:
    """Whether a neighbourhood is this machine itself: a loopback address, or the unix socket."""
    return who.startswith(_LOOPBACK) or who == UNIX
