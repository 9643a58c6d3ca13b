"""Make ``format_2.tar.xz``: a data directory as the last version with format 2 left it.

Run it with that version (commit dd81f20) on PYTHONPATH, its tests beside it; newer ones make
directories of a newer format. It has one of everything that the upgrade has to carry over.
"""

from __future__ import annotations

import asyncio
import sys
import tarfile
from pathlib import Path

from support.engine import (
    OTHER_PROJECT,
    REGION,
    START,
    Clock,
    index,
    make_namespace,
    manifest,
    noise,
    once,
    push,
    put,
    sha256,
    sha512,
    upload,
)

from holdfast.engine import OCI_MANIFEST, RetentionRule, Store, StoreConfig

BASE = noise(33_000, "base")
SMALL = noise(900, "small")
HELD = b"held by an upload, needed by no manifest"
SUBJECT = manifest(b"{}", [SMALL], annotations={"of": "the signature"})


async def fill(store: Store) -> None:
    app = await make_namespace(store, "app", description="over its quota")
    other = await make_namespace(store, "other", project=OTHER_PROJECT)
    await push(store, "app/web", "v1", [BASE, SMALL])
    await push(store, "app/web", "v2", [BASE], config=b'{"v":2}')
    await push(store, "app/db", "v1", [BASE])
    await push(store, "other/web", "v1", [BASE, SMALL])
    await images(store)
    await upload(store, await store.locate(REGION, "app/web"), HELD)
    await trash(store)
    frozen = await make_namespace(store, "frozen")
    await push(store, "frozen/web", "v1", [SMALL])
    await store.namespaces.update(frozen.id, locked=True)
    await store.namespaces.update(app.id, quota=10_000, immutable_tags=("release-*",))
    await store.namespaces.update(other.id, quota=1 << 40)
    await store.retention.set(app.id, [RetentionRule(keep_last=5)])
    await store.put(noise(33_000, "root"), root="signed")
    where = await store.locate(REGION, "other/coming")
    small = await store.uploads.begin(where)
    await store.uploads.append(where, small.id, once(b"a few bytes"))
    large = await store.uploads.begin(where, size=1_000_000)
    await store.uploads.append(where, large.id, once(noise(70_000, "large")))


async def images(store: Store) -> None:
    """An index, a digest of another algorithm, and signatures, one of them an orphan."""
    children = [manifest(b'{"arch":1}', [BASE]), manifest(b'{"arch":2}', [SMALL])]
    where = await store.locate(REGION, "app/multi")
    await upload(store, where, b"{}", b'{"arch":1}', b'{"arch":2}', BASE, SMALL)
    for child in children:
        await put(store, "app/multi", child)
    await put(store, "app/multi", index(children), "latest", "release-1")
    signed = manifest(b'{"arch":1}', [], subject=children[0], artifactType="application/sig")
    await put(store, "app/multi", signed)
    body = manifest(b'{"arch":2}', [BASE, SMALL])
    where = await store.locate(REGION, "app/multi")
    await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=sha512(body))
    signature = manifest(b"{}", [SMALL])
    await put(store, "app/multi", SUBJECT, "signed")
    for subject in (SUBJECT, b"never pushed"):
        tag = sha256(subject).replace(":", "-") + ".sig"
        await put(store, "app/multi", signature, tag)


async def trash(store: Store) -> None:
    """A tag, an image and two namespaces in the trash; one name was taken again."""
    await push(store, "app/old", "v1", [BASE, noise(33_000, "old")])
    gone = await push(store, "app/gone", "v1", [BASE, SMALL])
    await store.images.delete(gone.image_id)
    old = await store.locate(REGION, "app/old")
    assert old.image_id is not None
    (tag,) = (await store.tags.list(old.image_id)).items
    await store.tags.delete(tag.id)
    for name in ("lost", "again"):
        namespace = await make_namespace(store, name)
        await push(store, f"{name}/web", "v1", [BASE, SMALL])
        await upload(store, await store.locate(REGION, f"{name}/draft"), HELD)
        await store.namespaces.delete(namespace.id)
    await make_namespace(store, "again")
    await push(store, "again/web", "v1", [SMALL])


async def make(directory: Path) -> None:
    clock = Clock()
    config = StoreConfig(background=False, compression="never")
    async with Store.open(directory, config, clock=clock) as store:
        clock.now = START
        await fill(store)
        assert [problem async for problem in store.check()] == []


if __name__ == "__main__":
    target = Path(sys.argv[1])
    asyncio.run(make(target / "data"))
    assert (target / "data" / "FORMAT").read_text() == "holdfast 2\n", "not made by format 2"
    (boot,) = (target / "data" / "scratch").iterdir()
    boot.rename(boot.with_name("boot"))  # The test gives it the name of its own start.
    with tarfile.open(target / "format_2.tar.xz", "w:xz") as archive:
        archive.add(target / "data", "data")
