"""What surrounds a request surrounds those of the fast lane too: limits, metrics, access log."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from support.api import MANIFEST_TYPE, digest_of
from support.fast_path import Stage, World, staged
from support.wire import Client, CountingLane, connected, request, serving

from holdfast.api import AppSettings
from holdfast.api.limits.rates import BURST_MIN, Limits, Rates
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.middleware import ROUTES, AccessLogger, RequestMiddleware
from holdfast.api.recorder import Recorder
from holdfast.api.telemetry.audit import Audit
from holdfast.api.telemetry.counters import Counters, Layout, Row, Slot

NO_LIMITS = Rates()
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


class Watched:
    """A server with or without the lane, and everything that counts around it."""

    def __init__(
        self, world: World, rates: Rates = NO_LIMITS, *, audit: Path | None = None
    ) -> None:
        self.world = world
        self._audit_path = audit
        self.audit = None if audit is None else Audit(str(audit))
        self._memory = SharedMemory()
        self._layout = Layout(ROUTES)
        self.slot = Slot(self._memory.counters[0], self._layout)
        self.limits = Limits(self._memory, rates)
        self.lane: CountingLane | None = None

    async def start(
        self, stack: AsyncExitStack, *, fast: bool, log: logging.Logger | None = None
    ) -> int:
        world = self.world
        recorder = Recorder(slot=self.slot, limits=self.limits, audit=self.audit, log=log)
        if fast:
            self.lane = CountingLane(world.store, world.settings, recorder)

        def around(app: web.Application) -> None:
            RequestMiddleware(world.settings, recorder).install(app)

        return await stack.enter_async_context(
            serving(
                world.store,
                lane=self.lane,
                settings=world.settings,
                prepare=around,
                access_log=log,
                access_log_class=AccessLogger,
            )
        )

    def rows(self) -> Mapping[str, Row]:
        board = Counters(self._memory.counters, self._layout)
        return board.rows(board.sums())

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log, without what is new each time."""
        assert self._audit_path is not None
        lines = [msgspec.json.decode(line) for line in self._audit_path.read_bytes().splitlines()]
        for line in lines:
            line["id"] = IDENTIFIER.sub("ID", line["id"])
            line["path"] = IDENTIFIER.sub("ID", line["path"])
        return [
            {k: v for k, v in line.items() if k not in ("time", "request_id")} for line in lines
        ]

    def close(self) -> None:
        if self.audit is not None:
            self.audit.close()


async def ask(world: World, port: int) -> list[int]:
    """Some of everything, on one connection; the statuses."""
    data = bytes(range(256)) * 16384
    file = await world.blob("app/web", data)
    await world.blob("app/web/manifests", b"in a repository of a confusing name")
    strange = digest_of(b"in a repository of a confusing name")
    asked = [
        ("GET", "/v2/app/web/manifests/v1", "good"),
        ("HEAD", "/v2/app/web/manifests/v1", "good"),
        ("GET", f"/v2/app/web/blobs/{world.items['small']}", "good"),
        ("GET", f"/v2/app/web/blobs/{world.items['missing']}", "good"),
        ("GET", f"/v2/app/web/blobs/{file}", "good"),
        ("GET", f"/v2/app/web/blobs/{file}", "good"),
        ("HEAD", f"/v2/app/web/blobs/{file}", "good"),
        ("GET", f"/v2/app/web/manifests/blobs/{strange}", "good"),
        ("GET", "/v2/app/web/manifests/v1", "stranger"),
        ("GET", "/v2/open/web/manifests/v1", "anonymous"),
        ("GET", "/v2/app/web/tags/list", "good"),
    ]
    world.tokens["good"] = await world.issue(
        world.key.access_key, names=("app/web", "app/web/manifests")
    )
    statuses = []
    async with connected(port) as client:
        for method, path, token in asked:
            await client.send(world.get(path, "User-Agent: x/1", method=method, bearer=token))
            answer = await client.answer(head=method == "HEAD")
            statuses.append(int(answer[9:12]))
        statuses += await push(world, client)
    return statuses


