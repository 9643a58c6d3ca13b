"""Check keys against their index rows, and every counter against its recount."""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Key

from .context import CheckContext, id_name, pointed


async def keys(context: CheckContext) -> None:
    """Check that every key has the index row of its secret, and no other."""
    async for _, row in context.records(Key, layout.KEY):
        secret = layout.KEY_SECRET + row.secret
        item = context.item("key", row.access_key)
        await item.expect_present(secret, "the row of its secret is missing")
        value = await context.value(secret)
        if value is not None and value != row.access_key.encode():
            item.report("its secret points to another key")
    by_access_key = pointed(layout.KEY)
    async for key, access_key, found in context.targets(layout.KEY_SECRET, Key, by_access_key):
        # The loop above reports a secret that points to another key.
        if found is None or found.secret != key[1:]:
            text = access_key.decode("utf-8", "replace")
            context.item("key", text).report("a secret points to it that is not its own")


_OF_BLOBS: Final = (layout.BLOB, layout.GARBAGE)
_OF_NAMESPACE: Final = (layout.IMAGE, layout.CLAIM, layout.CLAIMED, layout.NEEDS)
_OF_LINKS: Final = (layout.CLAIM, layout.REFERENCE, layout.IMAGE, layout.NAMESPACE)

_COUNTED: Final[dict[bytes, tuple[str, tuple[bytes, ...]]]] = {
    layout.NAMESPACE_SIZE: ("size of namespace", _OF_NAMESPACE),
    layout.NAMESPACE_IMAGES: ("images of namespace", (layout.IMAGE,)),
    layout.NAMESPACE_UNIQUE: ("unique size of namespace", _OF_LINKS),
    layout.NAMESPACE_EXCLUSIVE: ("exclusive size of namespace", _OF_LINKS),
    layout.NAMESPACE_PROJECT_EXCLUSIVE: ("exclusive size in its project of namespace", _OF_LINKS),
    layout.NAMESPACE_MANIFESTS: ("manifests' bytes of namespace", _OF_LINKS),
    layout.NAMESPACE_HELD: ("held bytes of namespace", _OF_LINKS),
    layout.PLACE_KEPT: ("kept size of namespace", _OF_LINKS),
    layout.PROJECT_KEPT: ("kept size of project", _OF_LINKS),
    layout.BLOBS: ("blobs", _OF_BLOBS),
    layout.BLOB_BYTES: ("bytes of blobs", _OF_BLOBS),
    layout.STORED_BYTES: ("bytes at rest", _OF_BLOBS),
    layout.GARBAGE_LENGTH: ("entries of the garbage queue", _OF_BLOBS),
    layout.TRASH_LENGTH: ("entries of the trash", (layout.TRASH,)),
    layout.DEAD_LETTERS: ("entries set aside", (layout.DEAD_LETTER,)),
    layout.NAMESPACES: ("namespaces", (layout.NAMESPACE,)),
    layout.IMAGES: ("images", (layout.IMAGE,)),
    layout.HOLDS: ("holds", (layout.CLAIM,)),
    layout.ROOT_BLOBS: ("blobs of root", (layout.CLAIM, layout.ROOT)),
}
"""Counters recounted in ``CheckContext.totals``: name, and the kinds of rows they are made of."""

_NAME_AT: Final = len(layout.COUNTER)
_SCOPE_AT: Final = _NAME_AT + 2
_ELSEWHERE: Final = (layout.LISTED, layout.FREED_BYTES, b"fb", b"ck")
"""Counters that ``listings`` checks, or that no rows can recount."""


async def counters(context: CheckContext) -> None:
    """Check that every counter equals its recount and counts something that exists."""
    async for key, _ in context.stored_rows(layout.COUNTER):
        name, scope = key[_NAME_AT:_SCOPE_AT], key[_SCOPE_AT:]
        if name in (layout.IMAGE_SIZE, layout.IMAGE_TAGS):
            item = context.item("counter", f"of image {id_name(scope)}")
            await item.expect_present(layout.IMAGE + scope, "the image does not exist")
        elif name in _COUNTED:
            await _compare(context, key, context.totals.pop(key, 0))
        elif name not in _ELSEWHERE:
            context.item("counter", key.hex()).report("it has no known name")
    # Recounts whose counter has no row: it reads as 0.
    for key, expected in context.totals.items():
        await _compare(context, key, expected)


async def _compare(context: CheckContext, key: bytes, expected: int) -> None:
    what, sources = _COUNTED[key[_NAME_AT:_SCOPE_AT]]
    if any(context.has_unreadable_kind(kind) for kind in sources):
        # The recount lacks the rows that cannot be read.
        return
    await context.expect_counter(key, expected, f"{what} {_scope_name(key[_SCOPE_AT:])}".rstrip())


def _scope_name(scope: bytes) -> str:
    """Return the scope of a counter for a report: an id, or name and project; "" for the store."""
    if len(scope) <= ID_BYTES:
        return id_name(scope) if scope else ""
    name = scope[ID_BYTES:].replace(b"\0", b" ").decode("utf-8", "backslashreplace")
    return f"{name} of project {id_name(scope[:ID_BYTES])}"
