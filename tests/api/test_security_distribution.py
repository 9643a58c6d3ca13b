"""Every method of every distribution endpoint, for every kind of caller, on what is theirs and
what is not, with the key itself and with the widest token that could be made for it.

A new endpoint or method fails here until it is told how it is asked.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from support.api import MANIFEST_TYPE, basic, digest_of
from support.distribution import Answer, Registry, registry
from support.engine import manifest, once
from support.tenants import (
    CALLERS,
    OTHER_REGION,
    PLACES,
    READERS,
    REGION,
    Caller,
    Place,
    Thing,
    World,
    is_valid,
    read_table,
)

from holdfast.api import create_app
from holdfast.api.management.app import DOCUMENT_PATH
from holdfast.api.management.operations import OPERATIONS
from holdfast.api.oci import tokens
from holdfast.api.oci.app import ENDPOINTS
from holdfast.api.oci.rights import Action

OK: Final = 200
"""Allowed: what a request that may go on is answered with stands in REQUESTS."""

PULL: Final = read_table("""
caller                   private public strangers_private strangers_public region absent
owner                    200     200    200               200              404    404
full,read                200     200    404               200              404    404
other,other_read         404     200    200               200              404    404
nobody                   401     200    401               200              401    401
expired,revoked,unknown  401     401    401               401              401    401
""")
PUSH: Final = read_table("""
caller                          private public strangers_private strangers_public region absent
owner                           200     200    200               200              404    404
full                            200     200    404               403              404    404
other                           404     403    200               200              404    404
read                            403     403    404               403              404    404
other_read                      404     403    403               403              404    404
expired,revoked,unknown,nobody  401     401    401               401              401    401
""")
TABLES: Final[dict[Action, dict[tuple[Caller, Place], int]]] = {
    "pull": PULL,
    "push": PUSH,
    "delete": PUSH,
}

PATHS: Final = {
    "ping": "",
    "catalog": "_catalog",
    "registry_extensions": "_oci/ext/discover",
    "repository_extensions": "{repository}/_oci/ext/discover",
    "exists": "{repository}/_holdfast/exists",
    "tags": "{repository}/tags/list",
    "manifest": "{repository}/manifests/v1",
    "blob": "{repository}/blobs/{layer}",
    "uploads": "{repository}/blobs/uploads/",
    "upload": "{repository}/blobs/uploads/{upload_id}",
    "referrers": "{repository}/referrers/{digest}",
}
REQUESTS: Final[dict[tuple[str, str], tuple[Action, int]]] = {
    ("repository_extensions", "GET"): ("pull", 200),
    ("exists", "POST"): ("pull", 200),
    ("tags", "GET"): ("pull", 200),
    ("manifest", "GET"): ("pull", 200),
    ("manifest", "PUT"): ("push", 201),
    ("manifest", "DELETE"): ("delete", 202),
    ("blob", "GET"): ("pull", 200),
    # A manifest needs it, and that is told to those only who may delete.
    ("blob", "DELETE"): ("delete", 405),
    ("uploads", "POST"): ("push", 202),
    ("upload", "GET"): ("push", 204),
    ("upload", "PATCH"): ("push", 202),
    ("upload", "PUT"): ("push", 201),
    ("upload", "DELETE"): ("push", 204),
    ("referrers", "GET"): ("pull", 200),
}
"""What a request does, and how it is answered where that is allowed. HEAD is as GET."""

EVERYWHERE: Final = {"ping", "catalog", "registry_extensions"}
"""Endpoints of the registry as a whole."""

OPEN: Final = {
    "/healthz": 200,
    "/readyz": 200,
    DOCUMENT_PATH: 200,
    "/registry": 404,
    "/registry/{tail}": 404,
    "/holdfast": 404,
    "/holdfast/{tail}": 404,
    "/{tail}": 404,
}
"""All other paths of the router, and how a GET of them is answered, whoever asks."""

DATA: Final = b"what a push sends"


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        yield running


@pytest.fixture
async def world(server: Registry) -> World:
    made = World(server.store)
    await made.add_callers()
    return made


async def widest(world: World, caller: Caller, *names: str) -> str:
    """A token for all actions on these names, whether or not the caller could have got it."""
    key = world.keys.get(caller)
    known = {"owner": "SCWXXXXXXXXXXXXXXXXX", "unknown": "SCW00000000000000000"}
    everything = frozenset(("pull", "push", "delete"))
    return tokens.issue(
        await world.store.keys.signing_key(),
        "access",
        access_key=key.access_key if key is not None else known.get(caller),
        region=REGION,
        scopes={
            **{("repository", name): everything for name in names},
            tokens.CATALOG: frozenset("*"),
        },
        now=int(time.time()),
        seconds=300,
    )


async def credentials(world: World, caller: Caller, *names: str) -> list[dict[str, Any]]:
    """The ways in which the caller may say who it is."""
    secret = world.secrets[caller]
    return [{"secret": secret}, {"token": await widest(world, caller, *names)}]


async def ask(
    server: Registry, endpoint: str, method: str, thing: Thing, more: dict[str, Any]
) -> Answer:  # fmt: skip
    """One request about one thing."""
    path = "/v2/" + PATHS[endpoint].format(
        repository=thing.repository,
        layer=thing.layer,
        digest=thing.digest,
        upload_id=thing.upload_id,
    )
    data: bytes | None = None
    headers = {}
    if (endpoint, method) == ("manifest", "PUT"):
        data, headers = manifest(b"{}", [layer_of(thing)]), {"Content-Type": MANIFEST_TYPE}
        path = path.removesuffix("v1") + "v2"
    elif (endpoint, method) == ("exists", "POST"):
        data = json.dumps({"digests": [thing.layer]}).encode()
    elif (endpoint, method) == ("upload", "PATCH"):
        data = DATA
    elif (endpoint, method) == ("upload", "PUT"):
        data, path = DATA, f"{path}?digest={digest_of(DATA)}"
    return await server.call(method, path, data=data, headers=headers, **more)


def layer_of(thing: Thing) -> bytes:
    layer = f"layer of {thing.namespace} {int(thing.namespace[6:])}".encode()
    assert digest_of(layer) == thing.layer
    return layer


def fingerprint(thing: Thing, answer: Answer) -> tuple[bytes, bytes]:
    """All that a client sees, but for the time, the request's own id, and what it asked for."""
    _, body, headers = answer.fingerprint
    return thing.without_names(body), thing.without_names(repr(headers).encode())


