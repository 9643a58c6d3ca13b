"""A store with some of everything behind two servers, one of them with the fast path.

What is sent to both must be answered alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from holdfast.api import AppSettings
from holdfast.api.oci import tokens
from holdfast.engine import Key, Namespace, Permission, Store, StoreConfig
from support.api import (
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    ORGANIZATION,
    OTHER_PROJECT,
    PROJECT,
    digest_of,
)
from support.distribution import descriptor
from support.wire import LOOPS, Client, CountingLane, connected, exchange, request, serving

APPLICATION: Final = AppSettings(endpoints={"nl-ams": "nl.example:5000"})
NAMES: Final = ("app/web", "open/web", "other/web", "app/none", "none/none", "NOT/valid", "single")
FILE: Final = bytes(range(256)) * 1024
SMALL: Final = b"small content"


class World:
    """A store with some of everything, behind both servers."""

    store: Store
    lane: CountingLane
    now: float
    own: Namespace
    key: Key
    revoked: Key
    pusher: Key

    def __init__(self, settings: AppSettings = APPLICATION) -> None:
        self.settings = settings
        self.now = time.time()
        self.tokens: dict[str, str] = {}
        self.items: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self.ports = (0, 0)
        """The plain server's, and that of the one with the lane."""

    async def start(self, path: Path) -> None:
        config = StoreConfig(background=False, hold_seconds=3600)
        store = Store.open(path / "store", config, clock=lambda: self.now)
        self.store = await self._stack.enter_async_context(store)
        await self._furnish()
        self.lane = CountingLane(self.store, self.settings)
        plain = await self._stack.enter_async_context(serving(self.store, settings=self.settings))
        fast = serving(self.store, settings=self.settings, lane=self.lane)
        self.ports = (plain, await self._stack.enter_async_context(fast))

    async def another(self, *, fast: bool = True, **options: Any) -> int:
        """The port of one more server with these options."""
        lane = self.lane if fast else None
        return await self._stack.enter_async_context(
            serving(self.store, settings=self.settings, lane=lane, **options)
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def same(self, pieces: Sequence[bytes], heads: Sequence[bool] = (False,)) -> list[bytes]:
        """Send to both, compare all that comes back, and return it."""
        plain = await exchange(self.ports[0], pieces, heads)
        fast = await exchange(self.ports[1], pieces, heads)
        assert fast == plain
        return plain

    async def pair(self, stack: AsyncExitStack) -> tuple[Client, Client]:
        """A connection to each server."""
        plain, fast = self.ports
        return (
            await stack.enter_async_context(connected(plain)),
            await stack.enter_async_context(connected(fast)),
        )

    async def blob(self, name: str, data: bytes) -> str:
        repository = await self.store.locate("fr-par", name)
        digest = digest_of(data)
        await self.store.uploads.put(repository, digest, _stream(data))
        return digest

    async def manifest(self, name: str, reference: str, *layers: bytes, note: str = "") -> str:
        """An image of a config of two bytes and these layers; ``note`` makes it larger."""
        config = await self.blob(name, b"{}")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, 2, CONFIG_TYPE),
            "layers": [descriptor(await self.blob(name, data), len(data)) for data in layers],
            "annotations": {"note": note},
        }
        return await self.document(name, reference, document)

    async def document(self, name: str, reference: str, document: dict[str, Any]) -> str:
        repository = await self.store.locate("fr-par", name)
        pushed = await self.store.manifests.put(
            repository,
            msgspec.json.encode(document),
            media_type=document["mediaType"],
            reference=reference,
        )
        return str(pushed.digest)

    async def pushed_bare(self, name: str, note: str) -> str:
        """A manifest without a tag."""
        config = await self.blob(name, b"{}")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, 2, CONFIG_TYPE),
            "layers": [],
            "annotations": {"note": note},
        }
        body = msgspec.json.encode(document)
        return await self.document(name, digest_of(body), document)

    async def _furnish(self) -> None:
        self.own = await self._namespace("app", PROJECT)
        await self._namespace("open", PROJECT, is_public=True)
        await self._namespace("other", OTHER_PROJECT)
        for name in ("app/web", "open/web", "other/web"):
            self.items["tag"] = "v1"
            self.items["digest"] = await self.manifest(name, "v1", SMALL, FILE)
            self.items["large"] = await self.manifest(name, "large", SMALL, note="x" * 100_000)
            listed = descriptor(self.items["digest"], 0, MANIFEST_TYPE)
            listed["size"] = await self._size(name, "v1")
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [listed]}
            self.items["index"] = await self.document(name, "index", index)
            self.items["held"] = await self.blob(name, b"held by an upload")
            self.items["empty"] = await self.blob(name, b"")
        self.items["small"] = digest_of(SMALL)
        self.items["file"] = digest_of(FILE)
        self.items["missing"] = digest_of(b"nobody has this")
        self.items["sha512"] = digest_of(SMALL, "sha512")
        self.items["malformed"] = "sha256:abc"
        self.items["unknown"] = "md5:" + "0" * 32
        self.items["no tag"] = "a" * 129
        await self._keys()

    async def _size(self, name: str, reference: str) -> int:
        repository = await self.store.locate("fr-par", name)
        return len((await self.store.manifests.get(repository, reference)).body)

    async def _namespace(self, name: str, project: UUID, **more: Any) -> Namespace:
        return await self.store.namespaces.create(
            "fr-par", name, project_id=project, organization_id=ORGANIZATION, **more
        )

    async def _keys(self) -> None:
        self.key = await self._key(PROJECT)
        self.revoked = await self._key(PROJECT)
        stranger = await self._key(OTHER_PROJECT)
        self.tokens["good"] = await self.issue(self.key.access_key)
        self.pusher = await self._key(PROJECT, "full")
        self.tokens["pusher"] = await self.issue(self.pusher.access_key, actions=("pull", "push"))
        self.tokens["stranger"] = await self.issue(stranger.access_key)
        self.tokens["anonymous"] = await self.issue(None)
        self.tokens["nobody"] = await self.issue("SCWNOSUCHKEY00000000")
        self.tokens["narrow"] = await self.issue(self.key.access_key, names=("app/else",))
        self.tokens["abroad"] = await self.issue(self.key.access_key, region="nl-ams")
        self.tokens["old"] = await self.issue(self.key.access_key, age=7200)
        self.tokens["future"] = await self.issue(self.key.access_key, age=-7200)
        self.tokens["revoked"] = await self.issue(self.revoked.access_key)
        self.tokens["refresh"] = await self.issue(self.key.access_key, use="refresh")
        self.tokens["forged"] = self.tokens["good"][:-4] + "AAAA"
        await self.store.keys.revoke(self.revoked.access_key)

    async def _key(self, project: UUID, permission: Permission = "read") -> Key:
        key, _ = await self.store.keys.create(
            project_id=project,
            default_project_id=project,
            organization_id=ORGANIZATION,
            permission=permission,
        )
        return key

    async def issue(
        self,
        access_key: str | None,
        *,
        names: Sequence[str] = NAMES,
        region: str = "fr-par",
        age: int = 0,
        use: tokens.Use = "access",
        actions: Sequence[str] = ("pull",),
    ) -> str:
        return tokens.issue(
            await self.store.keys.signing_key(),
            use,
            access_key=access_key,
            region=region,
            scopes={("repository", name): frozenset(actions) for name in names},
            now=int(time.time()) - age,
            seconds=3600,
        )

    def get(self, path: str, *headers: str, bearer: str = "good", method: str = "GET") -> bytes:
        return request(f"{method} {path} HTTP/1.1", *headers, self.bearer(bearer))

    def bearer(self, token: str) -> str:
        return f"Authorization: Bearer {self.tokens[token]}"


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Stage:
    """A world, and the loop that it lives in."""

    world: World
    run: Callable[[Any], Any]


@contextmanager
def staged(loop: str, path: Path, settings: AppSettings = APPLICATION) -> Iterator[Stage]:
    """A world in an event loop of that kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        world = World(settings)
        runner.run(world.start(path))
        try:
            yield Stage(world, runner.run)
        finally:
            runner.run(world.stop())
