"""Recorded traces: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.load.trace import read


def record(at: str, method: str, uri: str, written: int = 1000, status: int = 200) -> Any:
    return {
        "host": "579633fd",
        "http.request.duration": 0.9,
        "http.request.method": method,
        "http.request.remoteaddr": "0ee76ffa",
        "http.request.uri": uri,
        "http.request.useragent": "docker/17.03.1-ce go/go1.7.5",
        "http.response.status": status,
        "http.response.written": written,
        "id": "9f63984e",
        "timestamp": at,
    }


RECORDS = [
    record(
        "2017-06-20T02:41:38.500Z", "PUT", "v2/ca64/3ae9/blobs/uploads/0c4b?digest=x", 9000, 201
    ),
    record("2017-06-20T02:41:37.500Z", "GET", "v2/ca64/3ae9/manifests/7e8b", 1469),
    record("2017-06-20T02:41:37.700Z", "PATCH", "v2/ca64/3ae9/blobs/uploads/0c4b", 0, 202),
    record("2017-06-20T02:41:37.900Z", "GET", "v2/ca64/3ae9/blobs/b40a", 50_000),
    record("2017-06-20T02:41:38.000Z", "HEAD", "v2/ca64/3ae9/blobs/b40b", 0),
    record("2017-06-20T02:41:38.100Z", "GET", "v2/ca64/3ae9/blobs/gone", 90, 404),
    record("2017-06-20T02:41:38.200Z", "GET", "v2/", 2),
    record("2017-06-20T02:41:38.600Z", "PUT", "v2/ca64/3ae9/manifests/7e8c", 0, 201),
    record("2017-06-20T02:41:38.700Z", "POST", "v2/ca64/3ae9/blobs/uploads/", 0, 202),
    record("2017-06-20T02:41:38.800Z", "DELETE", "v2/ca64/3ae9/manifests/7e8c", 0, 202),
]


@pytest.mark.parametrize("lines", [False, True])
def test_both_shapes_of_a_trace(tmp_path: Path, lines: bool) -> None:
    path = tmp_path / "trace.json"
    texts = [json.dumps(one) for one in RECORDS]
    path.write_text("\n".join(texts) if lines else f"[{', '.join(texts)}]")
    found = read(path, limit=100, speed=2.0, scale=0.1)
    assert [(one.kind, one.size) for one in found] == [
        ("pull_manifest", 146),
        # An upload counts once, from its first request on, with the size that the trace tells.
        ("push_blob", 900),
        ("pull_blob", 5000),
        ("head_blob", 0),
        ("push_manifest", 0),
    ]
    assert [one.at for one in found] == pytest.approx([0.0, 0.1, 0.2, 0.25, 0.55])
    assert len({one.key for one in found}) == 5
    assert len(read(path, limit=2)) == 2