async def managed(
    server: Registry, path: str, secret: str, api: str = "registry"
) -> tuple[int, bytes]:
    """Ask the management API of the same server; status and body."""
    url = f"{server.url}/{api}/v1/regions/{REGION}/{path}"
    async with server.http.get(url, headers={"X-Auth-Token": secret}) as answer:
        return answer.status, await answer.read()


def test_every_endpoint_and_method_is_tested() -> None:
    assert set(PATHS) == set(ENDPOINTS)
    offered = {
        (endpoint, method)
        for endpoint, methods in ENDPOINTS.items()
        for method in methods
        if endpoint not in EVERYWHERE and method != "HEAD"
    }
    assert set(REQUESTS) == offered
    for endpoint in EVERYWHERE:
        assert set(ENDPOINTS[endpoint]) == {"GET", "HEAD"}  # type: ignore[index]


@pytest.mark.promise("SECURITY.md", "keys of projects")
async def test_the_router_has_nothing_that_is_not_tested(server: Registry) -> None:
    """``/v2/`` by its endpoints, the management API by its operations, the token service, and what
    is the same for everybody."""
    paths = {resource.canonical for resource in create_app(server.store).router.resources()}
    operations = {operation.path for operation in OPERATIONS}
    assert paths == {*OPEN, *operations, "/v2", "/v2/{tail}", "/token"}


async def test_what_is_open_is_the_same_for_everybody(server: Registry, world: World) -> None:
    thing = await world.add("private")
    await world.revoke()
    for path, status in OPEN.items():
        url = server.url + path.replace("{tail}", f"v1/{thing.repository}")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            seen = set()
            for caller in CALLERS:
                secret = world.secrets[caller]
                token = await widest(world, caller, thing.repository)
                for headers in (
                    {"Authorization": basic(secret), "X-Auth-Token": secret} if secret else {},
                    {"Authorization": f"Bearer {token}"},
                ):
                    async with server.http.request(method, url, headers=headers) as answer:
                        found = Answer(answer.status, answer.headers, await answer.read())
                    seen.add(repr(found.fingerprint))
                    assert method != "GET" or found.status == status, (path, caller)
                    assert method in ("GET", "HEAD") or found.status in (404, 405), (path, method)
            assert len(seen) == 1, (path, method, seen)


async def test_a_token_for_every_caller_and_place(server: Registry, world: World) -> None:
    """What is granted is what the caller may do, or, where that would tell of what is hidden, what
    its kind of key may do in a project of its own."""
    await world.revoke()
    for caller in CALLERS:
        for place in PLACES:
            thing = await world.add(place)
            scope = f"repository:{thing.repository}:pull,push,delete"
            answer = await server.call(
                "GET", f"/token?service=holdfast&scope={scope}", secret=world.secrets[caller]
            )
            where = (caller, place, answer)
            if not is_valid(caller) and caller != "nobody":
                assert answer.status == 401, where
                continue
            assert answer.status == 200, where
            keys = await server.store.keys.signing_keys()
            granted = tokens.read(keys, answer.json["token"], "access").scopes
            actions = {action for action in TABLES if TABLES[action][caller, place] == OK}
            if PULL[caller, place] == 404:
                actions = {"pull"} if caller in READERS else set(TABLES)
            assert granted.get(("repository", thing.repository), frozenset()) == actions, where


