"""Limits of a server that are numbers: sizes and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.engine import MANIFEST_BYTES_MAX

CONNECTIONS_DEFAULT: Final = 10_000
CONNECTIONS_MAX: Final = 1_000_000

ADDRESS_CONNECTIONS_DEFAULT: Final = 2000
"""A fifth of all: more than one client has, even an office behind a NAT."""

JSON_BYTES_DEFAULT: Final = 64 * 1024
"""Default of the largest body of the management API, in bytes; none of its bodies needs more."""
JSON_BYTES_MIN: Final = 4096
JSON_BYTES_MAX: Final = 16 << 20

UPLOADS_MAX: Final = 1_000_000

BANDWIDTH_MIN: Final = 64 * 1024
"""Least bandwidth in bytes a second: with less, one buffer of a body takes longer than clients
wait."""
BANDWIDTH_MAX: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits in force. Sizes are in bytes."""

    blob_bytes: int = 1 << 40
    """Largest blob."""

    manifest_bytes: int = MANIFEST_BYTES_MAX
    """Largest manifest."""

    json_bytes: int = JSON_BYTES_DEFAULT
    """Largest body of the management API."""

    uploads: int = 1000
    """Open upload sessions of one namespace."""

    bandwidth: int = 0
    """Bytes of content a second, in and out, that all namespaces share; 0 is no limit."""

    connections: int = CONNECTIONS_DEFAULT
    """Connections at one time, over all workers."""

    address_connections: int = ADDRESS_CONNECTIONS_DEFAULT
    """Connections from one address; 0 is no limit."""

    spare_local: bool = True
    """True if ``address_connections`` does not apply to this machine itself."""
