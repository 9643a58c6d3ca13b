"""The whole public surface, driven at random, against a model that shares no code with it.

After every step the store and the model are compared: listings, numbers, what HEAD tells, what
can be read, tags, referrers, predictions, trash. Restarts, and two openers at once, are steps
like any other. At the end all is aged and swept, and the checker must find nothing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, rule
from support.engine import problems, sha256
from support.machine_copies import Copying, rules_of
from support.machine_driver import BLOBS, IMAGES, INLINE, NAMES, PROJECTS, REGIONS, TAGS, named
from support.model import Image, Namespace, Rule, sha

from holdfast.engine import ALGORITHMS, NotFound, Order

pytestmark = pytest.mark.slow

RULES = (
    (Rule(keep_last=1, untagged_days=0),),
    (Rule(older_days=0), Rule(images="lib/*", untagged_days=1)),
    (Rule(tags="v*", keep_last=0, untagged_days=0),),
)

ORDERS: tuple[Order, ...] = ("created_at_asc", "created_at_desc", "name_asc", "name_desc")


class StoreMachine(Copying):
    """All rules, and the comparison."""

    @initialize()
    def open(self) -> None:
        self.stores = [self.place.store(), self.place.store()]
        for store in self.stores:
            self.run(store.start())
        # Without these most runs would have nothing to do anything in.
        for region, name, project in zip(
            REGIONS * 2, NAMES + NAMES[::-1], PROJECTS * 2, strict=True
        ):
            if (region, name) != ("nl-ams", "aa"):
                self.create_namespace(region, name, project)
        for name, tag in zip(IMAGES * 2, (*TAGS, None), strict=True):
            self.push_tagged(0, name, BLOBS[3:6], tag or "v1")
            self.push_tagged(1, name, BLOBS[4:], tag or "v2")
            self.push_index(0, name, [0, 1], tag, None, docker=False, algorithm="sha256")
        # A second name for what has one, and something that refers to it.
        self.put_again(0, "web", 0, "v2", "")
        self.put_again(0, "web", 0, "v1", "")
        self.push_image(
            0,
            "web",
            BLOBS[1:2],
            upload=True,
            tag=None,
            subject=0,
            docker=False,
            algorithm="sha256",
        )
        self.sign(0, 1, BLOBS[1], ".sig", "sha256", about=False)
        self.sign(0, 2, BLOBS[2], "", "sha256", about=True)
        self.upload_whole(0, "web", BLOBS[2], "sha512")
        self.upload_whole(1, "lib/x", BLOBS[-1], "sha256")
        self.keep_under_root(BLOBS[1], "default", "sha256")
        self.keep_under_root(BLOBS[-1], "other", "sha256")

    @invariant()
    def same(self) -> None:
        if not self.stores:
            return
        self.run(self._compare())

    async def _compare(self) -> None:
        self.model.forget()
        for region in REGIONS:
            await self._compare_region(region)
        for namespace in self.model.living():
            await self._compare_namespace(namespace)
        for image in self.model.listed():
            await self._compare_image(image)
        await self._compare_store()

    async def _compare_region(self, region: str) -> None:
        store, model = self.store, self.model
        living = [n for n in model.living() if n.region == region]
        images = [i for i in model.listed() if i.namespace.region == region]
        for order in ORDERS:
            page = await store.namespaces.list(region, order=order, page_size=100)
            assert [n.id for n in page.items] == ordered(order, living)
            assert page.total == len(living)
            pictures = await store.images.list(region, order=order, page_size=100)
            assert [i.id for i in pictures.items] == ordered(order, images)
            assert pictures.total == len(images)
        for project in PROJECTS:
            page = await store.namespaces.list(region, project_id=project)
            own = [n for n in living if n.project == project]
            assert [n.id for n in page.items] == ordered("created_at_asc", own)
            pictures = await store.images.list(region, project_id=project, name="web")
            mine = [i for i in images if i.namespace.project == project and i.name == "web"]
            assert [i.id for i in pictures.items] == ordered("created_at_asc", mine)
            assert pictures.total == len(mine)
            catalog, _ = await store.repositories(region, project_id=project)
            assert [r.full_name for r in catalog] == sorted(
                i.full_name for i in images if i.namespace.project == project or i.public
            )
        catalog, _ = await store.repositories(region)
        assert [r.full_name for r in catalog] == sorted(i.full_name for i in images)
        catalog, _ = await store.repositories(region, public_only=True)
        assert [r.full_name for r in catalog] == sorted(i.full_name for i in images if i.public)

    async def _compare_namespace(self, namespace: Namespace) -> None:
        model = self.model
        images = model.listed(namespace)
        shown = await self.store.namespaces.get(namespace.id)
        assert shown == await self.store.namespaces.find(namespace.region, namespace.name)
        assert shown.status == ("locked" if namespace.locked else "ready")
        assert (shown.description, shown.is_public) == (namespace.description, namespace.is_public)
        assert (shown.immutable_tags, shown.quota) == (namespace.immutable, namespace.quota)
        assert (shown.size, shown.image_count) == (model.size(namespace), len(images))
        assert await self.store.retention.get(namespace.id) == rules_of(namespace)
        usage = await self.store.namespaces.usage(namespace.id)
        assert (usage.size, usage.image_count) == (shown.size, shown.image_count)
        assert usage.unique_size == sum(len(model.blobs[d]) for d in model.links(namespace))
        assert usage.exclusive_size == model.exclusive(namespace, project=False)
        assert usage.project_exclusive_size == model.exclusive(namespace, project=True)
        open_bytes = sum(s.counted for s in model.opened(namespace))
        assert usage.kept_size - usage.uploads == model.kept(namespace)
        assert usage.uploads >= open_bytes
        living = [image for image in model.images if image.namespace is namespace and image.living]
        kept_alive = set().union(*map(model.claims, living)) if living else set()
        alive = sum(len(model.blobs[digest]) for digest in kept_alive)
        assert usage.trash == model.kept(namespace) - alive
        page = await self.store.images.list(
            namespace.region, namespace_id=namespace.id, order="name_asc"
        )
        assert [image.id for image in page.items] == ordered("name_asc", images)
        foretold = await self.store.namespaces.would_free(namespace.id)
        assert foretold == model.freed_by_namespace(namespace)
        for name in IMAGES:
            where = await self._find(namespace, name)
            image = model.image(namespace, name)
            assert where.image_id == (image.id if image else None)
            contents = [*BLOBS, *(document.body for document in self.documents)]
            asked = [named(data, algorithm) for data in contents for algorithm in ALGORITHMS]
            assert await self.store.exists(asked, repository=where) == {
                named(data, algorithm)
                for algorithm in ALGORITHMS
                for data in contents
                if sha(data) in model.told(image, algorithm)
            }

    async def _compare_image(self, image: Image) -> None:
        model, store = self.model, self.store
        assert image.id is not None
        shown = await store.images.get(image.id)
        assert (shown.name, shown.namespace_id) == (image.name, image.namespace.id)
        assert (shown.visibility, shown.size) == (image.visibility, model.image_size(image))
        assert (shown.tags, shown.tag_count) == (tuple(sorted(image.tags)), len(image.tags))
        where = await self._find(image.namespace, image.name)
        assert await store.tags.names(where) == sorted(image.tags)
        assert await store.images.would_free(image.id) == model.freed_by_image(image)
        tags = list(image.tags.values())
        for order in ORDERS:
            page = await store.tags.list(image.id, order=order)
            assert [tag.id for tag in page.items] == ordered(order, tags)
            assert page.total == len(tags)
        for tag in tags:
            assert tag.id is not None
            seen = await store.tags.get(tag.id)
            assert (seen.name, str(seen.digest)) == (tag.name, tag.digest)
            got = await store.manifests.get(where, tag.name)
            assert got.body == image.manifests[tag.sha].body
            assert str(got.digest) == tag.digest
            assert await store.tags.would_free(tag.id) == model.freed_by_tag(image, tag)
        for digest, document in image.manifests.items():
            got = await store.manifests.get(where, f"sha256:{digest}")
            assert (got.body, got.media_type) == (document.body, document.media_type)
            listed = await store.manifests.referrers(where, f"sha256:{digest}")
            assert [str(r.digest) for r in listed] == sorted(
                f"sha256:{name}"
                for name, other in image.manifests.items()
                if other.subject == document.body
            )
        for document in self.documents:
            if sha(document.body) not in image.manifests:
                with pytest.raises(NotFound):
                    await store.manifests.get(where, sha256(document.body))
                break

    async def _compare_store(self) -> None:
        model = self.model
        stats = await self.store.stats()
        assert stats.namespaces == len(model.living())
        listed = [i for i in model.images if i.id and not i.deleted]
        assert stats.images == len(listed)
        assert stats.uploads == len(model.sessions)
        assert stats.trash == len(model.trash)
        assert (stats.blobs, stats.blob_bytes) == (
            len(model.blobs),
            sum(map(len, model.blobs.values())),
        )
        assert await self.store.roots() == sorted(r for r, kept in model.roots.items() if kept)
        shown = {item.id for item in (await self.store.trash.list()).items}
        assert shown == {
            entry.id
            for entry in model.trash
            if not model.due(entry)
            and (entry.kind != "tag" or any(entry.image is image for image in model.images))
        }

    @rule()
    def read_all(self) -> None:
        """Every blob through every image: exactly those that it may read."""
        self.run(self._read_all())

    async def _read_all(self) -> None:
        for image in self.model.listed():
            await self._read_image(image)

    def teardown(self) -> None:
        try:
            if self.stores:
                assert self.run(problems(self.store)) == []
                # Whatever came before: each run ends with copies, and with some retention.
                for pick in range(3):
                    self.copy_image(pick, pick + 1, IMAGES[0])
                if self.snapshot is None:
                    self.take_snapshot()
                for pick, rules in enumerate(RULES[: len(self.model.living())]):
                    self.retain(pick, rules, age=bool(pick % 2))
                self._settle()
                self.same()
                self.read_all()
                assert self.run(problems(self.store)) == []
                if self.kind == "disk":
                    stored = [d for d in self.model.blobs.values() if len(d) > INLINE]
                    assert self.place.files() == sorted(map(len, stored))
                    self.go_back()
                    self.same()
                    self.read_all()
        finally:
            for store in self.stores:
                self.run(store.close())
            self.runner.close()
            self.cleanup.close()


def ordered(order: Order, things: list[Any]) -> list[UUID]:
    """Ids in the order asked for: creation breaks ties."""
    by_name = order.startswith("name")
    keys = [((thing.name if by_name else ""), thing.order, thing.id) for thing in things]
    return [key[-1] for key in sorted(keys, reverse=order.endswith("desc"))]


class MemoryMachine(StoreMachine):
    kind = "memory"


class DiskMachine(StoreMachine):
    kind = "disk"


COMMON = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestOverMemory = MemoryMachine.TestCase
TestOverMemory.settings = settings(COMMON, max_examples=25, stateful_step_count=30)

TestOverDisk = DiskMachine.TestCase
TestOverDisk.settings = settings(COMMON, max_examples=6, stateful_step_count=25)
