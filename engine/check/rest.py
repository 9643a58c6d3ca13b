"""Keys against their index rows; then every counter."""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import Key

from .context import CheckContext, id_name


async def keys(look: CheckContext) -> None:
    """Every key is found by its secret, and by no other."""
    async for _, row in look.records(Key, layout.KEY):
        secret = layout.KEY_SECRET + row.secret
        value = await look.value(secret)
        if value is None and await look.lacks(secret):
            look.say("key", row.access_key, "the row of its secret is missing")
        elif value is not None and value != row.access_key.encode():
            look.say("key", row.access_key, "its secret leads to another")
    async for key, access_key in look.rows(layout.KEY_SECRET):
        found = await look.load(Key, layout.KEY + access_key)
        if found is None and not await look.lacks(layout.KEY + access_key):
            continue
        # Where it is one of another, the key itself was told of.
        if found is None or found.secret != key[1:]:
            text = access_key.decode("utf-8", "replace")
            look.say("key", text, "a secret leads to it that is not its own")


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
    layout.ASIDE_LENGTH: ("entries set aside", (layout.ASIDE,)),
    layout.NAMESPACES: ("namespaces", (layout.NAMESPACE,)),
    layout.IMAGES: ("images", (layout.IMAGE,)),
    layout.HOLDS: ("holds", (layout.CLAIM,)),
    layout.ROOT_BLOBS: ("blobs of root", (layout.CLAIM, layout.ROOT)),
}
"""Counters that ``CheckContext.totals`` recounts: what they say, and the rows that it rests on."""

_NAME_AT: Final = len(layout.COUNTER)
_SCOPE_AT: Final = _NAME_AT + 2
_ELSEWHERE: Final = (layout.LISTED, layout.FREED_BYTES, b"fb", b"ck")
"""Checked with the listings, or with no rows to recount them from."""


async def counters(look: CheckContext) -> None:
    """Every counter equals the recount, and there is none of something that does not exist."""
    async for key, _ in look.stored(layout.COUNTER):
        name, scope = key[_NAME_AT:_SCOPE_AT], key[_SCOPE_AT:]
        if name in (layout.IMAGE_SIZE, layout.IMAGE_TAGS):
            if await look.lacks(layout.IMAGE + scope):
                look.say("counter", f"of image {id_name(scope)}", "the image does not exist")
        elif name in _COUNTED:
            await _compare(look, key, look.totals.pop(key, 0))
        elif name not in _ELSEWHERE:
            look.say("counter", key.hex(), "a counter of nothing")
    for key, expected in look.totals.items():
        await _compare(look, key, expected)


async def _compare(look: CheckContext, key: bytes, expected: int) -> None:
    what, rests_on = _COUNTED[key[_NAME_AT:_SCOPE_AT]]
    if any(look.spoiled_kind(kind) for kind in rests_on):
        return
    await look.counted(key, expected, f"{what} {_scope_name(key[_SCOPE_AT:])}".rstrip())


def _scope_name(scope: bytes) -> str:
    """What a counter is of: an id, or the place of a namespace; nothing for the whole store."""
    if len(scope) <= ID_BYTES:
        return id_name(scope) if scope else ""
    name = scope[ID_BYTES:].replace(b"\0", b" ").decode("utf-8", "backslashreplace")
    return f"{name} of project {id_name(scope[:ID_BYTES])}"
