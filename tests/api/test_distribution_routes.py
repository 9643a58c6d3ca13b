"""Routes, methods and names: what is no endpoint, and what is no name (contract 0)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from support.api import digest_of
from support.distribution import Registry, registry

NAME = "team/app"


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        await running.namespace("team")
        await running.image(NAME, "v1", b"layer")
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "/v2/x",
        "/v2//",
        "/v2/team",
        "/v2/team/app",
        "/v2/team/app/",
        "/v2/team/app/nothing/v1",
        "/v2/team/app/manifests/",
        "/v2/team/app/manifests",
        "/v2/team/app/tags/list/",
        "/v2/team/app/tags",
        "/v2/%0a",
        "/v2/..",
        "/v2/_oci/ext",
        "/v2/_catalog/",
    ],
)
async def test_unknown_routes(server: Registry, path: str) -> None:
    for method in METHODS:
        answer = await server.call(method, path)
        assert answer.status == 404
        if method != "HEAD":
            assert answer.code == "UNSUPPORTED"


@pytest.mark.parametrize(
    "target", ["/", "/token/", "//v2/", "/v3/", "/v2x", "/healthz/", "/%ff", "/tok%65n/x"]
)
async def test_what_is_no_route_at_all(server: Registry, target: str) -> None:
    for method in METHODS:
        answer = await server.raw(
            f"{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 "), head
        assert b"\r\nContent-Type: application/json\r\n" in head
        assert b"\r\nDocker-Distribution-API-Version: registry/2.0\r\n" in head
        assert method == "HEAD" or json.loads(body)["errors"][0]["code"] == "UNSUPPORTED"


async def test_methods_that_a_probe_does_not_have(server: Registry) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await server.call("POST", path, data=b"x")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")
        assert answer.headers["Allow"] == "GET, HEAD"


async def test_the_fixed_part_is_not_written_in_escapes(server: Registry) -> None:
    for path in ("/%76%32/", "/%76%32/_catalog", "/v%32/team/app/manifests/v1"):
        answer = await server.raw(
            f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET, HEAD"),
        (f"/v2/{NAME}/tags/list", "GET, HEAD"),
        (f"/v2/{NAME}/manifests/v1", "GET, HEAD, PUT, DELETE"),
        (f"/v2/{NAME}/blobs/{digest_of(b'layer')}", "GET, HEAD, DELETE"),
        (f"/v2/{NAME}/blobs/uploads/", "POST"),
        (f"/v2/{NAME}/blobs/uploads/x", "GET, HEAD, PATCH, PUT, DELETE"),
        (f"/v2/{NAME}/referrers/{digest_of(b'layer')}", "GET, HEAD"),
        (f"/v2/{NAME}/_holdfast/exists", "POST"),
    ],
)
async def test_methods_that_an_endpoint_does_not_have(
    server: Registry, path: str, allowed: str
) -> None:
    for method in METHODS:
        if method not in allowed.split(", "):
            answer = await server.call(method, path)
            assert answer.status == 405
            assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    "name",
    [
        "app",
        "TEAM/app",
        "team/App",
        "team//app",
        "/team/app",
        "team/app/",
        "team/../app",
        "team/%2e%2e/app",
        "team/a%2F%2Fb",
        "team/a%00b",
        "team/a%0a",
        "team/%zz",
        "team/a%",
        "team/%ff",
        "team/%C3%A9",
        "team/a___b",
        "team/-a",
        "t/app",
        "team/" + "a" * 252,
        "team/" + "a" * 3000,
    ],
)
async def test_names_that_are_none(server: Registry, name: str) -> None:
    for path in ("manifests/v1", "tags/list", f"blobs/{digest_of(b'x')}", "blobs/uploads/"):
        method = "POST" if path.endswith("uploads/") else "GET"
        answer = await server.call(method, f"/v2/{name}/{path}")
        assert (answer.status, answer.code) == (400, "NAME_INVALID"), name


async def test_a_name_must_fit_with_the_host(server: Registry) -> None:
    name = "team/" + "a" * 245
    assert (await server.call("GET", f"/v2/{name}/tags/list")).code == "NAME_INVALID"
    short = {"Host": "h"}
    assert (await server.call("GET", f"/v2/{name}/tags/list", headers=short)).status == 404


async def test_names_with_the_words_of_endpoints(server: Registry) -> None:
    for name in ("team/blobs/uploads", "team/manifests/tags", "team/referrers", "team/list/tags"):
        digest = await server.image(name, "manifests", b"x")
        for reference in (digest, "manifests"):
            assert (await server.call("GET", f"/v2/{name}/manifests/{reference}")).status == 200
        assert (await server.call("GET", f"/v2/{name}/tags/list")).json["tags"] == ["manifests"]


async def test_an_escaped_slash_is_a_slash_in_a_name(server: Registry) -> None:
    assert (await server.call("GET", "/v2/team%2Fapp/manifests/v1")).status == 200
    assert (await server.call("GET", "/v2/team%252Fapp/manifests/v1")).status == 400
