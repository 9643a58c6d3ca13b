"""Referrers: manifests found by the subject that they name (OCI distribution-spec)."""

from __future__ import annotations

import json

from support import engine_fixtures
from support.engine import (
    REGION,
    Function,
    Place,
    index,
    make_namespace,
    manifest,
    put,
    sha256,
    sha512,
    upload,
)
from support.engine_fixtures import CONFIG, LAYER, OTHER

from holdfast.engine import OCI_MANIFEST, Store
from holdfast.engine.manifests import manifests

store = engine_fixtures.content_store

BODY = manifest(CONFIG, [LAYER, OTHER])
DAY = 24 * 3600.0


async def test_referrers(store: Store) -> None:
    kinds = ["application/a", "application/b", "application/a", "application/c"]
    subject = manifest(CONFIG)
    bodies = [
        manifest(CONFIG, subject=subject, artifactType=kind, annotations={"number": str(number)})
        for number, kind in enumerate(kinds)
    ]
    bodies.append(index([], subject=subject, annotations={"number": "4"}))
    for body in bodies:
        done = await put(store, "app/web", body)
        assert str(done.subject) == sha256(subject)
    where = await store.locate(REGION, "app/web")
    in_order = sorted(bodies, key=sha256)
    # The subject need not be there.
    found = await store.manifests.referrers(where, sha256(subject))
    assert [str(referrer.digest) for referrer in found] == [sha256(body) for body in in_order]
    for referrer, body in zip(found, in_order, strict=True):
        said = json.loads(body)
        assert referrer.annotations == said["annotations"]
        assert (referrer.size, referrer.media_type) == (len(body), said["mediaType"])
        assert referrer.artifact_type == said.get("artifactType")
    some = await store.manifests.referrers(
        where, sha256(subject), artifact_types=["application/a", "application/b"]
    )
    assert len(some) == 3
    pages = []
    last = None
    while page := await store.manifests.referrers(where, sha256(subject), after=last, limit=2):
        pages.append([referrer.digest for referrer in page])
        last = page[-1].digest
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [digest for page in pages for digest in page] == [referrer.digest for referrer in found]
    await store.manifests.delete(where, sha256(bodies[0]))
    assert len(await store.manifests.referrers(where, sha256(subject))) == 4


async def test_referrers_by_either_digest_of_the_subject(store: Store) -> None:
    await put(store, "app/web", BODY, reference=sha512(BODY))
    for name in (sha256(BODY), sha512(BODY)):
        about = {"mediaType": OCI_MANIFEST, "digest": name, "size": len(BODY)}
        await put(store, "app/web", manifest(CONFIG, artifactType="a/b", subject=about))
    where = await store.locate(REGION, "app/web")
    for name in (sha256(BODY), sha512(BODY)):
        assert len(await store.manifests.referrers(where, name)) == 2


async def test_a_subject_of_an_algorithm_that_is_not_kept(store: Store) -> None:
    """Nobody can ask for its referrers, so it is as if there were none."""
    about = {"mediaType": OCI_MANIFEST, "digest": "sha384:" + "0" * 96, "size": 1}
    done = await put(store, "app/web", manifest(CONFIG, subject=about), "v1")
    assert done.subject is None


async def test_referrers_while_one_is_deleted(place: Place) -> None:
    """What goes between the look at the index and the look at the document is left out."""
    store, hooks = place.gated()
    async with store:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), CONFIG)
        bodies = [manifest(CONFIG, subject=BODY, artifactType=kind) for kind in ("a/a", "b/b")]
        for body in bodies:
            await put(store, "app/web", body)
        where = await store.locate(REGION, "app/web")

        async def delete(work: Function) -> None:
            if work is manifests.list_referrers:
                hooks.after_read = None
                await store.manifests.delete(where, sha256(bodies[0]))

        hooks.after_read = delete
        found = await store.manifests.referrers(where, sha256(BODY))
        assert [str(referrer.digest) for referrer in found] == [sha256(bodies[1])]
