"""Requests and failed logins by address and key, over all workers of a real server."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from support.api import Reply, basic
from support.operating import (
    NAMESPACES,
    SECRET,
    WRONG,
    ask,
    call,
    connect,
    make_namespace,
    metrics_address,
    operated,
    push,
    raw,
)
from support.recorded import FAST, bearer, fast_answers
from support.server import ServerProcess

from holdfast.api.limits import shared_memory
from holdfast.api.limits.addresses import network_prefix
from holdfast.api.limits.rates import BURST_MIN, Limits, Rates
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.server.settings import Settings

pytestmark = pytest.mark.slow

PROXIED = "--trusted-proxy=127.0.0.1/32"


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """A place for a unix socket, whose path must be short."""
    return tmp_path / "s"


def tally(server: ServerProcess, name: str) -> int:
    """A sample of the metrics by its name and labels."""
    body = call(metrics_address(server), "GET", "/metrics").body.decode()
    return int(float(body.partition(f"\nholdfast_{name} ")[2].split()[0]))


def statuses(replies: list[Reply]) -> Counter[int]:
    return Counter(reply.status for reply in replies)


def test_too_many_requests_from_an_address(tmp_path: Path) -> None:
    """Over all workers, in the form of each API; health is told to everybody."""
    options = ("--rate-address=10", "--metrics=127.0.0.1:0")
    with operated(tmp_path / "data", *options, workers=2) as server:
        replies = [call(server, "GET", "/v2/") for _ in range(40)]
        counted = statuses(replies)
        # A second's worth at once, and what came back while the others were asked.
        assert 10 <= counted[401] < 40
        assert counted[401] + counted[429] == 40
        refused = next(reply for reply in replies if reply.status == 429)
        assert refused.headers["Retry-After"] == "1"
        assert refused.json["errors"][0]["code"] == "TOOMANYREQUESTS"
        managed = [call(server, "GET", NAMESPACES, X_Auth_Token=SECRET) for _ in range(40)]
        other = next(reply for reply in managed if reply.status == 429)
        assert other.json["type"] == "too_many_requests"
        assert other.headers["Retry-After"] == "1"
        assert statuses([call(server, "GET", "/healthz") for _ in range(40)]) == {200: 40}
        assert tally(server, 'limited_requests_total{limit="address"}') > 2


def test_an_address_is_what_a_trusted_proxy_says(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--rate-address=0.01", PROXIED, workers=2) as server:

        def asked(forwarded: str) -> int:
            return call(server, "GET", "/v2/", X_Forwarded_For=forwarded).status

        # What a client wrote before the proxy's own entry makes it nobody else.
        used_up = [asked(f"9.9.9.{n}, 10.0.0.1") for n in range(11)]
        assert used_up == [401] * 10 + [429]
        assert asked("10.0.0.1:4711") == 429
        assert asked("10.0.0.2:4711") == 401
        # One client of IPv6 has a whole /64.
        used_up = [asked(f"[2001:db8::{n}]:{n + 1}") for n in range(11)]
        assert used_up == [401] * 10 + [429]
        assert asked("2001:db8:0:1::1") == 401
        # An entry that is none leads to whoever wrote it: the proxy.
        used_up = [asked(f"10.0.0.3, unknown-{n}") for n in range(11)]
        assert used_up == [401] * 10 + [429]
        assert asked("10.0.0.3") == 401


@pytest.mark.promise("SECURITY.md", "configured proxies")
def test_without_a_trusted_proxy_the_header_is_nothing(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--rate-address=0.01") as server:
        replies = [call(server, "GET", "/v2/", X_Forwarded_For=f"10.0.0.{n}") for n in range(11)]
        assert [reply.status for reply in replies] == [401] * 10 + [429]


def test_too_many_requests_with_a_key(tmp_path: Path) -> None:
    """Whichever address and API they come through, and with its tokens too."""
    with operated(tmp_path / "data", "--rate-key=0.01", PROXIED, workers=2) as server:
        token = call(server, "GET", "/token", Authorization=basic(SECRET)).json["token"]
        ways = [
            call(server, "GET", "/v2/", Authorization=basic(SECRET), X_Forwarded_For="10.0.0.1"),
            call(server, "GET", "/v2/", Authorization=f"Bearer {token}"),
            call(server, "GET", NAMESPACES, X_Auth_Token=SECRET, X_Forwarded_For="10.0.0.2"),
        ]
        assert [reply.status for reply in ways] == [200] * 3
        rest = [call(server, "GET", NAMESPACES, X_Auth_Token=SECRET) for _ in range(7)]
        assert rest[-1].status == 429
        for reply in (
            call(server, "GET", "/v2/", Authorization=basic(SECRET)),
            call(server, "GET", "/v2/", Authorization=f"Bearer {token}"),
            call(server, "GET", "/token", Authorization=basic(SECRET)),
        ):
            assert reply.status == 429
            assert reply.json["errors"][0]["code"] == "TOOMANYREQUESTS"
        # Nobody in particular is not that key.
        assert call(server, "GET", "/v2/").status == 401


@pytest.mark.parametrize("kind", ["address", "key"])
def test_small_reads_and_pushes_are_limited(tmp_path: Path, kind: str, path_option: str) -> None:
    """A trusted proxy that names no client is limited by itself, as any other address."""
    data = tmp_path / "data"
    with operated(data) as server:
        make_namespace(server, "team", is_public=True)
        push(server, "team/app", b"layer")
        credentials = bearer(server, "team/app")
    options = (f"--rate-{kind}=0.01", "--metrics=127.0.0.1:0", "--trusted-proxy=127.0.0.0/29")
    sources = ("127.0.0.2", "127.0.0.3") if kind == "address" else ("127.0.0.2",)
    asked = [("GET", "manifests/v1", 200), ("POST", "blobs/uploads/", 202)] * (BURST_MIN // 2 + 1)
    with operated(data, *options, path_option) as server:
        replies = []
        for source in sources:
            client = connect(server.address, source=source)
            for number, (method, rest, status) in enumerate(asked):
                reply = ask(client, method, f"/v2/team/app/{rest}", Authorization=credentials)
                assert reply.status == (status if number < BURST_MIN else 429)
                assert ("Retry-After" in reply.headers) == (number >= BURST_MIN)
                replies.append(reply)
            client.close()
        refused = (len(asked) - BURST_MIN) * len(sources)
        assert tally(server, f'limited_requests_total{{limit="{kind}"}}') == refused
    fast = fast_answers(reply.headers["X-Request-Id"] for reply in replies)
    assert fast == (BURST_MIN * len(sources) if path_option == FAST else 0)


FORM = b"grant_type=password&password="
LOGINS: Final[dict[str, Callable[[str], tuple[str, str, dict[str, str], bytes]]]] = {
    "basic": lambda secret: ("GET", "/v2/", {"Authorization": basic(secret)}, b""),
    "token": lambda secret: ("GET", "/token", {"Authorization": basic(secret)}, b""),
    "form": lambda secret: ("POST", "/token", {}, FORM + secret.encode()),
    "management": lambda secret: ("GET", NAMESPACES, {"X_Auth_Token": secret}, b""),
}


@pytest.mark.parametrize("way", LOGINS)
def test_too_many_failed_logins(tmp_path: Path, way: str) -> None:
    """As many as were allowed; then not even the right secret is looked up, and bearer tokens and
    nobody in particular go on."""
    options = ("--login-failures=3", "--metrics=127.0.0.1:0")
    with operated(tmp_path / "data", *options, workers=2) as server:
        token = call(server, "GET", "/token", Authorization=basic(SECRET)).json["token"]

        def login(secret: str) -> Reply:
            method, path, headers, body = LOGINS[way](secret)
            connection = connect(server.address)
            try:
                return ask(connection, method, path, body, **headers)
            finally:
                connection.close()

        assert [login(WRONG).status for _ in range(4)] == [401, 401, 401, 429]
        refused = login(SECRET)
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert call(server, "GET", "/v2/", Authorization=f"Bearer {token}").status == 200
        assert call(server, "GET", "/v2/").status == 401
        assert tally(server, "failed_logins_total") == 3
        assert tally(server, 'limited_requests_total{limit="login"}') == 2


BLANKS = ("\u00a0", "\u2003", "\u0085", "\u3000", "\x1f", "\x0b")
"""What Python takes for white space, and HTTP does not."""


@pytest.mark.parametrize("path", ["/v2/", "/token"])
def test_no_way_of_writing_credentials_is_left_out(tmp_path: Path, path: str) -> None:
    """However the header is written: what is looked up is counted, what is not leads nowhere."""
    with operated(tmp_path / "data", "--login-failures=3", PROXIED) as server:

        def status(value: bytes, address: str) -> int:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n".encode()
            answer = raw(
                server, head + b"Connection: close\r\nAuthorization: " + value + b"\r\n\r\n"
            )
            return int(answer[9:12])

        right, wrong = (
            base64.b64encode(f"nologin:{secret}".encode()) for secret in (SECRET, WRONG)
        )
        for number, blank in enumerate(b.encode() for b in BLANKS):
            for way in (
                blank + b"Basic %b",
                b"Basic" + blank + b"%b",
                b"Basic %b" + blank,
                b"\tbASIC \t %b \t" + blank,
            ):
                address = f"10.0.0.{number}"
                assert status(way % right, address) in {400, 401}, way
                tried = [status(way % wrong, address) for _ in range(6)]
                assert set(tried) <= {400, 401}
        for number, way in enumerate((b"Basic %b", b"basic \t%b\t", b" BASIC  %b ")):
            address = f"10.0.1.{number}"
            assert status(way % right, address) == 200
            assert [status(way % wrong, address) for _ in range(4)] == [401, 401, 401, 429]


def test_the_unix_socket_is_one_address(tmp_path: Path, socket_path: Path) -> None:
    options = ("--rate-address=0.01", "--login-failures=3", f"--unix={socket_path}")
    with operated(tmp_path / "data", *options, workers=2) as server:
        tried = [
            call(socket_path, "GET", "/v2/", Authorization=basic(WRONG)).status for _ in range(4)
        ]
        assert tried == [401, 401, 401, 429]
        assert call(server, "GET", "/v2/", Authorization=basic(WRONG)).status == 401
        rest = [call(socket_path, "GET", "/v2/").status for _ in range(7)]
        assert rest == [401] * 6 + [429]
        assert call(server, "GET", "/v2/").status == 401


def test_a_trusted_unix_socket_brings_addresses(tmp_path: Path, socket_path: Path) -> None:
    options = ("--login-failures=3", f"--unix={socket_path}", "--trusted-proxy=unix")
    with operated(tmp_path / "data", *options) as server:

        def status(address: str, secret: str) -> int:
            reply = call(
                socket_path, "GET", "/v2/", X_Forwarded_For=address, Authorization=basic(secret)
            )
            return reply.status

        assert [status("10.0.0.1", WRONG) for _ in range(4)] == [401, 401, 401, 429]
        assert status("10.0.0.2", SECRET) == 200
        # Over TCP nobody is trusted.
        reply = call(server, "GET", "/v2/", X_Forwarded_For="10.0.0.1", Authorization=basic(SECRET))
        assert reply.status == 200


def test_a_worker_that_is_started_again_forgets_nothing(tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--login-failures=3") as server:
        for _ in range(3):
            assert call(server, "GET", "/v2/", Authorization=basic(WRONG)).status == 401
        (worker,) = server.workers()
        server.kill_worker(worker)
        assert call(server, "GET", "/v2/", Authorization=basic(SECRET)).status == 429
        body = json.loads(call(server, "GET", "/v2/", Authorization=basic(SECRET)).body)
        assert "failed logins" in body["errors"][0]["message"]


def test_the_default_is_for_others_than_this_machine() -> None:
    rates = Settings.parse().rates
    assert (rates.address, rates.spare_local_address) == (5000, True)
    assert (rates.key, rates.spare_local_key) == (5000, True)
    given = Settings.parse(rate_address=10, rate_key=0).rates
    assert (given.address, given.spare_local_address, given.key) == (10, False, 0)

    memory = SharedMemory()
    spared = Limits(memory, Rates(address=1, key=1, spare_local_address=True, spare_local_key=True))
    strict = Limits(memory, Rates(address=1, key=1))
    near = [
        network_prefix(each) for each in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "")
    ]
    far = [
        network_prefix(each) for each in ("10.0.0.1", "2001:db8::1", "1.127.0.1", "1::127.0.0.1")
    ]
    for who in near:
        assert not any(spared.arrive(who) or spared.charge(who, "SCWFAR") for _ in range(100))
        assert any(strict.arrive(who) for _ in range(100))
    for who in far:
        assert any(spared.arrive(who) for _ in range(100))
        assert any(spared.charge(who, f"SCW{who}") for _ in range(100))


def test_a_bucket_is_found_again_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pushed it out of its place, and however many places are remembered."""
    monkeypatch.setattr(shared_memory, "ENTRIES_FOUND_MAX", 3)
    memory = SharedMemory()
    first, second = (Limits(memory, Rates(address=0.001)) for _ in range(2))
    names = [f"10.0.0.{number}" for number in range(10)]
    for turn in range(BURST_MIN):
        for who in names:
            assert (first, second)[turn % 2].arrive(who) == 0
    assert all(each.arrive(who) > 0 for who in names for each in (first, second))
