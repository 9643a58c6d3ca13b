"""What the engine's behavioural tests share: stores, a clock, and content to push.

Tests use the public names of the engine; only this module reaches inside, where a test needs the
same rows and files opened a second time, or a hook.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

import pytest

from holdfast.engine import (
    OCI_INDEX,
    OCI_MANIFEST,
    Closed,
    Namespace,
    Pushed,
    Repository,
    Store,
    StoreConfig,
    Upload,
)
from holdfast.engine import datadir as engine_datadir
from holdfast.engine.core import Core, grow_if_room
from holdfast.engine.datadir import Opened
from holdfast.engine.depot.files import Files
from holdfast.engine.depot.gate import Gate as DecisionGate
from holdfast.engine.depot.instance import NAME_BYTES
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger.interface import Ledger, Work
from holdfast.engine.ledger.memory import MemoryLedger
from holdfast.engine.tasks.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

REGION: Final = "fr-par"
PROJECT: Final = UUID("11111111-1111-4111-8111-111111111111")
OTHER_PROJECT: Final = UUID("22222222-2222-4222-8222-222222222222")
ORGANIZATION: Final = UUID("99999999-9999-4999-8999-999999999999")

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
START: Final = 1_700_000_000.0
"""Where a test's clock starts, in seconds since 1970."""

KINDS: Final = ("memory", "disk")


