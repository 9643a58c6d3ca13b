"""Whom the long reads of a request are for: the engine shares its threads among them."""

from __future__ import annotations

from holdfast.api.limits.addresses import network_prefix
from holdfast.engine import READ_OWNER, Key


def set_read_owner(key: Key | None, address: str = "") -> None:
    """The request is made with this key, or without one from this address.

    Keys of one project are one party; one of all projects is a party by itself.
    """
    if key is None:
        READ_OWNER.set(network_prefix(address))
    elif key.project_id is None:
        READ_OWNER.set(key.access_key)
    else:
        READ_OWNER.set(str(key.project_id))
