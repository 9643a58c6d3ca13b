"""Traces: what a collector gets of each request, and what it never gets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.api import basic
from support.operating import SECRET, WRONG, ask, call, connect, make_namespace, operated, push
from support.server import WAIT_SECONDS, command

from holdfast.api.http.slow_clients import Pace
from holdfast.api.telemetry.request_record import RequestRecord
from holdfast.api.telemetry.tracing import Traces
from holdfast.api.telemetry.waits import Steps
from holdfast.engine import WAITS

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{'1' * 32}-b7ad6b7169203331-00"


class Collector:
    """Takes spans over HTTP, as a collector does. ``url`` is its endpoint."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.spans: list[dict[str, Any]] = []
        self.raw = b""
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, dict(self.headers), body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_request(self, code: object = "-", size: object = "-") -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/base/v1/traces"
        self.headers.append(headers)
        self.raw += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_named(group.resource.attributes))
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        {
                            "name": span.name,
                            "id": span.span_id.hex(),
                            "begun": span.start_time_unix_nano,
                            "kind": span.kind,
                            "trace": span.trace_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "state": span.trace_state,
                            "error": span.status.code == 2,
                            "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                            **_named(span.attributes),
                        }
                    )

    def of(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]


def _named(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = Thread(target=collector.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "workers"), [("fast", 2), ("no-fast", 1)])
def test_a_span_for_each_request(path: str, workers: int, tmp_path: Path) -> None:
    """Of all workers, on the fast lane or not, sent at the latest when the server stops."""
    with collecting() as collector:
        with operated(
            tmp_path / "data",
            f"--traces={collector.url}/base/",
            f"--{path}-path",
            workers=workers,
            environment={
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
                "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=of-the-collector",
            },
        ) as server:
            namespace = make_namespace(server, "team", is_public=True).json
            push(server, "team/app", b"layer" * 300_000)
            connection = connect(server.address)
            manifest = ask(
                connection,
                "GET",
                "/v2/team/app/manifests/v1",
                traceparent=PARENT,
                tracestate="congo=t61rcWkgMzE",
                User_Agent="docker/28",
            )
            layer = manifest.json["layers"][0]["digest"]
            for _ in range(2):  # the second time it is open already
                ask(connection, "GET", f"/v2/team/app/blobs/{layer}")
            ask(connection, "GET", "/v2/team/app/manifests/none")
            ask(connection, "GET", "/v2/team/app/manifests/v1", traceparent=NOT_SAMPLED)
            ask(connection, "GET", "/healthz")
            ask(connection, "GET", "/nowhere?secret=of-a-query")
            connection.close()
            denied = call(server, "GET", "/v2/", Authorization=basic(WRONG))
            token = call(
                server,
                "GET",
                "/token?service=registry&scope=repository:team/app:pull",
                Authorization=basic(SECRET),
            ).json["token"]
            call(server, "GET", "/v2/team/app/tags/list", Authorization=f"Bearer {token}")
            assert server.stop() == 0
            assert server.errors() == ""
        check_what_uploads_waited_for(collector)
        # Of kind server; what they waited for is internal.
        spans = [span for span in collector.spans if span["kind"] != 1]
        assert all(span["kind"] == 2 for span in spans)
        assert all(0 < span["nanoseconds"] < 60e9 for span in spans)
        assert len({span["holdfast.request_id"] for span in spans}) == len(spans)
        counts = {name: len(collector.of(name)) for name in {span["name"] for span in spans}}
        assert counts == {
            "POST /registry/v1/regions/{region}/namespaces": 1,
            "POST /v2/{name}/blobs/uploads/": 2,
            "PUT /v2/{name}/manifests/{reference}": 1,
            "GET /v2/{name}/manifests/{reference}": 2,
            "GET /v2/{name}/blobs/{digest}": 2,
            "GET /v2/{name}/tags/list": 1,
            "GET": 1,
            "GET /v2/": 1,
            "GET /token": 1,
        }
        first, missing = collector.of("GET /v2/{name}/manifests/{reference}")
        assert (
            first.items()
            >= {
                "trace": TRACE,
                "parent": "b7ad6b7169203331",
                "state": "congo=t61rcWkgMzE",
                "http.request.method": "GET",
                "http.route": "/v2/{name}/manifests/{reference}",
                "http.response.status_code": 200,
                "url.scheme": "http",
                "url.path": "/v2/team/app/manifests/v1",
                "network.protocol.version": "1.1",
                "client.address": "127.0.0.1",
                "user_agent.original": "docker/28",
                "holdfast.request_id": manifest.headers["X-Request-Id"],
                "holdfast.name": "team/app",
                "holdfast.region": "fr-par",
                "error": False,
            }.items()
        )
        assert (missing["http.response.status_code"], missing["error"]) == (404, False)
        assert missing["trace"] != TRACE
        assert missing["parent"] == ""
        assert collector.of("GET /v2/")[0]["holdfast.request_id"] == denied.headers["X-Request-Id"]
        (listed,) = collector.of("GET /v2/{name}/tags/list")
        assert listed["holdfast.access_key"].startswith("SCW")
        (made,) = collector.of("POST /registry/v1/regions/{region}/namespaces")
        assert made["holdfast.name"] == namespace["name"]
        for resource in collector.resources:
            assert resource["service.name"] == "holdfast"
            assert resource["deployment.environment.name"] == "test"
        assert collector.headers[0]["x-collector-key"] == "of-the-collector"
        # No secret of anybody, and nothing of a query.
        for secret in (SECRET, WRONG, basic(SECRET)[6:], token, "of-a-query"):
            assert secret.encode() not in collector.raw


