"""The check of trash, keys and counters: exact about what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.check import found, furnish, matches
from support.damage import (
    Cases,
    cut,
    do,
    flip,
    image_of,
    of_kind,
    records,
    rows,
)
from support.engine import Clock, Place

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, pack_counter
from holdfast.engine.ledger.records import Image, Tag, Trash, load, put_payload, save, unseal
from holdfast.engine.references import trash_rows

CASES = Cases()


# Trash, keys


@CASES("trash: the row of its id is missing", "image: it is deleted, and not in the trash")
async def a_deleted_image_is_not_found_in_the_trash(txn: Transaction) -> None:
    for _, entry in await records(txn, Trash, layout.TRASH):
        if entry.kind == "image":
            await cut(txn, layout.TRASH_ID + entry.id)


@CASES(
    "trash: points to no entry",
    "trash: the list of a project has it by mistake",
    "counter: entries of the trash",
)
async def a_trash_entry_is_gone(txn: Transaction) -> None:
    for key, entry in await records(txn, Trash, layout.TRASH):
        if entry.kind == "namespace":
            await cut(txn, key)


@CASES("trash: the object that it would restore is not deleted", "counter: entries of the trash")
async def a_living_image_in_the_trash(txn: Transaction, web: Image) -> None:
    entry = Trash("image", web.id, "web", web.key, project=bytes(16), namespace=web.namespace)
    await save(txn, layout.TRASH + layout.number(9) + web.id, entry)
    await put_payload(txn, layout.TRASH_ID + web.id, layout.number(9))
    await put_payload(txn, trash_rows.project_row(entry, 9))


@CASES("trash: its tag still exists", "counter: entries of the trash")
async def a_living_tag_in_the_trash(txn: Transaction, web: Image) -> None:
    tag = await load(txn, Tag, layout.TAG + web.key + b"v1")
    assert tag is not None
    entry = Trash("tag", tag.id, "v1", web.key, digest=tag.digest, project=bytes(16))
    await save(txn, layout.TRASH + layout.number(9) + tag.id, entry)
    await put_payload(txn, layout.TRASH_ID + tag.id, layout.number(9))
    await put_payload(txn, trash_rows.project_row(entry, 9))


CASES.without(layout.TRASH_PROJECT, "trash: its place in the list of its project is missing")


@CASES("trash: the list of a project has it by mistake")
async def a_place_in_another_projects_trash(txn: Transaction) -> None:
    key = (await rows(txn, layout.TRASH_PROJECT))[0][0]
    await put_payload(txn, key[:1] + bytes(16) + key[17:])


@CASES("trash: manifest 0 of its list is missing")
async def a_manifest_that_went_is_gone(txn: Transaction) -> None:
    key, value = (await rows(txn, layout.TRASH_MANIFEST))[0]
    await put_payload(txn, key[:-8] + layout.number(1), unseal(key, value))
    await cut(txn, key)


@CASES("trash: a list of manifests belongs to no deleted tag")
async def manifests_of_no_tag(txn: Transaction) -> None:
    key, value = (await rows(txn, layout.TRASH_MANIFEST))[0]
    await put_payload(txn, key[:1] + bytes(16) + key[17:], unseal(key, value))


@CASES("trash: a list of attached tags belongs to no deleted tag")
async def tags_of_no_tag(txn: Transaction) -> None:
    key, _ = (await rows(txn, layout.TRASH_ATTACHED))[0]
    await put_payload(txn, key[:1] + bytes(16) + key[17:])


CASES.without(layout.KEY_SECRET, "key: the row of its secret is missing")


@CASES("key: a secret points to it that is not its own")
async def a_secret_too_many(txn: Transaction) -> None:
    key, _ = (await rows(txn, layout.KEY))[0]
    await put_payload(txn, layout.KEY_SECRET + b"n" * 32, key[1:])


# Counters


@CASES("counter: size of image")
async def an_image_size_is_wrong(txn: Transaction) -> None:
    await txn.add(layout.counter(layout.IMAGE_SIZE, (await image_of(txn, "web")).key), 1)


@CASES("counter: tags of image")
async def a_count_of_tags_is_wrong(txn: Transaction) -> None:
    await txn.add(layout.counter(layout.IMAGE_TAGS, (await image_of(txn, "web")).key), -1)


@CASES(
    "counter: size of namespace",
    "counter: images of namespace",
    "counter: unique size of namespace",
    "counter: exclusive size of namespace",
    "counter: exclusive size in its project",
)
async def all_numbers_of_a_namespace_are_wrong(txn: Transaction, web: Image) -> None:
    for name in (b"ns", b"ni", b"nu", b"ne", b"np"):
        await txn.add(layout.counter(name, web.namespace), 5)


@CASES(*["counter: a recount gives"] * 8)
async def all_numbers_of_the_store_are_wrong(txn: Transaction) -> None:
    for name in (b"sb", b"sB", b"ss", b"sq", b"st", b"sn", b"si", b"sh"):
        await txn.add(layout.counter(name), -1)


@CASES("counter: size of namespace", "counter: the image does not exist", "counter: no known name")
async def counters_are_left_over(txn: Transaction) -> None:
    for name in (layout.NAMESPACE_SIZE, layout.IMAGE_SIZE, b"zz"):
        key = layout.counter(name, b"n" * 16)
        await txn.put(key, pack_counter(key, 3))


@pytest.mark.parametrize("name", CASES)
async def test_what_was_damaged_is_told_and_no_more(name: str, tmp_path: Path) -> None:
    await CASES.verify(name, tmp_path)


async def test_one_bad_record_does_not_hide_another_problem(tmp_path: Path) -> None:
    async def damage(txn: Transaction) -> None:
        await flip(txn, (await rows(txn, layout.TAG))[0][0])
        await flip(txn, (await of_kind(txn, layout.CLAIM))[0][0])
        await cut(txn, (await rows(txn, layout.REFERRER))[0][0])

    names = ["a_secret_too_many", "a_living_image_in_the_trash"]
    expected = ["record: checksum", "record: checksum", "manifest: missing among the referrers"]
    async with Place("memory", tmp_path, Clock()).store() as store:
        await furnish(store)
        for name in names:
            await store.core.ledger.transact(do, CASES[name][0])
            expected += CASES[name][1]
        await store.core.ledger.transact(damage)
        assert matches(await found(store), expected)
