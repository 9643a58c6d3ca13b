"""The fast lane says what the plain path says, byte for byte, or nothing where it is not sure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.api import CONFIG_TYPE, MANIFEST_TYPE, digest_of
from support.distribution import descriptor
from support.fast_path import APPLICATION, NAMES, Stage, World, staged
from support.wire import Client, CountingLane, exchange, masked, request, serving

from holdfast.api import AppSettings
from holdfast.api.fast import reads
from holdfast.api.fast.heads import ReadRequest
from holdfast.api.fast.reads import FastReads
from holdfast.api.oci import tokens
from holdfast.engine import NotFound, RetentionRule, Store, StoreConfig

HEADERS: Final = (
    "Docker-Distribution-API-Version: registry/2.0",
    "X-Real-Ip: 203.0.113.9",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "User-Agent: docker/27.0 (linux)",
    "user-agent: x",
    "Accept: */*",
    "accept: application/json, */*;q=0.1",
    f"Accept: {MANIFEST_TYPE}",
    "ACCEPT-ENCODING: gzip",
    "Accept-Language:de",
    "Accept:",
    "Connection: keep-alive",
    "connection: Keep-Alive",
    "Connection: close",
    "Connection: keep-alive, TE",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "X-Unknown: 1",
    "X-Forwarded-Host: nl.example:5000",
    "X-Forwarded-Host: bad/host, other",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-For: 203.0.113.7, 127.0.0.2",
    "X-Forwarded-For: nonsense",
    "X-Auth-Token: 11111111-2222-4333-8444-555555555555",
    "Forwarded: host=nl.example",
    "Range: bytes=0-3",
    "If-None-Match: *",
    'If-None-Match: "x"',
    "If-Match: *",
    'If-Match: "x"',
    "If-Modified-Since: Tue, 24 Nov 2026 04:46:41 GMT",
    "Cookie: a=b",
    "Content-Length: 0",
    "Content-Type: text/plain",
    "Expect: 100-continue",
    "X-Space:  \t value \t",
    "X-Latin: \xe4",
    "X_Under: 1",
    "Bad Name: 1",
    "Colon : 1",
    "NoColon",
    "Host: second.example",
    "Authorization: Basic bm9sb2dpbjp4",
    "Authorization: Bearer",
    "Authorization: nonsense",
    " folded",
)
HOSTS: Final = (
    "Host: localhost",
    "host:localhost",
    "HOST: \t localhost:5000 ",
    "Host: nl.example:5000",
    "Host: NL.example:5000",
    "Host: bad/host",
    "Host:",
    "Host: " + "h" * 250,
)
METHODS: Final = ("GET", "GET", "GET", "HEAD", "HEAD", "get", "OPTIONS", "DELETE")
VERSIONS: Final = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "http/1.1")
SCHEMES: Final = ("Bearer", "bearer", "BEARER ", "Bearer\t", "Basic")
TWISTS: Final[Mapping[str, Callable[[str], str]]] = {
    "none": lambda path: path,
    "query": lambda path: path + "?x=1",
    "empty query": lambda path: path + "?",
    "fragment": lambda path: path + "#x",
    "slash": lambda path: path + "/",
    "double": lambda path: path.replace("/v2/", "/v2//"),
    "inner double": lambda path: path.replace("web/", "web//"),
    "dots": lambda path: path.replace("/v2/", "/v2/./"),
    "up": lambda path: path.replace("/v2/", "/v2/x/../"),
    "escaped letter": lambda path: path.replace("w", "%77"),
    "escaped slash": lambda path: path.replace("/web", "%2Fweb"),
    "escaped colon": lambda path: path.replace(":", "%3A"),
    "null": lambda path: path + "%00",
    "broken escape": lambda path: path + "%zz",
    "absolute": lambda path: "http://nl.example:5000" + path,
    "upper": lambda path: path.upper(),
    "plus": lambda path: path + "+",
    "tilde": lambda path: path + "~",
    "latin": lambda path: path + "\xe4",
    "doubled": lambda path: path + "/manifests/v1",
}


@st.composite
def wild(draw: st.DrawFn, world: World) -> tuple[list[bytes], list[bool]]:
    """One request of any kind, cut into pieces."""
    plain = draw(st.booleans())  # half of them are what the lane is made for
    method = draw(st.sampled_from(METHODS[:5] if plain else METHODS))
    endpoint = draw(
        st.sampled_from(("manifests", "blobs") if plain else ("manifests", "blobs", "tags"))
    )
    item = world.items[draw(st.sampled_from(sorted(world.items)))]
    name = draw(st.sampled_from(NAMES[:2] if plain else NAMES))
    path = TWISTS[draw(st.sampled_from(("none",) if plain else ("none", *TWISTS)))](
        f"/v2/{name}/{endpoint}/{item}"
    )
    lines = [draw(st.sampled_from(HOSTS[:3] if plain else HOSTS))]
    token = draw(st.sampled_from(("good",) if plain else (None, *world.tokens)))
    if token is not None:
        scheme = draw(st.sampled_from(SCHEMES[:3] if plain else SCHEMES))
        lines.append(f"Authorization: {scheme} {world.tokens[token]}")
    lines += draw(st.lists(st.sampled_from(HEADERS[:13] if plain else HEADERS), max_size=3))
    lines = draw(st.permutations(lines))
    version = draw(st.sampled_from(VERSIONS[:1] if plain else VERSIONS))
    space = draw(st.sampled_from((" ",) if plain else (" ", " ", "  ", "\t")))
    whole = "\r\n".join((f"{method}{space}{path} {version}", *lines, "", "")).encode("latin-1")
    cuts = sorted(draw(st.lists(st.integers(1, len(whole) - 1), max_size=0 if plain else 2)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return pieces, [method == "HEAD"]


@st.composite
def tame(draw: st.DrawFn, world: World) -> tuple[list[bytes], list[bool]]:
    """Several well-formed requests in a row, cut anywhere."""
    paths = [f"/v2/app/web/{e}/{i}" for e in ("manifests", "blobs") for i in world.items.values()]
    chosen = draw(
        st.lists(st.tuples(st.sampled_from(("GET", "HEAD")), st.sampled_from(paths)), max_size=4)
    )
    sent = [world.get(path, "Accept: */*", method=method) for method, path in chosen]
    heads = [method == "HEAD" for method, _ in chosen]
    if draw(st.booleans()):
        return sent, heads
    whole = b"".join(sent)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return pieces, heads


EXAMPLES: Final = settings(max_examples=250, deadline=None, database=None)


@pytest.mark.slow
def test_whatever_is_asked_is_answered_alike(stage: Stage) -> None:
    @EXAMPLES
    @given(wild(stage.world))
    def check(sent: tuple[list[bytes], list[bool]]) -> None:
        stage.run(stage.world.same(*sent))

    check()
    assert stage.world.lane.answered > 20, "it must not decline everything"
    assert stage.world.lane.declined > 20, "nor be asked for what it knows only"


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_behind_a_proxy_that_is_believed(loop: str, tmp_path: Path) -> None:
    """What it forwards decides the region and the challenge, in the lane as elsewhere."""
    behind = AppSettings(
        endpoints=APPLICATION.endpoints, trusted_proxies=(ip_network("127.0.0.0/8"),)
    )
    with staged(loop, tmp_path, behind) as stage:

        @EXAMPLES
        @given(wild(stage.world))
        def check(sent: tuple[list[bytes], list[bool]]) -> None:
            stage.run(stage.world.same(*sent))

        check()
        assert stage.world.lane.answered > 20
        path = "/v2/app/web/manifests/v1"
        before = stage.world.lane.answered
        abroad = stage.world.get(path, "X-Forwarded-Host: nl.example:5000", bearer="abroad")
        (answer, _) = stage.run(stage.world.same([abroad]))
        assert answer.startswith(b"HTTP/1.1 404 "), "there is no such namespace in that region"
        home = stage.world.get(path, "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1")
        (answer, _) = stage.run(stage.world.same([home]))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert stage.world.lane.answered > before


@pytest.mark.slow
def test_requests_in_a_row_are_answered_alike(stage: Stage) -> None:
    @settings(EXAMPLES, max_examples=100)
    @given(tame(stage.world))
    def check(sent: tuple[list[bytes], list[bool]]) -> None:
        stage.run(stage.world.same(*sent))

    check()
    assert stage.world.lane.answered > 20


@pytest.mark.slow
def test_every_thing_there_is_for_every_token(stage: Stage) -> None:
    world = stage.world

    async def story() -> None:
        for token in (None, *world.tokens):
            for name in NAMES:
                for label in ("tag", "digest", "small", "missing"):
                    for kind in ("manifests", "blobs"):
                        line = f"GET /v2/{name}/{kind}/{world.items[label]} HTTP/1.1"
                        headers = () if token is None else (world.bearer(token),)
                        await world.same([request(line, *headers)])

    stage.run(story())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("kind", "label", "status", "fast"),
    [
        ("manifests", "tag", 200, True),
        ("manifests", "digest", 200, True),
        ("manifests", "index", 200, True),
        ("manifests", "missing", 404, True),
        ("manifests", "no tag", 404, True),
        ("manifests", "large", 200, False),
        ("blobs", "small", 200, True),
        ("blobs", "empty", 200, True),
        ("blobs", "held", 200, True),
        ("blobs", "missing", 404, True),
        ("blobs", "unknown", 404, True),
        ("blobs", "file", 200, True),  # it is open: the plain path was asked first
    ],
)
def test_what_it_answers(
    stage: Stage, method: str, kind: str, label: str, status: int, fast: bool
) -> None:
    world = stage.world
    sent = world.get(f"/v2/app/web/{kind}/{world.items[label]}", method=method)
    for _ in range(2):  # the second time from memory
        answers = stage.run(world.same([sent], [method == "HEAD"]))
        assert answers[0].startswith(b"HTTP/1.1 %d " % status)
        assert answers[1].startswith(b"HTTP/1.1 401 ")
    # LAST is always declined.
    assert world.lane.answered == (2 if fast else 0)


def test_what_is_not_there_is_told_alike_each_time(stage: Stage) -> None:
    world = stage.world
    items = (f"blobs/{digest_of(b'a')}", f"blobs/{digest_of(b'b')}", "manifests/a", "manifests/abc")
    answered = world.lane.answered
    for item in (*items, *items[::-1]):
        for method in ("HEAD", "GET"):
            sent = world.get(f"/v2/app/web/{item}", method=method)
            answers = stage.run(world.same([sent], [method == "HEAD"]))
            assert answers[0].startswith(b"HTTP/1.1 404 ")
    assert world.lane.answered == answered + 16


@pytest.mark.slow
def test_a_request_in_two_pieces_cut_at_every_byte(stage: Stage) -> None:
    whole = stage.world.get("/v2/app/web/manifests/v1", "Accept: */*", "User-Agent: x")

    async def story() -> None:
        for cut in range(1, len(whole)):
            answers = await stage.world.same([whole[:cut], whole[cut:]])
            assert answers[0].startswith(b"HTTP/1.1 200 ")

    stage.run(story())


def test_after_a_broken_up_head_the_lane_takes_over_again(stage: Stage) -> None:
    world = stage.world
    sent = world.get("/v2/app/web/manifests/v1")

    async def story() -> None:
        async with AsyncExitStack() as stack:
            for client in await world.pair(stack):
                await client.send(sent[:30], sent[30:])
                first = await client.answer()
                await client.send(sent)
                assert masked(await client.answer()) == masked(first)

    stage.run(story())
    assert world.lane.answered == 1


def test_bodies_that_look_like_requests_are_bodies(stage: Stage) -> None:
    world = stage.world
    inner = world.get("/v2/app/web/manifests/v1")
    path = "/v2/app/web/manifests/v1"

    async def story() -> None:
        for headers in (
            (f"Content-Length: {len(inner)}",),
            (f"Content-Length: {len(inner)}", "Expect: 100-continue"),
        ):
            for method in ("GET", "HEAD", "PUT", "POST"):
                head = world.get(path, *headers, method=method)
                for pieces in ([head, inner], [head + inner], [head, inner[:9], inner[9:]]):
                    answers = await world.same(pieces, [method == "HEAD"])
                    assert answers[0].count(b"HTTP/1.1 ") == 1
        chunked = world.get(path, "Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
        for pieces in ([chunked, body], [chunked + body], [chunked, body[:5], body[5:]]):
            await world.same(pieces)

    stage.run(story())
    assert world.lane.answered == 0


async def _both(world: World, pair: tuple[Client, Client], sent: bytes) -> bytes:
    """One request on two connections that are kept."""
    plain, fast = pair
    for client in pair:
        await client.send(sent)
    answer = masked(await plain.answer())
    assert masked(await fast.answer()) == answer
    return answer


def test_changes_between_two_requests_take_effect_at_once(stage: Stage) -> None:
    world, store = stage.world, stage.world.store
    by_tag = world.get("/v2/app/web/manifests/v1")
    nameless = request("GET /v2/app/web/manifests/v1 HTTP/1.1")

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)

            async def status(sent: bytes) -> int:
                return int((await _both(world, pair, sent))[9:12])

            first = await _both(world, pair, by_tag)
            moved = await world.manifest("app/web", "v1", b"another layer")
            second = await _both(world, pair, by_tag)
            assert first != second
            assert moved.encode() in second

            assert await status(nameless) == 401
            await store.namespaces.update(world.own.id, is_public=True)
            assert await status(nameless) == 200
            await store.namespaces.update(world.own.id, is_public=False)
            assert await status(nameless) == 401

            await store.tags.untag(await store.locate("fr-par", "app/web"), "v1")
            assert await status(by_tag) == 404
            await world.manifest("app/web", "v1", b"another layer")
            assert await status(by_tag) == 200

            await store.keys.revoke(world.key.access_key)
            assert await status(by_tag) == 401

    stage.run(story())
    assert world.lane.answered >= 5


@pytest.mark.parametrize("gently", [False, True])
def test_another_process_changes_the_signing_key(
    stage: Stage, tmp_path: Path, *, gently: bool
) -> None:
    """What the lane remembers of heads ends with the keys that verified them, and only then."""
    world = stage.world
    by_tag = "/v2/app/web/manifests/v1"

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)

            async def status() -> int:
                answer = await _both(world, pair, world.get(by_tag))
                return int(answer.split(b" ")[1])

            assert await status() == 200
            async with Store.open(tmp_path / "store", StoreConfig(background=False)) as other:
                await other.keys.renew_signing_key(overlap_seconds=60 if gently else 0)
            assert await status() == (200 if gently else 401)
            old = world.tokens["good"]
            world.tokens["good"] = await world.issue(world.key.access_key)
            before = world.lane.answered
            assert await status() == 200
            assert world.lane.answered == before + 1
            async with Store.open(tmp_path / "store", StoreConfig(background=False)) as other:
                await other.keys.renew_signing_key()
            assert await status() == 401
            world.tokens["good"] = old
            assert await status() == 401

    stage.run(story())


def test_a_hold_ends_without_a_change_of_the_store(stage: Stage) -> None:
    world = stage.world
    held = f"/v2/app/web/blobs/{world.items['held']}"

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)
            sent = world.get(held)
            assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 200 ")
            world.now += 3000
            assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 200 ")
            answers = await world.same([world.get(held, method="HEAD")], [True])
            assert answers[0].startswith(b"HTTP/1.1 404 "), "too little of the hold is left"
            world.now += 3000
            assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 404 ")

    stage.run(story())
    assert world.lane.answered == 4


def test_a_token_ends_without_a_change_of_the_store(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = stage.world
    real = time.time
    sent = world.get("/v2/app/web/manifests/v1")

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)
            assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 200 ")
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: real() + 3600 + tokens.LEEWAY_SECONDS + 1)
                assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 401 ")
            assert (await _both(world, pair, sent)).startswith(b"HTTP/1.1 200 ")

    stage.run(story())
    assert world.lane.answered == 2


async def test_a_key_ends_without_a_change_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    await world.start(tmp_path)
    try:
        key, _ = await world.store.keys.create(
            project_id=world.key.project_id,
            default_project_id=world.key.default_project_id,
            organization_id=world.key.organization_id,
            permission="read",
            expires_at=datetime.now(UTC) + timedelta(seconds=600),
        )
        world.tokens["brief"] = await world.issue(key.access_key)
        sent = world.get("/v2/app/web/manifests/v1", bearer="brief")
        lane, real = world.lane, time.time
        peer = lane.peer("http", "127.0.0.1", plain=True)
        assert lane.answer(sent, peer) is not None
        monkeypatch.setattr(time, "time", lambda: real() + 601)
        assert lane.answer(sent, peer) is None, "the key has ended, and the token has not"
        monkeypatch.setattr(time, "time", real)
        assert lane.answer(sent, peer) is not None
    finally:
        await world.stop()


def test_what_it_remembers_outlives_pulls_but_no_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, store = stage.world, stage.world.store
    by_tag = world.get("/v2/app/web/manifests/v1")
    rendered: list[str] = []
    render = reads.FastReads._render

    def counted(
        self: FastReads, decision: reads.CachedDecision, request: ReadRequest
    ) -> reads.Rendered:
        rendered.append(request.target.item)
        return render(self, decision, request)

    monkeypatch.setattr(reads.FastReads, "_render", counted)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)
            first = await _both(world, pair, by_tag)
            before = store.version()
            await store.pulls.flush()
            assert store.version() != before
            assert await _both(world, pair, by_tag) == first
            assert rendered == ["v1"]
            await store.pulls.flush()
            place = world.lane._repositories["fr-par", "app/web"]
            moved = await world.manifest("app/web", "v1", b"another layer")
            await _both(world, pair, by_tag)
            assert world.lane._repositories["fr-par", "app/web"] is place, "content moves no image"
            await store.pulls.flush()
            assert moved.encode() in await _both(world, pair, by_tag)
            assert rendered == ["v1", "v1"]

    stage.run(story())


def test_what_makes_an_image_is_noticed(stage: Stage) -> None:
    """The first blob makes a draft, the first manifest lists it: neither is content only."""
    world, store = stage.world, stage.world.store
    data = b"the first of its image"
    blob = world.get(f"/v2/app/none/blobs/{digest_of(data)}")
    by_tag = world.get("/v2/app/none/manifests/v1")

    async def story() -> None:
        async with AsyncExitStack() as stack:
            pair = await world.pair(stack)

            async def status(sent: bytes) -> int:
                found = int((await _both(world, pair, sent))[9:12])
                place = await store.locate("fr-par", "app/none")
                assert world.lane._repositories["fr-par", "app/none"] == place
                return found

            assert await status(blob) == 404
            await world.blob("app/none", data)
            assert await status(blob) == 200
            config = descriptor(digest_of(data), len(data), CONFIG_TYPE)
            document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config}
            await world.document("app/none", "v1", {**document, "layers": []})
            assert await status(by_tag) == 200

    stage.run(story())


def test_a_pusher_who_finds_a_manifest_renews_it(stage: Stage) -> None:
    """By both ways, by HEAD and GET of its digest; nobody else does, and nothing by a tag."""
    world, store = stage.world, stage.world.store
    asked = [
        (server, method, bearer)
        for server in (0, 1)
        for method in ("HEAD", "GET")
        for bearer in ("pusher", "good")
    ]

    async def story() -> None:
        digests = [await world.pushed_bare("app/web", str(one)) for one in asked]
        world.now += 9 * 24 * 3600
        answered = world.lane.answered
        for (server, method, bearer), digest in zip(asked, digests, strict=True):
            sent = world.get(f"/v2/app/web/manifests/{digest}", bearer=bearer, method=method)
            await exchange(world.ports[server], [sent], [method == "HEAD"])
        assert world.lane.answered == answered + len(asked) // 2
        await store.retention.set(world.own.id, [RetentionRule(untagged_older_than_days=7)])
        await store.retention.apply(world.own.id)
        where = await store.locate("fr-par", "app/web")
        for (_, _, bearer), digest in zip(asked, digests, strict=True):
            if bearer == "pusher":
                assert (await store.manifests.get(where, digest)).body
            else:
                with pytest.raises(NotFound):
                    await store.manifests.get(where, digest)

    stage.run(story())


def test_while_somebody_decides_by_pulls_each_is_written(stage: Stage) -> None:
    """Both ways answer alike: what the decision took is not there, what it left stays."""
    world, store = stage.world, stage.world.store

    async def story() -> None:
        paths = [f"/v2/app/web/manifests/{item}" for item in ("v1", world.items["digest"])]
        every = [
            (world.get(path, bearer=bearer, method=method), method == "HEAD")
            for path in paths
            for bearer in ("pusher", "good")
            for method in ("HEAD", "GET")
        ]
        calm = [await world.same([sent], [head]) for sent, head in every]
        await store.pulls.flush()
        answered = world.lane.answered
        async with store.core.gate.decision((store.pulls.flush,)):
            assert [await world.same([sent], [head]) for sent, head in every] == calm
            where = await store.locate("fr-par", "app/web")
            assert where.image_id is not None
            tags = {tag.name: tag for tag in (await store.tags.list(where.image_id)).items}
            # Sent to both servers, twice: 4 by tag, 2 by digest.
            assert tags["v1"].pull_count == 2 * 2 * (4 + 2)
            await store.tags.untag(where, "v1")
            gone = await world.same([every[0][0]], [True])
            assert gone[0].startswith(b"HTTP/1.1 404")
            # By the lane only what counts nothing: HEAD by digest of one who may not push, and 404.
            assert world.lane.answered == answered + 1 + 1
        await world.same([every[-1][0]])
        assert world.lane.answered > answered

    stage.run(story())


def test_pulls_are_counted(stage: Stage) -> None:
    world, store = stage.world, stage.world.store

    async def story() -> None:
        path = "/v2/app/web/manifests/"
        for method, reference in (
            ("GET", "v1"),
            ("GET", "v1"),
            ("HEAD", "v1"),
            ("GET", world.items["digest"]),
            ("HEAD", world.items["digest"]),
            ("GET", "absent"),
        ):
            sent = world.get(path + reference, method=method)
            await world.same([sent], [method == "HEAD"])
        await store.pulls.flush()
        repository = await store.locate("fr-par", "app/web")
        assert repository.image_id is not None
        image = await store.images.get(repository.image_id)
        # Each was sent to both servers; by digest a GET counts, for the tag too.
        assert image.pull_count == 2
        tags = {tag.name: tag for tag in (await store.tags.list(image.id)).items}
        assert tags["v1"].pull_count == 2 * 4

    stage.run(story())
    assert world.lane.answered == 6


def test_closed_it_leaves_the_last_answers_to_others(stage: Stage) -> None:
    world = stage.world
    sent = world.get("/v2/app/web/manifests/v1")
    stage.run(world.same([sent]))
    assert world.lane.answered == 1
    world.lane.close()
    stage.run(world.same([sent]))
    assert world.lane.answered == 1


def test_what_is_remembered_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 40_000
    monkeypatch.setattr("holdfast.api.fast.caches.BYTES_MAX", most)
    lane, world = stage.world.lane, stage.world
    peer = lane.peer("http", "127.0.0.1", plain=True)
    caches, full = lane._caches, 0
    for number in range(50):
        before = caches.bytes
        sent = world.get(f"/v2/app/web/manifests/t{number}", f"User-Agent: {number}")
        assert lane.answer(sent, peer) is not None
        assert caches.bytes <= most
        full += caches.bytes < before
    assert full > 1, "a full budget makes room for what is asked for now"
    long = world.get("/v2/app/web/manifests/v1", "Accept: " + "x" * 3000)
    before = len(lane._decisions[peer.kind])
    assert lane.answer(long, peer) is not None
    assert len(lane._decisions[peer.kind]) == before, "a long head is not kept"


async def test_with_an_access_log_every_request_is_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    await world.start(tmp_path)
    log = logging.getLogger("test.access")
    try:
        lane = CountingLane(world.store, APPLICATION)
        options: dict[str, Any] = {"access_log": log, "access_log_format": "%s %b"}
        with caplog.at_level(logging.INFO, logger=log.name):
            async with serving(world.store, lane=lane, settings=APPLICATION, **options) as port:
                await exchange(port, [world.get("/v2/app/web/manifests/v1")], [False])
    finally:
        await world.stop()
    assert lane.answered == lane.declined == 0
    assert [record.getMessage()[:4] for record in caplog.records] == ["200 ", "401 "]
