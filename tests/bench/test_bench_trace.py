"""Recorded traces: what is read, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.bench.load.content import Blob, Content
from holdfast.bench.load.registry import Registry, Style
from holdfast.bench.load.trace import BadTrace, Operation, Player, Replay, read


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


def test_a_size_that_was_not_recorded_is_drawn() -> None:
    """A registry's own log has the size of the answer to a push, which is nothing."""
    operations = tuple(
        Operation(0.0, "push_blob", f"a/blobs/uploads/{number}", 0) for number in range(40)
    )
    sent = []

    class Taking:
        async def push_blob(self, blob: Blob, style: Style) -> None:
            sent.append(blob.size)

    async def play() -> None:
        for _, action in Player(Replay(operations, "r"), Content("seed"), 0, 1).plan():
            await action(cast("Registry", Taking()))

    asyncio.run(play())
    assert len(set(sent)) > 10
    assert all(64 <= size <= 2 << 20 for size in sent)


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
