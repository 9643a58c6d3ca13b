"""The check of the bytes at rest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest
from support.check import BASE, HELD, SMALL, TEXT, found, furnish, matches
from support.damage import (
    blob_of,
    change,
    content_of,
    file_of,
    image_of,
    records,
    rows,
    sha,
    vanish,
)
from support.engine import REGION, Place, noise, sha256, upload

from holdfast.engine import Digest, Problem, Store
from holdfast.engine.blobs import claims
from holdfast.engine.check import files
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import (
    INLINE,
    Manifest,
    Namespace,
    Referrer,
    load,
    put_payload,
    save,
    unseal,
)
from holdfast.engine.maintenance.recompress import Recompressor
from holdfast.engine.references import manifest_rows
from holdfast.engine.repositories import images

P = ParamSpec("P")
T = TypeVar("T")


async def shorten(store: Store, file_id: int) -> None:
    writer = store.core.depot.reopen(file_id)
    writer.truncate(writer.size - 1)
    writer.close()


async def lengthen(store: Store, file_id: int) -> None:
    writer = store.core.depot.reopen(file_id)
    writer.append(b"x")
    writer.close()


async def flip_first(store: Store, file_id: int) -> None:
    """Turn one bit of the first byte."""
    writer = store.core.depot.reopen(file_id)
    content = writer.read(0, writer.size)
    writer.truncate(0)
    writer.append(bytes((content[0] ^ 1,)) + content[1:])
    writer.close()


@pytest.mark.parametrize(
    ("harm", "quick", "deep"),
    [
        (vanish, "was not found", "was not found"),
        (shorten, "bytes at rest", "bytes at rest"),
        (lengthen, "bytes at rest", "bytes at rest"),
        (flip_first, None, "its content has the digest sha256:"),
    ],
)
async def test_a_damaged_file_is_told(
    furnished: Store,
    harm: Callable[[Store, int], Coroutine[Any, Any, None]],
    quick: str | None,
    deep: str,
) -> None:
    await harm(furnished, await file_of(furnished, BASE))
    assert matches(await found(furnished), [f"blob: {quick}"] if quick else [])
    (problem,) = await found(furnished, deep=True)
    assert problem.name == sha256(BASE)
    assert deep in problem.reason
    await upload(furnished, await furnished.locate(REGION, "app/web"), BASE)
    assert await found(furnished, deep=True) == []


@pytest.mark.parametrize(
    ("harm", "quick", "deep"),
    [
        (shorten, "seek table", "seek table"),
        (flip_first, None, "has the header of another"),
    ],
)
async def test_a_damaged_file_of_frames_is_told(
    furnished: Store,
    harm: Callable[[Store, int], Coroutine[Any, Any, None]],
    quick: str | None,
    deep: str,
) -> None:
    await Recompressor(furnished.core).run()
    await harm(furnished, await file_of(furnished, TEXT))
    assert matches(await found(furnished), [f"blob: {quick}"] if quick else [])
    (problem,) = await found(furnished, deep=True)
    assert problem.name == sha256(TEXT)


async def test_a_deep_check_hashes_what_lies_in_the_ledger(furnished: Store) -> None:
    """Content that was swapped with a right checksum of its own row."""

    async def swap(txn: Transaction) -> None:
        assert (await blob_of(txn, SMALL))[1].place == INLINE
        await put_payload(txn, await content_of(txn, SMALL), noise(len(SMALL), "other"))

    async def misname(txn: Transaction) -> None:
        """An alias that other content has."""
        key, blob = await blob_of(txn, HELD)
        alias = Digest.of(b"other", "sha512").key
        await put_payload(txn, layout.ALIAS + alias, sha(HELD))
        await change(txn, key, blob, aliases=(alias,))

    async def miscount(txn: Transaction) -> None:
        key, blob = await blob_of(txn, BASE)
        await change(txn, key, blob, checksum=bytes(32))

    for damage in (swap, misname, miscount):
        await furnished.core.ledger.transact(damage)
    assert await found(furnished) == []
    expected = ["blob: its content has the digest", "blob: does not have the digest sha512:"]
    problems = await found(furnished, deep=True)
    assert matches(problems, [*expected, "blob: the checksum in its row is wrong"])


async def test_a_deep_check_reads_manifests(place: Place) -> None:
    """Rows that agree with each other, and not with the bytes that were pushed."""

    async def first(txn: Transaction, name: str) -> tuple[bytes, Manifest]:
        image = await image_of(txn, name)
        return (await records(txn, Manifest, layout.MANIFEST + image.key))[0]

    async def forget(txn: Transaction) -> None:
        """A need with its claim, its reference and its numbers."""
        image = await image_of(txn, "db")
        manifest, _ = await first(txn, "db")
        key = layout.NEEDS + manifest[1:] + b"\0\0"
        packed = unseal(key, await txn.get(key) or b"")
        kept = packed.replace(manifest_rows.CONTENT + sha(BASE), b"")
        assert len(kept) == len(packed) - 33
        await put_payload(txn, key, kept)
        home = await load(txn, Namespace, layout.NAMESPACE + image.namespace)
        assert home is not None
        owner = images.owner_of(image, home)
        await claims.unlink(txn, owner, sha(BASE), "content", 1, until)

    async def retype(txn: Transaction) -> None:
        key, row = await first(txn, "multi")
        await change(txn, key, row, media_type=row.media_type + "x")
        for where, referrer in await records(txn, Referrer, layout.REFERRER):
            if where[-32:] == key[-32:]:
                await change(txn, where, referrer, media_type=row.media_type + "x")

    until = int((place.clock() + 86_400) * 1e6)
    async with place.store() as store:
        await furnish(store)
        await store.core.ledger.transact(forget)
        assert await found(store) == []
        expected = [f"manifest: its body needs {sha256(BASE)}, its row does not"]
        assert matches(await found(store, deep=True), expected)
        await store.core.ledger.transact(retype)
        assert await found(store) == []
        (problem,) = set(await found(store, deep=True)) - {*await deep_only(store, BASE)}
        assert problem.kind == "manifest"


async def deep_only(store: Store, data: bytes) -> list[Problem]:
    """What a deep check says about a blob."""
    return [problem for problem in await found(store, deep=True) if sha256(data) in problem.reason]


@pytest.mark.parametrize("body", [b"no document", b'{"schemaVersion":2}'])
async def test_a_deep_check_tells_of_a_manifest_that_is_none(furnished: Store, body: bytes) -> None:
    async def turn(txn: Transaction) -> None:
        """Give a blob the rows of a manifest."""
        image = await image_of(txn, "db")
        home = await load(txn, Namespace, layout.NAMESPACE + image.namespace)
        assert home is not None
        owner = images.owner_of(image, home)
        await claims.link(txn, owner, sha(body), len(body), "bodies", 1)
        row = Manifest("application/vnd.oci.image.manifest.v1+json", len(body), b"", "", 1)
        await save(txn, layout.MANIFEST + image.key + sha(body), row)
        needs = manifest_rows.BODY + sha(body)
        await put_payload(txn, layout.NEEDS + image.key + sha(body) + b"\0\0", needs)

    await furnished.put(body)
    await furnished.core.ledger.transact(turn)
    assert await found(furnished) == []
    (problem,) = await found(furnished, deep=True)
    assert (problem.kind, problem.name[:71]) == ("manifest", sha256(body))


async def test_a_file_without_a_row_is_told_unless_it_is_accounted_for(furnished: Store) -> None:
    async def close_all(txn: Transaction) -> None:
        for key, _ in await rows(txn, layout.BLOCK):
            await txn.delete(key)

    async def schedule_unlink(txn: Transaction, file_id: int) -> None:
        await put_payload(txn, layout.PENDING_UNLINK + layout.number(file_id))

    core = furnished.core
    stray = max(n for block in core.depot.blocks() for n in core.depot.files(block)) + 100
    writer = core.depot.create(stray)
    writer.append(b"of a process that died")
    writer.close()
    assert await found(furnished) == [], "its block is open: recovery would find it"
    await core.ledger.transact(close_all)
    (told, *others) = sorted(await found(furnished), key=lambda each: each.name != f"{stray:x}")
    assert (told.kind, told.name) == ("file", f"{stray:x}")
    await core.ledger.transact(schedule_unlink, stray)
    assert await found(furnished) == others, "the sweep will remove it"


@pytest.mark.parametrize("change_to", ["removed", "healed", "recompressed"])
async def test_a_blob_that_moves_during_the_check_is_not_told(store: Store, change_to: str) -> None:
    """Its row is read, then its file goes, and only then is the file looked for."""
    await store.put(TEXT)
    moves = 0

    async def run(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal moves
        moves += 1
        if moves == 1:
            await move()
        return await store.core.threads.run(fn, *args, **kwargs)

    async def move() -> None:
        if change_to == "removed":
            await store.delete(sha256(TEXT))
            await store.sweeper.run()
        elif change_to == "healed":
            await vanish(store, await file_of(store, TEXT))
            await store.put(TEXT)
        else:
            assert (await Recompressor(store.core).run()).swapped == 1
            await store.sweeper.run()

    problems: list[Problem] = []
    core = store.core
    await files.blobs(core.ledger, core.depot, run, problems.append, deep=True)
    assert moves >= 1
    assert problems == []
    assert await found(store, deep=True) == []
