"""Lists the images that a caller may pull, in order of their full names.

A page costs what it shows: the ledger lists namespaces by who may see an image in them, and their
images by visibility, so the catalog reads no row that it does not show.
"""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import AUDIENCE
from holdfast.engine.ledger.records import Namespace, payloads
from holdfast.engine.model.errors import Corrupt, NotFound
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces import listings, namespaces
from holdfast.engine.namespaces.namespaces import catalog_prefix

from . import images

NAMESPACES_MAX: Final = 100
"""Namespaces looked at in one read: they may be empty."""


async def listing(
    txn: Transaction, region: str, scope: bytes | None, last: bytes, limit: int
) -> tuple[list[Repository], str | None]:
    """Images of a region after the full name ``last``, and where to go on; None at the end.

    ``scope`` (``namespaces.scopes``) is of the namespaces whose images are all shown; what anyone
    may pull is shown besides. At most ``limit`` images, 1 or more; fewer, with a place to go on,
    where many namespaces have none. What is damaged is left out, and the rest goes on.
    """
    own = {} if scope is None else await _homes(txn, scope, last)
    homes = sorted({**await _homes(txn, namespaces.in_public(region), last), **own}.items())
    found: list[Repository] = []
    for prefix, namespace_id in homes[:NAMESPACES_MAX]:
        try:
            home = await namespaces.require(txn, namespace_id)
        except (Corrupt, NotFound):
            continue
        begun = last.removeprefix(prefix) if last.startswith(prefix) else b""
        shelves = ("inherit", "public", "private") if prefix in own else _open_shelves(home)
        found += await _images(txn, home, shelves, begun, limit - len(found))
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
    return {key.removeprefix(prefix): value for key, value in payloads(rows)}


def _open_shelves(home: Namespace) -> tuple[str, ...]:
    return ("inherit", "public") if home.is_public else ("public",)


async def _images(
    txn: Transaction, home: Namespace, shelves: tuple[str, ...], begun: bytes, limit: int
) -> list[Repository]:
    """The namespace's images of these visibilities, by name, after the name ``begun``."""
    found: list[Repository] = []
    while len(found) < limit:
        step = limit - len(found)
        rows = await _on(txn, home, shelves, begun, step)
        for _, image_key in payloads([(key, value) for _, key, value in rows]):
            read = await listings.items(txn, images.by_key, [image_key])
            found += [images.repository_of(home, image.name, image) for image in read if image]
        if len(rows) < step:
            break
        begun = rows[-1][0]
    return found


async def _on(
    txn: Transaction, home: Namespace, shelves: tuple[str, ...], begun: bytes, limit: int
) -> list[tuple[bytes, bytes, bytes]]:
    """The first names, with their rows, on these shelves after the name ``begun``."""
    found: list[tuple[bytes, bytes, bytes]] = []
    for visibility in shelves:
        prefix = catalog_prefix(home.id, visibility)
        start = prefix + begun + b"\0" if begun else prefix
        rows = await txn.scan(start, after(prefix), limit=limit)
        found += [(key.removeprefix(prefix), key, value) for key, value in rows]
    return sorted(found)[:limit]