class Clock:
    """The time, as the test wants it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


Function = Callable[..., object]
Hook = Callable[[Function], Awaitable[None]]


@dataclass
class Hooks:
    """What a test has to say to the transactions of a store."""

    before: Hook | None = None
    """Awaited before each transaction with its function."""
    after: Hook | None = None
    """Awaited when the transaction is committed (or failed), before its caller goes on."""
    after_read: Hook | None = None
    """Awaited when a read is done, before its caller goes on."""


class Gate:
    """A ledger in front of another: where hooks of a test are, and what closes alone."""

    def __init__(self, inner: Ledger, hooks: Hooks, *, owned: bool) -> None:
        self._inner = inner
        self._owned = owned
        self._closed = False
        self._hooks = hooks

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check()
        if self._hooks.before is not None:
            await self._hooks.before(_function(work, args))
        try:
            return await self._inner.transact(work, *args, **kwargs)
        finally:
            if self._hooks.after is not None:
                await self._hooks.after(_function(work, args))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check()
        result = await self._inner.read(work, *args, **kwargs)
        if self._hooks.after_read is not None:
            await self._hooks.after_read(work)
        return result

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check()
        result = await self._inner.read_in_thread(work, *args, **kwargs)
        if self._hooks.after_read is not None:
            await self._hooks.after_read(work)
        return result

    def __getattr__(self, name: str) -> Any:
        """What one kind of ledger has beyond the protocol."""
        return getattr(self._inner, name)

    async def close(self) -> None:
        self._closed = True
        if self._owned:
            await self._inner.close()

    def _check(self) -> None:
        if self._closed:
            raise Closed


def _function(work: Function, args: tuple[Any, ...]) -> Function:
    """Return what a transaction does: that of ``Core.grow`` is an argument of it."""
    if work is not grow_if_room:
        return work
    inner: Function = args[1]
    return inner


class Instance:
    """One opening of a store in memory beside others."""

    def __init__(self, living: set[bytes]) -> None:
        self.name = os.urandom(NAME_BYTES)
        self._living = living
        living.add(self.name)

    def is_dead(self, name: bytes) -> bool:
        return name not in self._living

    def forget(self, name: bytes) -> None:
        """There are no traces."""

    def close(self) -> None:
        self._living.discard(self.name)


@dataclass
class Place:
    """Where a store's rows and files lie: a directory, or memory that outlives its openings."""

    kind: str
    path: Path
    clock: Clock
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ledger = MemoryLedger()
        self._scratch = MemoryLedger()
        self._depot = MemoryDepot()
        self._living: set[bytes] = set()
        self._gate = DecisionGate()

    def config(self, **changes: Any) -> StoreConfig:
        return StoreConfig(**{"background": False, **self.defaults, **changes})

    def store(self, **changes: Any) -> Store:
        """A store over it; any number may be open at once."""
        return self.gated(**changes)[0]

    def gated(self, **changes: Any) -> tuple[Store, Hooks]:
        """A store, and the hooks of its ledgers."""
        config = self.config(**changes)
        hooks = Hooks()

        def opener() -> Opened:
            opened = self._open(config)
            core, owned = opened.core, self.kind == "disk"
            ledger = Gate(core.ledger, hooks, owned=owned)
            scratch = Gate(core.scratch, hooks, owned=owned)
            return replace(opened, core=replace(core, ledger=ledger, scratch=scratch))

        return Store(opener, config), hooks

    def restart_machine(self) -> None:
        """Forget what no machine keeps. No store may be open."""
        self._scratch = MemoryLedger()
        if self.kind == "disk":
            shutil.rmtree(self.path / "data" / "scratch")

    def _open(self, config: StoreConfig) -> Opened:
        if self.kind == "disk":
            return engine_datadir.open_directory(self.path / "data", config, True, self.clock)
        threads = Threads(config.threads, "holdfast")
        instance = Instance(self._living)
        hooks = Hooks()
        ledger = Gate(self._ledger, hooks, owned=False)
        scratch = Gate(self._scratch, hooks, owned=False)
        files = Files(ledger, scratch, self._depot, threads, instance)
        seams = ledger, scratch, self._depot, files, threads
        core = Core(*seams, config, self.clock, gate=self._gate)
        return Opened(core, instance)

    def files(self) -> list[int]:
        """Sizes of the files at rest, in order."""
        if self.kind == "memory":
            ids = [n for block in self._depot.blocks() for n in self._depot.files(block)]
            return sorted(self._depot.open(file_id).size for file_id in ids)
        root = self.path / "data" / "files"
        return sorted(path.stat().st_size for path in root.rglob("*") if path.is_file())

    def damage(self, size: int) -> None:
        """Flip a bit in the middle of the only file of that size."""
        if self.kind == "memory":
            writer = self._depot.reopen(self._id_of(size))
            content = bytearray(writer.read(0, size))
            content[size // 2] ^= 1
            writer.truncate(0)
            writer.append(content)
            writer.close()
            return
        path = self._path_of(size)
        content = bytearray(path.read_bytes())
        content[size // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)

    def remove(self, size: int) -> None:
        """Take the only file of that size away."""
        if self.kind == "memory":
            self._depot.delete(self._id_of(size))
        else:
            self._path_of(size).unlink()

    def _id_of(self, size: int) -> int:
        ids = [n for block in self._depot.blocks() for n in self._depot.files(block)]
        (file_id,) = [n for n in ids if self._depot.open(n).size == size]
        return file_id

    def _path_of(self, size: int) -> Path:
        root = self.path / "data" / "files"
        (path,) = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size == size]
        return path


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha512(data: bytes) -> str:
    return "sha512:" + hashlib.sha512(data).hexdigest()


def noise(size: int, seed: object = 0) -> bytes:
    """Bytes that do not compress, the same for the same arguments."""
    return hashlib.shake_128(repr((size, seed)).encode()).digest(size)


def shown(value: object) -> str:
    """A parameter of a test, for its name: content by its size."""
    return str(len(value)) if isinstance(value, bytes) else str(value)


async def once(*pieces: bytes) -> AsyncIterator[bytes]:
    """A source of these pieces."""
    for piece in pieces:
        yield piece


def pieces_that_are_none() -> list[tuple[tuple[Any, ...], str]]:
    """What no source may give, and how it is called; after a few bytes, and many."""
    return [
        ((*before, piece), f"must yield bytes, not {type(piece).__name__}")
        for before in ((), (b"few",), (noise(600_000),))
        for piece in ("text", "", 5, None, [1])
    ]


class Vanished(Exception):
    """A client went away."""


async def vanishing(*pieces: bytes) -> AsyncIterator[bytes]:
    """A source that fails after these pieces."""
    for piece in pieces:
        yield piece
    raise Vanished


async def collect(source: AsyncIterable[bytes]) -> bytes:
    return b"".join([piece async for piece in source])


def descriptor(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    """What a manifest says about content."""
    return {"mediaType": kind, "digest": sha256(data), "size": len(data), **more}


def _about(subject: bytes | dict[str, Any]) -> dict[str, Any]:
    return descriptor(subject, OCI_MANIFEST) if isinstance(subject, bytes) else subject


def manifest(
    config: bytes,
    layers: Iterable[bytes] = (),
    *,
    subject: bytes | dict[str, Any] | None = None,
    media_type: str = OCI_MANIFEST,
    **more: Any,
) -> bytes:
    """An image manifest, as a client writes it."""
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config, CONFIG_TYPE),
        "layers": [descriptor(layer, LAYER_TYPE) for layer in layers],
        **more,
    }
    if subject is not None:
        body["subject"] = _about(subject)
    return json.dumps(body).encode()


