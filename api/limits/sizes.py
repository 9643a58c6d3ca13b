"""The limits of a server that are numbers: of sizes and of counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.engine import MANIFEST_BYTES_MAX

CONNECTIONS_DEFAULT: Final = 10_000
CONNECTIONS_MAX: Final = 1_000_000

ADDRESS_CONNECTIONS_DEFAULT: Final = 2000
"""A fifth of all: more than any client has, also one that is a whole office behind a NAT."""

JSON_BYTES_DEFAULT: Final = 64 * 1024
"""No body of the management API needs more."""
JSON_BYTES_LEAST: Final = 4096
JSON_BYTES_MOST: Final = 16 << 20

UPLOADS_MAX: Final = 1_000_000

BANDWIDTH_LEAST: Final = 64 * 1024
"""With less, one buffer of a body takes longer than clients wait."""
BANDWIDTH_MOST: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is in force. Sizes are bytes."""

    blob_bytes: int = 1 << 40
    """The largest blob."""

    manifest_bytes: int = MANIFEST_BYTES_MAX
    """The largest manifest."""

    json_bytes: int = JSON_BYTES_DEFAULT
    """The largest body of the management API."""

    uploads: int = 1000
    """Open upload sessions of one namespace."""

    bandwidth: int = 0
    """Bytes of content a second, in and out, that all namespaces share; 0 is no limit."""

    connections: int = CONNECTIONS_DEFAULT
    """Connections at one time, of all workers."""

    address_connections: int = ADDRESS_CONNECTIONS_DEFAULT
    """Of them, those from one address; 0 is no limit."""

    spare_local: bool = True
    """Whether ``address_connections`` does not hold for this machine itself."""
