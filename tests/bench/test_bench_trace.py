"""Recorded traces: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.trace import BadTrace, read


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
    record("2017-06-20T02:41:38.500Z", "PUT", "v2/ca64/3ae9/blobs/uploads/0c4b", 0, 201),
    record("2017-06-20T02:41:37.500Z", "GET", "v2/ca64/3ae9/manifests/7e8b", 1469),
    record("2017-06-20T02:41:37.700Z", "PATCH", "v2/ca64/3ae9/blobs/uploads/0c4b", 0, 202),
    record("2017-06-20T02:41:37.900Z", "GET", "v2/ca64/3ae9/blobs/b40a", 50_000),
    record("2017-06-20T02:41:38.000Z", "HEAD", "v2/ca64/3ae9/blobs/b40b", 0),
    record("2017-06-20T02:41:38.100Z", "GET", "v2/ca64/3ae9/blobs/gone", 90, 404),
    record("2017-06-20T02:41:38.200Z", "GET", "v2/", 2),
]


@pytest.mark.parametrize("lines", [False, True])
def test_both_shapes_of_a_trace(tmp_path: Path, lines: bool) -> None:
    path = tmp_path / "trace.json"
    texts = [json.dumps(one) for one in RECORDS]
    path.write_text("\n".join(texts) if lines else f"[{', '.join(texts)}]")
    found = read(path, limit=100, speed=2.0, scale=0.1)
    assert [one.kind for one in found] == ["pull_manifest", "pull_blob", "head_blob", "push_blob"]
    assert [one.at for one in found] == pytest.approx([0.0, 0.2, 0.25, 0.5])
    assert [one.size for one in found] == [146, 5000, 64, 64]
    assert len({one.key for one in found}) == 4
    assert len(read(path, limit=2)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no usable request"),
        ("[]", "no usable request"),
        ("[1]", "not an object"),
        ("{]", "not JSON"),
        ('{"timestamp": "2017-06-20T02:41:38Z"}', "lacks 'http.request.method'"),
        (json.dumps(record("yesterday", "GET", "v2/a/b/blobs/c")), "malformed"),
        (json.dumps({**RECORDS[1], "http.response.written": "much"}), "malformed"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(BadTrace, match=says) as error:
        read(path, limit=10)
    assert "\n" not in str(error.value)
