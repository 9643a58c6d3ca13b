"""A long random use of a store."""

from __future__ import annotations

import random

from holdfast.engine import OCI_MANIFEST, EngineError, RetentionRule, Store
from support.check import TEXT
from support.engine import (
    CONFIG_TYPE,
    OTHER_PROJECT,
    PROJECT,
    REGION,
    Clock,
    index,
    make_namespace,
    manifest,
    noise,
    once,
    push,
    put,
    sha256,
    sha512,
    upload,
)


class History:
    """A long random use of a store: what one call refuses is refused, the next one goes on."""

    def __init__(self, store: Store, clock: Clock, seed: int) -> None:
        self._store = store
        self._clock = clock
        self._chance = random.Random(seed)
        self._layers = [noise(size, size) for size in (100, 2_000, 40_000, 90_000)] + [TEXT]
        self._names = [f"{namespace}/{image}" for namespace in ("n1", "n2", "n3") for image in "ab"]
        self.refused = 0
        self.done = 0

    async def step(self) -> None:
        """One call or a few, chosen by the seed."""
        steps = (
            self._namespace, self._push, self._push, self._push, self._index, self._referrer,
            self._untag, self._delete_tag, self._delete_tag, self._delete_manifest,
            self._delete_image, self._delete_namespace, self._restore, self._restore,
            self._upload, self._abort, self._mount, self._root, self._unroot, self._sweep,
            self._describe, self._tidy, self._retain,
        )  # fmt: skip
        try:
            await self._chance.choice(steps)()
            self.done += 1
        except EngineError:
            self.refused += 1
        self._clock.advance(self._chance.choice((0, 0, 0.5, 600, 3 * 3600)))

    def _pick(self) -> list[bytes]:
        return self._chance.sample(self._layers, self._chance.randint(0, 3))

    async def _namespace(self) -> None:
        project = self._chance.choice((PROJECT, OTHER_PROJECT))
        await make_namespace(self._store, f"n{self._chance.randint(1, 3)}", project=project)

    async def _push(self) -> None:
        tag = self._chance.choice(("v1", "v2", "v3", None))
        config = b'{"v":%d}' % self._chance.randint(1, 3)
        await push(self._store, self._chance.choice(self._names), tag, self._pick(), config=config)

    async def _bodies(self, name: str) -> list[bytes]:
        where = await self._store.locate(REGION, name)
        names = await self._store.tags.names(where)
        return [(await self._store.manifests.get(where, name)).body for name in names]

    async def _index(self) -> None:
        name = self._chance.choice(self._names)
        children = {
            body: OCI_MANIFEST for body in await self._bodies(name) if CONFIG_TYPE.encode() in body
        }
        await put(self._store, name, index(children), "all")

    async def _referrer(self) -> None:
        name = self._chance.choice(self._names)
        subject = self._chance.choice(await self._bodies(name) or [b"unknown"])
        where = await self._store.locate(REGION, name)
        await upload(self._store, where, b"{}")
        body = manifest(b"{}", [], subject=subject)
        reference = self._chance.choice((sha256(body), sha512(body)))
        where = await self._store.locate(REGION, name)
        await self._store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=reference)

    async def _tagged(self) -> tuple[str, str]:
        name = self._chance.choice(self._names)
        names = await self._store.tags.names(await self._store.locate(REGION, name))
        return name, self._chance.choice(names or ["none"])

    async def _untag(self) -> None:
        name, tag = await self._tagged()
        await self._store.tags.untag(await self._store.locate(REGION, name), tag)

    async def _delete_tag(self) -> None:
        name, tag = await self._tagged()
        where = await self._store.locate(REGION, name)
        if where.image_id is not None:
            for item in (await self._store.tags.list(where.image_id, name=tag)).items:
                await self._store.tags.delete(item.id)

    async def _delete_manifest(self) -> None:
        name, tag = await self._tagged()
        where = await self._store.locate(REGION, name)
        found = await self._store.manifests.get(where, tag)
        await self._store.manifests.delete(where, found.digest)

    async def _delete_image(self) -> None:
        items = (await self._store.images.list(REGION)).items
        if items:
            await self._store.images.delete(self._chance.choice(items).id)

    async def _delete_namespace(self) -> None:
        items = (await self._store.namespaces.list(REGION)).items
        if items and self._chance.random() < 0.3:
            await self._store.namespaces.delete(self._chance.choice(items).id)

    async def _restore(self) -> None:
        items = (await self._store.trash.list()).items
        if items:
            await self._store.trash.restore(self._chance.choice(items).id)

    async def _upload(self) -> None:
        name = self._chance.choice(self._names)
        session = await self._store.uploads.begin(await self._store.locate(REGION, name), size=500)
        where = await self._store.locate(REGION, name)
        layer = self._chance.choice(self._layers)
        await self._store.uploads.append(where, session.id, once(layer[:50], layer[50:]))
        if self._chance.random() < 0.6:
            named = self._chance.choice((sha256, sha512))
            await self._store.uploads.finish(where, session.id, named(layer))

    async def _abort(self) -> None:
        name = self._chance.choice(self._names)
        session = await self._store.uploads.begin(await self._store.locate(REGION, name))
        await self._store.uploads.abort(await self._store.locate(REGION, name), session.id)

    async def _mount(self) -> None:
        source, target = self._chance.sample(self._names, 2)
        digest = sha256(self._chance.choice(self._layers))
        target_at = await self._store.locate(REGION, target)
        await self._store.mount(target_at, digest, await self._store.locate(REGION, source))

    async def _root(self) -> None:
        layer = self._chance.choice(self._layers)
        named = self._chance.choice((sha256, sha512))
        await self._store.put(layer, root=self._chance.choice("xy"), digest=named(layer))

    async def _unroot(self) -> None:
        layer = self._chance.choice(self._layers)
        await self._store.delete(sha256(layer), root=self._chance.choice("xy"))

    async def _describe(self) -> None:
        for item in (await self._store.namespaces.list(REGION)).items:
            await self._store.namespaces.update(item.id, description=str(self._chance.random()))

    async def _sweep(self) -> None:
        if self._chance.random() < 0.3:
            await self._store.sweeper.run(early=self._chance.random() < 0.3)
        else:
            await self._store.sweeper.step(early=self._chance.random() < 0.3)

    async def _tidy(self) -> None:
        await self._store.recompressor.run()
        done = await self._store.scrubber.run(self._chance.choice((None, 50_000)))
        assert done.damaged == []

    async def _retain(self) -> None:
        items = (await self._store.namespaces.list(REGION)).items
        if items and self._chance.random() < 0.3:
            namespace = self._chance.choice(items)
            rules = [RetentionRule(keep_last=2), RetentionRule(untagged_older_than_days=0)]
            await self._store.retention.set(namespace.id, rules)
            await self._store.retention.apply(namespace.id)
