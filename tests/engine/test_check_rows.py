"""The check of rows by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.check import found, furnish, furnish_more
from support.damage import Cases, change, flip, image_of, of_kind, put_back, records, rows
from support.engine import Clock, Place

from holdfast.engine.check import context
from holdfast.engine.check.rows import SHAPES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Tag, put_payload

CASES = Cases()


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
    await put_payload(txn, layout.IMAGE_ID + (await image_of(txn, "web")).id, b"abc")


@CASES("record: fields")
async def a_record_under_the_key_of_another(txn: Transaction) -> None:
    key, tag = (await records(txn, Tag, layout.TAG))[0]
    await change(txn, key, tag, name="other")


@CASES("record: not a list of needs")
async def a_list_of_needs_that_is_none(txn: Transaction) -> None:
    await put_payload(txn, (await rows(txn, layout.NEEDS))[0][0], b"x" * 33)


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_row_is_told_once_and_nothing_is_blamed_on_it(
    name: str, tmp_path: Path
) -> None:
    await CASES.verify(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(SHAPES.keys() - {layout.DEAD_LETTER}))
async def test_a_flipped_bit_is_found_in_rows_of_every_kind(kind: bytes, tmp_path: Path) -> None:
    async with Place("memory", tmp_path, Clock()).store() as store:
        await furnish(store)
        await furnish_more(store)

        async def every(txn: Transaction) -> list[bytes]:
            return [key for key, _ in await of_kind(txn, kind)]

        for key in (await store.core.ledger.read(every))[:5]:
            before = await store.core.ledger.transact(flip, key)
            (problem,) = await found(store)
            assert (problem.kind, problem.name) == ("record", key.hex())
            assert "version or checksum" in problem.reason
            await store.core.ledger.transact(put_back, key, before)
        assert await found(store) == []


async def test_a_ledger_of_bad_rows_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ruin(txn: Transaction) -> None:
        for key, _ in await of_kind(txn, layout.REFERENCE):
            await txn.put(key, b"ruined")

    monkeypatch.setattr(context, "UNREADABLE_ROWS_MAX", 10)
    async with Place("memory", tmp_path, Clock()).store() as store:
        await furnish(store)
        await store.core.ledger.transact(ruin)
        problems = await found(store)
        assert len(problems) == 12
        assert problems[-1].kind == "ledger"
        assert "restore" in problems[-1].reason
