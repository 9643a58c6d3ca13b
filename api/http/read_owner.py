"""Sets the owner of a request's long reads: the engine shares its threads among owners."""

from __future__ import annotations

from holdfast.api.limits.addresses import network_prefix
from holdfast.engine import READ_OWNER, Key


def set_read_owner(key: Key | None, address: str = "") -> None:
    """Make the key's project the owner; without a key, the network prefix of the address.

    A key of all projects is an owner by itself.
    """
    if key is None:
        READ_OWNER.set(network_prefix(address))
    elif key.project_id is None:
        READ_OWNER.set(key.access_key)
    else:
        READ_OWNER.set(str(key.project_id))
