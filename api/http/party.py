"""Whom the long reads of a request are for: the engine shares its threads among them."""

from __future__ import annotations

from holdfast.api.limits.addresses import neighbourhood
from holdfast.engine import PARTY, Key


def note_party(key: Key | None, address: str = "") -> None:
    """The request is made with this key, or without one from this address.

    Keys of one project are one party; one of all projects is a party by itself.
    """
    if key is None:
        PARTY.set(neighbourhood(address))
    elif key.project_id is None:
        PARTY.set(key.access_key)
    else:
        PARTY.set(str(key.project_id))