async def push(world: World, client: Client) -> list[int]:
    """An upload, one that goes wrong, and a manifest that lacks something; the statuses."""
    statuses = []

    async def ask(line: str, body: bytes = b"", *headers: str) -> bytes:
        length = f"Content-Length: {len(body)}"
        lines = (world.bearer("pusher"), "User-Agent: x/2", length, *headers)
        await client.send(request(f"{line} HTTP/1.1", *lines) + body)
        answer = await client.answer()
        statuses.append(int(answer[9:12]))
        return answer

    for body in (b"good", b"bad"):
        where = (await ask("POST /v2/app/web/blobs/uploads/")).partition(b"Location: ")[2]
        place = where.partition(b"\r")[0].decode()
        await ask(f"PATCH {place}", body)
        await ask(f"PUT {place}?digest={digest_of(b'good')}")
    await ask("PUT /v2/app/web/manifests/v5", b"{}", f"Content-Type: {MANIFEST_TYPE}")
    return statuses


def test_every_request_is_counted_once_and_alike(stage: Stage, tmp_path: Path) -> None:
    world = stage.world

    async def story() -> None:
        counted, audited = [], []
        for fast in (False, True):
            watched = Watched(world, audit=tmp_path / f"audit-{fast}")
            async with AsyncExitStack() as stack:
                statuses = await ask(world, await watched.start(stack, fast=fast))
            rows = {
                route: (row.requests, row.received, row.sent)
                for route, row in watched.rows().items()
            }
            counted.append((statuses, rows))
            assert sum(sum(row.buckets) for row in watched.rows().values()) == len(statuses)
            assert all(row.seconds > 0 for row in watched.rows().values())
            audited.append(watched.audited())
            watched.close()
            if watched.lane is not None:
                assert watched.lane.answered >= 7
                assert watched.lane.written == 7
        assert counted[0] == counted[1]
        assert audited[0] == audited[1]
        assert [line["status"] for line in audited[0]] == counted[0][0][-7:]

    stage.run(story())


