"""What a cache between the registry and its clients may keep (RFC 9111)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import OWNER_SECRET, digest_of
from support.distribution import Registry, registry
from support.fast_path import staged

from holdfast.engine import Visibility

NAME = "team/app"
LARGE = bytes(range(256)) * 1024
FOR_GOOD = "max-age=31536000, immutable"


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        await running.namespace("team")
        await running.namespace("open", is_public=True)
        yield running


@pytest.mark.parametrize("name", ["team/app", "open/app"])
async def test_content_of_private_images_stays_with_the_client(server: Registry, name: str) -> None:
    who = "private, " if name == NAME else ""
    image = await server.image(name, "v1", b"layer", LARGE)
    for item, wanted in (
        (f"manifests/{image}", FOR_GOOD),
        ("manifests/v1", "no-cache"),
        (f"blobs/{digest_of(b'layer')}", FOR_GOOD),
        (f"blobs/{digest_of(LARGE)}", FOR_GOOD),
    ):
        for method in ("GET", "HEAD"):
            for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,3-4"}):
                for more in ({}, {"If-None-Match": "*"}):
                    answer = await server.call(
                        method, f"/v2/{name}/{item}", headers={**headers, **more}
                    )
                    assert answer.status == 304 if more else answer.status in (200, 206)
                    assert answer.headers.getall("Cache-Control") == [who + wanted]


async def test_whatever_an_image_itself_says_of_who_may_pull_it(server: Registry) -> None:
    image = await server.image("open/app", "v1", b"layer")
    where = await server.store.locate("fr-par", "open/app")
    assert where.image_id is not None
    path = f"/v2/open/app/manifests/{image}"
    told: tuple[tuple[Visibility, str], ...] = (
        ("private", "private, "),
        ("public", ""),
        ("inherit", ""),
    )
    for visibility, who in told:
        await server.store.images.update(where.image_id, visibility=visibility)
        answer = await server.call("GET", path)
        assert answer.headers["Cache-Control"] == who + FOR_GOOD


async def test_nothing_else_is_kept(server: Registry) -> None:
    """Not even refusals: what is not there, or not allowed, may be in a moment."""
    await server.image(NAME, "v1", b"layer")
    token = await server.token("registry:catalog:*")
    session = await server.session(NAME)
    base = f"/v2/{NAME}"
    blob = digest_of(b"new")
    form = f"grant_type=password&password={OWNER_SECRET}&service=holdfast&access_type=offline"
    question = json.dumps({"digests": [blob]})
    for method, path, data, status in (
        ("GET", "/v2/", None, 200),
        ("GET", "/v2/_catalog", None, 200),
        ("GET", "/v2/_oci/ext/discover", None, 200),
        ("GET", f"{base}/_oci/ext/discover", None, 200),
        ("POST", f"{base}/_holdfast/exists", question, 200),
        ("GET", f"{base}/tags/list", None, 200),
        ("GET", f"{base}/referrers/{blob}", None, 200),
        ("GET", session, None, 204),
        ("PATCH", session, b"new", 202),
        ("PATCH", session, None, 202),
        ("PUT", f"{session}?digest={blob}", None, 201),
        ("GET", session, None, 404),
        ("POST", f"{base}/blobs/uploads/", None, 202),
        ("DELETE", f"{base}/blobs/{blob}", None, 202),
        ("GET", f"{base}/blobs/{blob}", None, 404),
        ("HEAD", f"{base}/blobs/{blob}", None, 404),
        ("GET", f"{base}/manifests/v2", None, 404),
        ("GET", "/v2/absent/app/manifests/v2", None, 404),
        ("GET", "/v2/no/such/place", None, 404),
        ("PATCH", f"{base}/tags/list", None, 405),
        ("GET", f"{base}/blobs/sha256:abc", None, 400),
        ("PUT", f"{base}/manifests/v2", b"{", 400),
        ("DELETE", f"{base}/manifests/v1", None, 202),
        ("GET", "/token?service=holdfast", None, 200),
        ("POST", "/token", form, 200),
        ("POST", "/token", "grant_type=none", 400),
        ("PUT", "/token", None, 405),
    ):
        answer = await server.call(method, path, data=data)
        assert answer.status == status, (method, path, answer)
        assert answer.headers.getall("Cache-Control") == ["no-store"], (method, path)
    for path in ("/v2/", "/v2/_catalog", f"{base}/manifests/v1", "/token"):
        for secret in (None, "44444444-4444-4444-8444-444444444444"):
            answer = await server.call("GET", path, secret=secret)
            assert answer.headers.getall("Cache-Control") == ["no-store"]
    answer = await server.call("GET", f"{base}/manifests/v1", token=token)
    assert (answer.status, answer.headers["Cache-Control"]) == (401, "no-store")
    answer = await server.call("GET", "/v2/", headers={"Expect": "tea"})
    assert (answer.status, answer.headers["Cache-Control"]) == (417, "no-store")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_changed_visibility_is_told_at_once_on_both_paths(loop: str, tmp_path: Path) -> None:
    with staged(loop, tmp_path) as stage:
        world = stage.world

        async def story() -> None:
            items = [f"{kind}/{world.items[what]}" for kind, what in (
                ("manifests", "tag"), ("manifests", "digest"), ("blobs", "small"), ("blobs", "file")
            )]  # fmt: skip
            for public in (False, True, False):
                await world.store.namespaces.update(world.own.id, is_public=public)
                for _ in range(2):
                    for item in items:
                        answer, _ = await world.same([world.get(f"/v2/app/web/{item}")])
                        wanted = "no-cache" if item.endswith("v1") else FOR_GOOD
                        who = "" if public else "private, "
                        line = f"\r\nCache-Control: {who}{wanted}\r\n".encode()
                        assert answer.count(line) == 1
                        assert answer.lower().count(b"cache-control") == 1
                    missing = world.get("/v2/app/web/manifests/absent")
                    answer, _ = await world.same([missing])
                    assert b"\r\nCache-Control: no-store\r\n" in answer

        stage.run(story())
        assert world.lane.answered > 20
