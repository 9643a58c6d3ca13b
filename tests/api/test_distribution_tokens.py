"""The token service and what its tokens are good for (contract 11)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import jwt
import pytest
from support import api_fixtures
from support.api import INDEX_TYPE, OTHER_PROJECT, OWNER_SECRET, PROJECT, basic, digest_of
from support.distribution import Answer, Registry, registry

from holdfast.api import AppSettings
from holdfast.api.oci.tokens import issue
from holdfast.engine import NotFound

server = api_fixtures.team_server

NAME = "team/app"
PULL_PUSH = f"repository:{NAME}:pull,push"


async def form(server: Registry, fields: Any) -> Answer:
    return await server.call(
        "POST",
        "/token",
        secret=None,
        data=urlencode(fields).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


def access(token: str) -> list[Any]:
    """What a token grants, as its text says it."""
    claims = jwt.decode(token, options={"verify_signature": False})
    granted: list[Any] = claims["access"]
    return granted


async def test_the_ping_is_a_challenge_without_credentials(server: Registry) -> None:
    for path in ("/v2/", "/v2"):
        answer = await server.call("GET", path, secret=None)
        assert answer.status == 401
        assert answer.code == "UNAUTHORIZED"
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="{server.url}/token",service="holdfast"'
        )
    head = await server.call("HEAD", "/v2/", secret=None)
    assert head.status == 401
    # What skopeo sends when it has nothing.
    empty = {"Authorization": basic("", "")}
    assert (await server.call("GET", "/v2/", secret=None, headers=empty)).status == 401


async def test_the_ping_is_200_with_any_valid_credentials(server: Registry) -> None:
    for more in (
        {"secret": OWNER_SECRET},
        {"token": await server.token()},
        {"token": await server.token(secret=None)},
        {
            "secret": None,
            "headers": {"Authorization": basic(OWNER_SECRET).replace("Basic", "bAsIc")},
        },
    ):
        answer = await server.call("GET", "/v2/", **more)
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "header",
    [
        basic("wrong"),
        basic("44444444-4444-4444-8444-444444444444"),
        basic("é"),
        basic("x" * 2000),
        "Basic",
        "Basic !!!",
        "Basic " + "bm9jb2xvbg==",
        "Basic /w==",
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer \udcff",
        "Digest x",
        "",
        "Bearer " + jwt.encode({"sub": "x"}, "k" * 32),
        "Bearer " + jwt.encode({"sub": "x"}, None, algorithm="none"),
    ],
)
async def test_credentials_that_are_not_valid_get_401_everywhere(
    server: Registry, header: str
) -> None:
    await server.namespace("open", is_public=True)
    await server.image("open/app", "v1")
    for path in ("/v2/", "/v2/open/app/manifests/v1", "/v2/no/where/manifests/v1", "/v2/_catalog"):
        answer = await server.call("GET", path, secret=None, headers={"Authorization": header})
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        advised = 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
        assert advised == header.lower().startswith("bearer")
        assert (await server.call("GET", "/token", headers={"Authorization": header})).status == 401


async def test_a_token_that_ran_out_is_answered_with_what_to_ask_for(server: Registry) -> None:
    """container-libs get a new token if they are told so, and containerd if told anything."""
    expired = issue(
        await server.store.keys.signing_key(),
        "access",
        access_key=None,
        region="fr-par",
        scopes={},
        now=int(time.time()) - 1000,
        seconds=60,
    )
    manifests, uploads = f"/v2/{NAME}/manifests/v1", f"/v2/{NAME}/blobs/uploads/"
    for method, path, scope in (
        ("GET", manifests, f"repository:{NAME}:pull"),
        ("HEAD", f"/v2/{NAME}/blobs/{digest_of(b'x')}", PULL_PUSH),
        ("PUT", manifests, PULL_PUSH),
        ("DELETE", manifests, f"repository:{NAME}:delete"),
        ("POST", uploads, PULL_PUSH),
        ("POST", f"{uploads}?mount=x&from=a/b", f"{PULL_PUSH} repository:a/b:pull"),
        ("POST", f'{uploads}?mount=x&from=a"b', PULL_PUSH),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
        ("GET", "/v2/", None),
        ("GET", "/v2/a%22b/c/manifests/v1", None),
        ("GET", "/v2/a%0d%0ab/c/manifests/v1", None),
    ):
        answer = await server.call(method, path, token=expired)
        assert answer.status == 401
        asked = "" if scope is None else f'scope="{scope}",'
        wanted = f'service="holdfast",{asked}error="insufficient_scope"'
        assert answer.headers["WWW-Authenticate"].endswith(wanted), path
        assert b"malformed" not in answer.body


async def test_the_get_form(server: Registry) -> None:
    query = f"account=nologin&client_id=docker&service=holdfast&scope={PULL_PUSH}"
    answer = await server.call("GET", f"/token?{query}")
    assert answer.status == 200
    document = answer.json
    assert document["token"] == document["access_token"]
    assert document["expires_in"] >= 60
    issued = datetime.strptime(document["issued_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(issued - datetime.now(UTC)) < timedelta(seconds=60)
    assert "refresh_token" not in document
    assert access(document["token"]) == [
        {"type": "repository", "name": NAME, "actions": ["pull", "push"]}
    ]
    for name in ("BAD/NAME", "single"):
        assert access(await server.token(f"repository:{name}:*")) == []
    claims = jwt.decode(document["token"], options={"verify_signature": False})
    assert claims["aud"] == "holdfast"
    assert claims["sub"] == "SCWXXXXXXXXXXXXXXXXX"
    assert claims["region"] == "fr-par"
    head = jwt.get_unverified_header(document["token"])
    assert (head["typ"], head["alg"]) == ("JWT", "HS256")
    assert head["kid"]
    answer = await server.call("GET", f"/token?{query}&offline_token=true")
    assert answer.json["refresh_token"]
    answer = await server.call("GET", "/token?offline_token=true", secret=None)
    assert "refresh_token" not in answer.json


async def test_the_post_form(server: Registry) -> None:
    fields = {
        "grant_type": "password",
        "service": "holdfast",
        "client_id": "docker",
        "scope": f"{PULL_PUSH} repository:team/b:pull",
        "access_type": "offline",
        "username": "nologin",
        "password": OWNER_SECRET,
    }
    answer = await form(server, fields)
    assert answer.status == 200
    document = answer.json
    assert set(document["scope"].split()) == {PULL_PUSH, "repository:team/b:pull"}
    refresh = document["refresh_token"]
    again = await form(
        server,
        {
            "grant_type": "refresh_token",
            "service": "holdfast",
            "client_id": "docker",
            "scope": PULL_PUSH,
            "refresh_token": refresh,
        },
    )
    assert again.status == 200
    assert again.json["refresh_token"] == refresh
    token = again.json["access_token"]
    assert (await server.call("GET", "/v2/", token=token)).status == 200
    # Neither token does the other's work.
    assert (await server.call("GET", "/v2/", token=refresh)).status == 401
    swapped = await form(server, {"grant_type": "refresh_token", "refresh_token": token})
    assert swapped.status == 401
    # Repeated fields, as some clients send them.
    repeated = await form(
        server,
        [
            ("grant_type", "password"),
            ("password", OWNER_SECRET),
            ("scope", PULL_PUSH),
            ("scope", "repository:team/c:pull"),
        ],
    )
    assert len(access(repeated.json["token"])) == 2


async def test_a_wrong_password_is_401_and_other_grants_400(server: Registry) -> None:
    assert (await server.call("GET", "/token", secret="wrong")).status == 401
    wrong = {"grant_type": "password", "username": "x", "password": "wrong"}
    assert (await form(server, wrong)).status == 401
    stale = {"grant_type": "refresh_token", "refresh_token": "x"}
    assert (await form(server, stale)).status == 401
    assert (await form(server, {"grant_type": "authorization_code"})).status == 400
    assert (await form(server, {})).status == 400
    assert (await form(server, {"x": "y" * 100_000})).status == 413
    assert (await server.call("PUT", "/token")).status == 405
    bearer = {"Authorization": "Bearer x"}
    assert (await server.call("GET", "/token", secret=None, headers=bearer)).status == 401


async def test_a_token_narrows_and_asks_for_more(server: Registry) -> None:
    await server.image(NAME, "v1", b"layer")
    path = f"/v2/{NAME}/manifests/v1"
    for scope, method, wanted in (
        (None, "GET", f"repository:{NAME}:pull"),
        ("repository:team/other:pull,push,delete", "GET", f"repository:{NAME}:pull"),
        (f"repository:{NAME}:pull", "PUT", f"repository:{NAME}:pull,push"),
        (f"repository:{NAME}:pull,push", "DELETE", f"repository:{NAME}:delete"),
    ):
        token = await server.token(*([scope] if scope else []))
        answer = await server.call(method, path, token=token)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert (
            f'scope="{wanted}",error="insufficient_scope"' in (answer.headers["WWW-Authenticate"])
        )
        wider = await server.token(wanted)
        assert (await server.call(method, path, token=wider, data=b"")).status in (200, 202, 400)


async def test_rights_are_those_of_this_moment(server: Registry) -> None:
    key, secret = await server.key()
    await server.image(NAME, "v1")
    token = await server.token(PULL_PUSH, secret=secret)
    anonymous = await server.token(f"repository:{NAME}:pull", secret=None)
    path = f"/v2/{NAME}/manifests/v1"
    assert (await server.call("GET", path, token=token)).status == 200
    assert (await server.call("GET", path, token=anonymous)).status == 401
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, is_public=True)
    for more in ({"token": anonymous}, {"secret": None}):
        assert (await server.call("GET", path, **more)).status == 200
    await server.store.namespaces.update(namespace.id, is_public=False)
    assert (await server.call("GET", path, token=anonymous)).status == 401
    # The same name, deleted and made anew by strangers.
    await server.store.namespaces.delete(namespace.id)
    await server.namespace("team", OTHER_PROJECT)
    await server.image(NAME, "v1")
    assert (await server.call("GET", path, token=token)).status == 404
    await server.store.keys.revoke(key.access_key)
    answer = await server.call("GET", "/v2/", token=token)
    assert answer.status == 401
    assert (await server.call("GET", "/v2/", secret=secret)).status == 401


async def test_a_key_made_anew_does_not_revive_old_tokens(server: Registry) -> None:
    key, _ = await server.key()
    old = issue(
        await server.store.keys.signing_key(),
        "access",
        access_key=key.access_key,
        region="fr-par",
        scopes={},
        now=int(time.time()) - 100,
        seconds=1000,
    )
    assert (await server.call("GET", "/v2/", token=old)).status == 401


@pytest.mark.promise("SECURITY.md", "the machine")
async def test_times_are_kept(server: Registry) -> None:
    signing_key = await server.store.keys.signing_key()

    def made(now: int, **more: Any) -> str:
        fields: dict[str, Any] = {
            "access_key": None,
            "region": "fr-par",
            "scopes": {},
            "now": now,
            "seconds": 60,
            **more,
        }
        return issue(signing_key, "access", **fields)

    now = int(time.time())
    for token, status in (
        (made(now), 200),
        (made(now + 5), 200),
        (made(now - 65), 200),
        (made(now - 100), 401),
        (made(now + 100), 401),
        (made(now, region="nl-ams"), 401),
        (made(now, access_key="SCWAAAAAAAAAAAAAAAAA"), 401),
    ):
        assert (await server.call("GET", "/v2/", token=token)).status == status


async def test_a_missing_namespace_is_made_where_that_is_configured() -> None:
    async with registry(settings=AppSettings(create_namespaces=True)) as server:
        key, secret = await server.key(OTHER_PROJECT)
        _, read = await server.key(permission="read")
        path = "/v2/fresh/app/blobs/uploads/"
        assert (await server.call("POST", path, secret=None)).status == 401
        assert (await server.call("POST", path, secret=read)).status == 404
        narrow = await server.token("repository:other/app:pull,push", secret=secret)
        assert (await server.call("POST", path, token=narrow)).status == 401
        assert (await server.call("GET", "/v2/fresh/app/tags/list", secret=secret)).status == 404
        assert (await server.call("POST", path, secret=secret)).status == 202
        namespace = await server.store.namespaces.find("fr-par", "fresh")
        assert namespace.project_id == key.default_project_id
        _, stranger = await server.key(UUID(int=5))
        assert (await server.call("POST", path, secret=stranger)).status == 404
        assert PROJECT != OTHER_PROJECT


async def test_what_pushes_nothing_makes_no_namespace() -> None:
    async with registry(settings=AppSettings(create_namespaces=True)) as server:
        session = f"blobs/uploads/{UUID(int=5)}"
        for method, rest in (
            ("GET", session),
            ("PATCH", session),
            ("PUT", f"{session}?digest={digest_of(b'x')}"),
            ("DELETE", session),
            ("PUT", "manifests/-bad"),
            ("PUT", "manifests/sha256:bad"),
            ("POST", "blobs/uploads/?digest=bad"),
            ("POST", "blobs/uploads/?digest-algorithm=md5"),
            ("GET", "manifests/v1"),
            ("DELETE", "manifests/v1"),
            ("POST", "_holdfast/exists"),
        ):
            answer = await server.call(method, f"/v2/fresh/app/{rest}")
            assert answer.status in (400, 404), rest
            with pytest.raises(NotFound):
                await server.store.namespaces.find("fr-par", "fresh")
        # An index of nothing is a push.
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
        assert (await server.put_manifest("fresh/app", "v1", index)).status == 201
        await server.store.namespaces.find("fr-par", "fresh")
