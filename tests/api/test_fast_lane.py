"""The fast lane says what the plain path says, byte for byte, or nothing where it is not sure.

Two servers over one store, one with the lane: whatever is sent to both must be answered alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest
from distribution_support import (
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    ORGANIZATION,
    OTHER_PROJECT,
    PROJECT,
    descriptor,
    digest_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import running
from wire_support import LOOPS, Client, CountingLane, connected, exchange, masked, request, serving

from holdfast.api import AppSettings, tokens
from holdfast.engine import Key, Namespace, Store, StoreConfig

APPLICATION: Final = AppSettings(endpoints={"nl-ams": "nl.example:5000"})
NAMES: Final = ("app/web", "open/web", "other/web", "app/none", "none/none", "NOT/valid", "single")
FILE: Final = bytes(range(256)) * 1024
SMALL: Final = b"small content"


class World:
    """A store with some of everything, behind both servers."""

    store: Store
    lane: CountingLane
    now: float
    own: Namespace
    key: Key
    revoked: Key

    def __init__(self) -> None:
        self.now = time.time()
        self.tokens: dict[str, str] = {}
        self.items: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self._ports = (0, 0)

    async def start(self, path: Path) -> None:
        config = StoreConfig(background=False, hold_seconds=3600)
        store = Store.open(path / "store", config, clock=lambda: self.now)
        self.store = await self._stack.enter_async_context(store)
        await self._furnish()
        signing = await self.store.keys.signing_key()
        self.lane = CountingLane(self.store, APPLICATION, signing)
        plain = await self._stack.enter_async_context(serving(self.store, settings=APPLICATION))
        fast = serving(self.store, settings=APPLICATION, lane=self.lane)
        self._ports = (plain, await self._stack.enter_async_context(fast))

    async def stop(self) -> None:
        await self._stack.aclose()

    async def same(self, pieces: Sequence[bytes], heads: Sequence[bool] = (False,)) -> list[bytes]:
        """Send to both, compare all that comes back, and return it."""
        plain = await exchange(self._ports[0], pieces, heads)
        fast = await exchange(self._ports[1], pieces, heads)
        assert fast == plain
        return plain

    async def pair(self, stack: AsyncExitStack) -> tuple[Client, Client]:
        """A connection to each server."""
        plain, fast = self._ports
        return (
            await stack.enter_async_context(connected(plain)),
            await stack.enter_async_context(connected(fast)),
        )

    async def blob(self, name: str, data: bytes) -> str:
        repository = await self.store.locate("fr-par", name)
        digest = digest_of(data)
        await self.store.uploads.put(repository, digest, _stream(data))
        return digest

    async def manifest(self, name: str, reference: str, *layers: bytes, note: str = "") -> str:
        """An image of a config of two bytes and these layers; ``note`` makes it larger."""
        config = await self.blob(name, b"{}")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, 2, CONFIG_TYPE),
            "layers": [descriptor(await self.blob(name, data), len(data)) for data in layers],
            "annotations": {"note": note},
        }
        return await self.document(name, reference, document)

    async def document(self, name: str, reference: str, document: dict[str, Any]) -> str:
        repository = await self.store.locate("fr-par", name)
        pushed = await self.store.manifests.put(
            repository,
            msgspec.json.encode(document),
            media_type=document["mediaType"],
            reference=reference,
        )
        return str(pushed.digest)

    async def _furnish(self) -> None:
        self.own = await self._namespace("app", PROJECT)
        await self._namespace("open", PROJECT, is_public=True)
        await self._namespace("other", OTHER_PROJECT)
        for name in ("app/web", "open/web", "other/web"):
            self.items["tag"] = "v1"
            self.items["digest"] = await self.manifest(name, "v1", SMALL, FILE)
            self.items["large"] = await self.manifest(name, "large", SMALL, note="x" * 100_000)
            listed = descriptor(self.items["digest"], 0, MANIFEST_TYPE)
            listed["size"] = await self._size(name, "v1")
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [listed]}
            self.items["index"] = await self.document(name, "index", index)
            self.items["held"] = await self.blob(name, b"held by an upload")
            self.items["empty"] = await self.blob(name, b"")
        self.items["small"] = digest_of(SMALL)
        self.items["file"] = digest_of(FILE)
        self.items["missing"] = digest_of(b"nobody has this")
        self.items["sha512"] = digest_of(SMALL, "sha512")
        self.items["malformed"] = "sha256:abc"
        self.items["unknown"] = "md5:" + "0" * 32
        self.items["no tag"] = "a" * 129
        await self._keys()

    async def _size(self, name: str, reference: str) -> int:
        repository = await self.store.locate("fr-par", name)
        return len((await self.store.manifests.get(repository, reference)).body)

    async def _namespace(self, name: str, project: UUID, **more: Any) -> Namespace:
        return await self.store.namespaces.create(
            "fr-par", name, project_id=project, organization_id=ORGANIZATION, **more
        )

    async def _keys(self) -> None:
        self.key = await self._key(PROJECT)
        self.revoked = await self._key(PROJECT)
        stranger = await self._key(OTHER_PROJECT)
        self.tokens["good"] = await self.issue(self.key.access_key)
        self.tokens["stranger"] = await self.issue(stranger.access_key)
        self.tokens["anonymous"] = await self.issue(None)
        self.tokens["nobody"] = await self.issue("SCWNOSUCHKEY00000000")
        self.tokens["narrow"] = await self.issue(self.key.access_key, names=("app/else",))
        self.tokens["abroad"] = await self.issue(self.key.access_key, region="nl-ams")
        self.tokens["old"] = await self.issue(self.key.access_key, age=7200)
        self.tokens["future"] = await self.issue(self.key.access_key, age=-7200)
        self.tokens["revoked"] = await self.issue(self.revoked.access_key)
        self.tokens["refresh"] = await self.issue(self.key.access_key, use="refresh")
        self.tokens["forged"] = self.tokens["good"][:-4] + "AAAA"
        await self.store.keys.revoke(self.revoked.access_key)

    async def _key(self, project: UUID) -> Key:
        key, _ = await self.store.keys.create(
            project_id=project,
            default_project_id=project,
            organization_id=ORGANIZATION,
            permission="read",
        )
        return key

    async def issue(
        self,
        access_key: str | None,
        *,
        names: Sequence[str] = NAMES,
        region: str = "fr-par",
        age: int = 0,
        use: tokens.Use = "access",
    ) -> str:
        return tokens.issue(
            await self.store.keys.signing_key(),
            use,
            access_key=access_key,
            region=region,
            scopes={("repository", name): frozenset(("pull",)) for name in names},
            now=int(time.time()) - age,
            seconds=3600,
        )

    def get(self, path: str, *headers: str, bearer: str = "good", method: str = "GET") -> bytes:
        return request(f"{method} {path} HTTP/1.1", *headers, self.bearer(bearer))

    def bearer(self, token: str) -> str:
        return f"Authorization: Bearer {self.tokens[token]}"


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Stage:
    """A world, and the loop that it lives in."""

    world: World
    run: Callable[[Any], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        world = World()
        runner.run(world.start(tmp_path))
        try:
            yield Stage(world, runner.run)
        finally:
            runner.run(world.stop())


HEADERS: Final = (
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
    "X-Forwarded-Proto: https",
    "Forwarded: host=nl.example",
    "Range: bytes=0-3",
    "If-None-Match: *",
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
    lines += draw(st.lists(st.sampled_from(HEADERS[:10] if plain else HEADERS), max_size=3))
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


def test_whatever_is_asked_is_answered_alike(stage: Stage) -> None:
    @EXAMPLES
    @given(wild(stage.world))
    def check(sent: tuple[list[bytes], list[bool]]) -> None:
        stage.run(stage.world.same(*sent))

    check()
    assert stage.world.lane.answered > 20, "it must not decline everything"
    assert stage.world.lane.declined > 20, "nor be asked for what it knows only"


def test_requests_in_a_row_are_answered_alike(stage: Stage) -> None:
    @settings(EXAMPLES, max_examples=100)
    @given(tame(stage.world))
    def check(sent: tuple[list[bytes], list[bool]]) -> None:
        stage.run(stage.world.same(*sent))

    check()
    assert stage.world.lane.answered > 20


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
        ("blobs", "file", 200, None),
    ],
)
def test_what_it_answers(
    stage: Stage, method: str, kind: str, label: str, status: int, fast: bool | None
) -> None:
    """``fast`` None: without its content only."""
    world = stage.world
    sent = world.get(f"/v2/app/web/{kind}/{world.items[label]}", method=method)
    for _ in range(2):  # the second time from memory
        answers = stage.run(world.same([sent], [method == "HEAD"]))
        assert answers[0].startswith(b"HTTP/1.1 %d " % status)
        assert answers[1].startswith(b"HTTP/1.1 401 ")
    # LAST is always declined.
    expected = 2 if (method == "HEAD" if fast is None else fast) else 0
    assert world.lane.answered == expected


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
    monkeypatch.setattr("holdfast.api.fast_answers.REMEMBERED_MAX", 10)
    lane, world = stage.world.lane, stage.world
    for number in range(50):
        sent = world.get(f"/v2/app/web/manifests/t{number}", f"User-Agent: {number}")
        assert lane.answer(sent) is not None
        for memory in (lane._visitors, lane._targets, lane._callers, lane._answers):
            assert len(memory) <= 10
    long = world.get("/v2/app/web/manifests/v1", "Accept: " + "x" * 3000)
    before = len(lane._visitors)
    assert lane.answer(long) is not None
    assert len(lane._visitors) == before


async def test_with_an_access_log_every_request_is_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    await world.start(tmp_path)
    log = logging.getLogger("test.access")
    try:
        lane = CountingLane(world.store, APPLICATION, await world.store.keys.signing_key())
        options: dict[str, Any] = {"access_log": log, "access_log_format": "%s %b"}
        with caplog.at_level(logging.INFO, logger=log.name):
            async with serving(world.store, lane=lane, settings=APPLICATION, **options) as port:
                await exchange(port, [world.get("/v2/app/web/manifests/v1")], [False])
    finally:
        await world.stop()
    assert lane.answered == lane.declined == 0
    assert [record.getMessage()[:4] for record in caplog.records] == ["200 ", "401 "]


@pytest.mark.parametrize("option", ["--fast-path", "--no-fast-path"])
def test_the_option(tmp_path: Path, option: str) -> None:
    """Of the names of requests: those of the lane share their beginning."""
    with running(tmp_path / "data", option, "--create-namespaces") as server:
        secret = server.variables()["SCW_SECRET_KEY"]
        host, _, port = server.address.partition(":")
        assert host == "127.0.0.1"
        names = asyncio.run(_names(int(port), secret))
    assert (len({name[:-12] for name in names}) == 1) is (option == "--fast-path")
    assert len(set(names)) == 3


async def _names(port: int, secret: str) -> list[bytes]:
    from distribution_support import basic

    async with connected(port) as client:
        authorization = f"Authorization: {basic(secret)}"
        path = f"/v2/demo/app/blobs/uploads/?digest={digest_of(SMALL)}"
        body = f"Content-Length: {len(SMALL)}"
        await client.send(request(f"POST {path} HTTP/1.1", authorization, body) + SMALL)
        assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
        await client.send(
            request(
                "GET /token?service=holdfast&scope=repository:demo/app:pull HTTP/1.1", authorization
            )
        )
        document = (await client.answer()).partition(b"\r\n\r\n")[2]
        token = msgspec.json.decode(document)["token"]
        sent = request(
            f"GET /v2/demo/app/blobs/{digest_of(SMALL)} HTTP/1.1", f"Authorization: Bearer {token}"
        )
        names = []
        for _ in range(3):
            await client.send(sent)
            answer = await client.answer()
            assert answer.startswith(b"HTTP/1.1 200 ")
            names.append(answer.partition(b"X-Request-Id: ")[2][:36])
        return names
