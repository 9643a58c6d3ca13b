"""All twelve operations, byte by byte as the JavaScript and the Go client send them.

Heads, queries and bodies are those that were recorded of the clients (contract, sections 1 and 6).
What each client needs of the answer is looked at too: it is what its parser trips over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from support import api_fixtures
from support.api import OWNER_SECRET, PROJECT
from support.management import REGISTRY, Server
from yarl import URL

server = api_fixtures.management_server

JAVASCRIPT = (
    "accept: application/json",
    "user-agent: scaleway-sdk-js/2.3.1",
    f"x-auth-token: {OWNER_SECRET}",
    "accept-language: *",
    "sec-fetch-mode: cors",
    "accept-encoding: gzip, deflate",
)
GO = (
    "User-Agent: scaleway-sdk-go/v1.0.0+dev (go1.24; linux; amd64) terraform-provider/develop",
    f"X-Auth-Token: {OWNER_SECRET}",
    "Accept-Encoding: gzip",
)


@dataclass(frozen=True)
class Client:
    """One client on one connection, which it keeps."""

    url: URL
    head: Sequence[str]
    body_type: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def __call__(
        self, method: str, path: str, payload: object = None, *, status: int = 200
    ) -> Any:
        body = b"" if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        lines = [f"{method} {REGISTRY}{path} HTTP/1.1", f"Host: {self.url.authority}", *self.head]
        if payload is not None:
            lines += [f"content-type: {self.body_type}", f"Content-Length: {len(body)}"]
        elif method == "POST":
            lines.append("Content-Length: 0")
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)
        top = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *headers = top.strip().split("\r\n")
        told = dict(line.lower().split(": ", 1) for line in headers)
        answer = json.loads(await self.reader.readexactly(int(told["content-length"])))
        assert int(first.split()[1]) == status, answer
        # JavaScript compares the whole value; a count in a header would replace that of the body.
        assert told["content-type"] == "application/json"
        assert "x-total-count" not in told
        assert "content-encoding" not in told
        return answer


async def connected(server: Server, head: Sequence[str], body_type: str) -> Client:
    url = URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    return Client(url, head, body_type, reader, writer)


async def test_javascript(server: Server) -> None:
    call = await connected(server, JAVASCRIPT, "application/json; charset=utf-8")
    assert await call("GET", "/namespaces") == {"namespaces": [], "total_count": 0}
    named = {"name": "ns-brave-wing", "project_id": str(PROJECT)}
    made = await call("POST", "/namespaces", named)
    by_organization = {"name": "ns-organized", "organization_id": str(PROJECT)}
    assert (await call("POST", "/namespaces", by_organization))["project_id"] == str(PROJECT)
    one = f"/namespaces/{made['id']}"
    assert await call("GET", one) == made
    # An update without fields is `{}`, and moves the time all the same.
    moved = await call("PATCH", one, {})
    assert {**moved, "updated_at": made["updated_at"]} == made
    assert moved["updated_at"] > made["updated_at"]
    for tag in ("v1", "v2", "v3"):
        await server.push("ns-brave-wing/deep/app", tag, b"1")
    # The first page has no number; the rest are asked for by the count of the first.
    first = await call("GET", "/namespaces?order_by=created_at_asc&page_size=1")
    second = await call("GET", "/namespaces?order_by=created_at_asc&page=2&page_size=1")
    assert (first["total_count"], first["namespaces"][0]["id"]) == (2, made["id"])
    assert second["namespaces"][0]["name"] == "ns-organized"
    query = f"?name={quote('deep/app', safe='')}&namespace_id={made['id']}&order_by=name_asc"
    (image,) = (await call("GET", f"/images{query}"))["images"]
    assert await call("GET", f"/images/{image['id']}") == image
    assert (await call("PATCH", f"/images/{image['id']}", {}))["visibility"] == "inherit"
    changed = await call("PATCH", f"/images/{image['id']}", {"visibility": "public"})
    assert changed["visibility"] == "public"
    tags = await call("GET", f"/images/{image['id']}/tags?order_by=created_at_desc")
    assert [tag["name"] for tag in tags["tags"]] == ["v3", "v2", "v1"]
    tag = tags["tags"][0]
    assert await call("GET", f"/tags/{tag['id']}") == tag
    assert (await call("DELETE", f"/tags/{tag['id']}?force=true"))["status"] == "deleting"
    assert (await call("GET", f"/images/{image['id']}"))["tags"] == ["v1", "v2"]
    assert (await call("DELETE", f"/images/{image['id']}"))["status"] == "deleting"
    assert (await call("DELETE", one))["status"] == "deleting"
    # The typed classes need every field; the waiter ends on this one.
    gone = await call("GET", one, status=404)
    assert (gone["type"], gone["resource"]) == ("not_found", "registry_namespace")
    assert gone["resource_id"] == made["id"]
    taken = await call("POST", "/namespaces", {"name": "ns-organized"}, status=409)
    assert {"type", "resource", "resource_id", "help_message"} <= taken.keys()
    wrong = await call("POST", "/namespaces", {"name": "_"}, status=400)
    assert {"argument_name", "reason", "help_message"} == wrong["details"][0].keys()
    call.writer.close()
    await call.writer.wait_closed()


async def test_go(server: Server) -> None:
    call = await connected(server, GO, "application/json")
    listing = "?order_by=created_at_asc&page=1"
    assert await call("GET", f"/namespaces{listing}") == {"namespaces": [], "total_count": 0}
    made = await call(
        "POST",
        "/namespaces",
        {"name": "tf-ns", "description": "", "project_id": str(PROJECT), "is_public": False},
    )
    one = f"/namespaces/{made['id']}"
    # Numbers are unsigned integers, times RFC 3339 in UTC with six digits; lists are never null.
    assert (made["size"], made["image_count"], made["description"]) == (0, 0, "")
    assert made["created_at"] == made["updated_at"]
    assert await call("GET", one) == made
    changed = await call("PATCH", one, {"description": "test", "is_public": True})
    assert (changed["description"], changed["is_public"]) == ("test", True)
    kept = await call("PATCH", one, {"description": None, "is_public": None})
    assert (kept["description"], kept["is_public"]) == ("test", True)
    for tag in ("latest", "v1"):
        await server.push("tf-ns/app", tag, b"1")
    by_name = await call("GET", f"/namespaces?name=tf-ns&order_by=created_at_asc&page=1"
                                f"&project_id={PROJECT}")  # fmt: skip
    assert by_name["total_count"] == 1
    filters = f"&name=app&namespace_id={made['id']}&project_id={PROJECT}"
    (image,) = (await call("GET", f"/images{listing}{filters}"))["images"]
    assert isinstance(image["tags"], list)
    # The field is always sent; its zero value means that it is not set.
    unset = {"visibility": "visibility_unknown"}
    assert (await call("PATCH", f"/images/{image['id']}", unset))["visibility"] == "inherit"
    tags = await call("GET", f"/images/{image['id']}/tags{listing}&name=latest")
    (tag,) = tags["tags"]
    assert await call("GET", f"/tags/{tag['id']}") == tag
    assert (await call("DELETE", f"/tags/{tag['id']}?force=false"))["status"] == "deleting"
    # The next page is asked for as long as the count is not reached; past the end it is empty.
    past = await call("GET", f"/images/{image['id']}/tags?order_by=created_at_asc&page=2")
    assert past == {"tags": [], "total_count": 1}
    assert (await call("GET", f"/images/{image['id']}"))["tags"] == ["v1"]
    assert (await call("DELETE", f"/images/{image['id']}"))["status"] == "deleting"
    assert (await call("DELETE", one))["status"] == "deleting"
    assert (await call("GET", one, status=404))["type"] == "not_found"
    again = await call(
        "POST", "/namespaces", {"name": "tf-ns", "description": "", "is_public": False}
    )
    assert again["id"] != made["id"]
    call.writer.close()
    await call.writer.wait_closed()


async def test_what_the_command_line_of_scaleway_asks_beside(server: Server) -> None:
    """Once a day it looks for the expiry of its key; it ignores errors, and must not hang."""
    path = "/iam/v1alpha1/api-keys/SCWXXXXXXXXXXXXXXXXX"
    async with server.http.get(server.url + path) as response:
        assert response.status == 404
        assert isinstance(await response.json(), dict)
