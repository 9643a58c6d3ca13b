"""Two tenants in one store, every kind of caller, and what each may learn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from holdfast.engine import Key, Namespace, Store
from support.api import (
    MANIFEST_TYPE,
    ORGANIZATION,
    OTHER_PROJECT,
    OWNER_SECRET,
    PROJECT,
    digest_of,
    make_key,
)
from support.engine import manifest, upload

REGION: Final = "fr-par"
OTHER_REGION: Final = "nl-ams"

STRANGERS: Final = OTHER_PROJECT


Place = Literal["private", "public", "strangers_private", "strangers_public", "region", "absent"]
"""Where a thing is, seen from the default project. ``region`` is a private thing of the default
project in another region than the one that is asked."""

PLACES: Final[tuple[Place, ...]] = (
    "private",
    "public",
    "strangers_private",
    "strangers_public",
    "region",
    "absent",
)

Caller = Literal[
    "owner", "full", "read", "other", "other_read", "expired", "revoked", "unknown", "nobody"
]
"""Who asks: keys of all projects, of the default project by permission, of the strangers' project;
a key out of its time, one that was revoked, a secret that no key has, and no secret at all."""

CALLERS: Final[tuple[Caller, ...]] = (
    "owner",
    "full",
    "read",
    "other",
    "other_read",
    "expired",
    "revoked",
    "unknown",
    "nobody",
)

_PROJECTS: Final[dict[Caller, UUID | None]] = {
    "owner": None,
    "full": PROJECT,
    "read": PROJECT,
    "other": STRANGERS,
    "other_read": STRANGERS,
}
READERS: Final = frozenset(("read", "other_read"))
"""Callers whose key only reads."""


def is_valid(caller: Caller) -> bool:
    """Whether it has a key that is in force."""
    return caller in _PROJECTS


def covers(caller: Caller, place: Place) -> bool:
    """Whether a (valid) caller's key is of the project of a thing."""
    project = _PROJECTS[caller]
    return project is None or project == project_of(place)


def project_of(place: Place) -> UUID:
    return STRANGERS if place.startswith("strangers") else PROJECT


@dataclass
class Thing:
    """A namespace with an image, a tag, a manifest, a layer and an open upload; and a key."""

    place: Place
    namespace: str
    """Its name: all things have names of one length, so that answers can be compared."""
    namespace_id: UUID = field(default_factory=uuid4)
    image_id: UUID = field(default_factory=uuid4)
    tag_id: UUID = field(default_factory=uuid4)
    upload_id: UUID = field(default_factory=uuid4)
    access_key: str = "SCW0000000000000TEST"
    digest: str = ""
    """Of the manifest."""
    layer: str = ""
    """Digest of the layer."""

    @property
    def repository(self) -> str:
        return f"{self.namespace}/app"

    def marks(self) -> list[str]:
        """What an answer must not contain that keeps the thing secret."""
        ids = (self.namespace_id, self.image_id, self.tag_id, self.upload_id)
        return [*map(str, ids), self.namespace, self.access_key, self.digest, self.layer]

    def without_names(self, text: bytes) -> bytes:
        """An answer with what the request itself named taken out."""
        for number, mark in enumerate(self.marks()):
            text = text.replace(mark.encode(), f"<{number}>".encode())
        return text


class World:
    """Makes things of both tenants in a store, and the callers' keys."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = itertools.count()
        self.secrets: dict[Caller, str | None] = {"owner": OWNER_SECRET, "nobody": None}
        self.keys: dict[Caller, Key] = {}

    async def add_callers(self) -> None:
        """Make the keys of all callers but the owner, which the server's support makes."""
        hour = timedelta(hours=1)
        for caller, permission, more in (
            ("full", "full", {}),
            ("read", "read", {}),
            ("other", "full", {}),
            ("other_read", "read", {}),
            ("expired", "full", {"expires_at": datetime.now(UTC) - hour}),
            ("revoked", "full", {"expires_at": datetime.now(UTC) + hour}),
        ):
            name: Any = caller
            kind: Any = permission
            self.keys[name], self.secrets[name] = await make_key(
                self.store, _PROJECTS.get(name, PROJECT), kind, **more
            )
        self.secrets["unknown"] = str(uuid4())

    async def revoke(self) -> None:
        """From now on the revoked key is one; before, tokens can be had for it."""
        await self.store.keys.revoke(self.keys["revoked"].access_key)

    async def add(self, place: Place, *, namespace: str = "") -> Thing:
        """Make a thing; one that is absent has ids and names that nothing has."""
        number = next(self._numbers)
        thing = Thing(place, namespace or f"space-{number:06}")
        layer = f"layer of {thing.namespace} {number}".encode()
        thing.layer = digest_of(layer)
        body = manifest(b"{}", [layer])
        thing.digest = digest_of(body)
        if place == "absent":
            return thing
        made = await self.namespace(thing, public=place.endswith("public"))
        thing.namespace_id = made.id
        here = await self.store.locate(made.region, thing.repository)
        await upload(self.store, here, b"{}", layer)
        pushed = await self.store.manifests.put(
            here, body, media_type=MANIFEST_TYPE, reference="v1"
        )
        thing.image_id = pushed.image_id
        thing.tag_id = (await self.store.tags.list(thing.image_id)).items[0].id
        here = await self.store.locate(made.region, thing.repository)
        thing.upload_id = (await self.store.uploads.begin(here)).id
        key, _ = await make_key(self.store, project_of(place))
        thing.access_key = key.access_key
        return thing

    async def namespace(self, thing: Thing, *, public: bool) -> Namespace:
        region = OTHER_REGION if thing.place == "region" else REGION
        return await self.store.namespaces.create(
            region,
            thing.namespace,
            project_id=project_of(thing.place),
            organization_id=ORGANIZATION,
            description=f"about {thing.namespace}",
            is_public=public,
        )

    async def state(self, thing: Thing) -> object:
        """All of it that somebody could change."""
        store = self.store
        if thing.place == "absent":
            return None
        region = OTHER_REGION if thing.place == "region" else REGION
        here = await store.locate(region, thing.repository)
        return (
            await store.namespaces.get(thing.namespace_id),
            await store.images.get(thing.image_id),
            await store.tags.get(thing.tag_id),
            await store.keys.get(thing.access_key),
            await store.tags.names(here),
            await store.manifests.get(here, thing.digest),
            await store.uploads.get(here, thing.upload_id),
        )


def read_table(text: str) -> dict[tuple[Caller, Place], int]:
    """A table of statuses as people read it: a column a place, a line for several callers."""
    head, *rows = [line.split() for line in text.strip().splitlines()]
    assert head[1:] == list(PLACES)
    table: dict[Any, int] = {}
    for names, *cells in rows:
        for caller in names.split(","):
            for place, cell in zip(PLACES, cells, strict=True):
                table[caller, place] = int(cell)
    assert {caller for caller, _ in table} == set(CALLERS)
    return table
