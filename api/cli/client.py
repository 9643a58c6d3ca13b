"""Typed client of the management API's operations, over any ``Backend``.

Commands name resources as ``team``, ``team/web`` and ``team/web:v1``, or by their ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import click
import msgspec

from holdfast.api.management.images import get_image, list_images
from holdfast.api.management.namespaces import get_namespace, list_namespaces
from holdfast.api.management.operation import Operation
from holdfast.api.management.tags import get_tag, list_tags
from holdfast.api.management.views import ImageAnswer, NamespaceAnswer, TagAnswer

from .errors import not_found

if TYPE_CHECKING:
    from .backends import Backend

PAGE_SIZE: Final = 100
"""Items per page: the most that the API returns at once."""

A = TypeVar("A", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Named:
    """A name ``NAMESPACE[/IMAGE[:TAG]]``, split into its parts."""

    namespace: str
    image: str | None = None
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> Named:
        """Split a name; the operation that looks a part up checks its grammar.

        No part may be empty: as a filter of the API, an empty name would match everything. Raises
        UsageError.
        """
        namespace, slash, rest = text.partition("/")
        parts: list[str] = [namespace]
        if slash:
            image, colon, tag = rest.rpartition(":")
            parts += [image, tag] if colon else [rest]
        if not all(part.strip() for part in parts):
            raise click.UsageError(f"{text!r} is not a name such as NAMESPACE/IMAGE:TAG")
        return cls(*parts)

    @property
    def full_image(self) -> str:
        """``NAMESPACE/IMAGE``."""
        return f"{self.namespace}/{self.image}"

    def __str__(self) -> str:
        path = self.namespace if self.image is None else self.full_image
        return path if self.tag is None else f"{path}:{self.tag}"


N = TypeVar("N", NamespaceAnswer, ImageAnswer, TagAnswer)


def _with_name(found: Sequence[N], name: str, kind: str, full_name: str) -> N:
    """Return the item with exactly this name. Raises Missing.

    A delete may follow, so the client does not trust the filter of the API alone.
    """
    for item in found:
        if item.name == name:
            return item
    raise not_found(kind, full_name)


def id_of(text: str) -> UUID | None:
    """Return the text as an id, or None if it is a name."""
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        return None


class Management:
    """The operations of the management API. Each raises ApiError, EngineError or Failure."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ask(self, operation: Operation[A], **given: object) -> A:
        """Run an operation with the given parameters of its path and its query or body.

        A query parameter of None counts as absent; in a body, None is null. Raises TypeError for a
        name that the operation does not declare: the API would ignore it.
        """
        path, query, body = dict[str, object](), dict[str, str](), dict[str, object]()
        for name, value in given.items():
            if f"{{{name}}}" in operation.path:
                path[name] = value
            elif name in operation.body.__struct_encode_fields__:
                body[name] = value
            elif name not in operation.query.__struct_encode_fields__:
                raise TypeError(f"{operation.id} has no parameter {name}")
            elif value is not None:
                query[name] = str(value)
        return await self._backend.call(operation, path=path, query=query, body=body)

    async def pages(self, operation: Operation[A], **given: object) -> AsyncIterator[A]:
        """Yield all pages of a listing: by number, or from the position after the last page.

        The API sorts numbered pages by creation, so items created meanwhile never shift an unread
        page.
        """
        declared = operation.query.__struct_encode_fields__
        if "page_size" in declared:
            given["page_size"] = PAGE_SIZE
        page, more = 1, True
        while more:
            if "page" in declared:
                given["page"] = page
            got = await self.ask(operation, **given)
            yield got
            if "page" in declared:
                # A page that is not full is the last one.
                more = len(getattr(got, got.__struct_fields__[0])) == PAGE_SIZE
                page += 1
            else:
                given["after"] = getattr(got, "after", None)
                more = given["after"] is not None

    async def namespace(self, text: str) -> NamespaceAnswer:
        """Return the namespace with this name or id."""
        namespace_id = id_of(text)
        if namespace_id is not None:
            return await self.ask(get_namespace, namespace_id=namespace_id)
        name = Named.parse(text)
        if name.image is not None:
            raise click.UsageError(f"{text!r} is not a namespace: give a name or an id")
        return await self.namespace_named(name)

    async def namespace_named(self, name: Named) -> NamespaceAnswer:
        """Return the namespace of a parsed name."""
        pages = self.pages(list_namespaces, name=name.namespace)
        found = [item async for page in pages for item in page.namespaces]
        return _with_name(found, name.namespace, "namespace", name.namespace)

    async def image(self, text: str) -> ImageAnswer:
        """Return the image with this id, or of ``NAMESPACE/IMAGE``."""
        image_id = id_of(text)
        if image_id is not None:
            return await self.ask(get_image, image_id=image_id)
        name = Named.parse(text)
        if name.image is None or name.tag is not None:
            raise click.UsageError(f"{text!r} is not an image: give NAMESPACE/IMAGE or an id")
        return await self.image_named(name)

    async def image_named(self, name: Named) -> ImageAnswer:
        """Return the image of a parsed name."""
        assert name.image is not None, name
        namespace = await self.namespace_named(name)
        pages = self.pages(list_images, namespace_id=namespace.id_, name=name.image)
        found = [item async for page in pages for item in page.images]
        return _with_name(found, name.image, "image", name.full_image)

    async def tag(self, text: str) -> TagAnswer:
        """Return the tag with this id, or of ``NAMESPACE/IMAGE:TAG``."""
        tag_id = id_of(text)
        if tag_id is not None:
            return await self.ask(get_tag, tag_id=tag_id)
        name = Named.parse(text)
        if name.tag is None:
            raise click.UsageError(f"{text!r} is not a tag: give NAMESPACE/IMAGE:TAG or an id")
        return await self.tag_named(name)

    async def tag_named(self, name: Named) -> TagAnswer:
        """Return the tag of a parsed name."""
        assert name.tag is not None, name
        image = await self.image_named(name)
        pages = self.pages(list_tags, image_id=image.id_, name=name.tag)
        found = [item async for page in pages for item in page.tags]
        return _with_name(found, name.tag, "tag", str(name))
