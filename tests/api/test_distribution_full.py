"""The ledger's map is full: what adds is refused in the form of the API, all else goes on, and
what deletes give back is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from support.api import digest_of
from support.distribution import Answer, Registry, registry

from holdfast.engine import INLINE_BYTES_CAP, Store, StoreConfig, check_directory

pytestmark = pytest.mark.slow

MAP_BYTES: Final = 16 << 20
"""The smallest that a store takes."""

SMALL: Final = 56_000
"""Bytes of a blob that lies in the ledger."""

REPOSITORY: Final = "/v2/team/filling"


async def push(server: Registry, number: int) -> Answer:
    content = number.to_bytes(4, "big") * (SMALL // 4)
    path = f"{REPOSITORY}/blobs/uploads/?digest={digest_of(content)}"
    return await server.call("POST", path, data=content)


async def test_a_full_ledger_over_http(tmp_path: Path) -> None:
    config = StoreConfig(background=False, map_bytes=MAP_BYTES, inline_bytes=INLINE_BYTES_CAP)
    async with registry(Store.open(tmp_path / "data", config)) as server:
        await server.namespace("team")
        pushed = 0
        while (answer := await push(server, pushed)).status == 201:
            pushed += 1
            assert pushed < MAP_BYTES // SMALL
        assert pushed > MAP_BYTES // SMALL // 4
        # Whatever adds something is refused, and says why.
        for refused in (answer, await push(server, 10_000)):
            assert refused.status in (503, 507)
            assert refused.json["errors"][0]["code"] == "UNAVAILABLE"
        # What is there is served, and can be deleted.
        for number in range(pushed):
            digest = digest_of(number.to_bytes(4, "big") * (SMALL // 4))
            answer = await server.call("GET", f"{REPOSITORY}/blobs/{digest}")
            assert (answer.status, len(answer.body)) == (200, SMALL)
        for number in range(pushed):
            digest = digest_of(number.to_bytes(4, "big") * (SMALL // 4))
            answer = await server.call("DELETE", f"{REPOSITORY}/blobs/{digest}")
            assert answer.status == 202, answer
        await server.store.sweeper.run(early=True)
        # Its room is used again.
        again = 0
        while (await push(server, 20_000 + again)).status == 201 and again < pushed // 2:
            again += 1
        assert again == pushed // 2
    assert [each async for each in check_directory(tmp_path / "data", deep=True)] == []
