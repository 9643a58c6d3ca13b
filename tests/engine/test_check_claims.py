"""The check of claims and blobs: exact about what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.check import BASE, GARBAGE, HELD, SIGNED, SMALL, TEXT
from support.damage import (
    Cases,
    blob_of,
    change,
    claim_of,
    content_of,
    cut,
    image_of,
    of_kind,
    place_of,
    rows,
    sha,
)

from holdfast.engine import Digest
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import (
    Claim,
    File,
    Image,
    decode,
    load,
    put_payload,
    save,
    unseal,
)

CASES = Cases()


# Claims, references, holds


@CASES("claim: content is 3, a recount gives 2")
async def a_claim_counts_one_need_too_many(txn: Transaction) -> None:
    key, claim = await claim_of(txn, "web", BASE)
    await change(txn, key, claim, content=claim.content + 1)


@CASES(
    "claim: children is 0, a recount gives 1",
    "claim: bodies is 0, a recount gives 1",
    "claim: a reference (kept) that does not match",
    "claim: it claims nothing",
    "counter: manifests' bytes of namespace",
    "counter: kept size of namespace",
    "counter: kept size of project",
)
async def a_claim_forgets_its_needs(txn: Transaction, multi: Image) -> None:
    for key, value in await of_kind(txn, layout.CLAIM):
        claim = decode(Claim, key, value)
        if key.endswith(multi.key) and claim.children:
            await change(txn, key, claim, children=0, bodies=0)
            return


@CASES(
    "claim: a manifest needs it (content)",
    "claim: a reference without a claim",
    "claim: it is listed, and does not exist",
    "counter: size of image",
    "counter: size of namespace",
    "counter: unique size",
    "counter: exclusive size of",
    "counter: exclusive size in its project",
    "counter: kept size of namespace",
    "counter: kept size of project",
)
async def a_claim_is_gone(txn: Transaction) -> None:
    await cut(txn, (await claim_of(txn, "web", TEXT))[0])


@CASES("claim: its reference (content) is missing")
async def a_reference_is_gone(txn: Transaction, web: Image) -> None:
    for key, _ in await rows(txn, layout.references(sha(BASE))):
        # Another image of the namespace links it too, so no number of the namespace changes.
        if place_of(key) == (layout.CONTENT, web.key):
            await cut(txn, key)


@CASES("claim: a reference (kept) that does not match")
async def a_reference_too_many(txn: Transaction, web: Image) -> None:
    for key, _ in await rows(txn, layout.references(sha(BASE))):
        if place_of(key) == (layout.CONTENT, web.key):
            row = key[: layout.PROJECT_AT - 1] + layout.KEPT + key[layout.PROJECT_AT :]
            await put_payload(txn, row)


@CASES("claim: a reference without a claim")
async def a_reference_of_nobody(txn: Transaction) -> None:
    row = layout.reference(sha(BASE), layout.HELD, bytes(16), bytes(16), b"n" * 16)
    await put_payload(txn, row)


@CASES(
    "claim: a reference (content) that does not match",
    "claim: its reference (content) is missing",
    "counter: unique",
    "counter: exclusive size of",
    "counter: exclusive size in its project",
    "counter: kept size of namespace",
    "counter: kept size of project",
)
async def a_reference_of_another_namespace(txn: Transaction, web: Image) -> None:
    for key, _ in await rows(txn, layout.references(sha(TEXT))):
        if place_of(key) == (layout.CONTENT, web.key):
            await cut(txn, key)
            await put_payload(txn, key[: layout.NAMESPACE_AT] + b"n" * 16 + key[layout.OWNER_AT :])


@CASES("hold: its expiry row is missing")
async def a_hold_without_an_end(txn: Transaction) -> None:
    key, claim = await claim_of(txn, "web", HELD)
    await cut(txn, layout.expiry(claim.hold, key[-16:], key[1:33]))


@CASES("hold: another time than its claim")
async def an_end_without_a_hold(txn: Transaction) -> None:
    key, _ = await claim_of(txn, "web", BASE)
    await put_payload(txn, layout.expiry(77, key[-16:], key[1:33]), bytes(32))


@CASES("hold: its expiry row points elsewhere")
async def an_end_of_another_namespaces_hold(txn: Transaction) -> None:
    key, claim = await claim_of(txn, "web", HELD)
    await put_payload(txn, layout.expiry(claim.hold, key[-16:], key[1:33]), b"n" * 32)


@CASES("claim: there is no such blob", "claim: its owner does not exist")
async def a_claim_of_nobody_on_nothing(txn: Transaction) -> None:
    await save(txn, layout.claim(b"n" * 16, b"s" * 32), Claim(5, bodies=1))


@CASES("claim: its claim says 50001 bytes, the blob has 50000")
async def a_claim_of_another_size(txn: Transaction) -> None:
    key, claim = await claim_of(txn, "db", BASE)
    await change(txn, key, claim, size=claim.size + 1)
    for name, scope in await numbers_of(txn, "db"):
        await txn.add(layout.counter(name, scope), 1)


async def numbers_of(txn: Transaction, name: str) -> list[tuple[bytes, bytes]]:
    image = await image_of(txn, name)
    return [(layout.IMAGE_SIZE, image.key), (layout.NAMESPACE_SIZE, image.namespace)]


@CASES("claim: its row in the list of its image is missing")
async def a_claim_that_its_image_does_not_list(txn: Transaction) -> None:
    key, _ = await claim_of(txn, "web", HELD)
    await cut(txn, layout.claimed(key[-16:], key[1:33]))


@CASES("claim: it is listed, and does not exist")
async def an_image_lists_a_claim_that_it_has_not(txn: Transaction) -> None:
    await put_payload(txn, layout.claimed((await image_of(txn, "web")).key, b"s" * 32))


@CASES("counter: blobs of root")
async def a_root_counts_too_many(txn: Transaction) -> None:
    await txn.add(layout.counter(layout.ROOT_BLOBS, layout.root_owner("signed")), 1)


CASES.beside(layout.ROOT + layout.root_owner("bare"), b"bare", "root: it claims no blob")


CASES.beside(layout.ROOT + layout.root_owner("signed"), b"other", "root: not the one of its name")


# Blobs and what belongs to them


@CASES("blob: its content is missing")
async def inline_content_is_gone(txn: Transaction) -> None:
    await cut(txn, await content_of(txn, SMALL))


@CASES("blob: bytes, not 3000")
async def inline_content_is_cut_off(txn: Transaction) -> None:
    key = await content_of(txn, SMALL)
    await put_payload(txn, key, unseal(key, await txn.get(key) or b"")[:-1])


CASES.beside(layout.content(1, bytes(32)), b"lost", "blob: content without a blob")


@CASES("blob: content without a blob")
async def inline_content_of_another_time(txn: Transaction) -> None:
    _, blob = await blob_of(txn, SMALL)
    await put_payload(txn, layout.content(blob.created + 1, sha(SMALL)), b"lost")


@CASES("claim: not an alias of it")
async def an_owner_names_a_blob_by_a_digest_of_another(txn: Transaction) -> None:
    key, claim = await claim_of(txn, "web", BASE)
    await change(txn, key, claim, aliases=(Digest.of(SMALL, "sha512").key,))


CASES.without(layout.ALIAS + Digest.of(SIGNED, "sha512").key, "blob: its alias sha512:")


@CASES("blob: is not one of its aliases")
async def an_alias_too_many(txn: Transaction) -> None:
    await put_payload(txn, layout.ALIAS + Digest.of(BASE, "sha512").key, sha(BASE))


@CASES("blob: its file 0 has no row", "file: does not name it", "blob: file 0 was not found")
async def a_blob_without_a_file(txn: Transaction) -> None:
    key, blob = await blob_of(txn, BASE)
    await change(txn, key, blob, file_id=0)


@CASES("file: does not name it")
async def a_file_row_that_nothing_names(txn: Transaction) -> None:
    key, _ = (await rows(txn, layout.FILE))[0]
    other = key[:-1] + b"\xf0"
    owner = await load(txn, File, key)
    assert owner is not None
    await save(txn, other, owner)


@CASES("blob: has no row")
async def a_file_row_is_gone(txn: Transaction) -> None:
    _, blob = await blob_of(txn, BASE)
    await cut(txn, layout.FILE + layout.number(blob.file_id))


@CASES("file: a blob uses it, and it is queued for removal")
async def a_file_in_use_is_doomed(txn: Transaction) -> None:
    _, blob = await blob_of(txn, BASE)
    await put_payload(txn, layout.PENDING_UNLINK + layout.number(blob.file_id))


CASES.without(layout.counter(b"fb"), "counter: blocks of file ids")


@CASES("blob: it is in quarantine; push it again")
async def a_blob_is_in_quarantine(txn: Transaction) -> None:
    key, blob = await blob_of(txn, BASE)
    await change(txn, key, blob, damaged=5)
    await put_payload(txn, layout.DAMAGED + sha(BASE))


CASES.beside(layout.DAMAGED + sha(BASE), b"", "blob: the quarantine list disagree")


CASES.beside(layout.DAMAGED + bytes(32), b"", "blob: in quarantine, and does not exist")


@CASES("blob: its place in the garbage queue is missing", "counter: a recount gives 0")
async def garbage_is_not_in_the_queue(txn: Transaction) -> None:
    _, blob = await blob_of(txn, GARBAGE)
    await cut(txn, layout.GARBAGE + layout.number(blob.queued) + sha(GARBAGE))


@CASES("blob: not in the garbage queue", "blob: at another time than its row")
async def garbage_does_not_know_that_it_is_queued(txn: Transaction) -> None:
    key, blob = await blob_of(txn, GARBAGE)
    await change(txn, key, blob, queued=0)


@CASES("blob: at another time than its row", "counter: it is 1, a recount gives 2")
async def a_stray_place_in_the_garbage_queue(txn: Transaction) -> None:
    await put_payload(txn, layout.GARBAGE + layout.number(5) + sha(BASE))


@pytest.mark.parametrize("name", CASES)
async def test_what_was_damaged_is_told_and_no_more(name: str, tmp_path: Path) -> None:
    await CASES.verify(name, tmp_path)
