"""Who may do what: every cell of the table, and that hidden is hidden (issue "who may do what")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.distribution import (
    OTHER_PROJECT,
    Answer,
    Registry,
    digest_of,
    registry,
)
from support.rows import rows_of, said

from holdfast.api.oci import rights
from holdfast.api.oci.app import ENDPOINTS
from holdfast.api.oci.paths import parse_path

NAMES = {
    "absent": ["no-such-namespace/app"],
    "strangers_private": ["shut/app", "shut/absent", "open/absent", "open/private"],
    "own_private": ["team/app", "team/absent"],
    "strangers_public": ["open/app", "shut/public"],
    "own_public": ["forum/app", "team/public"],
}
"""Names as a key of the default project sees them."""

PLACES = {"absent": "hidden", "strangers_private": "hidden"}

PAGE = {
    (row.cells["caller"], row.cells["where the name leads"]): row.cells
    for row in rows_of("distribution-api.md", "rights")
}
"""What the page says. Own images are the same whether public or private."""


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        await running.namespace("team")
        await running.namespace("forum", is_public=True)
        await running.namespace("open", OTHER_PROJECT, is_public=True)
        await running.namespace("shut", OTHER_PROJECT)
        for name in (
            "team/app",
            "team/public",
            "forum/app",
            "open/app",
            "open/private",
            "shut/app",
            "shut/public",
        ):
            await running.image(name, "v1", b"layer")
            if name.endswith(("public", "private")):
                repository = await running.store.locate("fr-par", name)
                assert repository.image_id is not None
                visibility: Any = name.rpartition("/")[2]
                await running.store.images.update(repository.image_id, visibility=visibility)
        yield running


REQUESTS: dict[rights.Action, list[tuple[str, str]]] = {
    "pull": [
        ("GET", "manifests/v1"),
        ("HEAD", "manifests/v1"),
        ("GET", f"blobs/{digest_of(b'layer')}"),
        ("HEAD", f"blobs/{digest_of(b'layer')}"),
        ("GET", "tags/list"),
        ("GET", f"referrers/{digest_of(b'layer')}"),
        ("GET", "_oci/ext/discover"),
        ("POST", "_holdfast/exists"),
    ],
    "push": [
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?mount={digest_of(b'layer')}"),
        ("PUT", "manifests/v2"),
        ("GET", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
        ("PATCH", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
        ("PUT", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
        ("DELETE", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
    ],
    "delete": [
        ("DELETE", "manifests/nothing"),
        ("DELETE", f"manifests/{digest_of(b'nothing')}"),
        ("DELETE", f"blobs/{digest_of(b'nothing')}"),
    ],
}


def on_page(asker: str, place: str) -> dict[str, str]:
    """The page's row: ``yes``, or the answer, for each action."""
    return PAGE[asker, "own" if place.startswith("own_") else place]


def test_the_table_is_complete() -> None:
    assert set(PAGE) == {
        (asker, "own" if place.startswith("own_") else place) for asker, place in rights.TABLE
    }
    assert {asker for asker, _ in rights.TABLE} == {"anonymous", "read", "full"}
    for asker in ("read", "full"):
        places = {place for known, place in rights.TABLE if known == asker}
        assert places == {"hidden", "strangers_public", "own_private", "own_public"}
    for row in rights.TABLE.values():
        assert set(row) == set(rights.ACTIONS) == set(REQUESTS)


def test_the_requests_below_are_all_routes_of_a_repository() -> None:
    routes = {
        (endpoint, method): route.action
        for endpoint, methods in ENDPOINTS.items()
        for method, route in methods.items()
        if route.action is not None
    }
    asked = {}
    for action, requests in REQUESTS.items():
        for method, rest in requests:
            target = parse_path(f"team/app/{rest.partition('?')[0]}")
            assert target is not None
            asked[target.endpoint, method] = action
    assert asked == {where: action for where, action in routes.items() if where in asked}
    # HEAD is GET, but for a blob.
    assert {where for where in routes if where not in asked} == {
        (endpoint, "HEAD") for endpoint in ("tags", "referrers", "repository_extensions", "upload")
    }


