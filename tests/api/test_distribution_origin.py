"""Hosts, regions, proxies, prefixes: under which name a registry is reached (design, regions)."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET, basic, digest_of
from support.distribution import Registry, registry

from holdfast.api import AppSettings

server = api_fixtures.team_server

NAME = "team/app"


PULL_PUSH = f"repository:{NAME}:pull,push"


async def test_regions_are_told_apart_by_host() -> None:
    settings = AppSettings(endpoints={"nl-ams": "nl.example:5001", "pl-waw": "pl.example"})
    async with registry(settings=settings) as server:
        for region in ("fr-par", "nl-ams"):
            await server.namespace("team", region=region)
        nl = {"Host": "NL.example:5001"}
        digest = digest_of(b"x")
        path = f"/v2/{NAME}/blobs"
        answer = await server.call(
            "POST", f"{path}/uploads/?digest={digest}", data=b"x", headers=nl
        )
        assert answer.status == 201
        assert (await server.call("HEAD", f"{path}/{digest}")).status == 404
        assert (await server.call("HEAD", f"{path}/{digest}", headers=nl)).status == 200
        assert (
            await server.call("GET", "/v2/team/x/tags/list", headers={"Host": "pl.example:80"})
        ).json["errors"][0]["message"] == "no repository team/x that this key may read"
        # Tokens are of one region.
        token = await server.token()
        assert (await server.call("GET", "/v2/", token=token)).status == 200
        assert (await server.call("GET", "/v2/", token=token, headers=nl)).status == 401
        answer = await server.call("GET", "/v2/", secret=None, headers=nl)
        assert 'realm="http://NL.example:5001/token"' in answer.headers["WWW-Authenticate"]


async def asked(server: Registry, method: str, target: str, *headers: str, body: str = "") -> str:
    """A request with this target, as it is, and the Host header ``b.example:1``."""
    lines = (
        f"{method} {target} HTTP/1.1",
        "Host: b.example:1",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return (await server.raw("\r\n".join((*lines, "", body)).encode())).decode()


async def test_the_host_of_an_absolute_target_counts() -> None:
    """RFC 9112 section 3.2.2: for realm and region, in every method, whatever Host says."""
    settings = AppSettings(endpoints={"nl-ams": "nl.example:5001", "pl-waw": "b.example:1"})
    async with registry(settings=settings) as server:
        await server.namespace("team", region="nl-ams")
        owner = f"Authorization: {basic(OWNER_SECRET)}"
        for authority in ("a.example", "nl.example:5001", "NL.example:5001", "[::1]:8", "a:99"):
            for target in (f"http://{authority}/v2/", f"HTTP://{authority}/v2/?x=http://c"):
                answer = await asked(server, "GET", target)
                assert f'realm="http://{authority}/token"' in answer
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            path = f"/v2/{NAME}/blobs/uploads/{'x' * (method != 'POST')}"
            answer = await asked(server, method, f"http://a.example:7{path}")
            assert 'realm="http://a.example:7/token"' in answer
        blob = digest_of(b"x")
        for host, status in (("nl.example:5001", 201), ("b.example:1", 404), ("a.example", 404)):
            target = f"http://{host}/v2/{NAME}/blobs/uploads/?digest={blob}"
            answer = await asked(server, "POST", target, owner, body="x")
            assert answer.startswith(f"HTTP/1.1 {status} "), host
        # The token service gives one for the region of the target, in either form.
        form = f"grant_type=password&password={OWNER_SECRET}&service=holdfast"
        for method, query, body in (("GET", "?service=holdfast", ""), ("POST", "", form)):
            answer = await asked(
                server, method, f"http://nl.example:5001/token{query}", owner, body=body
            )
            token = json.loads(answer.partition("\r\n\r\n")[2])["token"]
            for host, status in (("nl.example:5001", 200), ("b.example:1", 401)):
                answer = await asked(
                    server, "GET", f"http://{host}/v2/", f"Authorization: Bearer {token}"
                )
                assert answer.startswith(f"HTTP/1.1 {status} "), (method, host)


async def test_what_a_proxy_says_counts_before_the_target() -> None:
    settings = AppSettings(trusted_proxies=(ip_network("127.0.0.0/8"),))
    async with registry(settings=settings) as server:
        answer = await asked(server, "GET", "http://a.example/v2/", "X-Forwarded-Host: hub.example")
        assert 'realm="http://hub.example/token"' in answer
        answer = await asked(server, "GET", "http://a.example/v2/", "X-Forwarded-Proto: https")
        assert 'realm="https://a.example/token"' in answer


@pytest.mark.parametrize("host", ['a"b', "a b", "a\\b", "x" * 300, "a/b", "a:99999999", "é"])
async def test_a_strange_host_does_not_get_into_the_challenge(server: Registry, host: str) -> None:
    answer = await server.raw(
        f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    )
    assert b" 401 " in answer[:20] or b" 400 " in answer[:20]
    if b" 401 " in answer[:20]:
        assert b'realm="http://localhost/token"' in answer


@pytest.mark.promise("SECURITY.md", "configured proxies")
async def test_forwarded_headers_count_only_from_trusted_proxies() -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "hub.example"}
    for proxies, realm in (
        ((ip_network("127.0.0.0/8"),), "https://hub.example/token"),
        ((ip_network("10.0.0.0/8"), ip_network("::1/128")), None),
        ((), None),
    ):
        settings = AppSettings(trusted_proxies=proxies)
        async with registry(settings=settings) as server:
            answer = await server.call("GET", "/v2/", secret=None, headers=forwarded)
            wanted = realm or f"{server.url}/token"
            assert f'realm="{wanted}"' in answer.headers["WWW-Authenticate"]


FORWARDED = {
    # What a proxy says, and where the client finds the token service then; None: where it came.
    "one": ({"Proto": "https", "Host": "hub.example"}, "https://hub.example"),
    "port": ({"Proto": "https", "Host": "hub.example:8443"}, "https://hub.example:8443"),
    "ipv6": ({"Proto": "https", "Host": "[2001:db8::1]:8443"}, "https://[2001:db8::1]:8443"),
    "chain": ({"Proto": "https, http", "Host": "hub.example, inner"}, "https://hub.example"),
    "scheme alone": ({"Proto": "HTTPS"}, "https://{here}"),
    "host alone": ({"Host": "hub.example"}, "http://hub.example"),
    "no scheme": ({"Proto": "gopher"}, "http://{here}"),
    "no host": ({"Host": "evil.example/path"}, "http://localhost"),
    "quotes": ({"Host": 'a",scope="x'}, "http://localhost"),
    "user": ({"Host": "user@evil.example"}, "http://localhost"),
    "long": ({"Host": "x" * 300}, "http://localhost"),
    "nothing": ({"Proto": "", "Host": ""}, "http://{here}"),
    "for alone": ({"For": "10.0.0.1", "Port": "1", "Prefix": "/x"}, "http://{here}"),
}


@pytest.mark.promise("SECURITY.md", "configured proxies")
@pytest.mark.parametrize("name", FORWARDED)
async def test_what_a_proxy_may_say(name: str) -> None:
    """And none of it gets into a Location, which is relative."""
    said, base = FORWARDED[name]
    headers = {f"X-Forwarded-{key}": value for key, value in said.items()}
    settings = AppSettings(trusted_proxies=(ip_network("127.0.0.1/32"),))
    for trusting in (True, False):
        async with registry(settings=settings if trusting else AppSettings()) as server:
            await server.namespace("team")
            answer = await server.call("GET", "/v2/", secret=None, headers=headers)
            here = server.url.removeprefix("http://")
            wanted = (base if trusting else "http://{here}").format(here=here)
            assert f'realm="{wanted}/token"' in answer.headers["WWW-Authenticate"]
            answer = await server.call("POST", f"/v2/{NAME}/blobs/uploads/", headers=headers)
            assert answer.location.startswith(f"/v2/{NAME}/blobs/uploads/")
            answer = await server.call(
                "PUT", f"{answer.location}?digest={digest_of(b'x')}", data=b"x"
            )
            assert answer.location == f"/v2/{NAME}/blobs/{digest_of(b'x')}"


async def test_a_public_url_is_the_realm() -> None:
    settings = AppSettings(public_url="https://hub.example/r", endpoints={"nl-ams": "nl.example"})
    async with registry(settings=settings) as server:
        answer = await server.call("GET", "/v2/", secret=None)
        assert 'realm="https://hub.example/r/token"' in answer.headers["WWW-Authenticate"]
        answer = await server.call("GET", "/v2/", secret=None, headers={"Host": "nl.example"})
        assert 'realm="https://nl.example/r/token"' in answer.headers["WWW-Authenticate"]


async def test_everything_works_below_a_prefix() -> None:
    async with registry(prefix="/some/where") as server:
        await server.namespace("team")
        answer = await server.call("GET", "/some/where/v2/", secret=None)
        realm = f'realm="{server.url}/some/where/token"'
        assert realm in answer.headers["WWW-Authenticate"]
        token = (await server.call("GET", f"/some/where/token?scope={PULL_PUSH}")).json["token"]
        base = f"/some/where/v2/{NAME}"
        answer = await server.call("POST", f"{base}/blobs/uploads/", token=token)
        assert answer.location.startswith(f"{base}/blobs/uploads/")
        digest = digest_of(b"x")
        answer = await server.call(
            "PUT", f"{answer.location}?digest={digest}", data=b"x", token=token
        )
        assert (answer.status, answer.location) == (201, f"{base}/blobs/{digest}")
        assert (await server.call("GET", answer.location, token=token)).body == b"x"
        assert (await server.call("GET", "/some/where/v2", secret=None)).status == 401
        assert (await server.call("GET", "/some/where/v2/x/y")).status == 404
