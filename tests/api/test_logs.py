"""Log lines, access log and audit log of a real server."""

from __future__ import annotations

import json
import logging
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from support.api import basic, digest_of
from support.operating import (
    NAMESPACES,
    OWNER,
    SECRET,
    WRONG,
    ask,
    call,
    connect,
    make_namespace,
    operated,
    push,
)
from support.recorded import FAST, bearer, check_path, fast_answers, prepare, reads_and_pushes
from support.server import WAIT_SECONDS

from holdfast.api.telemetry.audit import result_of
from holdfast.api.telemetry.logs import (
    BareFormatter,
    JsonFormatter,
    PlainFormatter,
    log_access,
    timestamp,
)
from holdfast.api.telemetry.request_record import CURRENT, RequestRecord

pytestmark = pytest.mark.slow

MANIFEST = "/v2/team/app/manifests/v1"
UPLOADS = "/v2/team/app/blobs/uploads/"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("holdfast.x", logging.WARNING, "", 1, message, arguments, None)


def test_a_client_cannot_begin_a_line() -> None:
    said = PlainFormatter().format(record("%s", "a\r\nERROR b\x1b[31m\u2028c\x85"))
    assert "\n" not in said
    assert said.endswith(r"holdfast.x: a\u000d\u000aERROR b\u001b[31m\u2028c\u0085")
    said = JsonFormatter().format(record("%s", "a\nb\udcff"))
    assert "\n" not in said
    assert json.loads(said)["message"] == "a\nb?"


HOSTILE = 'x" 200 0 0.0s "\\ \u202egnp\u2066\u200b\u2029\x1b[2J\x85\udcff \u00e9\U000e0001'
"""Quotes, backslashes, text that is turned around or hidden, and bytes that are no text."""


def test_nothing_in_a_line_turns_around_or_hides_what_stands_there() -> None:
    said = PlainFormatter().format(record("%s", HOSTILE))
    assert said.isprintable()
    assert said.endswith(r"\ \u202egnp\u2066\u200b\u2029\u001b[2J\u0085\udcff é\udb40\udc01"[1:])
    written = JsonFormatter().format(record("%s", HOSTILE))
    assert written.isprintable()
    assert json.loads(written)["message"] == HOSTILE.replace("\udcff", "?")
    assert BareFormatter().format(record("a\u202eb\nc")) == r"a\u202eb\u000ac"


def test_fields_of_the_access_log_end_where_they_say(caplog: pytest.LogCaptureFixture) -> None:
    """As Apache writes them; each of them, whoever brought it."""
    log = logging.getLogger("test.access")
    line = RequestRecord(
        address=HOSTILE,
        method=HOSTILE,
        path=HOSTILE,
        status=200,
        size=1,
        seconds=0.5,
        agent=HOSTILE,
        actor=HOSTILE,
        request_id="the-id",
    )
    with caplog.at_level(logging.INFO, logger=log.name):
        log_access(log, line)
    (said,) = caplog.records
    one = (
        r"x\" 200 0 0.0s \"\\ \xe2\x80\xaegnp\xe2\x81\xa6\xe2\x80\x8b\xe2\x80\xa9\x1b[2J\xc2\x85"
        r"\xff \xc3\xa9\xf3\xa0\x80\x81"
    )
    assert said.getMessage() == (
        f'{one} "{one} {one} HTTP/1.1" 200 1 0.500000s "{one}" {one} the-id'
    )


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_a_client_forges_no_column(tmp_path: Path, path_option: str, kind: str) -> None:
    """Through a real server, with and without the lane: headers, target, audit log."""
    audit = tmp_path / "audit"
    agent = b'a" 200 0 0.0s "\\\xe2\x80\xae\xff'
    target = b'/v2/app/web/manifests/"\\'
    options = (path_option, "--access-log", f"--log-format={kind}", f"--audit-log={audit}")
    with operated(tmp_path / "data", *options) as server:
        host, port = server.address.split(":")
        for method in (b"GET", b"DELETE"):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                lines = (b"Host: x", b"User-Agent: " + agent, b"Connection: close")
                head = b"\r\n".join((method + b" " + target + b" HTTP/1.1", *lines, b"", b""))
                connection.sendall(head)
                while connection.recv(1 << 16):
                    pass
        server.stop()
        said = [line for line in server.errors().splitlines() if "HTTP/1.1" in line]
    assert len(said) == 2
    for line in (*said, *audit.read_text().splitlines()):
        assert line.isprintable(), line
    for line in said:
        if kind == "json":
            assert json.loads(line)["agent"] == 'a" 200 0 0.0s "\\\u202e?'
        else:
            assert r'"a\" 200 0 0.0s \"\\\xe2\x80\xae\xff"' in line
            assert len(re.findall(r'(?<!\\)"', line)) == 4


