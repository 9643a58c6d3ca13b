"""What the commands ask for, typed: the operations of the management API over a Caller.

Things are named as people name them (``team``, ``team/web``, ``team/web:v1``) or by their ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

import click
import msgspec

from .cli_caller import Caller
from .cli_errors import not_found
from .management_views import (
    ImageAnswer,
    ImagesAnswer,
    ImageUsageAnswer,
    KeyAnswer,
    KeysAnswer,
    NamespaceAnswer,
    NamespacesAnswer,
    NamespaceUsageAnswer,
    NewKeyAnswer,
    RestoredAnswer,
    SettingsAnswer,
    StatsAnswer,
    TagAnswer,
    TagsAnswer,
    TagUsageAnswer,
    TrashAnswer,
    TrashItemAnswer,
)

PAGE_SIZE: Final = 100
"""The most that the API gives at once."""

A = TypeVar("A", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Named:
    """``NAMESPACE[/IMAGE[:TAG]]``, in its parts."""

    namespace: str
    image: str | None = None
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> Named:
        """Take a name apart; the grammar of the parts is for whoever looks them up."""
        namespace, slash, rest = text.partition("/")
        if not slash:
            return cls(namespace)
        image, colon, tag = rest.rpartition(":")
        return cls(namespace, image, tag) if colon else cls(namespace, rest)


def id_of(text: str) -> UUID | None:
    """The id that a text is, or None: then it is a name."""
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        return None


class Management:
    """The operations of the management API. Each raises ApiError, EngineError, Failure."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def ask(
        self,
        answer: type[A],
        operation_id: str,
        *,
        path: Mapping[str, object] | None = None,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> A:
        """Any operation, by its id in the OpenAPI document; None in a query is left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        got = await self._caller.call(operation_id, path=path or {}, query=given, body=body or {})
        assert isinstance(got, answer), f"{operation_id} answers {type(got).__name__}"
        return got

    async def _pages(
        self,
        answer: type[A],
        operation_id: str,
        path: Mapping[str, object] | None = None,
        **query: str | None,
    ) -> AsyncIterator[A]:
        """All pages of a listing, in order of creation, which never skips one."""
        page, seen = 1, PAGE_SIZE
        while seen == PAGE_SIZE:
            numbers = {"page": str(page), "page_size": str(PAGE_SIZE)}
            got = await self.ask(answer, operation_id, path=path, query={**query, **numbers})
            yield got
            seen = len(getattr(got, got.__struct_fields__[0]))
            page += 1

    async def namespaces(
        self, *, name: str | None = None, project_id: UUID | None = None
    ) -> list[NamespaceAnswer]:
        """The namespaces of the region that the key covers."""
        project = None if project_id is None else str(project_id)
        pages = self._pages(NamespacesAnswer, "ListNamespaces", name=name, project_id=project)
        return [item async for page in pages for item in page.namespaces]

    async def namespace(self, text: str) -> NamespaceAnswer:
        """The namespace of that name or id."""
        namespace_id = id_of(text)
        if namespace_id is None:
            found = await self.namespaces(name=text)
            if not found:
                raise not_found("namespace", text)
            return found[0]
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceAnswer, "GetNamespace", path=path)

    async def create_namespace(self, fields: Mapping[str, object]) -> NamespaceAnswer:
        """A new one; ``fields`` as in the API."""
        return await self.ask(NamespaceAnswer, "CreateNamespace", body=fields)

    async def update_namespace(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> NamespaceAnswer:
        """Change what ``fields`` names."""
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceAnswer, "UpdateNamespace", path=path, body=fields)

    async def delete_namespace(self, namespace_id: UUID) -> NamespaceAnswer:
        """Delete it with all that is in it."""
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceAnswer, "DeleteNamespace", path=path)

    async def settings(self, namespace_id: UUID) -> SettingsAnswer:
        """Its settings beyond Scaleway's."""
        path = {"namespace_id": namespace_id}
        return await self.ask(SettingsAnswer, "GetNamespaceSettings", path=path)

    async def update_settings(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> SettingsAnswer:
        """Change what ``fields`` names."""
        path = {"namespace_id": namespace_id}
        return await self.ask(SettingsAnswer, "UpdateNamespaceSettings", path=path, body=fields)

    async def images(
        self, *, namespace_id: UUID | None = None, name: str | None = None
    ) -> list[ImageAnswer]:
        """The images of a namespace, or all that the key covers."""
        namespace = None if namespace_id is None else str(namespace_id)
        pages = self._pages(ImagesAnswer, "ListImages", namespace_id=namespace, name=name)
        return [item async for page in pages for item in page.images]

    async def image(self, text: str) -> ImageAnswer:
        """The image of that id, or of ``NAMESPACE/IMAGE``."""
        image_id = id_of(text)
        if image_id is not None:
            return await self.ask(ImageAnswer, "GetImage", path={"image_id": image_id})
        name = Named.parse(text)
        if not name.image or name.tag is not None:
            raise click.UsageError(f"{text!r} is no image: NAMESPACE/IMAGE or an id is needed")
        return await self.image_named(name)

    async def image_named(self, name: Named) -> ImageAnswer:
        """The image of a name in its parts."""
        namespace = await self.namespace(name.namespace)
        found = await self.images(namespace_id=namespace.id_, name=name.image)
        if not found:
            raise not_found("image", f"{name.namespace}/{name.image}")
        return found[0]

    async def update_image(self, image_id: UUID, fields: Mapping[str, object]) -> ImageAnswer:
        """Change what ``fields`` names."""
        return await self.ask(ImageAnswer, "UpdateImage", path={"image_id": image_id}, body=fields)

    async def delete_image(self, image_id: UUID) -> ImageAnswer:
        """Delete it with its tags."""
        return await self.ask(ImageAnswer, "DeleteImage", path={"image_id": image_id})

    async def tags(self, image_id: UUID, *, name: str | None = None) -> list[TagAnswer]:
        """The tags of an image."""
        pages = self._pages(TagsAnswer, "ListTags", {"image_id": image_id}, name=name)
        return [item async for page in pages for item in page.tags]

    async def tag(self, text: str) -> TagAnswer:
        """The tag of that id, or of ``NAMESPACE/IMAGE:TAG``."""
        tag_id = id_of(text)
        if tag_id is not None:
            return await self.ask(TagAnswer, "GetTag", path={"tag_id": tag_id})
        name = Named.parse(text)
        if not name.image or not name.tag:
            raise click.UsageError(f"{text!r} is no tag: NAMESPACE/IMAGE:TAG or an id is needed")
        return await self.tag_named(name)

    async def tag_named(self, name: Named) -> TagAnswer:
        """The tag of a name in its parts."""
        image = await self.image_named(name)
        found = await self.tags(image.id_, name=name.tag)
        if not found:
            raise not_found("tag", f"{name.namespace}/{name.image}:{name.tag}")
        return found[0]

    async def delete_tag(self, tag_id: UUID) -> TagAnswer:
        """Delete it, and its manifest where nothing else needs that."""
        return await self.ask(TagAnswer, "DeleteTag", path={"tag_id": tag_id})

    async def keys(self, *, project_id: UUID | None = None) -> Sequence[KeyAnswer]:
        """The keys that the caller manages."""
        project = None if project_id is None else str(project_id)
        return (await self.ask(KeysAnswer, "ListKeys", query={"project_id": project})).keys

    async def create_key(self, fields: Mapping[str, object]) -> NewKeyAnswer:
        """A new key with its secret."""
        return await self.ask(NewKeyAnswer, "CreateKey", body=fields)

    async def revoke_key(self, access_key: str) -> KeyAnswer:
        """Refuse the key from now on."""
        return await self.ask(KeyAnswer, "RevokeKey", path={"access_key": access_key})

    async def namespace_usage(
        self, namespace_id: UUID, *, would_free: bool
    ) -> NamespaceUsageAnswer:
        """The numbers of a namespace."""
        return await self.ask(
            NamespaceUsageAnswer,
            "GetNamespaceUsage",
            path={"namespace_id": namespace_id},
            query={"would_free": str(would_free).lower()},
        )

    async def image_usage(self, image_id: UUID) -> ImageUsageAnswer:
        """The numbers of an image."""
        return await self.ask(ImageUsageAnswer, "GetImageUsage", path={"image_id": image_id})

    async def tag_usage(self, tag_id: UUID) -> TagUsageAnswer:
        """What the deletion of a tag would free."""
        return await self.ask(TagUsageAnswer, "GetTagUsage", path={"tag_id": tag_id})

    async def stats(self) -> StatsAnswer:
        """The numbers of the whole store."""
        return await self.ask(StatsAnswer, "GetStats")

    async def trash(self) -> Sequence[TrashItemAnswer]:
        """What can be brought back, what goes next first: at most 1000 items."""
        return (await self.ask(TrashAnswer, "ListTrash")).items

    async def undelete(self, item_id: UUID) -> RestoredAnswer:
        """Bring something back from the trash."""
        return await self.ask(RestoredAnswer, "RestoreFromTrash", path={"item_id": item_id})
