"""Use the store as a library: keep single blobs, and pack files into a tagged image.

    python embed_store.py put FILE                 print the digest of the stored file
    python embed_store.py get DIGEST               write the blob to standard output
    python embed_store.py pack team/notes:v1 FILE  tag an image with one layer for each file
    python embed_store.py unpack team/notes:v1 DIR write the layers of the image as files

``--data`` names the data directory. ``holdfast serve --data`` serves the packed images: they are
OCI artifacts that ``oras pull`` unpacks into the same files.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

from holdfast.engine import OCI_MANIFEST, EngineError, Invalid, NotFound, Store, StoreConfig

REGION = "fr-par"
PROJECT = UUID("0b1f3c52-6b1e-4d5c-9a57-3f0d6c1f7e21")
"""Owner of the namespaces made here; a service uses the id of its tenant."""

ROOT = "embed_store"
"""Name under which single blobs are kept; a blob stays until it is deleted from all roots."""

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FILE_TYPE = "application/octet-stream"
ARTIFACT_TYPE = "application/vnd.example.files"
TITLE = "org.opencontainers.image.title"
"""Annotation that names the file of a layer (OCI image-spec, "Pre-Defined Annotation Keys")."""

PIECE_BYTES = 256 * 1024


async def put(store: Store, path: Path) -> None:
    """Store a file and print its digest."""
    blob = await store.put(path, root=ROOT)
    print(blob.digest)


async def get(store: Store, digest: str) -> None:
    """Write a blob to standard output."""
    async with store.get(digest) as reader:
        async for chunk in reader:
            sys.stdout.buffer.write(chunk)


async def pack(store: Store, image: str, paths: list[Path]) -> None:
    """Store files as the layers of an image and tag it; print the digest of its manifest."""
    name, tag = split(image)
    namespace = name.partition("/")[0]
    try:
        await store.namespaces.find(REGION, namespace)
    except NotFound:
        await store.namespaces.create(
            REGION, namespace, project_id=PROJECT, organization_id=PROJECT
        )
    repository = await store.locate(REGION, name)

    async def upload(
        content: AsyncIterator[bytes], digest: str, media_type: str
    ) -> dict[str, object]:
        # The image holds the blob from here on, so it is still there when the manifest comes.
        blob = await store.uploads.put(repository, digest, content)
        return {"mediaType": media_type, "digest": str(blob.digest), "size": blob.size}

    config = await upload(once(EMPTY), "sha256:" + hashlib.sha256(EMPTY).hexdigest(), EMPTY_TYPE)
    layers = []
    for path in paths:
        layer = await upload(pieces(path), digest_of(path), FILE_TYPE)
        layers.append({**layer, "annotations": {TITLE: path.name}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": layers,
    }
    # The tag moves in one step: readers see the old image or the new one.
    pushed = await store.manifests.put(
        repository, json.dumps(manifest).encode(), media_type=OCI_MANIFEST, reference=tag
    )
    print(pushed.digest)


async def unpack(store: Store, image: str, directory: Path) -> None:
    """Write the layers of an image into a directory and print the names of the files."""
    name, tag = split(image)
    repository = await store.locate(REGION, name)
    manifest = await store.manifests.get(repository, tag)
    for layer in json.loads(manifest.body)["layers"]:
        # The title comes from outside: only its last part may name a file here.
        target = directory / Path(layer["annotations"][TITLE]).name
        async with store.get(layer["digest"], repository=repository) as reader:
            with target.open("wb") as file:
                async for chunk in reader:
                    file.write(chunk)
        print(target.name)


def split(image: str) -> tuple[str, str]:
    """Split ``namespace/image:tag`` into the full name and the tag. Raises Invalid."""
    name, _, tag = image.partition(":")
    if not tag:
        raise Invalid("image", "must be NAMESPACE/IMAGE:TAG")
    return name, tag


def digest_of(path: Path) -> str:
    """Return the sha256 digest of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


async def once(content: bytes) -> AsyncIterator[bytes]:
    """Yield ``content`` as one piece."""
    yield content


async def pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield a file in pieces, read in a thread so that the event loop goes on."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "put": put,
    "get": get,
    "pack": pack,
    "unpack": unpack,
}


async def main() -> None:
    """Run one command on the store. Exits with 1 when the engine refuses it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="data", type=Path, help="data directory (default: data)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("put")
    command.add_argument("path", type=Path)
    command = commands.add_parser("get")
    command.add_argument("digest")
    command = commands.add_parser("pack")
    command.add_argument("image")
    command.add_argument("paths", type=Path, nargs="+")
    command = commands.add_parser("unpack")
    command.add_argument("image")
    command.add_argument("directory", type=Path)
    given = vars(parser.parse_args())
    run = COMMANDS[given.pop("command")]
    try:
        # A server on this directory sweeps and scrubs already; a command of a second does not.
        config = StoreConfig(background=False)
        async with Store.open(given.pop("data"), config) as store:
            await run(store, **given)
    except EngineError as error:
        sys.exit(f"embed_store: {error}")


if __name__ == "__main__":
    asyncio.run(main())
