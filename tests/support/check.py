"""A store full of everything that a store can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.engine import OCI_MANIFEST, Digest, Problem, RetentionRule, Store
from holdfast.engine.blobs import blob_rows
from holdfast.engine.depot import files
from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Blob, load
from holdfast.engine.maintenance import scrub
from support.engine import (
    ORGANIZATION,
    OTHER_PROJECT,
    PROJECT,
    REGION,
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

BASE: Final = noise(50_000, "base")
"""A layer in a file, in several images."""

SMALL: Final = noise(3_000, "small")
"""A layer in the ledger."""

TEXT: Final = b"all work and no play makes a layer compress\n" * 3_000
"""A layer that recompressing turns into frames."""

SIGNED: Final = noise(40_000, "signed")
"""In a root, under a digest of each algorithm."""

GARBAGE: Final = noise(35_000, "garbage")
"""In nothing any more."""

HELD: Final = b"nobody's manifest needs this yet"


@dataclass(frozen=True)
class Furnished:
    """Ids of what tests reach for."""

    app: UUID
    other: UUID
    image: UUID
    tag: UUID


async def furnish(store: Store) -> Furnished:
    """Fill a store with at least one of everything."""
    app = await make_namespace(store, "app", description="first")
    other = await make_namespace(store, "other", project=OTHER_PROJECT)
    web = await push(store, "app/web", "v1", [BASE, SMALL])
    await push(store, "app/web", "v2", [BASE, TEXT], config=b'{"v":2}')
    await push(store, "app/web", "v1.0", [BASE, SMALL])
    await push(store, "app/db", "v1", [BASE])
    await push(store, "other/web", "v1", [BASE, SMALL])
    await _index_and_referrer(store)
    where = await store.locate(REGION, "app/web")
    await upload(store, where, HELD)
    await _uploads(store)
    await store.put(SIGNED, root="signed", digest=sha512(SIGNED))
    await store.put(SMALL)
    await store.put(GARBAGE, root="short")
    await store.delete(sha256(GARBAGE), root="short")
    await _trash(store)
    await store.keys.create(
        project_id=PROJECT, default_project_id=PROJECT, organization_id=ORGANIZATION
    )
    await store.retention.set(app.id, [RetentionRule(keep_last=5)])
    await store.limits.update_namespace(app.id, quota=1 << 40)
    await store.limits.update_project(PROJECT, default_quota=1 << 40)
    tag = (await store.tags.list(web.image_id, name="v1")).items[0]
    return Furnished(app.id, other.id, web.image_id, tag.id)


async def _index_and_referrer(store: Store) -> None:
    children = [manifest(b'{"arch":1}', [BASE]), manifest(b'{"arch":2}', [SMALL])]
    where = await store.locate(REGION, "app/multi")
    await upload(store, where, b'{"arch":1}', b'{"arch":2}', BASE, SMALL)
    for child in children:
        await put(store, "app/multi", child)
    await put(store, "app/multi", index(children), "latest", "stable")
    signature = manifest(b'{"arch":1}', [], subject=children[0], artifactType="application/sig")
    await put(store, "app/multi", signature)
    body = manifest(b'{"arch":2}', [BASE, SMALL])
    where = await store.locate(REGION, "app/multi")
    await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=sha512(body))
    await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference="long")


async def _uploads(store: Store) -> None:
    where = await store.locate(REGION, "app/coming")
    small = await store.uploads.begin(where)
    where = await store.locate(REGION, "app/coming")
    await store.uploads.append(where, small.id, once(b"a few bytes"))
    large = await store.uploads.begin(where, size=1_000_000)
    await store.uploads.append(where, large.id, once(noise(200_000, "large")))


async def _trash(store: Store) -> None:
    signed = await push(store, "app/old", "v1", [BASE, noise(45_000, "old")])
    await push(store, "app/old", f"{signed.digest}.sig".replace(":", "-"), [SMALL])
    pushed = await push(store, "app/gone", "v1", [BASE, SMALL])
    await store.images.delete(pushed.image_id)
    old = await store.locate(REGION, "app/old")
    assert old.image_id is not None
    (tag,) = (await store.tags.list(old.image_id, name="v1")).items
    await store.tags.delete(tag.id)
    lost = await make_namespace(store, "lost")
    await push(store, "lost/web", "v1", [BASE, SMALL])
    await upload(store, await store.locate(REGION, "lost/draft"), HELD)
    await store.namespaces.delete(lost.id)


async def furnish_more(store: Store) -> None:
    """Rows that are there for moments only, or after damage; none of them is a problem."""
    await store.core.ledger.transact(_passing_rows)


async def _passing_rows(txn: Transaction) -> None:
    garbage = Digest.of(GARBAGE).raw
    blob = await load(txn, Blob, layout.BLOB + garbage)
    assert blob is not None
    await blob_rows.quarantine(txn, garbage, blob.file_id, 1)
    await blob_rows.schedule_unlink(txn, BLOCK_FILES + 200)
    await scrub.mark(txn, b"", 1)
    await files.take_lease(txn, b"a lease", 1, 1 << 60)


async def found(store: Store, *, deep: bool = False) -> list[Problem]:
    return [problem async for problem in store.check(deep=deep)]


def told(problems: list[Problem]) -> list[str]:
    return [f"{problem.kind}: {problem.name} {problem.reason}" for problem in problems]


def matches(problems: list[Problem], expected: list[str]) -> bool:
    """Whether each text fits a problem of its own, and no problem is left."""
    left = told(problems)
    for text in expected:
        kind, _, part = text.partition(": ")
        fits = [line for line in left if line.startswith(kind + ": ") and part in line]
        if not fits:
            return False
        # One that begins with the text is meant before one that has it somewhere.
        left.remove(min(fits, key=lambda line: not line.startswith(text)))
    return not left
