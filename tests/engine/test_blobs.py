"""Blobs under an embedder's roots: every source, every way to read, every refusal."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.engine import (
    Clock,
    Place,
    Vanished,
    make_namespace,
    manifest,
    noise,
    once,
    pieces_that_are_none,
    problems,
    push,
    raised,
    read,
    sha256,
    sha512,
    vanishing,
)

from holdfast.engine import (
    OCI_MANIFEST,
    Closed,
    Corrupt,
    Digest,
    DigestMismatch,
    Invalid,
    InvalidDigest,
    NotFound,
    Store,
    TooLarge,
)
from holdfast.engine.blobs import blob_rows
from holdfast.engine.blobs.blob_rows import Arrival
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Rows, Transaction
from holdfast.engine.ledger.memory import MemoryLedger

BIG = noise(3_000_000)


async def test_what_was_put_can_be_read(store: Store) -> None:
    blob = await store.put(b"hello")
    assert (str(blob.digest), blob.size) == (sha256(b"hello"), 5)
    assert await read(store, sha256(b"hello")) == b"hello"
    assert await store.stat(blob.digest) == blob


@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
async def test_every_source_gives_the_same_blob(store: Store, tmp_path: Path, size: int) -> None:
    data = noise(size)
    path = tmp_path / "source"
    path.write_bytes(data)
    with path.open("rb") as file:
        put = [
            await store.put(data),
            await store.put(bytearray(data)),
            await store.put(memoryview(data)),
            await store.put(path),
            await store.put(file),
            await store.put(io.BytesIO(data)),
            await store.put(once(data[:7], b"", data[7:])),
        ]
    assert {(str(blob.digest), blob.size) for blob in put} == {(sha256(data), size)}
    assert (await store.stats()).blobs == 1
    assert await read(store, sha256(data)) == data


async def test_a_file_that_is_published_twice_stays(store: Store) -> None:
    """As after a commit whose caller was cancelled, and went on with the session at once."""
    data = noise(300_000)
    blob = await store.put(data)
    core = store.core
    found = await core.ledger.read(blob_rows.find, blob.digest.key)
    assert found is not None
    sha, row = found
    assert row.file_id
    arrival = Arrival(
        sha, row.size, row.checksum, None, row.file_id, verified=row.file_id, durable=True
    )
    assert await core.ledger.transact(blob_rows.publish, arrival, core.now()) == "stored"
    await store.sweeper.run()
    assert await read(store, sha256(data)) == data


class Unready(io.RawIOBase):
    """A file that does not wait for its bytes, and has none yet."""

    def read(self, size: int = -1, /) -> bytes | None:
        return None


async def test_sources_that_are_none(store: Store, place: Place, tmp_path: Path) -> None:
    """An empty text, or bytes that are not there yet, must not pass for an empty blob."""
    sources: list[tuple[Any, str]] = [
        ("text", "str is not a source"),
        (5, "int is not a source"),
        ([b"bytes"], "list is not a source"),
        (io.StringIO("text"), "binary mode"),
        (io.StringIO(""), "binary mode"),
        (Unready(), "blocking mode"),
        *((once(*pieces), kind) for pieces, kind in pieces_that_are_none()),
    ]
    for source, reason in sources:
        with pytest.raises(Invalid, match=reason) as wrong:
            await store.put(source)
        assert wrong.value.argument == "source"
    with pytest.raises(FileNotFoundError):
        await store.put(tmp_path / "absent")
    assert (await store.stats()).blobs == 0
    assert place.files() == []
    assert await problems(store) == []


@pytest.mark.parametrize("size", [400, 400_000])
async def test_pieces_of_any_shape_count_in_bytes(store: Store, size: int) -> None:
    """Also a buffer that is used again at once, where it is one that may grow."""
    data = noise(size)
    again = bytearray(2)

    async def pieces() -> AsyncIterator[Any]:
        yield memoryview(data).cast("I")
        yield memoryview(bytes(byte for each in data for byte in (each, 0)))[::2]
        yield memoryview(data).cast("B", (2, size // 2))
        for number in range(5):
            again[0] = number
            yield again

    whole = 3 * data + b"".join(bytes((number, 0)) for number in range(5))
    blob = await store.put(pieces())
    assert (str(blob.digest), blob.size) == (sha256(whole), len(whole))
    assert await read(store, sha256(whole), verify=True) == whole


async def test_a_source_that_fails_leaves_nothing(store: Store, place: Place) -> None:
    with pytest.raises(Vanished):
        await store.put(vanishing(BIG))
    await store.sweeper.run()
    assert (await store.stats()).blobs == 0
    assert place.files() == []


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (1, 10), (2_999_990, None), (5, 10**9), (7, 0), (3_000_000, 1)],
)
async def test_a_part_of_a_blob(store: Store, offset: int, length: int | None) -> None:
    for data in (BIG, BIG[:1000]):
        at = min(offset, len(data))
        await store.put(data)
        stop = len(data) if length is None else at + length
        async with store.get(sha256(data), offset=at, length=length) as reader:
            assert b"".join([piece async for piece in reader]) == data[at:stop]
            assert (reader.size, reader.offset) == (len(data), at)
            assert reader.length == len(data[at:stop])


@pytest.mark.parametrize(("argument", "value"), [("offset", -1), ("offset", 6), ("length", -1)])
async def test_a_part_outside_of_the_blob(store: Store, argument: str, value: int) -> None:
    for content in (b"hello", BIG[:100_000]):
        blob = await store.put(content)
        more: dict[str, Any] = {argument: value * len(content)}
        with raised(Invalid, argument=argument):
            async with store.get(blob.digest, **more):
                pass


async def test_a_reader_is_used_up_with_its_context(store: Store) -> None:
    blob = await store.put(BIG)
    async with store.get(blob.digest) as reader:
        pass
    with pytest.raises(Invalid):
        await reader.read()


@pytest.mark.parametrize(("size", "inline"), [(0, True), (99, True), (100, True), (101, False)])
async def test_small_blobs_are_inline_and_large_ones_files(
    place: Place, size: int, inline: bool
) -> None:
    async with place.store(inline_bytes=100) as store:
        data = noise(size)
        blob = await store.put(data)
        assert place.files() == ([] if inline else [size])
        async with store.get(blob.digest, offset=size // 2) as reader:
            assert reader.data == (data[size // 2 :] if inline else None)
            assert await reader.read() == data[size // 2 :]
            if place.kind == "disk" and not inline:
                found = reader.file()
                assert found is not None
                assert found[1:] == (size // 2, size - size // 2)
            else:
                assert reader.file() is None


async def test_a_wrong_digest_is_refused(store: Store, place: Place) -> None:
    for data in (b"hello", BIG):
        with raised(DigestMismatch, expected=sha256(b"other"), actual=sha256(data)):
            await store.put(data, digest=sha256(b"other"))
    await store.sweeper.run()
    assert (await store.stats()).blobs == 0
    assert place.files() == []


@pytest.mark.parametrize(
    "digest", ["", "sha256", "sha256:", "sha256:00", "sha256:" + "A" * 64, "md5:" + "0" * 32]
)
async def test_what_is_no_digest(store: Store, digest: str) -> None:
    for wrong in (store.put(b"", digest=digest), store.stat(digest), store.delete(digest)):
        with pytest.raises(InvalidDigest):
            await wrong
    with pytest.raises(InvalidDigest):
        store.get(digest)
    with pytest.raises(InvalidDigest):
        await store.exists([sha256(b""), digest])


@pytest.mark.parametrize("digest", [None, b"sha256:" + b"0" * 64, 5, ["sha256"]])
async def test_what_is_no_text_is_no_digest(store: Store, place: Place, digest: Any) -> None:
    await make_namespace(store)
    await push(store, "app/web", "v1", [b"layer"])
    where = await store.locate("fr-par", "app/web")
    before = await store.stats()
    known = sha256(b"layer")
    calls = [
        store.stat(digest),
        store.small(digest, repository=where),
        store.exists(digest),
        store.exists([known, digest]),
        store.delete(digest),
        store.remove_blob(where, digest),
        store.mount(where, digest, where),
        store.holders("fr-par", digest),
        store.uploads.begin(where, algorithm=digest),
        store.uploads.put(where, digest, once(BIG)),
        store.manifests.delete(where, digest),
        store.manifests.get(where, digest),
        store.manifests.referrers(where, digest),
    ]
    if digest is not None:
        calls += [
            store.put(BIG, digest=digest),
            store.blobs(after=digest),
            store.manifests.put(where, manifest(b"{}"), media_type=OCI_MANIFEST, reference=digest),
            store.manifests.referrers(where, known, after=digest),
        ]
    for call in calls:
        with pytest.raises(InvalidDigest):
            await call
    with pytest.raises(InvalidDigest, match="must be text"):
        store.get(digest)
    session = await store.uploads.begin(where)
    await store.uploads.append(where, session.id, once(BIG))
    with pytest.raises(InvalidDigest, match="must be text"):
        await store.uploads.finish(where, session.id, digest)
    await store.uploads.abort(where, session.id)
    assert await store.stats() == before
    assert place.files() == []
    assert await problems(store) == []


async def test_both_digests_name_the_same_bytes(store: Store, place: Place) -> None:
    await store.put(BIG)
    with pytest.raises(NotFound):
        await store.stat(sha512(BIG))
    blob = await store.put(BIG, digest=sha512(BIG))
    assert str(blob.digest) == sha512(BIG)
    assert await read(store, sha512(BIG)) == await read(store, sha256(BIG)) == BIG
    assert await store.exists([sha256(BIG), sha512(BIG)]) == {sha256(BIG), sha512(BIG)}
    assert place.files() == [len(BIG)]
    await store.delete(sha512(BIG))
    await store.sweeper.run()
    assert place.files() == []
    with pytest.raises(NotFound):
        await store.stat(sha512(BIG))


async def test_a_root_keeps_until_it_lets_go(store: Store) -> None:
    for root in ("default", "b", "a"):
        await store.put(b"hello", root=root)
    assert await store.roots() == ["a", "b", "default"]
    for root in ("b", "default"):
        await store.delete(sha256(b"hello"), root=root)
        with pytest.raises(NotFound):
            await store.delete(sha256(b"hello"), root=root)
        await store.sweeper.run(early=True)
        assert await read(store, sha256(b"hello")) == b"hello"
    await store.delete(sha256(b"hello"), root="a")
    assert await store.roots() == []
    done = await store.sweeper.run()
    assert done.freed_bytes == 5
    with raised(NotFound, kind="blob", name=sha256(b"hello")):
        await read(store, sha256(b"hello"))


async def test_putting_twice_needs_one_delete(store: Store) -> None:
    await store.put(b"hello")
    await store.put(b"hello")
    await store.delete(sha256(b"hello"))
    await store.sweeper.run()
    assert await store.blobs() == []


@pytest.mark.parametrize("root", ["", "a\nb", "x" * 129, "\udc80", "\N{BALLOON}" * 64])
async def test_what_is_no_root(store: Store, root: str) -> None:
    for wrong in (store.put(b"", root=root), store.delete(sha256(b""), root=root)):
        with raised(Invalid, argument="root"):
            await wrong


async def test_all_blobs_in_order_with_a_start_and_a_limit(store: Store) -> None:
    contents = [noise(40, n) for n in range(7)]
    for content in contents:
        await store.put(content)
    in_order = sorted(map(sha256, contents))
    assert [str(blob.digest) for blob in await store.blobs()] == in_order
    first = await store.blobs(limit=3)
    assert [str(blob.digest) for blob in first] == in_order[:3]
    rest = await store.blobs(after=first[-1].digest)
    assert [str(blob.digest) for blob in rest] == in_order[3:]
    nowhere = "sha256:" + "f" * 64
    assert await store.blobs(after=nowhere) == []
    assert await store.exists([*in_order[:2], nowhere]) == set(in_order[:2])


async def test_more_digests_at_once_than_are_allowed(store: Store) -> None:
    with pytest.raises(InvalidDigest):
        await store.exists([sha256(b"")] * 10_001)


async def test_the_largest_blob(place: Place) -> None:
    async with place.store(blob_bytes_max=1000) as store:
        await store.put(noise(1000))
        with raised(TooLarge, limit=1000):
            await store.put(once(noise(600), noise(401)))
        assert (await store.stats()).blobs == 1


async def test_damage_is_found_and_healed(store: Store, place: Place) -> None:
    await store.put(BIG)
    place.damage(len(BIG))
    with raised(Corrupt, kind="blob", name=sha256(BIG)):
        await read(store, sha256(BIG), verify=True)
    for again in (store.stat(sha256(BIG)), read(store, sha256(BIG))):
        with pytest.raises(Corrupt):
            await again
    assert await store.exists([sha256(BIG)]) == set()
    await store.put(BIG)
    assert await read(store, sha256(BIG), verify=True) == BIG
    await store.sweeper.run()
    assert place.files() == [len(BIG)]
    assert (await store.stats()).stored_bytes == len(BIG)


async def test_a_put_heals_damage_that_nobody_saw(store: Store, place: Place) -> None:
    await store.put(BIG, root="a")
    place.damage(len(BIG))
    await store.put(BIG, root="b")
    assert await read(store, sha256(BIG)) == BIG


async def test_blobs_outlive_the_opening(place: Place) -> None:
    for data in (b"hello", BIG):
        async with place.store() as store:
            await store.put(data)
        async with place.store() as store:
            assert await read(store, sha256(data)) == data


async def test_a_closed_store(place: Place) -> None:
    store = place.store()
    with pytest.raises(Closed):
        await store.put(b"hello")
    with pytest.raises(Closed):
        await store.namespaces.list("fr-par")
    assert not hasattr(store, "nothing")
    async with store:
        await store.put(b"hello")
        namespaces = store.namespaces
    await store.close()
    digest = Digest.of(b"hello")
    for call in (store.put(b""), store.stat(digest), store.stats(), store.blobs()):
        with pytest.raises(Closed):
            await call
    with pytest.raises(Closed):
        store.get(digest)
    with pytest.raises(Closed):
        await namespaces.list("fr-par")


async def test_numbers_of_the_store(store: Store, clock: Clock) -> None:
    await store.put(b"hello")
    await store.put(BIG)
    await store.delete(sha256(BIG))
    stats = await store.stats()
    assert (stats.blobs, stats.blob_bytes, stats.garbage) == (2, len(BIG) + 5, 1)
    assert stats.oldest_garbage is not None
    assert stats.oldest_garbage.timestamp() == clock.now
    await store.sweeper.run()
    stats = await store.stats()
    assert (stats.blobs, stats.blob_bytes, stats.stored_bytes) == (1, 5, 5)
    assert (stats.garbage, stats.oldest_garbage, stats.freed_bytes) == (0, None, len(BIG))


class Counted:
    """A transaction that counts the rows it gives."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self.rows = 0

    async def scan(self, start: bytes, stop: bytes, *, limit: int) -> Rows:
        rows = await self._txn.scan(start, stop, limit=limit)
        self.rows += len(rows)
        return rows


async def test_rows_of_blobs_are_found_among_those_that_lie_behind_them() -> None:
    """Also where nobody needs one, where its own row is gone, and where very many need it."""
    names = [bytes((number,)) * 32 for number in (0, 7, 9, 10, 11, 12, 80, 200, 255)]
    rows = {layout.BLOB + name: b"" for name in names if name != names[2]}
    for number in range(3000):
        owner = number.to_bytes(16, "big")
        name = names[6] if number > 10 else names[(2, 6, 7)[number % 3]]
        rows[layout.claim(owner, name)] = b""
        rows[layout.reference(name, layout.KEPT, owner, owner, owner)] = b""
    ledger = MemoryLedger(rows)
    expected = [key for key in sorted(rows) if len(key) == 33]
    assert len(expected) == 8

    async def find(txn: Transaction, last: bytes, limit: int) -> tuple[list[bytes], int]:
        counted: Any = Counted(txn)
        found = [key for key, _ in await blob_rows.rows_after(counted, last, limit)]
        return found, counted.rows

    for limit in range(1, 10):
        for last in (b"", *names):
            found, read_rows = await ledger.read(find, last, limit)
            assert found == [key for key in expected if not last or key[1:] > last][:limit]
            assert read_rows <= limit * (len(names) + 1)
