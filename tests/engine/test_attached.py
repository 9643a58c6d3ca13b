"""Signatures, SBOMs and attestations under tags that name a manifest: they are there as it is."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from support.engine import (
    REGION,
    Clock,
    index,
    manifest,
    noise,
    problems,
    push,
    put,
    sha256,
    sha512,
)

from holdfast.engine import (
    AlreadyExists,
    Immutable,
    Namespace,
    NotFound,
    Plan,
    RetentionRule,
    Store,
    Tag,
)

ENDS = ("", ".sig", ".att", ".sbom")
DAY = 24 * 3600.0
NAME = "app/web"


def about(body: bytes, end: str = ".sig", algorithm: str = "sha256") -> str:
    """The tag of what belongs to a manifest."""
    return f"{algorithm}-{hashlib.new(algorithm, body).hexdigest()[:64]}{end}"


def image(number: object) -> bytes:
    return manifest(b"{}", [noise(1000, number)])


async def push_image(store: Store, tag: str | None, number: object) -> bytes:
    """An image with content of its own; its manifest."""
    await push(store, NAME, tag, [noise(1000, number)])
    return image(number)


async def sign(store: Store, body: bytes, end: str = ".sig", **more: str) -> bytes:
    """Something about a manifest, under a tag that names it; its own manifest."""
    return await push_image(store, about(body, end, **more), ("about", body, end))


async def tags(store: Store) -> set[str]:
    return set(await store.tags.names(await store.locate(REGION, NAME), limit=1000))


async def here(store: Store, body: bytes) -> bool:
    try:
        await store.manifests.get(await store.locate(REGION, NAME), sha256(body))
    except NotFound:
        return False
    return True


async def named(store: Store, name: str) -> Tag:
    where = await store.locate(REGION, NAME)
    assert where.image_id is not None
    (tag,) = (await store.tags.list(where.image_id, name=name)).items
    return tag


async def delete_tag(store: Store, name: str) -> None:
    await store.tags.delete((await named(store, name)).id)


async def restore(store: Store, name: str) -> None:
    (item,) = (await store.trash.list(tag=name)).items
    await store.trash.restore(item.id)


async def apply(store: Store, space: Namespace, *rules: RetentionRule) -> Plan:
    """Plan and apply: the same, and what is freed is what was foretold."""
    await store.retention.set(space.id, rules)
    plan = await store.retention.plan(space.id)
    done = await store.retention.apply(space.id)
    assert done == plan
    return done


def told(plan: Plan) -> list[tuple[str | None, str | None, bool]]:
    return [
        (item.tag, None if item.belongs_to is None else str(item.belongs_to), item.orphan)
        for item in plan.expired
    ]


async def test_the_newest_are_counted_without_signatures(
    store: Store, clock: Clock, space: Namespace
) -> None:
    """Two images, pushed and then signed: both stay, and so do their signatures."""
    bodies = []
    for number in range(3):
        bodies.append(await push_image(store, f"1.{number}", number))
        clock.advance(1)
    for body in bodies:
        for end in ENDS:
            await sign(store, body, end)
            clock.advance(1)
    done = await apply(store, space, RetentionRule(keep_last=2, older_than_days=0))
    gone = {about(bodies[0], end) for end in ENDS}
    assert [item.tag for item in done.expired] == ["1.0", *sorted(gone)]
    assert all(str(item.belongs_to) == sha256(bodies[0]) for item in done.expired[1:])
    stay = {about(body, end) for body in bodies[1:] for end in ENDS}
    assert await tags(store) == {"1.1", "1.2"} | stay


async def test_a_signature_stays_as_long_as_its_manifest(
    store: Store, clock: Clock, space: Namespace
) -> None:
    """Also where the tag moved on, and nothing but the digest leads there; then it goes with it."""
    old = await push_image(store, "latest", "old")
    signature = await sign(store, old)
    for number in range(3):
        clock.advance(1)
        await push_image(store, f"v{number}", number)
    clock.advance(1)
    await push_image(store, "latest", "new")
    clock.advance(30 * DAY)
    rule = RetentionRule(keep_last=4, older_than_days=1)
    assert told(await apply(store, space, rule)) == []
    clock.advance(1)
    done = await apply(store, space, replace(rule, untagged_older_than_days=7))
    assert told(done) == [(None, None, False), (about(old), sha256(old), False)]
    assert not await here(store, old)
    assert not await here(store, signature)
    assert await tags(store) == {"latest", "v0", "v1", "v2"}
    before = (await store.stats()).stored_bytes
    clock.advance(3 * DAY)
    await store.sweeper.run()
    assert before - (await store.stats()).stored_bytes == done.freed_bytes > 2000


async def test_what_a_rule_for_untagged_removes_comes_back_with_its_signature(
    store: Store, clock: Clock, space: Namespace
) -> None:
    body = await push_image(store, None, 1)
    for end in ENDS:
        await sign(store, body, end)
    clock.advance(8 * DAY)
    await apply(store, space, RetentionRule(untagged_older_than_days=7))
    assert await tags(store) == set()
    await restore(store, about(body, ""))
    assert await tags(store) == {about(body, end) for end in ENDS}
    assert await here(store, body)


@pytest.mark.parametrize("rule", [RetentionRule(keep_last=0), RetentionRule(older_than_days=3)])
async def test_a_child_of_an_index_has_signatures_too(
    store: Store, clock: Clock, space: Namespace, rule: RetentionRule
) -> None:
    children = [await push_image(store, None, number) for number in range(2)]
    top = index(children)
    await put(store, NAME, top, "multi")
    for body in (*children, top):
        await sign(store, body)
    clock.advance(2 * DAY)
    kept = RetentionRule(older_than_days=3, untagged_older_than_days=0)
    assert told(await apply(store, space, kept)) == []
    clock.advance(2 * DAY)
    done = await apply(store, space, rule)
    assert done.expired[0].tag == "multi"
    assert {item.tag for item in done.expired[1:]} == {about(body) for body in (*children, top)}
    assert await tags(store) == set()
    where = await store.locate(REGION, NAME)
    assert where.image_id is not None
    assert (await store.images.get(where.image_id)).size == 0


async def test_chains_go_and_come_back(store: Store, clock: Clock, space: Namespace) -> None:
    """A signature, its attestation, the SBOM of that, and a signature of the latter."""
    chain = [await push_image(store, "v1", 0)]
    for end in (".sig", ".att", ".sbom", ".sig"):
        chain.append(await sign(store, chain[-1], end))
    every = await tags(store)
    foretold = await store.tags.would_free((await named(store, "v1")).id)
    assert foretold > 5000
    await delete_tag(store, "v1")
    assert await tags(store) == set()
    assert not any([await here(store, body) for body in chain])
    trash = (await store.trash.list()).items
    assert {item.name for item in trash} == every, "each can be seen there"
    await restore(store, "v1")
    assert await tags(store) == every
    assert all([await here(store, body) for body in chain])
    assert (await store.trash.list()).items == []
    await delete_tag(store, "v1")
    before = (await store.stats()).stored_bytes
    clock.advance(3 * DAY)
    await store.sweeper.run()
    assert before - (await store.stats()).stored_bytes == foretold
    assert await problems(store) == []


async def test_a_circle_ends(store: Store, clock: Clock, space: Namespace) -> None:
    one, two = await push_image(store, "v1", 1), await push_image(store, None, 2)
    where = await store.locate(REGION, NAME)
    itself = about(one, "")
    for target, name in ((two, about(one)), (one, about(two)), (one, itself), (two, "v2")):
        await put(store, NAME, target, name)
    await delete_tag(store, "v1")
    await delete_tag(store, itself)
    assert await tags(store) == {about(one), about(two), "v2"}
    await store.tags.untag(where, "v2")
    await apply(store, space, RetentionRule(untagged_older_than_days=0))
    assert await tags(store) == {about(one), about(two)}, "each keeps the other one"
    await delete_tag(store, about(one))
    assert await tags(store) == set()
    assert not await here(store, one)
    assert not await here(store, two)
    assert await problems(store) == []


async def test_a_tag_that_names_its_own_manifest_is_a_version(
    store: Store, clock: Clock, space: Namespace
) -> None:
    """Mirrors keep what is pulled by digest so; it is not its own signature."""
    bodies = []
    for number in range(3):
        bodies.append(await push_image(store, about(image(number), ""), number))
        clock.advance(1)
    done = await apply(store, space, RetentionRule(keep_last=1))
    assert told(done) == [(name, None, False) for name in sorted(about(b, "") for b in bodies[:2])]
    assert await tags(store) == {about(bodies[2], "")}


async def test_sha512(store: Store, clock: Clock, space: Namespace) -> None:
    """The first 64 digits, where the image knows the manifest by that digest."""
    known, unknown = image(1), await push_image(store, "v2", 2)
    await push_image(store, None, 1)
    await put(store, NAME, known, "v1", reference=sha512(known))
    for body in (known, unknown):
        await sign(store, body, algorithm="sha512")
    rule = RetentionRule(tags=("sha512-*",), keep_last=0)
    assert told(await apply(store, space, rule)) == [
        (about(unknown, algorithm="sha512"), None, True)
    ]
    await delete_tag(store, "v1")
    assert await tags(store) == {"v2"}
    await restore(store, "v1")
    assert await tags(store) == {"v1", "v2", about(known, algorithm="sha512")}


async def test_an_orphan_is_not_counted_and_ages(
    store: Store, clock: Clock, space: Namespace
) -> None:
    await push_image(store, "v1", 1)
    clock.advance(5 * DAY)
    await push_image(store, "v2", 2)
    orphan = about(b"something that was never here")
    await push_image(store, orphan, 3)
    assert told(await apply(store, space, RetentionRule(keep_last=2, older_than_days=3))) == []
    clock.advance(4 * DAY)
    done = await apply(store, space, RetentionRule(keep_last=2, older_than_days=3))
    assert told(done) == [(orphan, None, True)]
    assert await tags(store) == {"v1", "v2"}


@pytest.mark.parametrize(
    "name",
    [
        "sha256-" + 63 * "a",
        "sha256-" + 64 * "a" + ".sigs",
        "sha256-" + 64 * "A",
        "sha256-" + 64 * "a" + ".sig.att",
        "sha384-" + 64 * "a",
        "v1.sig",
    ],
)
async def test_other_names_are_versions(
    store: Store, clock: Clock, space: Namespace, name: str
) -> None:
    await push_image(store, "v1", 1)
    clock.advance(1)
    await push_image(store, name, 2)
    assert told(await apply(store, space, RetentionRule(keep_last=1))) == [("v1", None, False)]


async def test_referrers_are_told_as_well(store: Store, clock: Clock, space: Namespace) -> None:
    """By the subject that they name, and what they are."""
    body = await push_image(store, "v1", 1)
    sbom = manifest(b"{}", subject=body, artifactType="application/spdx+json")
    signed = await sign(store, body)
    await put(store, NAME, sbom)
    done = await apply(store, space, RetentionRule(keep_last=0))
    assert [(e.tag, str(e.digest), e.artifact_type) for e in done.expired] == [
        ("v1", sha256(body), None),
        (about(body), sha256(signed), None),
        (None, sha256(sbom), "application/spdx+json"),
    ]
    assert [str(e.belongs_to) for e in done.expired[1:]] == 2 * [sha256(body)]


async def test_the_fallback_index_goes_with_its_subject(store: Store, space: Namespace) -> None:
    """The referrers tag schema: an index of referrers under the bare tag."""
    body = await push_image(store, "v1", 1)
    referrers = [manifest(b"{}", subject=body, annotations={"n": str(n)}) for n in range(3)]
    for one in referrers:
        await put(store, NAME, one)
    await put(store, NAME, index(referrers), about(body, ""))
    await delete_tag(store, "v1")
    assert await tags(store) == set()
    assert not any([await here(store, one) for one in (body, *referrers)])
    await restore(store, "v1")
    assert await tags(store) == {"v1", about(body, "")}
    assert all([await here(store, one) for one in (body, *referrers)])


async def test_what_is_immutable_stays(store: Store, space: Namespace) -> None:
    body = await push_image(store, "v1", 1)
    signature = await sign(store, body)
    await sign(store, body, ".att")
    await store.namespaces.update(space.id, immutable_tags=("*.sig",))
    await delete_tag(store, "v1")
    assert await tags(store) == {about(body)}
    assert await here(store, signature)
    with pytest.raises(Immutable):
        await delete_tag(store, about(body))
    assert told(await apply(store, space, RetentionRule(keep_last=0))) == []


async def test_a_shared_manifest_keeps_its_signature(store: Store, space: Namespace) -> None:
    body = await push_image(store, "v1", 1)
    await put(store, NAME, body, "v2")
    await sign(store, body)
    await delete_tag(store, "v1")
    assert await tags(store) == {"v2", about(body)}
    await delete_tag(store, about(body))
    assert await tags(store) == {"v2"}, "it can be deleted by itself"


async def test_a_name_that_was_taken_since_keeps_what_it_has(
    store: Store, space: Namespace
) -> None:
    body = await push_image(store, "v1", 1)
    await sign(store, body)
    await sign(store, body, ".att")
    await delete_tag(store, "v1")
    other = await push_image(store, about(body), "pushed since")
    await restore(store, "v1")
    assert await tags(store) == {"v1", about(body), about(body, ".att")}
    where = await store.locate(REGION, NAME)
    assert (await store.manifests.get(where, about(body))).body == other
    with pytest.raises(AlreadyExists):
        await restore(store, about(body))


async def test_a_purge_by_hand_takes_all(store: Store, space: Namespace) -> None:
    body = await push_image(store, "v1", 1)
    await sign(store, await sign(store, body))
    await delete_tag(store, "v1")
    (item,) = (await store.trash.list(tag="v1")).items
    while not await store.trash.purge(item.id):
        continue
    assert (await store.trash.list()).items == []
    await store.sweeper.run()
    assert (await store.stats()).blobs == 0
    assert await problems(store) == []


@pytest.mark.slow
async def test_many_signatures_go_in_bounded_steps(
    store: Store, clock: Clock, space: Namespace
) -> None:
    children = [manifest(b"{}", annotations={"n": str(n)}) for n in range(300)]
    await push_image(store, None, 0)
    for body in children:
        await put(store, NAME, body)
        await put(store, NAME, manifest(b"{}", annotations={"of": sha256(body)}), about(body))
    await put(store, NAME, index(children), "multi")
    done = await apply(store, space, RetentionRule(keep_last=0))
    assert len(done.expired) == 301
    assert await tags(store) == set()
    await restore(store, "multi")
    assert len(await tags(store)) == 301
    await delete_tag(store, "multi")
    assert await tags(store) == set()
    await restore(store, "multi")
    assert len(await tags(store)) == 301
    assert await problems(store) == []