@pytest.mark.slow
@pytest.mark.promise("SECURITY.md", "keys of projects")
@pytest.mark.promise("SECURITY.md", "absent objects")
@pytest.mark.parametrize(
    ("endpoint", "method"),
    [
        (endpoint, method)
        for endpoint, methods in ENDPOINTS.items()
        for method in methods
        if endpoint not in EVERYWHERE
    ],
)
async def test_a_request(server: Registry, world: World, endpoint: str, method: str) -> None:
    action, success = REQUESTS[endpoint, "GET" if method == "HEAD" else method]
    await world.revoke()
    for caller in CALLERS:
        for way in range(2):
            refusals: dict[int, set[object]] = {}
            for place in PLACES:
                thing = await world.add(place)
                before = await world.state(thing)
                more = (await credentials(world, caller, thing.repository))[way]
                answer = await ask(server, endpoint, method, thing, more)
                where = (caller, place, more, answer)
                status = TABLES[action][caller, place]
                if (caller, way, status) == ("nobody", 1, 401):
                    # Who comes with a token and not with enough is told so.
                    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
                if status == OK:
                    assert answer.status == success, where
                    continue
                assert answer.status == status, where
                refusals.setdefault(status, set()).add(fingerprint(thing, answer))
                # It tells no more than was asked, and does nothing.
                seen = answer.body.decode() + repr(answer.headers)
                asked = (thing.namespace, *re.findall(r"{(\w+)}", PATHS[endpoint]))
                known = {getattr(thing, name, name) for name in asked}
                told = [mark for mark in set(thing.marks()) - set(map(str, known)) if mark in seen]
                assert not told, where
                assert await world.state(thing) == before, where
            # Absent, and private of strangers, are the same bytes.
            assert all(len(seen) == 1 for seen in refusals.values()), (caller, way, refusals)


@pytest.mark.promise("SECURITY.md", "listings and the catalog")
async def test_what_is_no_repository(server: Registry, world: World) -> None:
    """The catalogue holds what the caller may pull; the rest has nothing to hide."""
    things = {place: await world.add(place) for place in PLACES}
    await world.revoke()
    for caller in CALLERS:
        for way, more in enumerate(await credentials(world, caller)):
            anonymous = caller == "nobody" and way == 0
            for path in ("", "_catalog", "_oci/ext/discover"):
                answer = await server.call("GET", f"/v2/{path}", **more)
                refused = (not is_valid(caller) and caller != "nobody") or (
                    anonymous and path != "_oci/ext/discover"
                )
                assert answer.status == (401 if refused else 200), (caller, way, path, answer)
                if path != "_catalog" or refused:
                    assert not any(
                        mark in answer.body.decode()
                        for thing in things.values()
                        for mark in thing.marks()
                    )
                    continue
                assert answer.json["repositories"] == sorted(
                    thing.repository for place, thing in things.items() if PULL[caller, place] == OK
                )


@pytest.mark.promise("SECURITY.md", "digests and ids of uploads")
async def test_strangers_content_cannot_be_had_through_ones_own_repository(
    server: Registry, world: World
) -> None:
    """Knowing a digest, or the id of an upload, gives nothing: it is as if it did not exist."""
    own = await world.add("private")
    hidden, absent = await world.add("strangers_private"), await world.add("absent")
    secret = world.secrets["full"]
    answers: dict[str, set[object]] = {}
    for thing in (hidden, absent):

        async def tried(
            what: str, method: str, path: str, thing: Thing = thing, **more: Any
        ) -> Any:
            answer = await server.call(
                method, f"/v2/{own.repository}/{path}", secret=secret, **more
            )
            text = thing.without_names(answer.body + repr(sorted(answer.headers.items())).encode())
            passing = rb"'(Date|X-Request-Id)', '[^']*'|[0-9a-f-]{36}"
            answers.setdefault(what, set()).add((answer.status, re.sub(passing, b"", text)))
            return answer

        for method in ("GET", "HEAD", "DELETE"):
            answer = await tried(f"{method} blob", method, f"blobs/{thing.layer}")
            assert answer.status == 404
            answer = await tried(f"{method} manifest", method, f"manifests/{thing.digest}")
            assert answer.status == 404
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            path = f"blobs/uploads/{thing.upload_id}"
            if method == "PUT":
                path += f"?digest={digest_of(DATA)}"
            data = DATA if method in ("PATCH", "PUT") else None
            answer = await tried(f"{method} upload", method, path, data=data)
            assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
        for query in (f"mount={thing.layer}", f"mount={thing.layer}&from={thing.repository}"):
            answer = await tried(
                query.partition("&")[1] + "mount", "POST", f"blobs/uploads/?{query}"
            )
            assert answer.status == 202
        data = json.dumps({"digests": [thing.layer, own.layer]}).encode()
        answer = await tried("exists", "POST", "_holdfast/exists", data=data)
        assert answer.json == {"present": [own.layer], "missing": [thing.layer]}
        # An index of strangers' manifests, and an image of strangers' layers.
        body = (
            json.dumps(json.loads(manifest(b"{}", [b""])))
            .replace(digest_of(b""), thing.layer)
            .encode()
        )
        answer = await tried(
            "PUT", "PUT", "manifests/stolen", data=body, headers={"Content-Type": MANIFEST_TYPE}
        )
        assert answer.status == 400
        answer = await tried("referrers", "GET", f"referrers/{thing.digest}")
        assert answer.json["manifests"] == []
        # No shorter way for what is there already: the bytes are wanted all the same.
        answer = await tried("POST", "POST", f"blobs/uploads/?digest={thing.layer}", data=b"")
        assert answer.status == 400
    assert all(len(seen) == 1 for seen in answers.values()), answers


