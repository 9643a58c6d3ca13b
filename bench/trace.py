"""Recorded traces of real registries, in the format of the published IBM traces.

A file is a JSON array of records, or one record a line. Fields used: ``timestamp`` (ISO 8601),
``http.request.method``, ``http.request.uri``, ``http.response.status`` and
``http.response.written`` (bytes). Names in these traces are made unreadable, so every URI stands
for one object of its own; the bytes are ours, of the recorded size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from .content import Blob, Content, digest_of
from .mixed import Action
from .registry import Registry, Style, WrongAnswer

_URI: Final = re.compile(
    r"(?:https?://[^/]+)?/?v2/(?P<name>[^?]+?)/(?P<what>manifests|blobs)/(?P<rest>[^?]+)"
)

LINE_BYTES_MAX: Final = 1 << 20
BLOB_BYTES_MAX: Final = 256 << 20

Kind = Literal["pull_blob", "pull_manifest", "head_blob", "head_manifest", "push_blob"]


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
    """Bytes, for a pull as recorded; for a push as far as the trace tells."""


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
    operations = []
    for record in _records(path):
        operation = _operation(record, scale)
        if operation is not None:
            operations.append(operation)
            if len(operations) >= limit:
                break
    if not operations:
        raise BadTrace(f"{path}: no usable request in it")
    operations.sort(key=lambda operation: operation.at)
    first = operations[0].at
    return [
        msgspec.structs.replace(operation, at=(operation.at - first) / speed)
        for operation in operations
    ]


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
    size = min(BLOB_BYTES_MAX, max(64, int(written * scale)))
    key = f"{name}/{what}/{rest}"
    kind: Kind
    if what == "manifests":
        match method:
            case "GET":
                kind = "pull_manifest"
            case "HEAD":
                kind = "head_manifest"
            case _:
                return None  # pushes of manifests: their blobs are not known
    elif rest.startswith("uploads/"):
        if method != "PUT":
            return None  # POST and PATCH are parts of what their PUT ends
        kind = "push_blob"
    elif method in ("GET", "HEAD"):
        kind = "pull_blob" if method == "GET" else "head_blob"
    else:
        return None
    return Operation(moment, kind, key, size)


class Player:
    """The operations of one of several processes, and the objects they need."""

    def __init__(self, job: Replay, content: Content, part: int, parts: int) -> None:
        self._operations = job.operations[part::parts]
        self._content = content
        self._name = job.name
        self._blobs: dict[str, Blob] = {}
        sizes: dict[str, int] = {}
        for operation in job.operations:
            if not operation.kind.startswith("push"):
                sizes[operation.key] = max(sizes.get(operation.key, 0), operation.size)
        self._sizes = sizes
        self._part = part

    async def prepare(self, registry: Registry) -> None:
        """Push what the trace pulls, before the clock runs."""
        for operation in self._operations:
            if operation.key in self._blobs or operation.kind.startswith("push"):
                continue
            blob = self._content.blob(f"trace/{operation.key}", self._sizes[operation.key])
            self._blobs[operation.key] = Blob(blob.digest, blob.size, ())
            if not await registry.has_blob(blob.digest):
                await registry.push_blob(blob, Style.WHOLE)
            if operation.kind.endswith("manifest"):
                image = self._content.image_of(f"trace/{operation.key}", (blob,))
                await registry.push_image(image, _tag(operation.key), Style.WHOLE)

    def plan(self) -> list[tuple[float, Action]]:
        """What is due when."""
        return [
            (operation.at, self._action(index, operation))
            for index, operation in enumerate(self._operations)
        ]

    def _action(self, index: int, operation: Operation) -> Action:
        if operation.kind == "push_blob":
            fresh = self._content.blob(f"{self._name}/{self._part}/{index}", operation.size)
        else:
            fresh = self._blobs[operation.key]
        tag = _tag(operation.key)

        async def act(registry: Registry) -> int:
            match operation.kind:
                case "push_blob":
                    await registry.push_blob(fresh, Style.DOCKER)
                    return fresh.size
                case "pull_blob":
                    return await registry.pull_blob(fresh.digest, fresh.size)
                case "pull_manifest":
                    return await registry.pull_manifest(tag, "")
                case "head_blob":
                    found = await registry.has_blob(fresh.digest)
                case _:
                    found = await registry.has_manifest(tag)
            if not found:
                raise WrongAnswer("HEAD of what was pushed: 404")
            return 0

        return act


def _tag(key: str) -> str:
    return digest_of(key.encode()).partition(":")[2][:40]
