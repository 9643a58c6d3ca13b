"""Who may do what: every cell of the table, and that hidden is hidden (issue "who may do what")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.api import OTHER_PROJECT, digest_of
from support.distribution import Answer, Registry, registry
from support.rows import rows_of, said

from holdfast.api.oci import rights

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