def message(name: str, answer: Answer) -> bytes:
    """The body with the namespace's and the image's names taken out."""
    namespace, _, image = name.partition("/")
    return answer.body.replace(namespace.encode(), b"N").replace(f"/{image}".encode(), b"/I")


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("asker", ["anonymous", "read", "full"])
async def test_every_cell(server: Registry, asker: rights.CallerKind, with_token: bool) -> None:
    secret = None if asker == "anonymous" else (await server.key(permission=asker))[1]
    for kind, names in NAMES.items():
        place: Any = PLACES.get(kind, kind)
        if asker == "anonymous":
            # Nobody in particular owns nothing.
            place = "strangers_public" if kind.endswith("public") else "hidden"
        for action in rights.ACTIONS:
            verdict = on_page(asker, place)[action]
            seen = set()
            for name in names:
                more: dict[str, Any] = {"secret": secret}
                if with_token:
                    scope = f"repository:{name}:*"
                    more = {"token": await server.token(scope, secret=secret)}
                for method, rest in REQUESTS[action]:
                    answer = await server.call(method, f"/v2/{name}/{rest}", **more)
                    where = (asker, kind, name, method, rest, answer)
                    if verdict == "yes":
                        assert answer.status not in (401, 403), where
                    elif method == "HEAD":
                        assert verdict.startswith(f"{answer.status} "), where
                    else:
                        assert said(answer) == verdict, where
                        seen.add((method, rest, message(name, answer)))
            if verdict != "yes":
                # The answer does not depend on what is there.
                requests = [rest for method, rest in REQUESTS[action] if method != "HEAD"]
                assert len(seen) == len(requests)


@pytest.mark.promise("SECURITY.md", "absent objects")
@pytest.mark.parametrize("asker", ["anonymous", "read", "full"])
async def test_absent_and_private_of_strangers_are_the_same_bytes(
    server: Registry, asker: rights.CallerKind
) -> None:
    """The same name, before and after strangers put a private image there."""
    secret = None if asker == "anonymous" else (await server.key(permission=asker))[1]
    scope = "repository:later/app:*"

    async def ask() -> list[Any]:
        token = await server.token(scope, secret=secret)
        credentials: list[dict[str, Any]] = [{"secret": secret}, {"token": token}]
        answers = [
            await server.call(method, f"/v2/later/app/{rest}", **more)
            for more in credentials
            for requests in REQUESTS.values()
            for method, rest in requests
        ]
        return [answer.fingerprint for answer in answers]

    absent = await ask()
    await server.namespace("later", OTHER_PROJECT)
    assert await ask() == absent
    await server.image("later/app", "v1", b"layer")
    assert await ask() == absent
    namespace = await server.store.namespaces.find("fr-par", "later")
    repository = await server.store.locate("fr-par", "later/app")
    assert repository.image_id is not None
    await server.store.images.update(repository.image_id, visibility="private")
    await server.store.namespaces.update(namespace.id, is_public=True)
    assert await ask() == absent


async def test_the_refused_push_says_how_to_go_on(server: Registry) -> None:
    _, secret = await server.key()
    answer = await server.call("POST", "/v2/fresh/app/blobs/uploads/", secret=secret)
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert "POST /registry/v1/regions/fr-par/namespaces" in answer.json["errors"][0]["message"]
    answer = await server.call("POST", "/v2/app/blobs/uploads/", secret=secret)
    assert (answer.status, answer.code) == (400, "NAME_INVALID")
    assert "namespace/image" in answer.json["errors"][0]["message"]
    # A client that probes first sees no body.
    answer = await server.call("HEAD", f"/v2/app/blobs/{digest_of(b'x')}", secret=secret)
    assert answer.status == 400
    assert answer.headers["Warning"].startswith('299 - "a name of one')
    assert "namespace/image" in answer.headers["Warning"]