def index(
    children: Mapping[bytes, str] | Iterable[bytes],
    *,
    subject: bytes | dict[str, Any] | None = None,
    media_type: str = OCI_INDEX,
    **more: Any,
) -> bytes:
    """An index of manifests (of type OCI manifest, unless a mapping says what they are)."""
    kinds = children if isinstance(children, Mapping) else dict.fromkeys(children, OCI_MANIFEST)
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [descriptor(child, kind) for child, kind in kinds.items()],
        **more,
    }
    if subject is not None:
        body["subject"] = _about(subject)
    return json.dumps(body).encode()


async def make_namespace(
    store: Store, name: str = "app", *, region: str = REGION, project: UUID = PROJECT, **more: Any
) -> Namespace:
    return await store.namespaces.create(
        region, name, project_id=project, organization_id=ORGANIZATION, **more
    )


async def upload(store: Store, where: Repository, *contents: bytes) -> None:
    """Push blobs into an image."""
    for content in contents:
        await store.uploads.put(where, sha256(content), once(content))


async def push(
    store: Store,
    name: str,
    tag: str | None,
    layers: Iterable[bytes],
    *,
    config: bytes = b"{}",
    region: str = REGION,
) -> Pushed:
    """Push an image with its blobs under a full name such as ``app/web``."""
    layers = tuple(layers)
    where = await store.locate(region, name)
    await upload(store, where, config, *layers)
    body = manifest(config, layers)
    return await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=tag)


async def put(store: Store, name: str, body: bytes, *tags: str, **more: Any) -> Pushed:
    """Put a manifest whose media type is what it says, by its digest and under tags."""
    where = await store.locate(REGION, name)
    media_type = json.loads(body)["mediaType"]
    return await store.manifests.put(where, body, media_type=media_type, tags=tags, **more)


async def found(store: Store, where: Repository) -> Repository:
    """Where its name leads now: a push may have made the image."""
    return await store.locate(where.region, where.full_name)


async def read(
    store: Store, digest: str, *, repository: Repository | None = None, **more: Any
) -> bytes:
    where = None if repository is None else await found(store, repository)
    async with store.get(digest, repository=where, **more) as reader:
        return await collect(reader)


async def problems(store: Store) -> list[Any]:
    """What the consistency checker finds."""
    check = getattr(store, "check", None)
    return [] if check is None else [problem async for problem in check()]


async def problems_after_sweep(store: Store, *, early: bool = False) -> list[Any]:
    """Sweep, and return what the consistency checker finds then."""
    await store.sweeper.run(early=early)
    return await problems(store)


@contextmanager
def raised(error: type[Exception], /, **fields: object) -> Iterator[None]:
    """Expect an error of a kind whose attributes have the given values."""
    with pytest.raises(error) as caught:
        yield
    assert {name: getattr(caught.value, name) for name in fields} == fields


async def begin_upload(
    store: Store, received: bytes | None = None, **more: object
) -> tuple[Repository, Upload]:
    """Begin a session; return it with the repository as it is located from then on.

    Append the bytes that it is to have received, if any are given.
    """
    where = await store.locate(REGION, "app/web")
    session = await store.uploads.begin(where, **more)  # type: ignore[arg-type]  # passed on
    where = await store.locate(REGION, "app/web")
    if received is not None:
        await store.uploads.append(where, session.id, once(received))
    return where, session