def check_what_uploads_waited_for(collector: Collector) -> None:
    """A small blob waits for a commit, one with a file for the disk too."""
    below: dict[str, list[dict[str, Any]]] = {}
    for span in collector.spans:
        if span["kind"] == 1:
            below.setdefault(span["parent"], []).append(span)
    uploads = collector.of("POST /v2/{name}/blobs/uploads/")
    small, large = sorted((below[span["id"]] for span in uploads), key=len)
    assert "ledger commit" in {step["name"] for step in small}
    assert not any("sync" in step["name"] for step in small)
    # Its bytes may be written, and hashed, before anybody waits for it.
    names = {step["name"] for step in large}
    assert names >= {"ledger commit", "thread create", "thread sync"}
    for parent in collector.spans:
        for step in below.get(parent["id"], ()):
            assert step["trace"] == parent["trace"]
            assert parent["begun"] <= step["begun"]
            ended = parent["begun"] + parent["nanoseconds"]
            assert step["begun"] + step["nanoseconds"] <= ended
            assert step["holdfast.count"] >= 1
            assert 0 <= step["holdfast.seconds"] < 60


def ended(**more: Any) -> RequestRecord:
    facts = {"route": "manifest", "path": "/v2/a/b/manifests/v1", "method": "GET", "status": 200}
    return RequestRecord(**{**facts, "seconds": 0.5, **more})


async def test_a_wait_for_the_client_is_told() -> None:
    steps = Steps()
    WAITS.set(steps)
    pace = Pace()
    for _ in range(2):
        await pace.within(asyncio.sleep(0.001))
    (step,) = steps
    assert (step.what, step.count) == ("client", 2)
    assert 0 < step.seconds < step.ended - step.begun + 0.001


async def test_a_request_begins_before_all_that_it_waits_for() -> None:
    """Also where its seconds were counted long before it is told of."""
    with collecting() as collector:
        traces = Traces(f"{collector.url}/base", "1.0")
        now = time.perf_counter()
        waits = Steps()
        waits.waited("late", now - 0.1, now - 0.05)
        waits.waited("early", now - 3, now - 2)
        traces.ended(ended(seconds=0.5, steps=waits))
        await traces.close()
    request = collector.of("GET /v2/{name}/manifests/{reference}")[0]
    begun = {span["name"]: span["begun"] for span in collector.spans}
    assert request["begun"] == begun["early"] < begun["late"]


async def test_whatever_clients_write_is_taken() -> None:
    """A span that could not be encoded would lose all others of its batch."""
    with collecting() as collector:
        traces = Traces(f"{collector.url}/base", "1.0")
        traces.ended(ended(agent="caf\udce9" + "x" * 5000, path="/v2/" + "y" * 5000))
        traces.ended(ended(method="BREW"))
        traces.ended(ended(status=503))
        traces.ended(ended(status=0, gone=True))
        for parent in ("00-0-0-0", "x" * 10_000, f"00-{'0' * 32}-{'0' * 16}-01", f"{PARENT}-x"):
            traces.ended(ended(parent=parent, state="a=b," * 2000))
        await traces.close()
    strange, brewed, failed, left, *orphans = collector.spans
    assert strange["user_agent.original"] == "caf?" + "x" * 1020
    assert len(strange["url.path"]) == 1024
    assert strange["nanoseconds"] == 500_000_000
    assert brewed["http.request.method"] == "_OTHER"
    assert brewed["name"] == "HTTP /v2/{name}/manifests/{reference}"
    assert failed.items() >= {"error": True, "error.type": "503"}.items()
    assert left["error.type"] == "gone"
    assert "http.response.status_code" not in left
    assert [span["parent"] for span in orphans] == [""] * 4


@pytest.mark.slow
async def test_a_collector_that_takes_nothing_stops_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        traces = Traces(f"http://127.0.0.1:{deaf.getsockname()[1]}", "1.0")
        traces.ended(ended())
        async with asyncio.timeout(WAIT_SECONDS):
            await traces.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("collector:4317", "is not http(s)://"),
        ("http://", "is not http(s)://"),
        ("http://user:of-the-collector@127.0.0.1:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_an_endpoint_that_is_none(url: str, reason: str) -> None:
    done = command("config", f"--traces={url}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("holdfast: --traces: ")
    assert reason in done.stderr
    assert "of-the-collector" not in done.stderr
