"""The check of names, tags, manifests and listings: exact about what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.damage import Cases, change, cut, image_of, records, rows
from support.engine import REGION

from holdfast.engine import Digest
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import (
    Image,
    Manifest,
    Referrer,
    Retention,
    Tag,
    get_payload,
    load,
    put_payload,
    save,
    unseal,
)

CASES = Cases()


# Names


CASES.without(
    layout.NAMESPACE_NAME + layout.name_key(REGION, "app"),
    "namespace: the row of its name is missing",
)


@CASES("namespace: the row of its name points elsewhere", "namespace: which has another name")
async def two_names_lead_to_one_namespace(txn: Transaction) -> None:
    other = await get_payload(txn, layout.NAMESPACE_NAME + layout.name_key(REGION, "other"))
    assert other is not None
    await put_payload(txn, layout.NAMESPACE_NAME + layout.name_key(REGION, "app"), other)


@CASES("namespace: which has another name")
async def a_name_leads_to_no_namespace(txn: Transaction) -> None:
    await put_payload(txn, layout.NAMESPACE_NAME + layout.name_key(REGION, "ghost"), bytes(16))


CASES.without(layout.DEAD, "namespace: its place in the list of deleted namespaces is missing")


@CASES("namespace: it is not deleted, but is in the list of deleted namespaces")
async def a_living_namespace_among_the_dead(txn: Transaction) -> None:
    await put_payload(txn, layout.DEAD + (await image_of(txn, "web")).namespace, b"p")


@CASES(*["namespace: its place in a catalog is missing"] * 2)
async def a_namespace_is_in_no_catalog(txn: Transaction, web: Image) -> None:
    for key, value in await rows(txn, layout.AUDIENCE):
        if unseal(key, value) == web.namespace:
            await cut(txn, key)


@CASES("namespace: it is in a catalog that it should not be in")
async def a_private_namespace_in_the_catalog_of_everybody(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.AUDIENCE + b"e" + REGION.encode() + b"\0app/", web.namespace)


@CASES("namespace: it has retention rules, and does not exist")
async def rules_of_no_namespace(txn: Transaction) -> None:
    await save(txn, layout.RETENTION + b"n" * 16, Retention(()))


@CASES("image: the row of its name is missing")
async def an_image_name_is_gone(txn: Transaction, web: Image) -> None:
    await cut(txn, layout.IMAGE_NAME + web.namespace + b"web")


@CASES("image: a name points to it that is not its own")
async def two_names_lead_to_one_image(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.IMAGE_NAME + web.namespace + b"alias", web.key)


@CASES("image: a name points to an image that does not exist")
async def a_name_leads_to_no_image(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.IMAGE_NAME + web.namespace + b"ghost", bytes(16))


@CASES("image: the row of its id is missing", *["listing: does not exist"] * 6)
async def an_image_id_is_gone(txn: Transaction) -> None:
    await cut(txn, layout.IMAGE_ID + (await image_of(txn, "web")).id)


@CASES("image: points to it")
async def two_ids_lead_to_one_image(txn: Transaction) -> None:
    await put_payload(txn, layout.IMAGE_ID + b"n" * 16, (await image_of(txn, "web")).key)


@CASES("image: its row in the catalog is missing")
async def a_row_of_the_catalog_is_gone(txn: Transaction) -> None:
    for key, value in await rows(txn, layout.CATALOG):
        if unseal(key, value) == (await image_of(txn, "web")).key:
            await cut(txn, key)


@CASES("image: a row of the catalog points to it that should not")
async def a_row_too_many_in_the_catalog(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.CATALOG + web.namespace + b"ighost", web.key)


@CASES(
    "image: a row of the catalog points to it that should not", "image: in the catalog is missing"
)
async def an_image_on_the_wrong_shelf(txn: Transaction, web: Image) -> None:
    await cut(txn, layout.CATALOG + web.namespace + b"iweb")
    await put_payload(txn, layout.CATALOG + web.namespace + b"pweb", web.key)


@CASES("image: it is a draft without claims")
async def a_draft_is_left(txn: Transaction, web: Image) -> None:
    draft = Image(b"n" * 16, b"", web.namespace, "left", "inherit", 1, 1)
    await save(txn, layout.IMAGE + draft.key, draft)
    await put_payload(txn, layout.IMAGE_NAME + web.namespace + b"left", draft.key)


# Manifests, tags, referrers


@CASES("tag: its manifest sha256:", "manifest: it has a list of needs, but does not exist")
async def a_manifest_is_gone(txn: Transaction, db: Image) -> None:
    await cut(txn, (await rows(txn, layout.MANIFEST + db.key))[0][0])


@CASES("manifest: begin with itself", *["claim: a recount gives 0"] * 3)
async def a_list_of_needs_is_gone(txn: Transaction, db: Image) -> None:
    await cut(txn, (await rows(txn, layout.NEEDS + db.key))[0][0])


@CASES("manifest: a part of its list of needs is missing")
async def the_first_part_of_a_list_of_needs_is_gone(txn: Transaction, db: Image) -> None:
    key, value = (await rows(txn, layout.NEEDS + db.key))[0]
    await cut(txn, key)
    await put_payload(txn, key[:-1] + b"\1", unseal(key, value))


@CASES("manifest: bytes, its blob has")
async def a_manifest_of_another_size(txn: Transaction, db: Image) -> None:
    key, manifest = (await records(txn, Manifest, layout.MANIFEST + db.key))[0]
    await change(txn, key, manifest, size=1)


CASES.without(layout.REFERRER, "manifest: missing among the referrers")


@CASES("manifest: its referrer row differs")
async def a_referrer_of_another_type(txn: Transaction) -> None:
    key, row = (await records(txn, Referrer, layout.REFERRER))[0]
    await change(txn, key, row, artifact_type="other")


@CASES("manifest: a digest that is not its subject")
async def a_referrer_too_many(txn: Transaction) -> None:
    key, row = (await records(txn, Referrer, layout.REFERRER))[0]
    await save(txn, key[:20] + b"n" * 30 + key[50:], row)


CASES.without(layout.TAGGED, "tag: its row under its manifest is missing")


@CASES("tag: which is not its manifest")
async def a_tag_with_two_manifests(txn: Transaction) -> None:
    key = (await rows(txn, layout.TAGGED))[0][0]
    await put_payload(txn, key[:17] + b"n" * 32 + key[49:])


CASES.without(layout.TAG_ID, "tag: the row of its id is missing", *["listing: does not exist"] * 2)


@CASES("tag: the id points to a tag that does not exist")
async def an_id_leads_to_no_tag(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.TAG_ID + b"n" * 16, web.key + b"ghost")


@CASES("tag: points to it")
async def two_ids_lead_to_one_tag(txn: Transaction, web: Image) -> None:
    await put_payload(txn, layout.TAG_ID + b"n" * 16, web.key + b"v1")


@CASES("tag: its digest sha256:")
async def a_tag_says_another_digest(txn: Transaction, web: Image) -> None:
    key = layout.TAG + web.key + b"v1"
    tag = await load(txn, Tag, key)
    assert tag is not None
    await change(txn, key, tag, digest=Digest.of(b"other").key)


# Listings


@CASES("image: its place in the listing", "counter: a recount gives")
async def a_row_of_a_listing_is_gone(txn: Transaction, web: Image) -> None:
    keys = [key for key, _ in await rows(txn, layout.LISTING + b"i") if key.endswith(web.id)]
    await cut(txn, next(key for key in keys if key[2:3] == b"r" and b"cweb" not in key))


@CASES(
    "listing: does not exist",
    "listing: does not exist",
    "counter: it is 2, a recount gives 3",
    "counter: it is 0, a recount gives 1",
)
async def a_row_too_many_in_a_listing(txn: Transaction) -> None:
    await put_payload(txn, layout.LISTING + b"nr" + REGION.encode() + b"\0c" + b"n" * 16)
    await put_payload(txn, layout.LISTING + b"nr" + REGION.encode() + b"\0nzzz\0" + b"n" * 16)


@CASES("listing: does not belong there", "counter: it is 0, a recount gives 1")
async def an_image_in_the_listing_of_another_namespace(txn: Transaction, web: Image) -> None:
    row = layout.LISTING + b"in" + b"n" * 16 + b"c" + web.id
    await put_payload(txn, row, web.namespace)


CASES.beside(layout.LISTING + b"?" * 40, b"", "listing: no known kind")


@CASES("counter: a recount gives 0")
async def a_total_of_a_listing_without_rows(txn: Transaction) -> None:
    await txn.add(layout.counter(layout.LISTED, b"t" + b"n" * 16), 3)


@pytest.mark.parametrize("name", CASES)
async def test_what_was_damaged_is_told_and_no_more(name: str, tmp_path: Path) -> None:
    await CASES.verify(name, tmp_path)
