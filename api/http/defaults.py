"""Defaults that the options of the server share with an application of an embedder."""

from __future__ import annotations

from typing import Final

REGIONS_DEFAULT: Final = ("fr-par", "nl-ams", "pl-waw")
"""The regions of Scaleway's registry. The first is the default one."""

TOKEN_SECONDS_DEFAULT: Final = 300
"""Life of a bearer token in seconds. Clients assume 60 without a value, and fetch another token
when it ends."""

TOKEN_SECONDS: Final = (60, 86400)
"""Least and largest life of a bearer token in seconds."""

JSON_BYTES_DEFAULT: Final = 64 * 1024
"""Default of the largest body of the management API, in bytes; none of its bodies needs more."""
