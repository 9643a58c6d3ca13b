"""Mounts: a blob of another repository without its bytes (contract 4)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from support import api_fixtures
from support.api import digest_of
from support.distribution import Answer, Registry, content

server = api_fixtures.team_server

DATA = bytes(range(256)) * 1024


NAME = "team/app"


async def mount(server: Registry, query: str, name: str = NAME, **more: Any) -> Answer:
    return await server.call("POST", f"/v2/{name}/blobs/uploads/?{query}", **more)


async def test_a_mount_is_visible_at_once(server: Registry) -> None:
    digest = await server.blob("team/base", DATA)
    assert (await server.call("HEAD", f"/v2/{NAME}/blobs/{digest}")).status == 404
    answer = await mount(server, f"mount={digest}&from=team/base")
    assert answer.status == 201
    assert answer.location == f"/v2/{NAME}/blobs/{digest}"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert await content(server, digest) == DATA


@pytest.mark.promise("SECURITY.md", "digests and ids of uploads")
async def test_a_mount_that_cannot_be_opens_a_session(server: Registry) -> None:
    digest = await server.blob("team/base", DATA)
    _, stranger = await server.key(uuid.uuid4())
    await server.namespace("theirs", uuid.uuid4())
    hidden = await server.blob("theirs/base", b"secret")
    _, own = await server.key()
    for query in (
        f"mount={digest_of(b'never seen')}&from=team/base",
        f"mount={digest}&from=team/nothing",
        f"mount={digest}&from=nowhere/base",
        f"mount={digest}&from=NOT/A/NAME",
        f"mount={digest}&from=",
        "mount=sha256:short&from=team/base",
        "mount=&from=team/base",
        f"mount={hidden}&from=theirs/base",
        f"mount={hidden}",
        f"mount={digest_of(b'never seen')}",
    ):
        answer = await mount(server, query, secret=own)
        assert answer.status == 202, query
        assert (await server.call("GET", answer.location)).status == 204
    answer = await server.call("HEAD", f"/v2/{NAME}/blobs/{hidden}")
    assert answer.status == 404
    assert (await mount(server, f"mount={digest}", secret=stranger)).status == 404


async def test_a_mount_without_a_source_finds_what_the_caller_may_pull(server: Registry) -> None:
    digest = await server.blob("team/base", DATA)
    _, own = await server.key()
    answer = await mount(server, f"mount={digest}", secret=own)
    assert answer.status == 201
    assert await content(server, digest) == DATA


async def test_a_token_mounts_only_from_what_it_names_or_what_is_public(server: Registry) -> None:
    digest = await server.blob("team/base", DATA)
    narrow = await server.token(f"repository:{NAME}:pull,push")
    query = f"mount={digest}&from=team/base"
    assert (await mount(server, query, token=narrow)).status == 202
    assert (await mount(server, f"mount={digest}", token=narrow)).status == 202
    wide = await server.token(f"repository:{NAME}:pull,push", "repository:team/base:pull")
    assert (await mount(server, query, token=wide)).status == 201
    await server.namespace("open", is_public=True)
    await server.image("open/base", "v1", b"shared layer")
    narrow = await server.token("repository:team/second:pull,push")
    found = await mount(server, f"mount={digest_of(b'shared layer')}", "team/second", token=narrow)
    assert found.status == 201


async def test_the_challenge_of_a_mount_names_both_scopes(server: Registry) -> None:
    answer = await mount(server, f"mount={digest_of(b'x')}&from=team/base", secret=None)
    assert answer.status == 401
    assert (
        f'scope="repository:{NAME}:pull,push repository:team/base:pull"'
        in (answer.headers["WWW-Authenticate"])
    )
    answer = await mount(server, f'mount={digest_of(b"x")}&from=a"b', secret=None)
    assert 'a"b' not in answer.headers["WWW-Authenticate"]