async def test_a_token_gives_no_more_than_its_key(server: Registry, world: World) -> None:
    """What was granted before counts for nothing once the key, or the right, is gone."""
    own = await world.add("private")
    path = f"/v2/{own.repository}/manifests/v1"
    scope = f"repository:{own.repository}:*"
    # A reader is granted what it may, whatever it asks for.
    token = await server.token(scope, secret=world.secrets["read"])
    claims = tokens.read(await server.store.keys.signing_keys(), token, "access")
    assert claims.scopes == {("repository", own.repository): frozenset({"pull"})}
    # Revoked: the token and the refresh token end with the key.
    answer = await server.call(
        "GET", f"/token?scope={scope}&offline_token=true", secret=world.secrets["revoked"]
    )
    access, refresh = answer.json["token"], answer.json["refresh_token"]
    assert (await server.call("GET", path, token=access)).status == 200
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": scope}
    assert (await server.call("POST", "/token", secret=None, data=form)).status == 200
    await world.revoke()
    assert (await server.call("GET", path, token=access)).status == 401
    assert (await server.call("POST", "/token", secret=None, data=form)).status == 401
    # A token is no secret: it opens neither the token service nor the management API.
    good = await server.token(scope, secret=world.secrets["full"])
    assert (await server.call("GET", "/token", token=good, secret=None)).status == 401
    assert (await server.call("GET", "/token", secret=good)).status == 401
    assert (await managed(server, "namespaces", good))[0] == 401
    # Nor is one of another region a token here.
    elsewhere = await server.token(scope, secret=world.secrets["full"])
    signing_key = await server.store.keys.signing_key()
    claims = tokens.read(await server.store.keys.signing_keys(), elsewhere, "access")
    moved = tokens.issue(
        signing_key,
        "access",
        access_key=claims.access_key,
        region=OTHER_REGION,
        scopes=claims.scopes,
        now=claims.issued_at,
        seconds=300,
    )
    assert (await server.call("GET", path, token=elsewhere)).status == 200
    assert (await server.call("GET", path, token=moved)).status == 401
    # Nor does a refresh token read anything, or an access token get new ones.
    answer = await server.call(
        "GET", f"/token?scope={scope}&offline_token=true", secret=world.secrets["full"]
    )
    refresh = answer.json["refresh_token"]
    assert (await server.call("GET", path, token=refresh)).status == 401
    form["refresh_token"] = good
    assert (await server.call("POST", "/token", secret=None, data=form)).status == 401


@pytest.mark.promise("SECURITY.md", "numbers of a project")
async def test_usage_numbers_tell_nothing_of_strangers(server: Registry, world: World) -> None:
    """The numbers of a key's project are the same whoever else stores the same layers."""
    own = await world.add("private")
    path = f"namespaces/{own.namespace_id}/usage?would_free=true"

    async def usage() -> bytes:
        status, body = await managed(server, path, str(world.secrets["full"]), "holdfast")
        assert status == 200
        return body

    before = await usage()
    theirs = await world.add("strangers_private")
    here = await server.store.locate(REGION, theirs.repository)
    layer = layer_of(own)
    await server.store.uploads.put(here, own.layer, once(layer), length=len(layer))
    await server.store.manifests.put(
        here, manifest(b"{}", [layer]), media_type=MANIFEST_TYPE, reference="same"
    )
    assert await usage() == before
