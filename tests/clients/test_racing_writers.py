"""Writers that race for a tag, over several workers of one server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from support.api import CONFIG_TYPE, MANIFEST_TYPE, Reply, digest_of
from support.clients import Registry

WRITERS = 8
PATH = "team/web/manifests/v1"


def test_exactly_one_wins_whichever_workers_they_reach(registry: Registry) -> None:
    registry.namespace("team")
    config = b"{}"
    begun = f"team/web/blobs/uploads/?digest={digest_of(config)}"
    assert registry.v2("POST", begun, config).status == 201

    def put(note: str, condition: dict[str, str]) -> Reply:
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [],
            "annotations": {"note": note},
        }
        headers = {"Content-Type": MANIFEST_TYPE, **condition}
        return registry.v2("PUT", PATH, json.dumps(body).encode(), headers)

    condition = {"If-None-Match": "*"}
    with ThreadPoolExecutor(WRITERS) as pool:
        for turn in range(5):
            notes = [f"{turn}.{number}" for number in range(WRITERS)]
            answers = list(pool.map(put, notes, [condition] * WRITERS))
            statuses = sorted(answer.status for answer in answers)
            assert statuses == [201, *[412] * (WRITERS - 1)]
            (won,) = (answer for answer in answers if answer.status == 201)
            digest = won.headers["Docker-Content-Digest"]
            found = registry.v2("HEAD", PATH)
            assert found.headers["ETag"] == f'"{digest}"'
            condition = {"If-Match": found.headers["ETag"]}