def test_lines_carry_the_request() -> None:
    token = CURRENT.set(RequestRecord(request_id="the-id"))
    try:
        assert PlainFormatter().format(record("hello")).endswith("hello (the-id)")
        assert json.loads(JsonFormatter().format(record("hello")))["request_id"] == "the-id"
    finally:
        CURRENT.reset(token)
    assert PlainFormatter().format(record("hello")).endswith("hello")
    assert "request_id" not in json.loads(JsonFormatter().format(record("hello")))


def test_a_traceback_stays_recognizable() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        failure = record("it failed")
        failure.exc_info = (ValueError, error, error.__traceback__)
    assert "\nValueError: first\nsecond" in PlainFormatter().format(failure)
    assert "ValueError: first\nsecond" in json.loads(JsonFormatter().format(failure))["exception"]
    assert timestamp(1.0005) == "1970-01-01T00:00:01.000Z"


def test_each_request_is_logged_as_its_client_saw_it(tmp_path: Path, path_option: str) -> None:
    audit = tmp_path / "audit.log"
    options = ("--access-log", "--log-format=json", f"--audit-log={audit}", path_option)
    with operated(tmp_path / "data", *options) as server:
        done = reads_and_pushes(server, prepare(server))
        server.stop()
        said = [json.loads(line) for line in server.errors().splitlines()]
    lines = [line for line in said if line["agent"] == "x/1"]
    check_path(path_option, (line["request_id"] for line in lines))
    for line in lines:
        assert line.pop("message").startswith(f'127.0.0.1 "{line["method"]} {line["path"]} HTTP/1')
        assert 0 <= line.pop("seconds") < WAIT_SECONDS
        assert (line["level"], line["logger"]) == ("info", "holdfast.access")
        assert (line["address"], line["actor"]) == ("127.0.0.1", OWNER["HOLDFAST_ACCESS_KEY"])
    fields: tuple[str, ...] = ("request_id", "method", "path", "status", "bytes")
    assert [tuple(line[field] for field in fields) for line in lines] == [
        (*each.facts, each.size) for each in done
    ]
    assert {line["agent"] for line in said} == {"-", "x/1"}
    changes = [each for each in done if each.method not in ("GET", "HEAD")]
    audited = lines_of(audit)[-len(changes) :]
    assert [tuple(line[field] for field in fields[:4]) for line in audited] == [
        each.facts for each in changes
    ]
    good, bad = (each.path.rpartition("/")[2] for each in changes if each.method == "PATCH")
    fields = ("action", "kind", "id", "result")
    assert [tuple(line[field] for field in fields) for line in audited] == [
        ("POST uploads", "upload", "", "done"),
        ("PATCH upload", "upload", good, "done"),
        ("PUT upload", "blob", digest_of(b"good"), "done"),
        ("POST uploads", "upload", "", "done"),
        ("PATCH upload", "upload", bad, "done"),
        ("PUT upload", "blob", digest_of(b"good"), "refused"),
        ("PUT manifest", "manifest", "v5", "refused"),
    ]
    fields = ("actor", "name", "region", "address")
    assert {tuple(line[field] for field in fields) for line in audited} == {
        (OWNER["HOLDFAST_ACCESS_KEY"], "team/app", "fr-par", "127.0.0.1")
    }


FORWARDED = {
    "": "",
    "203.0.113.7": "203.0.113.7",
    "203.0.113.7, 127.0.0.6": "203.0.113.7",
    "127.0.0.6": "127.0.0.6",
    "nonsense": "",
    "203.0.113.7, unknown": "",
    "unknown, 127.0.0.6": "127.0.0.6",
    ",": "",
}
"""What a trusted proxy says, and the address that follows: empty for that of the connection."""


