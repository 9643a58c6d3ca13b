"""Checks the access of callers of the management API to objects.

An object of another project gets the same 404 as an absent one, byte for byte. If anyone may pull
it, its existence is no secret and the status is 403. An id of another region counts as absent.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from holdfast.engine import Image, Namespace, NotFound, Tag

from .errors import denied, not_found
from .operation import Call


async def namespace_of(call: Call[Any, Any], action: str) -> Namespace:
    """Return the namespace of the path for ``action``.

    Raises ApiError: 404, or 403 for a public one of another project.
    """
    namespace_id = call.ids["namespace_id"]
    namespace = await call.store.namespaces.get(namespace_id)
    public = namespace.is_public
    _check(call, namespace, public, "namespace", namespace_id, action)
    return namespace


async def image_of(call: Call[Any, Any], action: str) -> Image:
    """Return the image of the path for ``action``.

    Raises ApiError: 404, or 403 for a public one of another project.
    """
    image_id = call.ids["image_id"]
    image = await call.store.images.get(image_id)
    namespace = await _namespace(call, image, "image", image_id)
    _check(call, namespace, _public(image, namespace), "image", image_id, action)
    return image


async def tag_of(call: Call[Any, Any], action: str) -> Tag:
    """Return the tag of the path for ``action``.

    Raises ApiError: 404, or 403 for a public one of another project.
    """
    tag_id = call.ids["tag_id"]
    tag = await call.store.tags.get(tag_id)
    try:
        image = await call.store.images.get(tag.image_id)
    except NotFound:
        raise not_found("tag", tag_id) from None
    namespace = await _namespace(call, image, "tag", tag_id)
    _check(call, namespace, _public(image, namespace), "tag", tag_id, action)
    return tag


def _public(image: Image, namespace: Namespace) -> bool:
    if image.visibility == "inherit":
        return namespace.is_public
    return image.visibility == "public"


async def _namespace(call: Call[Any, Any], image: Image, kind: str, object_id: UUID) -> Namespace:
    """Return the namespace of an image. Raises 404 if it was deleted meanwhile."""
    try:
        return await call.store.images.namespace(image.id)
    except NotFound:
        raise not_found(kind, object_id) from None


def _check(
    call: Call[Any, Any],
    namespace: Namespace,
    public: bool,
    kind: str,
    object_id: UUID,
    action: str,
) -> None:
    # 404 before 403: a private object of another project must look absent.
    covered = call.key.covers(namespace.project_id)
    if namespace.region != call.region or not (covered or public):
        raise not_found(kind, object_id)
    if not covered:
        raise denied(kind, action)
