"""Images made from bytes, in the forms that clients load."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any, Final

from support.api import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, digest_of

DOCKER_MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST_TYPE: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES: Final = (MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_LIST_TYPE)


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def layer(name: str, content: bytes) -> bytes:
    """A layer of one file, uncompressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, name, content)
    return buffer.getvalue()


def layers(seed: str, large: int = 1_500_000) -> list[bytes]:
    """Three layers: a large one, one over and one under what lies in the ledger itself."""
    return [
        layer("large.bin", noise(f"{seed} large", large)),
        layer("middle.bin", noise(f"{seed} middle", 200_000)),
        layer("small.txt", seed.encode()),
    ]


def config(contents: list[bytes], architecture: str = "amd64") -> bytes:
    """The configuration of an image with these layers. Its digest is the image's id."""
    document = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/large.bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in contents]},
        "history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": f"layer {number}"}
            for number, _ in enumerate(contents)
        ],
    }
    return json.dumps(document).encode()


def docker_archive(path: Path, name: str, contents: list[bytes]) -> str:
    """Write what ``docker save`` would for an image of these layers; the image's id."""
    described = config(contents)
    image_id = hashlib.sha256(described).hexdigest()
    files = [f"{number}/layer.tar" for number, _ in enumerate(contents)]
    entry = {"Config": f"{image_id}.json", "RepoTags": [name], "Layers": files}
    with tarfile.open(path, "w") as archive:
        _add(archive, f"{image_id}.json", described)
        for file, content in zip(files, contents, strict=True):
            _add(archive, file, content)
        _add(archive, "manifest.json", json.dumps([entry]).encode())
    return f"sha256:{image_id}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o755
    archive.addfile(member, io.BytesIO(content))


class Layout:
    """An OCI image layout in a directory, as skopeo, podman and containerd read it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob; its descriptor."""
        digest = digest_of(content)
        (self.directory / "blobs" / "sha256" / digest.partition(":")[2]).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def image(self, contents: list[bytes], architecture: str = "amd64") -> dict[str, Any]:
        """Add an image; the descriptor of its manifest."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.blob(config(contents, architecture), CONFIG_TYPE),
            "layers": [self.blob(gzip.compress(each, 1, mtime=0), LAYER_TYPE) for each in contents],
        }
        return self.blob(json.dumps(document).encode(), MANIFEST_TYPE)

    def index(self, tag: str, seed: str, architectures: tuple[str, ...]) -> str:
        """Add and tag an index of one image for each architecture; its digest.

        The images have their first layer in common.
        """
        shared = layer("shared.bin", noise(f"{seed} shared", 300_000))
        manifests = []
        for architecture in architectures:
            own = layer("own.bin", noise(f"{seed} {architecture}", 150_000))
            child = self.image([shared, own], architecture)
            manifests.append({**child, "platform": {"architecture": architecture, "os": "linux"}})
        document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        described = self.blob(json.dumps(document).encode(), INDEX_TYPE)
        self.name(described, tag)
        digest: str = described["digest"]
        return digest

    def name(self, described: dict[str, Any], tag: str) -> None:
        """Make a manifest or index the only one that the layout names."""
        entry = {**described, "annotations": {"org.opencontainers.image.ref.name": tag}}
        document = {"schemaVersion": 2, "manifests": [entry]}
        (self.directory / "index.json").write_text(json.dumps(document))

    def archive(self, path: Path) -> Path:
        """The layout as one tar file."""
        with tarfile.open(path, "w") as target:
            target.add(self.directory, arcname=".")
        return path


def content_size(*manifests: Any) -> int:
    """What an image of these manifests counts: their configs and layers, each digest once."""
    needed = [each for manifest in manifests for each in (manifest["config"], *manifest["layers"])]
    return sum({each["digest"]: each["size"] for each in needed}.values())
