"""OCI layouts and storages of registries, as tests make them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from holdfast.engine import Store, Transferred, export_layout, import_layout
from support.copies import finish
from support.engine import REGION, descriptor, noise, sha256

REF_NAME: Final = "org.opencontainers.image.ref.name"
LAYERS: Final = [noise(100_000, "a"), noise(700_000, "b"), b"tiny"]


async def export(store: Store, name: str, path: Path, **more: Any) -> Transferred:
    where = await store.locate(REGION, name)
    done = await finish(export_layout(store, where, path, **more))
    assert isinstance(done, Transferred)
    return done


async def bring(store: Store, name: str, path: Path, **more: Any) -> Transferred:
    where = await store.locate(REGION, name)
    done = await finish(import_layout(store, where, path, **more))
    assert isinstance(done, Transferred)
    return done


def entries(path: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((path / "index.json").read_text())["manifests"]
    return listed


def contents(path: Path) -> dict[str, bytes]:
    """Digest -> bytes of all blobs of a layout, each compared with its name."""
    found = {}
    for blob in (path / "blobs").glob("*/*"):
        data = blob.read_bytes()
        assert hashlib.new(blob.parent.name, data).hexdigest() == blob.name
        found[f"{blob.parent.name}:{blob.name}"] = data
    return found


class Layout:
    """A layout written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []
        self.list()

    def add(self, *blobs: bytes) -> None:
        for data in blobs:
            self.file(data).write_bytes(data)

    def file(self, data: bytes) -> Path:
        return self.path / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()

    def list(self, data: bytes | None = None, name: str | None = None, **more: Any) -> None:
        if data is not None:
            entry = descriptor(data, json.loads(data)["mediaType"], **more)
            if name is not None:
                entry["annotations"] = {REF_NAME: name}
            self.manifests.append(entry)
        document = {"schemaVersion": 2, "manifests": self.manifests}
        (self.path / "index.json").write_text(json.dumps(document))


async def is_listed(store: Store, name: str = "app/web") -> bool:
    return (await store.locate(REGION, name)).image_id is not None


class Registry:
    """The storage of another registry, as it lies on a disk."""

    def __init__(self, path: Path) -> None:
        self.top = path / "docker" / "registry" / "v2"

    def blob(self, data: bytes) -> Path:
        encoded = hashlib.sha256(data).hexdigest()
        place = self.top / "blobs" / "sha256" / encoded[:2] / encoded / "data"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return place

    def link(self, repository: str, below: str, data: bytes) -> Path:
        place = self.top / "repositories" / repository / below / "link"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(sha256(data))
        return place

    def image(self, repository: str, body: bytes, *tags: str, layers: Any = ()) -> None:
        for layer in (b"{}", *layers):
            self.blob(layer)
            self.link(repository, f"_layers/sha256/{sha256(layer)[7:]}", layer)
        self.blob(body)
        self.link(repository, f"_manifests/revisions/sha256/{sha256(body)[7:]}", body)
        for tag in tags:
            self.link(repository, f"_manifests/tags/{tag}/current", body)
