"""Recorded traces of real registries, in the format of the published IBM traces.

A file is a JSON array of records, or one record a line. Fields used: ``timestamp`` (ISO 8601),
``http.request.method``, ``http.request.uri``, ``http.response.status`` and
``http.response.written`` (bytes). Names in these traces are made unreadable, so every URI stands
for one object of its own; the bytes are ours, of the recorded size.

An upload is one operation, from the first to the last record of its URI. Its size is the largest
``http.response.written`` of them: the published traces say there how much was received or sent.
A registry's own log has zeros there; then the size is drawn from the published distribution.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from .content import (
    CONFIG_TYPE,
    MANIFEST_TYPE,
    Blob,
    Content,
    LayerSizes,
    descriptor,
    digest_of,
    whole,
)
from .mixed import LOOKED_AT, Action
from .registry import Moved, Registry, Style, WrongAnswer

_URI: Final = re.compile(
    r"(?:https?://[^/]+)?/?v2/(?P<name>[^?]+?)/(?P<what>manifests|blobs)/(?P<rest>[^?]+)"
)

LINE_BYTES_MAX: Final = 1 << 20
BLOB_BYTES_MAX: Final = 256 << 20
BLOB_BYTES_MIN: Final = 64

Kind = Literal[
    "pull_blob", "pull_manifest", "head_blob", "head_manifest", "push_blob", "push_manifest"
]


class BadTrace(Exception):
    """The file is not a trace. The text is one line."""


class Operation(msgspec.Struct, frozen=True):
    """One recorded request, made into what a client can do."""

    at: float
    """Seconds after the first one."""

    kind: Kind
    key: str
    """Names the object: equal keys are one object."""

    size: int
    """Bytes, scaled; 0 where the trace does not tell."""


class Replay(msgspec.Struct, frozen=True, tag=True):
    """A trace to replay."""

    operations: tuple[Operation, ...]
    name: str
    """Makes what one replay pushes differ from what another does."""


def read(path: Path, *, limit: int, speed: float = 1.0, scale: float = 1.0) -> list[Operation]:
    """The first ``limit`` usable operations, in order of time.

    ``speed`` 2 halves all waits; ``scale`` 0.1 makes objects a tenth as large. Raises BadTrace, and
    OSError.
    """
    operations: list[Operation] = []
    uploads: dict[str, int] = {}
    for record in _records(path):
        operation = _operation(record, scale)
        if operation is None:
            continue
        if operation.kind == "push_blob":
            known = uploads.setdefault(operation.key, len(operations))
            if known < len(operations):
                operations[known] = _joined(operations[known], operation)
                continue
        if len(operations) >= limit:
            break
        operations.append(operation)
    if not operations:
        raise BadTrace(f"{path}: no usable request in it")
    operations.sort(key=lambda operation: operation.at)
    first = operations[0].at
    return [
        msgspec.structs.replace(operation, at=(operation.at - first) / speed)
        for operation in operations
    ]


def _joined(one: Operation, other: Operation) -> Operation:
    """Two requests of one upload."""
    size = max(one.size, other.size)
    return msgspec.structs.replace(one, at=min(one.at, other.at), size=size)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        start = file.read(256).lstrip()
        file.seek(0)
        if start.startswith(b"["):
            yield from _checked(path, _decode(path, file.read()))
            return
        for line in iter(lambda: file.readline(LINE_BYTES_MAX), b""):
            if line.strip():
                yield from _checked(path, [_decode(path, line)])


def _decode(path: Path, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadTrace(f"{path}: not JSON: {error}") from error


def _checked(path: Path, records: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for record in records:
        if not isinstance(record, dict):
            raise BadTrace(f"{path}: a record is not an object")
        yield record


def _operation(record: dict[str, Any], scale: float) -> Operation | None:
    """What to do for a record; None for requests that have no counterpart."""
    try:
        moment = datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00")).timestamp()
        method = record["http.request.method"]
        match = _URI.match(record["http.request.uri"])
        written = max(0, int(record.get("http.response.written") or 0))
        status = int(record.get("http.response.status") or 200)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadTrace(
            f"a record lacks {error}"
            if isinstance(error, KeyError)
            else f"a record is malformed: {error}"
        ) from error
    if match is None or status >= 400:
        return None
    name, what, rest = match["name"], match["what"], match["rest"]
    size = min(BLOB_BYTES_MAX, max(BLOB_BYTES_MIN, int(written * scale))) if written else 0
    kind = _kind(method, what, rest)
    return None if kind is None else Operation(moment, kind, f"{name}/{what}/{rest}", size)


def _kind(method: str, what: str, rest: str) -> Kind | None:
    upload = what == "blobs" and rest.startswith("uploads/")
    match method, what:
        case "GET", "manifests":
            return "pull_manifest"
        case "HEAD", "manifests":
            return "head_manifest"
        case "PUT", "manifests":
            return "push_manifest"
        case (("PATCH" | "PUT"), "blobs") if upload:
            return "push_blob"
        case "GET", "blobs" if not upload:
            return "pull_blob"
        case "HEAD", "blobs" if not upload:
            return "head_blob"
    return (
        None  # the POST of an upload is part of what its other requests are; deletes are not done
    )


class Player:
    """The operations of one of several processes, and the objects they need."""

    def __init__(self, job: Replay, content: Content, part: int, parts: int) -> None:
        self._operations = job.operations[part::parts]
        self._content = content
        self._name = f"{job.name}/{part}"
        self._blobs: dict[str, Blob] = {}
        self._manifests: dict[str, str] = {}
        """Object to the digest of its manifest."""

        self._sizes: dict[str, int] = {}
        for operation in job.operations:
            known = self._sizes.get(operation.key, 0)
            self._sizes[operation.key] = max(known, operation.size)
        self._config = whole(b"{}")
        self._pushed_blobs: list[Blob] = []
        self._pushed_manifests: list[tuple[str, str]] = []

    def _size(self, operation: Operation) -> int:
        """As recorded, or drawn where it is not: then for layers, scaled as images here are."""
        drawn = LayerSizes(0.01, 2 << 20).draw(self._content.chance(f"trace/{operation.key}"))
        return self._sizes[operation.key] or drawn

    async def prepare(self, registry: Registry) -> None:
        """Push what the trace pulls, before the clock runs, and look at some of it."""
        await self._bring(registry, self._config)
        for operation in self._operations:
            key = operation.key
            if key in self._blobs or operation.kind.startswith("push"):
                continue
            blob = self._content.blob(f"trace/{key}", self._size(operation))
            self._blobs[key] = blob.hollow()
            await self._bring(registry, blob)
            if operation.kind.endswith("manifest"):
                image = self._content.image_of(f"trace/{key}", (blob,))
                await registry.push_image(image, _tag(key), Style.WHOLE)
                self._manifests[key] = image.digest
        for blob in list(self._blobs.values())[:LOOKED_AT]:
            await registry.pull_blob(blob.digest, blob.size, verify=True)
        for key, digest in list(self._manifests.items())[:LOOKED_AT]:
            await registry.pull_manifest(_tag(key), digest, verify=True)

    @staticmethod
    async def _bring(registry: Registry, blob: Blob) -> None:
        if not await registry.has_blob(blob.digest):
            await registry.push_blob(blob, Style.WHOLE)

    async def check(self, registry: Registry) -> None:
        """After the clock: some of what was pushed, with its bytes."""
        for blob in self._pushed_blobs[-LOOKED_AT:]:
            await registry.pull_blob(blob.digest, blob.size, verify=True)
        for tag, digest in self._pushed_manifests[-LOOKED_AT:]:
            await registry.pull_manifest(tag, digest, verify=True)

    def plan(self) -> list[tuple[float, Action]]:
        """What is due when."""
        return [
            (operation.at, self._action(index, operation))
            for index, operation in enumerate(self._operations)
        ]

    def _action(self, index: int, operation: Operation) -> Action:
        match operation.kind:
            case "push_blob":
                key, size = f"{self._name}/{index}", self._size(operation)
                return self._push_blob(self._content.blob(key, size, kept=False))
            case "push_manifest":
                return self._push_manifest(operation.key, f"{self._name}/{index}")
            case _:
                return self._read(operation.kind, self._blobs[operation.key], _tag(operation.key))

    def _push_blob(self, blob: Blob) -> Action:
        async def push(registry: Registry) -> Moved:
            await registry.push_blob(blob, Style.DOCKER)
            self._pushed_blobs.append(blob.hollow())
            return Moved(sent=blob.size)

        return push

    def _push_manifest(self, key: str, mark: str) -> Action:
        """One request, as recorded: the manifest is new, the config that it names is there."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, self._config),
            "layers": [],
            "annotations": {"bench": mark},
        }
        manifest = msgspec.json.encode(document)
        digest, tag = digest_of(manifest), _tag(f"{key}/{mark}")

        async def push(registry: Registry) -> Moved:
            await registry.push_manifest(tag, manifest, digest)
            self._pushed_manifests.append((tag, digest))
            return Moved(sent=len(manifest))

        return push

    def _read(self, kind: Kind, blob: Blob, tag: str) -> Action:
        async def read(registry: Registry) -> Moved:
            match kind:
                case "pull_blob":
                    return Moved(received=await registry.pull_blob(blob.digest, blob.size))
                case "pull_manifest":
                    return Moved(received=await registry.pull_manifest(tag, ""))
                case "head_blob":
                    found = await registry.has_blob(blob.digest)
                case _:
                    found = await registry.has_manifest(tag)
            if not found:
                raise WrongAnswer("HEAD of what was pushed: 404")
            return Moved()

        return read


def _tag(key: str) -> str:
    return digest_of(key.encode()).partition(":")[2][:40]