def test_the_address_is_the_connections_where_a_proxy_says_none(
    tmp_path: Path, path_option: str
) -> None:
    """Whatever was said before, on that connection or on another proxy's."""
    audit = tmp_path / "audit.log"
    options = ("--access-log", "--log-format=json", f"--audit-log={audit}", path_option)
    proxies = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    with operated(tmp_path / "data", *options, "--trusted-proxy=127.0.0.0/29") as server:
        make_namespace(server, "team", is_public=True)
        push(server, "team/app", b"layer")
        credentials = bearer(server, "team/app")
        clients = [connect(server.address, source=proxy) for proxy in proxies]
        expected = []
        headers = [{"X_Forwarded_For": said} if said else {} for said in FORWARDED]
        headers += [{"X_Real_IP": "203.0.113.7"}, {"Forwarded": "for=203.0.113.7"}]
        for more in (*headers, *reversed(headers)):
            address = FORWARDED.get(more.get("X_Forwarded_For", ""), "")
            for client, proxy in zip(clients, proxies, strict=True):
                asked = {"Authorization": credentials, "User_Agent": "x/1", **more}
                assert ask(client, "GET", MANIFEST, None, **asked).status == 200
                assert ask(client, "POST", UPLOADS, None, **asked).status == 202
                expected += [address or proxy] * 2
        for client in clients:
            client.close()
        server.stop()
        said = [json.loads(line) for line in server.errors().splitlines()]
    lines = [line for line in said if line["agent"] == "x/1"]
    assert [line["address"] for line in lines] == expected
    assert [line["address"] for line in lines_of(audit)[-len(expected) // 2 :]] == expected[1::2]
    # The fast path does not know the headers Forwarded and X-Real-IP of a proxy.
    fast = fast_answers(line["request_id"] for line in lines)
    assert (fast >= len(expected) * 4 // 5) if path_option == FAST else (fast == 0)


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_log_lines_name_the_request_they_belong_to(tmp_path: Path, kind: str) -> None:
    """A file that vanished is told in the log, under the id that the client was given."""
    data = tmp_path / "data"
    layer = b"x" * 200_000
    with operated(data, f"--log-format={kind}") as server:
        make_namespace(server, "team")
        push(server, "team/app", layer)
        for path in data.rglob("*"):
            if path.is_file() and path.stat().st_size == len(layer):
                path.unlink()
        reply = call(
            server, "GET", f"/v2/team/app/blobs/{digest_of(layer)}", Authorization=basic(SECRET)
        )
        assert reply.status == 404
        server.stop()
        said = [line for line in server.errors().splitlines() if "GET /v2/team/app/" in line]
    assert said
    for line in said:
        if kind == "json":
            assert json.loads(line)["request_id"] == reply.headers["X-Request-Id"]
        else:
            assert line.endswith(f"({reply.headers['X-Request-Id']})")


def test_a_level_leaves_lines_out(tmp_path: Path) -> None:
    said = {}
    for level in ("info", "error"):
        with operated(tmp_path / level, f"--log-level={level}") as server:
            host, port = server.address.split(":")
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(b"nonsense\r\n\r\n")
                assert b" 400 " in connection.recv(1000)
            server.stop()
            said[level] = server.errors()
    assert " INFO holdfast.api.http.connection: " in said["info"]
    assert said["error"] == ""


def test_every_change_is_audited(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    with operated(tmp_path / "data", f"--audit-log={log}", workers=2) as server:
        namespace = make_namespace(server, "team").json
        push(server, "team/app", b"the layer")
        key = call(
            server, "POST", "/holdfast/v1/keys", b'{"permission": "read"}', X_Auth_Token=SECRET
        ).json
        place = f"{NAMESPACES}/{namespace['id']}"
        assert call(server, "DELETE", place, X_Auth_Token=key["secret_key"]).status == 403
        assert call(server, "DELETE", "/v2/team/app/manifests/v1").status == 401
        assert call(server, "POST", NAMESPACES, b"{}", X_Auth_Token=WRONG).status == 401
        deleted = call(server, "DELETE", place, X_Auth_Token=SECRET)
        assert deleted.status == 200
        # Reads, logins and questions are no changes.
        call(server, "GET", NAMESPACES, X_Auth_Token=SECRET)
        call(server, "GET", "/v2/team/app/manifests/v1", Authorization=basic(SECRET))
        call(server, "POST", "/token", b"grant_type=password&password=" + SECRET.encode())
    lines = lines_of(log)
    owner, reader, of_it = OWNER["HOLDFAST_ACCESS_KEY"], key["access_key"], namespace["id"]
    fields = ("actor", "action", "kind", "id", "name", "result")
    assert [tuple(line[field] for field in fields) for line in lines] == [
        (owner, "CreateNamespace", "namespace", of_it, "team", "done"),
        (owner, "POST uploads", "blob", digest_of(b"{}"), "team/app", "done"),
        (owner, "POST uploads", "blob", digest_of(b"the layer"), "team/app", "done"),
        (owner, "PUT manifest", "manifest", "v1", "team/app", "done"),
        (owner, "CreateKey", "key", reader, "", "done"),
        (reader, "DeleteNamespace", "namespace", of_it, "", "refused"),
        ("anonymous", "DELETE manifest", "manifest", "v1", "team/app", "refused"),
        ("anonymous", "CreateNamespace", "namespace", "", "", "refused"),
        (owner, "DeleteNamespace", "namespace", of_it, "team", "done"),
    ]
    last = lines[-1]
    assert re.fullmatch(_TIME, last["time"])
    assert last["address"] == "127.0.0.1"
    assert last["region"] == "fr-par"
    assert last["status"] == 200
    assert last["path"] == place
    assert last["request_id"] == deleted.headers["X-Request-Id"]
    text = log.read_text()
    for secret in (SECRET, WRONG, key["secret_key"], basic(SECRET)):
        assert secret not in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_audit_log_on_standard_output(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--audit-log=-") as server:
        make_namespace(server, "team")
        server.stop()
        assert server.process.stdout is not None
        (line,) = map(json.loads, server.process.stdout)
    assert line["action"] == "CreateNamespace"


def test_results() -> None:
    assert [result_of(status) for status in (0, 201, 304, 403, 429, 500, 507)] == [
        "left", "done", "done", "refused", "refused", "failed", "failed",
    ]  # fmt: skip