@pytest.mark.slow
def test_a_client_that_leaves_is_counted_so(stage: Stage) -> None:
    world = stage.world
    data = os.urandom(1 << 16) * 400

    async def story() -> None:
        watched = Watched(world)
        async with AsyncExitStack() as stack:
            port = await watched.start(stack, fast=True)
            sent = world.get(f"/v2/app/web/blobs/{await world.blob('app/web', data)}")
            async with connected(port) as client:
                await client.send(sent)
                assert (await client.answer()).endswith(data)
            async with connected(port) as client:
                await client.send(sent)
                assert await client.more()
        assert watched.lane is not None
        assert watched.lane.answered == 1
        assert watched.rows()["blob"].requests == {("GET", "2xx"): 1, ("GET", "gone"): 1}
        watched.close()

    stage.run(story())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rates", "kind"),
    [(Rates(address=1), "address"), (Rates(key=1), "key")],
    ids=["address", "key"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_is_over_a_limit_is_told_so(stage: Stage, rates: Rates, kind: str, method: str) -> None:
    world = stage.world
    sent, right = world.get("/v2/app/web/manifests/v1"), b"HTTP/1.1 200 "
    if method == "POST":
        line = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"
        sent, right = request(line, world.bearer("pusher"), "Content-Length: 0"), b"HTTP/1.1 202 "

    async def story() -> None:
        watched = Watched(world, rates)
        async with AsyncExitStack() as stack:
            port = await watched.start(stack, fast=True)
            async with connected(port) as client:
                answers = []
                for _ in range(BURST_MIN + 2):
                    await client.send(sent)
                    answers.append(await client.answer())
        good = [answer for answer in answers if answer.startswith(right)]
        assert len(good) == BURST_MIN
        for answer in answers[len(good) :]:
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nRetry-After: " in answer
        assert watched.lane is not None
        assert watched.lane.answered + watched.lane.written == BURST_MIN
        refused = [row.requests.get((method, "4xx"), 0) for row in watched.rows().values()]
        assert sum(refused) == 2
        watched.close()

    stage.run(story())


def test_the_access_log_has_the_same_lines(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    world = stage.world
    log = logging.getLogger("test.access")
    changing = ("seconds", "request_id")

    async def story(*, fast: bool) -> None:
        watched = Watched(world)
        async with AsyncExitStack() as stack:
            await ask(world, await watched.start(stack, fast=fast, log=log))
        watched.close()
        if watched.lane is not None:
            assert watched.lane.answered >= 7

    written: list[list[dict[str, Any]]] = []
    for fast in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger=log.name):
            stage.run(story(fast=fast))
        records = [record for record in caplog.records if record.name == log.name]
        fields = [record.__dict__["fields"] for record in records]
        assert all(isinstance(line["seconds"], float) for line in fields)
        assert len({line["request_id"] for line in fields}) == len(fields)
        for line in fields:
            line["path"] = IDENTIFIER.sub("ID", line["path"])
        written.append([{k: v for k, v in line.items() if k not in changing} for line in fields])
        assert records[0].getMessage().startswith('127.0.0.1 "GET /v2/app/web/manifests/v1 HTTP/1')
    assert written[0] == written[1]
    assert written[0][0]["actor"] == world.key.access_key


PROXIES = AppSettings(trusted_proxies=(ip_network("127.0.0.0/29"),))
SAID = {
    "": "",
    "X-Forwarded-For: 203.0.113.7": "203.0.113.7",
    "X-Forwarded-For: 203.0.113.7, 127.0.0.6": "203.0.113.7",
    "X-Forwarded-For: 127.0.0.6": "127.0.0.6",
    "X-Forwarded-For: nonsense": "",
    "X-Forwarded-For: 203.0.113.7, unknown": "",
    "X-Forwarded-For: unknown, 127.0.0.6": "127.0.0.6",
    "X-Forwarded-For:": "",
    "X-Forwarded-For: ,": "",
    "Forwarded: for=203.0.113.7": "",
    "X-Real-IP: 203.0.113.7": "",
}
"""What a trusted proxy says, and the address that follows: empty for that of the connection."""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_address_is_the_connections_where_a_proxy_says_none(
    loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was said before, on that connection or on another proxy's."""
    log = logging.getLogger("test.access")

    async def story(world: World, *, fast: bool) -> list[str]:
        watched = Watched(world, audit=tmp_path / f"audit-{fast}")
        expected = []
        async with AsyncExitStack() as stack:
            port = await watched.start(stack, fast=fast, log=log)
            proxies = [f"127.0.0.{number}" for number in (2, 3, 4)]
            clients = [
                await stack.enter_async_context(connected(port, source=proxy)) for proxy in proxies
            ]
            line = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"
            for said, address in (*SAID.items(), *reversed(SAID.items())):
                headers = [said] * bool(said)
                for client, proxy in zip(clients, proxies, strict=True):
                    await client.send(world.get("/v2/app/web/manifests/v1", *headers))
                    assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
                    length = "Content-Length: 0"
                    await client.send(request(line, world.bearer("pusher"), length, *headers))
                    assert (await client.answer()).startswith(b"HTTP/1.1 202 ")
                    expected += [address or proxy] * 2
            # Two in one packet.
            two = [f"X-Forwarded-For: 198.51.100.{number}" for number in (1, 2)]
            await clients[0].send(b"".join(request("GET /v2/ HTTP/1.1", said) for said in two))
            for number in (1, 2):
                assert (await clients[0].answer()).startswith(b"HTTP/1.1 401 ")
                expected.append(f"198.51.100.{number}")
        assert [line["address"] for line in watched.audited()] == expected[1:-2:2]
        watched.close()
        if watched.lane is not None:
            assert watched.lane.answered >= 54
            assert watched.lane.written >= 54
        return expected

    with staged(loop, tmp_path, PROXIES) as stage:
        for fast in (False, True):
            caplog.clear()
            with caplog.at_level(logging.INFO, logger=log.name):
                expected = stage.run(story(stage.world, fast=fast))
            assert [line.__dict__["fields"]["address"] for line in caplog.records] == expected


def test_a_proxy_that_says_no_address_is_limited_by_itself(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        watched = Watched(world, Rates(address=1))
        async with AsyncExitStack() as stack:
            port = await watched.start(stack, fast=True)
            for number in (2, 3):
                source = f"127.0.0.{number}"
                client = await stack.enter_async_context(connected(port, source=source))
                sent = world.get("/v2/app/web/manifests/v1")
                statuses = []
                for _ in range(BURST_MIN + 1):
                    await client.send(sent)
                    statuses.append(int((await client.answer())[9:12]))
                assert statuses == [200] * BURST_MIN + [429], source
        watched.close()

    with staged("uvloop", tmp_path, PROXIES) as stage:
        stage.run(story(stage.world))
