"""Typed client of the management API's operations, over any ``Backend``.

Commands name resources as ``team``, ``team/web`` and ``team/web:v1``, or by their ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import click
import msgspec

from holdfast.api.management.views import (
    CheckAnswer,
    ImageAnswer,
    ImagesAnswer,
    ImageUsageAnswer,
    KeyAnswer,
    KeysAnswer,
    ManifestAnswer,
    ManifestsAnswer,
    NamespaceAnswer,
    NamespaceLimitsAnswer,
    NamespacesAnswer,
    NamespaceUsageAnswer,
    NewKeyAnswer,
    PlanAnswer,
    ProjectLimitsAnswer,
    PurgedAnswer,
    ReleasedAnswer,
    RulesAnswer,
    ScrubAnswer,
    SettingsAnswer,
    StatsAnswer,
    SweepAnswer,
    TagAnswer,
    TagsAnswer,
    TagUsageAnswer,
    TrashAnswer,
    TrashItemAnswer,
    UploadAnswer,
    UploadsAnswer,
)

from .errors import not_found

PAGE_SIZE: Final = 100
"""Items per page: the most that the API returns at once."""

if TYPE_CHECKING:
    from .backends import Backend

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

    async def ask(
        self,
        answer: type[A],
        operation_id: str,
        *,
        path: Mapping[str, object] | None = None,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> A:
        """Call the operation with this id in the OpenAPI document; omit a query value of None."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        got = await self._backend.call(operation_id, path=path or {}, query=given, body=body or {})
        assert isinstance(got, answer), f"{operation_id} answers {type(got).__name__}"
        return got

    async def _pages(
        self,
        answer: type[A],
        operation_id: str,
        path: Mapping[str, object] | None = None,
        **query: str | None,
    ) -> AsyncIterator[A]:
        """Yield all pages of a listing.

        The API sorts by creation, so items created meanwhile never shift an unread page.
        """
        page, seen = 1, PAGE_SIZE
        # A page that is not full is the last one.
        while seen == PAGE_SIZE:
            numbers = {"page": str(page), "page_size": str(PAGE_SIZE)}
            got = await self.ask(answer, operation_id, path=path, query={**query, **numbers})
            yield got
            seen = len(getattr(got, got.__struct_fields__[0]))
            page += 1

    async def namespaces(
        self, *, name: str | None = None, project_id: UUID | None = None
    ) -> list[NamespaceAnswer]:
        """List the namespaces of the region that the key covers."""
        project = None if project_id is None else str(project_id)
        pages = self._pages(NamespacesAnswer, "ListNamespaces", name=name, project_id=project)
        return [item async for page in pages for item in page.namespaces]

    async def namespace(self, text: str) -> NamespaceAnswer:
        """Return the namespace with this name or id."""
        namespace_id = id_of(text)
        if namespace_id is not None:
            path = {"namespace_id": namespace_id}
            return await self.ask(NamespaceAnswer, "GetNamespace", path=path)
        name = Named.parse(text)
        if name.image is not None:
            raise click.UsageError(f"{text!r} is not a namespace: give a name or an id")
        return await self.namespace_named(name)

    async def namespace_named(self, name: Named) -> NamespaceAnswer:
        """Return the namespace of a parsed name."""
        found = await self.namespaces(name=name.namespace)
        return _with_name(found, name.namespace, "namespace", name.namespace)

    async def create_namespace(self, fields: Mapping[str, object]) -> NamespaceAnswer:
        """Create a namespace; ``fields`` as in the API."""
        return await self.ask(NamespaceAnswer, "CreateNamespace", body=fields)

    async def update_namespace(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> NamespaceAnswer:
        """Change the given fields of a namespace."""
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceAnswer, "UpdateNamespace", path=path, body=fields)

    async def delete_namespace(self, namespace_id: UUID) -> NamespaceAnswer:
        """Delete a namespace with its images."""
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceAnswer, "DeleteNamespace", path=path)

    async def settings(self, namespace_id: UUID) -> SettingsAnswer:
        """Return the settings of a namespace that Scaleway does not have."""
        path = {"namespace_id": namespace_id}
        return await self.ask(SettingsAnswer, "GetNamespaceSettings", path=path)

    async def update_settings(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> SettingsAnswer:
        """Change the given fields of the settings of a namespace."""
        path = {"namespace_id": namespace_id}
        return await self.ask(SettingsAnswer, "UpdateNamespaceSettings", path=path, body=fields)

    async def limits(self, namespace_id: UUID) -> NamespaceLimitsAnswer:
        """Return the limits of a namespace."""
        path = {"namespace_id": namespace_id}
        return await self.ask(NamespaceLimitsAnswer, "GetNamespaceLimits", path=path)

    async def update_limits(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> NamespaceLimitsAnswer:
        """Change the given fields of the limits of a namespace."""
        path = {"namespace_id": namespace_id}
        return await self.ask(
            NamespaceLimitsAnswer, "UpdateNamespaceLimits", path=path, body=fields
        )

    async def project_limits(self, project_id: UUID) -> ProjectLimitsAnswer:
        """Return the limits of a project."""
        path = {"project_id": project_id}
        return await self.ask(ProjectLimitsAnswer, "GetProjectLimits", path=path)

    async def update_project_limits(
        self, project_id: UUID, fields: Mapping[str, object]
    ) -> ProjectLimitsAnswer:
        """Change the given fields of the limits of a project."""
        path = {"project_id": project_id}
        return await self.ask(ProjectLimitsAnswer, "UpdateProjectLimits", path=path, body=fields)

    async def retention(self, namespace_id: UUID) -> RulesAnswer:
        """Return the retention rules of a namespace."""
        return await self.ask(RulesAnswer, "GetRetention", path={"namespace_id": namespace_id})

    async def update_retention(
        self, namespace_id: UUID, fields: Mapping[str, object]
    ) -> RulesAnswer:
        """Replace the retention rules of a namespace."""
        path = {"namespace_id": namespace_id}
        return await self.ask(RulesAnswer, "UpdateRetention", path=path, body=fields)

    async def retention_plan(self, namespace_id: UUID) -> PlanAnswer:
        """Return the items that the rules would remove now."""
        return await self.ask(PlanAnswer, "PlanRetention", path={"namespace_id": namespace_id})

    async def apply_retention(self, namespace_id: UUID) -> PlanAnswer:
        """Apply the rules and return the items that were removed."""
        return await self.ask(PlanAnswer, "ApplyRetention", path={"namespace_id": namespace_id})

    async def images(
        self, *, namespace_id: UUID | None = None, name: str | None = None
    ) -> list[ImageAnswer]:
        """List the images of a namespace, or all images that the key covers."""
        namespace = None if namespace_id is None else str(namespace_id)
        pages = self._pages(ImagesAnswer, "ListImages", namespace_id=namespace, name=name)
        return [item async for page in pages for item in page.images]

    async def image(self, text: str) -> ImageAnswer:
        """Return the image with this id, or of ``NAMESPACE/IMAGE``."""
        image_id = id_of(text)
        if image_id is not None:
            return await self.ask(ImageAnswer, "GetImage", path={"image_id": image_id})
        name = Named.parse(text)
        if name.image is None or name.tag is not None:
            raise click.UsageError(f"{text!r} is not an image: give NAMESPACE/IMAGE or an id")
        return await self.image_named(name)

    async def image_named(self, name: Named) -> ImageAnswer:
        """Return the image of a parsed name."""
        assert name.image is not None, name
        namespace = await self.namespace_named(name)
        found = await self.images(namespace_id=namespace.id_, name=name.image)
        return _with_name(found, name.image, "image", name.full_image)

    async def update_image(self, image_id: UUID, fields: Mapping[str, object]) -> ImageAnswer:
        """Change the given fields of an image."""
        return await self.ask(ImageAnswer, "UpdateImage", path={"image_id": image_id}, body=fields)

    async def delete_image(self, image_id: UUID) -> ImageAnswer:
        """Delete an image with its tags."""
        return await self.ask(ImageAnswer, "DeleteImage", path={"image_id": image_id})

    async def tags(self, image_id: UUID, *, name: str | None = None) -> list[TagAnswer]:
        """List the tags of an image."""
        pages = self._pages(TagsAnswer, "ListTags", {"image_id": image_id}, name=name)
        return [item async for page in pages for item in page.tags]

    async def tag(self, text: str) -> TagAnswer:
        """Return the tag with this id, or of ``NAMESPACE/IMAGE:TAG``."""
        tag_id = id_of(text)
        if tag_id is not None:
            return await self.ask(TagAnswer, "GetTag", path={"tag_id": tag_id})
        name = Named.parse(text)
        if name.tag is None:
            raise click.UsageError(f"{text!r} is not a tag: give NAMESPACE/IMAGE:TAG or an id")
        return await self.tag_named(name)

    async def tag_named(self, name: Named) -> TagAnswer:
        """Return the tag of a parsed name."""
        assert name.tag is not None, name
        image = await self.image_named(name)
        found = await self.tags(image.id_, name=name.tag)
        return _with_name(found, name.tag, "tag", str(name))

    async def delete_tag(self, tag_id: UUID) -> TagAnswer:
        """Delete a tag, and its manifest if nothing else refers to that."""
        return await self.ask(TagAnswer, "DeleteTag", path={"tag_id": tag_id})

    async def keys(self, *, project_id: UUID | None = None) -> list[KeyAnswer]:
        """List the keys that the caller manages."""
        project = None if project_id is None else str(project_id)
        pages = self._pages(KeysAnswer, "ListKeys", project_id=project)
        return [item async for page in pages for item in page.keys]

    async def create_key(self, fields: Mapping[str, object]) -> NewKeyAnswer:
        """Create a key and return it with its secret."""
        return await self.ask(NewKeyAnswer, "CreateKey", body=fields)

    async def key(self, access_key: str) -> KeyAnswer:
        """Return a key without its secret."""
        return await self.ask(KeyAnswer, "GetKey", path={"access_key": access_key})

    async def update_key(self, access_key: str, fields: Mapping[str, object]) -> KeyAnswer:
        """Change the given fields of a key."""
        return await self.ask(KeyAnswer, "UpdateKey", path={"access_key": access_key}, body=fields)

    async def revoke_key(self, access_key: str) -> KeyAnswer:
        """Revoke a key."""
        return await self.ask(KeyAnswer, "RevokeKey", path={"access_key": access_key})

    async def namespace_usage(
        self, namespace_id: UUID, *, would_free: bool
    ) -> NamespaceUsageAnswer:
        """Return the usage of a namespace; ``would_free`` also computes that number."""
        return await self.ask(
            NamespaceUsageAnswer,
            "GetNamespaceUsage",
            path={"namespace_id": namespace_id},
            query={"would_free": str(would_free).lower()},
        )

    async def image_usage(self, image_id: UUID) -> ImageUsageAnswer:
        """Return the usage of an image."""
        return await self.ask(ImageUsageAnswer, "GetImageUsage", path={"image_id": image_id})

    async def tag_usage(self, tag_id: UUID) -> TagUsageAnswer:
        """Return the bytes that deleting a tag would free."""
        return await self.ask(TagUsageAnswer, "GetTagUsage", path={"tag_id": tag_id})

    async def stats(self) -> StatsAnswer:
        """Return the usage of the whole store."""
        return await self.ask(StatsAnswer, "GetStats")

    async def sweep(self, *, early: bool) -> AsyncIterator[SweepAnswer]:
        """Sweep until nothing is due and yield the result of each step."""
        finished = False
        while not finished:
            done = await self.ask(SweepAnswer, "SweepStore", body={"early": early})
            yield done
            finished = done.finished

    async def scrub(self, budget: int | None) -> AsyncIterator[ScrubAnswer]:
        """Scrub every blob once, at most ``budget`` bytes, and yield the result of each step."""
        done: ScrubAnswer | None = None
        while done is None or done.paused:
            # The server keeps no state of a scrub: pass the rest of the budget and the origin.
            if done is not None and budget is not None:
                budget = max(budget - done.bytes, 0)
            body = {"budget": budget, "origin": None if done is None else done.origin}
            done = await self.ask(ScrubAnswer, "ScrubStore", body=body)
            yield done

    async def check(self) -> CheckAnswer:
        """Check the store and return its problems."""
        return await self.ask(CheckAnswer, "CheckStore")

    async def manifests(
        self, image_id: UUID, *, tagged: bool | None = None
    ) -> list[ManifestAnswer]:
        """List the manifests of an image: all, only tagged or only untagged ones."""
        found: list[ManifestAnswer] = []
        query: dict[str, str | None] = {
            "page_size": str(PAGE_SIZE),
            "tagged": None if tagged is None else str(tagged).lower(),
        }
        while True:
            path = {"image_id": image_id}
            got = await self.ask(ManifestsAnswer, "ListManifests", path=path, query=query)
            found += got.manifests
            if got.after is None:
                return found
            query["after"] = got.after

    async def uploads(self, namespace_id: UUID) -> list[UploadAnswer]:
        """List the open uploads of a namespace."""
        found: list[UploadAnswer] = []
        query: dict[str, str | None] = {"page_size": str(PAGE_SIZE)}
        while True:
            path = {"namespace_id": namespace_id}
            got = await self.ask(UploadsAnswer, "ListUploads", path=path, query=query)
            found += got.uploads
            if got.after is None:
                return found
            query["after"] = str(got.after)

    async def end_upload(self, namespace_id: UUID, upload_id: UUID) -> UploadAnswer:
        """End an open upload."""
        path = {"namespace_id": namespace_id, "upload_id": upload_id}
        return await self.ask(UploadAnswer, "EndUpload", path=path)

    async def trash(
        self,
        region: str,
        *,
        kind: str | None = None,
        namespace: str | None = None,
        image: str | None = None,
        tag: str | None = None,
    ) -> list[TrashItemAnswer]:
        """List the trash of a region; the item that is purged next comes first."""
        pages = self._pages(
            TrashAnswer,
            "ListTrash",
            region=region,
            kind=kind,
            namespace=namespace,
            image=image,
            tag=tag,
        )
        return [item async for page in pages for item in page.items]

    async def purge(self, item_id: UUID) -> PurgedAnswer:
        """Delete an item from the trash, for good."""
        return await self.ask(PurgedAnswer, "DeleteFromTrash", path={"item_id": item_id})

    async def release_holds(self, namespace_id: UUID) -> ReleasedAnswer:
        """Release the holds of a namespace and return the sums over all pages."""
        path = {"namespace_id": namespace_id}
        total = ReleasedAnswer(released=0, released_size=0, kept=0, after=None)
        after: str | None = None
        while True:
            done = await self.ask(ReleasedAnswer, "ReleaseHolds", path=path, query={"after": after})
            total.released += done.released
            total.released_size += done.released_size
            total.kept += done.kept
            after = done.after
            if after is None:
                return total

    async def undelete(self, item_id: UUID) -> TrashItemAnswer:
        """Restore an item from the trash."""
        return await self.ask(TrashItemAnswer, "RestoreFromTrash", path={"item_id": item_id})
