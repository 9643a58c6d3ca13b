"""Upkeep of the store over the management API: in steps that end by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from support.cli import blob_files, damage
from support.management import REGISTRY, Server, disk_store, memory_store, serving

from holdfast.engine import Problem, Store

SWEEP, SCRUB, CHECK = "/holdfast/v1/sweep", "/holdfast/v1/scrub", "/holdfast/v1/check"
LAYER = b"l" * 100_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(disk_store(tmp_path, background=False)) as running:
        yield running


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request does one step."""
    monkeypatch.setattr("holdfast.api.management.upkeep.WORK_SECONDS", 0.0)


@pytest.mark.usefixtures("short")
async def test_a_sweep_is_asked_for_until_it_is_finished(server: Server, tmp_path: Path) -> None:
    made = await server.create("swept")
    for number in range(3):
        await server.push(f"swept/app{number}", "v1", LAYER + bytes([number]))
    await server.ok("DELETE", f"{REGISTRY}/namespaces/{made['id']}")
    assert (await server.ok("POST", SWEEP))["freed_bytes"] == 0
    assert len(blob_files(tmp_path / "data")) == 3
    done = [await server.ok("POST", SWEEP, payload={"early": True})]
    while not done[-1]["finished"]:
        done.append(await server.ok("POST", SWEEP, payload={"early": True}))
    assert len(done) > 2
    assert sum(item["freed_bytes"] for item in done) >= 3 * len(LAYER)
    assert blob_files(tmp_path / "data") == []


@pytest.mark.slow
@pytest.mark.usefixtures("short")
async def test_a_scrub_reads_every_blob_once_in_several_requests(
    server: Server, tmp_path: Path
) -> None:
    for number in range(7):
        await server.store.put(LAYER + bytes([number]))
    first = blob_files(tmp_path / "data")[0]
    damage(first)
    for _ in range(2):  # the second time it begins where the first one ended
        await server.store.scrubber.run(3 * len(LAYER))
        done = [await server.ok("POST", SCRUB)]
        while done[-1]["paused"]:
            assert not done[-1]["finished"]
            done.append(await server.ok("POST", SCRUB, payload={"origin": done[0]["origin"]}))
        assert done[-1]["finished"]
        assert sum(item["blobs"] for item in done) == 7
        assert {item["origin"] for item in done} == {done[0]["origin"]}
        assert done[0]["origin"] != ""
    again = await server.ok("POST", CHECK)
    assert [item["kind"] for item in again["problems"]] == ["blob"]


@pytest.mark.usefixtures("short")
async def test_the_budget_of_a_scrub_holds_over_its_requests(server: Server) -> None:
    for number in range(5):
        await server.store.put(LAYER + bytes([number]))
    size = len(LAYER) + 1
    first = await server.ok("POST", SCRUB, payload={"budget": 2 * size + 10})
    assert (first["bytes"], first["paused"]) == (size, True)
    rest = {"budget": size + 10, "origin": first["origin"]}
    second = await server.ok("POST", SCRUB, payload=rest)
    assert (second["bytes"], second["paused"]) == (size, False)
    last = await server.ok("POST", SCRUB, payload={**rest, "budget": 10})
    assert (last["bytes"], last["paused"], last["finished"]) == (0, False, False)
    for wrong in ("x", "AB" * 32, "0" * 63):
        answer = await server.call("POST", SCRUB, payload={"origin": wrong})
        assert answer.json["details"][0]["argument_name"] == "origin"


@pytest.mark.slow
async def test_a_check_tells_what_is_wrong(server: Server, tmp_path: Path) -> None:
    await server.create("checked")
    await server.push("checked/app", "v1", LAYER)
    assert await server.ok("POST", CHECK) == {"problems": [], "problem_count": 0}
    (file,) = blob_files(tmp_path / "data")
    file.unlink()
    found = await server.ok("POST", CHECK)
    assert found["problem_count"] == len(found["problems"]) == 1
    assert set(found["problems"][0]) == {"kind", "name", "reason"}


async def test_one_check_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Store, *, deep: bool = False) -> AsyncGenerator[Problem, None]:
        for number in range(1001):
            yield Problem("blob", str(number), "bad")
        begun.set()
        await go_on.wait()

    monkeypatch.setattr(Store, "check", slow)
    async with serving(memory_store()) as server:
        first = asyncio.create_task(server.ok("POST", CHECK))
        await begun.wait()
        second = await server.call("POST", CHECK)
        assert (second.status, second.json["type"]) == (409, "transient_state")
        go_on.set()
        answer = await first
        assert (len(answer["problems"]), answer["problem_count"]) == (1000, 1001)
        assert (await server.call("POST", CHECK)).status == 200
