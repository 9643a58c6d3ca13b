"""The check of rows by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_support import BASE, SMALL, found, furnish
from damage_support import Cases, blob_of, change, claim_of, flip, image_of, records, rows, sha
from engine_support import Clock, Place

from holdfast.engine import check_look, layout
from holdfast.engine.ledger import Transaction
from holdfast.engine.records import Tag, put_payload

CASES = Cases()


@CASES("record: checksum")
async def a_bit_of_a_blob_row_flips(txn: Transaction) -> None:
    await flip(txn, (await blob_of(txn, BASE))[0])


@CASES("record: checksum")
async def a_bit_of_a_claim_flips(txn: Transaction) -> None:
    await flip(txn, (await claim_of(txn, "web", BASE))[0])


@CASES("record: checksum")
async def a_bit_of_inline_content_flips(txn: Transaction) -> None:
    await flip(txn, layout.INLINE + sha(SMALL))


@CASES("record: checksum")
async def a_bit_of_a_list_of_needs_flips(txn: Transaction) -> None:
    image = await image_of(txn, "web")
    await flip(txn, (await rows(txn, layout.NEEDS + image.key))[0][0])


@CASES("record: checksum")
async def a_bit_of_a_namespace_flips(txn: Transaction) -> None:
    await flip(txn, layout.NAMESPACE + (await image_of(txn, "web")).namespace)


@CASES("record: checksum")
async def a_bit_of_an_image_flips(txn: Transaction) -> None:
    await flip(txn, layout.IMAGE + (await image_of(txn, "web")).key)


@CASES("record: checksum")
async def a_bit_of_a_tag_flips(txn: Transaction) -> None:
    await flip(txn, layout.TAG + (await image_of(txn, "web")).key + b"v1")


@CASES("record: checksum")
async def a_bit_of_a_manifest_flips(txn: Transaction) -> None:
    await flip(txn, (await rows(txn, layout.MANIFEST))[0][0])


@CASES("record: checksum")
async def a_bit_of_an_upload_session_flips(txn: Transaction) -> None:
    await flip(txn, (await rows(txn, layout.SESSION))[0][0])


@CASES("record: checksum")
async def a_bit_of_a_trash_entry_flips(txn: Transaction) -> None:
    await flip(txn, (await rows(txn, layout.TRASH))[0][0])


@CASES("record: checksum")
async def a_bit_of_a_file_row_flips(txn: Transaction) -> None:
    await flip(txn, (await rows(txn, layout.FILE))[0][0])


@CASES("record: checksum")
async def a_bit_of_a_key_flips(txn: Transaction) -> None:
    await flip(txn, (await rows(txn, layout.KEY))[0][0])


@CASES("record: checksum")
async def a_bit_of_a_counter_flips(txn: Transaction) -> None:
    await flip(txn, layout.counter(layout.BLOBS))


@CASES("record: wrong version")
async def a_row_is_of_another_version(txn: Transaction) -> None:
    key = (await rows(txn, layout.TAG))[0][0]
    value = await txn.get(key)
    assert value is not None
    await txn.put(key, b"\x09" + value[1:])


@CASES("record: no known kind")
async def a_row_of_no_known_kind(txn: Transaction) -> None:
    await txn.put(b"?what", b"")


@CASES("record: a key of 20 bytes")
async def a_key_of_a_wrong_length(txn: Transaction) -> None:
    await txn.put(layout.BLOB + bytes(19), b"")


@CASES("record: a value of 3 bytes")
async def an_index_row_with_a_wrong_value(txn: Transaction) -> None:
    await txn.put(layout.IMAGE_ID + (await image_of(txn, "web")).id, b"abc")


@CASES("record: fields")
async def a_record_under_the_key_of_another(txn: Transaction) -> None:
    key, tag = (await records(txn, Tag, layout.TAG))[0]
    await change(txn, key, tag, name="other")


@CASES("record: no list of needs")
async def a_list_of_needs_that_is_none(txn: Transaction) -> None:
    await put_payload(txn, (await rows(txn, layout.NEEDS))[0][0], b"x" * 33)


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_row_is_told_once_and_nothing_is_blamed_on_it(
    name: str, tmp_path: Path
) -> None:
    await CASES.verify(name, tmp_path)


async def test_a_ledger_of_bad_rows_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ruin(txn: Transaction) -> None:
        for key, _ in await rows(txn, layout.REFERENCE):
            await txn.put(key, b"ruined")

    monkeypatch.setattr(check_look, "SPOILED_MAX", 10)
    async with Place("memory", tmp_path, Clock()).store() as store:
        await furnish(store)
        await store.core.ledger.transact(ruin)
        problems = await found(store)
        assert len(problems) == 12
        assert problems[-1].kind == "ledger"
        assert "restore" in problems[-1].reason
