"""Two digests of one blob: each owner knows those that it named itself, and no others."""

from __future__ import annotations

import json

import pytest
from support.engine import (
    CONFIG_TYPE,
    LAYER_TYPE,
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    make_namespace,
    manifest,
    noise,
    once,
    put,
    raised,
    read,
    sha256,
    sha512,
    upload,
)

from holdfast.engine import OCI_MANIFEST, MissingContent, NotFound, Repository, Store

SMALL, LARGE = noise(500), noise(50_000)
CONFIG = b"{}"


@pytest.fixture
async def mine(store: Store) -> Repository:
    await make_namespace(store, "mine", project=PROJECT)
    return await store.locate(REGION, "mine/web")


@pytest.fixture
async def theirs(store: Store) -> Repository:
    await make_namespace(store, "theirs", project=OTHER_PROJECT)
    return await store.locate(REGION, "theirs/web")


async def again(store: Store, where: Repository) -> Repository:
    return await store.locate(REGION, where.full_name)


async def told(store: Store, where: Repository, data: bytes) -> list[str]:
    """Under which digests the image finds some content, by each of the ways to ask."""
    where = await again(store, where)
    names = [sha256(data), sha512(data)]
    found = await store.exists(names, repository=where)
    for name in names:
        for ask in (
            store.stat(name, repository=where),
            store.small(name, repository=where),
            read(store, name, repository=where),
        ):
            if name in found:
                await ask
                continue
            with raised(NotFound, name=name):
                await ask
    return [name.partition(":")[0] for name in names if name in found]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_what_others_name_is_told_to_nobody(
    store: Store, mine: Repository, theirs: Repository, data: bytes
) -> None:
    await upload(store, mine, data)
    assert await told(store, mine, data) == ["sha256"]
    await store.uploads.put(theirs, sha512(data), once(data))
    await store.put(data, digest=sha512(data), root="a third one")
    assert await told(store, mine, data) == ["sha256"]
    assert await told(store, theirs, data) == ["sha256", "sha512"]
    mine = await again(store, mine)
    with pytest.raises(NotFound):
        await store.remove_blob(mine, sha512(data))
    assert await store.mount(await store.locate(REGION, "mine/db"), sha512(data), mine) is None
    assert [r.full_name for r in await store.holders(REGION, sha512(data))] == ["theirs/web"]
    assert len(await store.holders(REGION, sha256(data))) == 2
    # The operator sees the store whole.
    assert await read(store, sha512(data)) == data


@pytest.mark.parametrize("way", ["whole", "session", "mount"])
async def test_an_image_knows_the_digest_that_it_named(
    store: Store, mine: Repository, theirs: Repository, way: str
) -> None:
    await upload(store, mine, LARGE)
    await store.uploads.put(theirs, sha512(LARGE), once(LARGE))
    if way == "whole":
        await store.uploads.put(mine, sha512(LARGE), once(LARGE))
    elif way == "session":
        begun = await store.uploads.begin(mine, algorithm="sha512")
        await store.uploads.finish(await again(store, mine), begun.id, sha512(LARGE), once(LARGE))
    else:
        await store.mount(mine, sha512(LARGE), await again(store, theirs))
    assert await told(store, mine, LARGE) == ["sha256", "sha512"]


async def test_the_name_ends_with_the_right(store: Store, mine: Repository, clock: Clock) -> None:
    await store.uploads.put(mine, sha512(LARGE), once(LARGE))
    await store.put(LARGE, digest=sha512(LARGE))
    clock.advance(store.config.hold_seconds + 1)
    await store.sweeper.run()
    await upload(store, mine, LARGE)
    assert await told(store, mine, LARGE) == ["sha256"]


async def test_a_manifest_that_lists_a_digest_of_others(
    store: Store, mine: Repository, theirs: Repository
) -> None:
    await upload(store, mine, CONFIG, LARGE)
    await store.uploads.put(theirs, sha512(LARGE), once(LARGE))
    layer = {"mediaType": LAYER_TYPE, "digest": sha512(LARGE), "size": len(LARGE)}
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG_TYPE, "digest": sha256(CONFIG), "size": len(CONFIG)},
        "layers": [layer],
    }
    document = json.dumps(body).encode()
    with raised(MissingContent, digests=(sha512(LARGE),)):
        await put(store, "mine/web", document, "v1")
    await store.uploads.put(mine, sha512(LARGE), once(LARGE))
    await put(store, "mine/web", document, "v1")
    assert await told(store, mine, LARGE) == ["sha256", "sha512"]


async def test_manifests_and_referrers(store: Store, mine: Repository, theirs: Repository) -> None:
    subject = manifest(CONFIG)
    about = {"mediaType": OCI_MANIFEST, "digest": sha512(subject), "size": len(subject)}
    signature = manifest(CONFIG, subject=about)
    for name, where in (("mine/web", mine), ("theirs/web", theirs)):
        await upload(store, where, CONFIG)
        await put(store, name, subject, "v1")
        await put(store, name, signature)
    mine, theirs = await again(store, mine), await again(store, theirs)
    before = await store.manifests.referrers(mine, sha256(subject))
    await put(store, "theirs/web", subject, reference=sha512(subject))
    assert await store.manifests.referrers(mine, sha256(subject)) == before == []
    assert len(await store.manifests.referrers(theirs, sha256(subject))) == 1
    assert len(await store.manifests.referrers(mine, sha512(subject))) == 1
    for ask in (
        store.manifests.get(mine, sha512(subject)),
        store.manifests.delete(mine, sha512(subject)),
    ):
        with pytest.raises(NotFound):
            await ask
    assert str((await store.manifests.get(theirs, sha512(subject))).digest) == sha512(subject)


async def test_a_tag_keeps_its_digest_when_the_manifest_came_back_under_another(
    store: Store, mine: Repository, clock: Clock
) -> None:
    subject = manifest(CONFIG)
    await upload(store, mine, CONFIG)
    pushed = await put(store, "mine/web", subject, "v1", reference=sha512(subject))
    (tag,) = (await store.tags.list(pushed.image_id)).items
    mine = await again(store, mine)
    await store.tags.untag(mine, "v1")
    await store.manifests.delete(mine, sha512(subject))
    await store.remove_blob(mine, sha256(subject))
    await store.sweeper.run()
    await put(store, "mine/web", subject)
    await store.trash.restore(tag.id)
    for reference in ("v1", sha512(subject)):
        got = await store.manifests.get(mine, reference)
        assert (got.body, str(got.digest)) == (subject, sha512(subject))


async def test_a_root_lets_go_by_the_digest_that_it_named(store: Store) -> None:
    await store.put(LARGE, root="one")
    await store.put(LARGE, root="two", digest=sha512(LARGE))
    with pytest.raises(NotFound):
        await store.delete(sha512(LARGE), root="one")
    await store.delete(sha512(LARGE), root="two")
    await store.put(LARGE, root="one", digest=sha512(LARGE))
    await store.delete(sha512(LARGE), root="one")
    assert await store.roots() == []
