"""The catalog: the images that somebody may pull, in order of their full names.

It costs what is in it: namespaces are listed for whoever may see something in them, and their
images are kept apart by visibility, so that nothing is looked at that is not shown.
"""

from __future__ import annotations

from typing import Final

from . import images, namespaces
from .layout import AUDIENCE
from .ledger import Transaction, after
from .models import Repository
from .namespaces import shelf
from .records import Namespace, unseal

NAMESPACES_MAX: Final = 100
"""Namespaces looked at in one read: they may be empty."""


async def listing(
    txn: Transaction, region: str, scope: bytes | None, last: bytes, limit: int
) -> tuple[list[Repository], str | None]:
    """Images of a region after the full name ``last``, and where to go on; None at the end.

    ``scope`` (``namespaces.scopes``) is of the namespaces whose images are all shown; what anyone
    may pull is shown besides. At most ``limit`` images, 1 or more; fewer, with a place to go on,
    where many namespaces have none.
    """
    own = {} if scope is None else await _homes(txn, scope, last)
    homes = sorted({**await _homes(txn, namespaces.in_public(region), last), **own}.items())
    found: list[Repository] = []
    for prefix, namespace_id in homes[:NAMESPACES_MAX]:
        home = await namespaces.require(txn, namespace_id)
        begun = last.removeprefix(prefix) if last.startswith(prefix) else b""
        shelves = ("inherit", "public", "private") if prefix in own else _open_shelves(home)
        for image_key in await _on(txn, home, shelves, begun, limit - len(found)):
            row = await images.by_key(txn, image_key)
            assert row is not None, "a listed image has no row"
            found.append(images.repository_of(home, row.name, row))
        if len(found) == limit:
            return found, found[-1].full_name
    if len(homes) <= NAMESPACES_MAX:
        return found, None
    # The character after the slash: whatever the last namespace has orders before it.
    return found, homes[NAMESPACES_MAX - 1][0].decode().removesuffix("/") + "0"


async def _homes(txn: Transaction, scope: bytes, last: bytes) -> dict[bytes, bytes]:
    """Namespaces of a scope that may have images after ``last``, one more than are looked at.

    Their names, with a slash as in full names, to their ids.
    """
    prefix = AUDIENCE + scope
    name, slash, _ = last.partition(b"/")
    rows = await txn.scan(prefix + name + slash, after(prefix), limit=NAMESPACES_MAX + 1)
    return {key.removeprefix(prefix): unseal(key, value) for key, value in rows}


def _open_shelves(home: Namespace) -> tuple[str, ...]:
    return ("inherit", "public") if home.is_public else ("public",)


async def _on(
    txn: Transaction, home: Namespace, shelves: tuple[str, ...], begun: bytes, limit: int
) -> list[bytes]:
    """Keys of the namespace's images of these visibilities, by name, after the name ``begun``."""
    found: list[tuple[bytes, bytes]] = []
    for visibility in shelves:
        prefix = shelf(home.id, visibility)
        start = prefix + begun + b"\0" if begun else prefix
        rows = await txn.scan(start, after(prefix), limit=limit)
        found += [(key.removeprefix(prefix), unseal(key, value)) for key, value in rows]
    return [image_key for _, image_key in sorted(found)[:limit]]
