"""``/metrics`` of a real server with two workers, and the board below it."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from support.api import basic, digest_of
from support.damage import flip, sha
from support.operating import (
    SECRET,
    WRONG,
    ask,
    call,
    connect,
    eventually,
    make_namespace,
    metrics_address,
    operated,
    push,
)
from support.recorded import check_path, prepare, reads_and_pushes
from support.server import WAIT_SECONDS, ServerProcess, command

from holdfast.api.limits.shared_memory import COUNTERS_BYTES, SharedMemory
from holdfast.api.telemetry.counters import BOUNDS, Counters, Layout, Slot
from holdfast.api.telemetry.metrics import Metrics, Reporter
from holdfast.engine import Store, StoreConfig
from holdfast.engine.ledger.layout import BLOB

pytestmark = pytest.mark.slow

_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"]*",?)*)\})? (\S+)')


def scrape(server: ServerProcess) -> dict[str, float]:
    """Every sample, by name and labels as written."""
    reply = call(metrics_address(server), "GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[str, float] = {}
    typed: set[str] = set()
    for line in reply.body.decode().splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in typed
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            assert re.sub("_(?:bucket|sum|count)$", "", match[1]) in typed or match[1] in typed
            key = f"{match[1]}{{{match[2]}}}" if match[2] else match[1]
            assert key not in samples
            samples[key] = float(match[3])
    check_histograms(samples)
    return samples


def check_histograms(samples: dict[str, float]) -> None:
    """Buckets are counts up to a bound, so they only grow, and the last one has all."""
    last: dict[str, float] = {}
    for key, count in samples.items():
        if match := re.fullmatch(r'(\w+)_bucket\{(?:(.*),)?le="(\S+)"\}', key):
            labels = f"{{{match[2]}}}" if match[2] else ""
            assert count >= last.get(match[1] + labels, 0), key
            last[match[1] + labels] = count
            if match[3] == "+Inf":
                assert samples[f"{match[1]}_count{labels}"] == count
    assert last


def requests(samples: dict[str, float], route: str, method: str, status: str) -> float:
    labels = f'route="{route}",method="{method}",status="{status}"'
    return samples.get(f"holdfast_requests_total{{{labels}}}", 0)


def one_connection_each(server: ServerProcess, count: int) -> list[HTTPConnection]:
    """So many connections: with SO_REUSEPORT some go to each worker."""
    return [connect(server.address) for _ in range(count)]


def test_requests_of_all_workers_are_counted(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--metrics=127.0.0.1:0", workers=2) as server:
        assert make_namespace(server, "team", is_public=True).status == 200
        layer = os.urandom(100_000)
        push(server, "team/one", layer)
        push(server, "team/two", layer)
        for connection in one_connection_each(server, 32):
            assert ask(connection, "GET", "/v2/team/one/manifests/v1").status == 200
            assert ask(connection, "HEAD", "/v2/team/one/manifests/v1").status == 200
            assert ask(connection, "GET", "/v2/team/one/manifests/none").status == 404
            connection.close()
        assert call(server, "GET", "/v2/", Authorization=basic(WRONG)).status == 401
        assert call(server, "GET", "/nowhere").status == 404
        samples = scrape(server)
        assert requests(samples, "manifest", "GET", "2xx") == 32
        assert requests(samples, "manifest", "HEAD", "2xx") == 32
        assert requests(samples, "manifest", "GET", "4xx") == 32
        assert requests(samples, "manifest", "PUT", "2xx") == 2
        assert requests(samples, "uploads", "POST", "2xx") == 4
        assert requests(samples, "ping", "GET", "4xx") == 1
        assert requests(samples, "other", "GET", "4xx") == 1
        path = "/registry/v1/regions/{region}/namespaces"
        assert requests(samples, path, "POST", "2xx") == 1
        assert samples['holdfast_received_bytes_total{route="uploads"}'] == 2 * (len(layer) + 2)
        assert samples['holdfast_request_seconds_count{route="manifest"}'] == 98
        assert samples['holdfast_request_seconds_sum{route="manifest"}'] > 0
        assert samples["holdfast_failed_logins_total"] == 1
        assert samples["holdfast_namespaces"] == 1
        assert samples["holdfast_images"] == 2
        assert samples["holdfast_namespace_bytes"] == 2 * (len(layer) + 2)
        assert len(layer) < samples["holdfast_blob_bytes"] < 1.1 * len(layer)
        assert 1.8 < samples["holdfast_dedupe_ratio"] < 2
        assert samples["holdfast_garbage_entries"] == 0
        # The manifests came: what was uploaded for them is needed now.
        assert samples["holdfast_holds"] == 0
        path = f"/v2/team/one/blobs/uploads/?digest={digest_of(b'waits')}"
        assert call(server, "POST", path, b"waits", Authorization=basic(SECRET)).status == 201
        assert scrape(server)["holdfast_holds"] == 1
        assert samples["holdfast_ledger_used_bytes"] > 0
        assert samples["holdfast_scrub_walk_ratio"] == 0
        assert 0 <= samples["holdfast_scrub_walk_age_seconds"] < WAIT_SECONDS
        for name in ("scrub_blobs_total", "sweep_entries_total", "open_uploads", "connections"):
            assert f"holdfast_{name}" in samples
        # What the other worker committed comes within a second or so.
        eventually(lambda: scrape(server)["holdfast_ledger_commit_members_sum"] >= 7)
        assert "team" not in " ".join(samples)


def test_counters_survive_a_worker(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--metrics=127.0.0.1:0") as server:
        for _ in range(5):
            call(server, "GET", "/healthz")
        before = requests(scrape(server), "/healthz", "GET", "2xx")
        assert before == 5
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        assert call(server, "GET", "/healthz").status == 200
        assert requests(scrape(server), "/healthz", "GET", "2xx") == 6
        (worker,) = server.workers()
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: worker not in server.workers())
        assert call(server, "GET", "/healthz").status == 200
        assert requests(scrape(server), "/healthz", "GET", "2xx") == 7


async def test_what_the_sweep_set_aside_is_counted(tmp_path: Path) -> None:
    cells = SharedMemory().counters
    layout = Layout(())
    slot = Slot(cells[0], layout)
    async with Store.open(tmp_path / "data", StoreConfig(background=False)) as store:
        data = b"a blob whose row is damaged"
        await store.put(data)
        await store.core.ledger.transact(flip, BLOB + sha(data))
        await store.delete(digest_of(data))
        assert (await store.sweeper.run()).aside == 1
        metrics = Metrics(store, ["fr-par"], Counters(cells, layout), Reporter(store, slot))
        async with TestClient(TestServer(metrics.application())) as client:
            text = await (await client.get("/metrics")).text()
    assert "\nholdfast_aside_entries 1\n" in text
    assert "\nholdfast_garbage_entries 0\n" in text


def test_metrics_are_nowhere_else(tmp_path: Path) -> None:
    with operated(tmp_path / "data") as server:
        assert call(server, "GET", "/metrics").status == 404
        assert call(server, "GET", "/metrics", X_Auth_Token=SECRET).status == 404
    done = command("serve", f"--data={tmp_path / 'data'}", "--metrics=127.0.0.1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--metrics" in done.stderr


def test_each_request_is_counted_as_its_client_saw_it(tmp_path: Path, path_option: str) -> None:
    with operated(tmp_path / "data", "--metrics=127.0.0.1:0", path_option) as server:
        layer = prepare(server)
        before = scrape(server)
        done = reads_and_pushes(server, layer)
        after = scrape(server)
        counted = Counter[str]()
        for each in done:
            status = f"{each.reply.status // 100}xx"
            labels = f'route="{each.route}",method="{each.method}",status="{status}"'
            counted[f"holdfast_requests_total{{{labels}}}"] += 1
            route = f'{{route="{each.route}"}}'
            counted[f"holdfast_request_seconds_count{route}"] += 1
            counted[f"holdfast_received_bytes_total{route}"] += len(each.body)
            counted[f"holdfast_sent_bytes_total{route}"] += len(each.reply.body)
        leaver = connect(server.address)
        leaver.request("GET", f"/v2/team/app/blobs/{digest_of(layer)}")
        with leaver.getresponse() as answer:
            assert answer.read(1000)
            leaver.close()
        eventually(lambda: requests(scrape(server), "blob", "GET", "gone") == 1)
    check_path(path_option, (each.reply.headers["X-Request-Id"] for each in done))
    assert {key: after[key] - before.get(key, 0) for key in counted} == counted


def test_the_board_sums_its_slots() -> None:
    layout = Layout(("a", "b", "a"))
    cells = SharedMemory(3).counters
    first, second = Slot(cells[0], layout), Slot(cells[2], layout)
    first.count("a", "GET", 200, 1, 10, 0.0001)
    second.count("a", "GET", 200, 2, 20, 0.3)
    second.count("a", "BREW", 404, 0, 0, 1000.0)
    second.add("commits_4", 7)
    first.set("connections", 3)
    board = Counters(cells, layout)
    sums = board.sums()
    row = board.rows(sums)["a"]
    assert row.requests == {("GET", "2xx"): 2, ("OTHER", "4xx"): 1}
    assert (row.received, row.sent) == (3, 30)
    assert row.seconds == pytest.approx(1000.3001)
    assert row.buckets[0] == 1
    assert row.buckets[BOUNDS.index(0.5)] == 1
    assert row.buckets[-1] == 1
    assert board.rows(sums).keys() == {"a"}
    assert board.tallies(sums)["commits_4"] == 7
    # The one that follows goes on, but has no connections yet.
    Slot(cells[0], layout).count("a", "GET", 200, 0, 0, 0.0)
    sums = board.sums()
    assert board.rows(sums)["a"].requests["GET", "2xx"] == 3
    assert board.tallies(sums)["connections"] == 0


def test_a_slot_has_room_for_its_routes() -> None:
    with pytest.raises(ValueError, match="too many"):
        Layout([str(number) for number in range(COUNTERS_BYTES // 8)])
