"""Conditional requests on manifests: 304, 412, and races with one winner (contract 3)."""

from __future__ import annotations

import asyncio

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET, basic, digest_of
from support.distribution import Registry, encoded, manifest, simple

server = api_fixtures.team_server

NAME = "team/app"


async def test_conditional_puts(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    bodies = [encoded(manifest(config, annotations={"n": str(n)})) for n in range(5)]

    async def put(number: int, **headers: str) -> tuple[int, str | None]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await server.put_manifest(NAME, "v1", bodies[number], headers=sent)
        if answer.status == 412:
            assert answer.code == "DENIED"
            current: str | None = answer.json["errors"][0]["detail"]["current"]
            return 412, current
        return answer.status, None

    zero, one = f'"{digest_of(bodies[0])}"', f'"{digest_of(bodies[1])}"'
    assert await put(0, If_Match=zero) == (412, None)
    assert await put(0, If_Match="*") == (412, None)
    assert await put(0, If_None_Match="*") == (201, None)
    assert await put(1, If_None_Match="*") == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=one) == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=f"W/{zero}") == (412, digest_of(bodies[0]))
    assert await put(1, If_Match='"nonsense"') == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=zero) == (201, None)
    assert await put(2, If_Match=f"{zero}, {one}") == (201, None)
    assert await put(3, If_Match="*") == (201, None)
    two, three = f'"{digest_of(bodies[2])}"', f'"{digest_of(bodies[3])}"'
    assert await put(3, If_None_Match=three) == (412, digest_of(bodies[3]))
    assert await put(2, If_None_Match=f"{one}, W/{three}") == (412, digest_of(bodies[3]))
    assert await put(2, If_None_Match=f"{zero}, {two}") == (201, None)
    assert await put(3, If_Match=two, If_None_Match=two) == (412, digest_of(bodies[2]))


async def test_of_racing_writers_exactly_one_wins(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    headers = {"If-None-Match": "*"}
    for attempt in range(3):
        answers = await asyncio.gather(
            *(
                server.put_manifest(
                    NAME,
                    "v1",
                    manifest(config, annotations={"n": f"{attempt}.{number}"}),
                    headers=headers,
                )
                for number in range(8)
            )
        )
        assert sorted(answer.status for answer in answers) == [201] + [412] * 7
        won = next(answer for answer in answers if answer.status == 201)
        etag = (await server.call("HEAD", f"/v2/{NAME}/manifests/v1")).headers["ETag"]
        assert etag == f'"{won.headers["Docker-Content-Digest"]}"'
        headers = {"If-Match": etag}


async def moved(server: Registry) -> tuple[str, str]:
    """A tag ``v1`` that somebody has moved: the digests that it was and is at."""
    was = await server.image(NAME, "v1", b"layer")
    return was, await server.image(NAME, "v1", b"layer", b"more")


NEVER = (
    '"{was}"',
    'W/"{now}"',
    'w/"{now}"',
    '"x,{now}"',
    'x"{now}"',
    '"*"',
    '"{now}',
    "",
    ",",
    "nonsense",
    '*, "{was}"',
    '"{now}"' * 2,
)
"""What ``If-Match`` may say and nothing matches: other tags, weak ones, and what is none."""

AT_LAST = ("*", '"{now}"', "{now}", '"{was}", "{now}"', ' , "a,b",\t"{now}" ,')


async def test_a_tag_that_was_moved_is_not_deleted(server: Registry) -> None:
    was, now = await moved(server)
    path = f"/v2/{NAME}/manifests/v1"
    for condition in ("*", f'"{now}"', f'W/"{now}"', f'"x", {now}'):
        answer = await server.call("DELETE", path, headers={"If-None-Match": condition})
        assert answer.status == 412, condition
    assert (await server.call("HEAD", path)).headers["Docker-Content-Digest"] == now
    for condition in AT_LAST:
        headers = {"If-Match": condition.format(was=was, now=now), "If-None-Match": f'"{was}"'}
        assert (await server.call("DELETE", path, headers=headers)).status == 202, condition
        assert (await server.call("DELETE", path, headers=headers)).status == 404
        await server.image(NAME, "v1", b"layer", b"more")


async def test_conditions_of_every_method_and_resource(server: Registry) -> None:
    """The same headers decide alike wherever there is an entity tag."""
    was, now = await moved(server)
    held = await server.blob(NAME, b"held by no manifest")
    # There is no Last-Modified to compare with.
    dated = {
        "If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT",
        "If-Modified-Since": "Fri, 31 Dec 2100 00:00:00 GMT",
    }
    for path, digest in (
        (f"/v2/{NAME}/manifests/v1", now),
        (f"/v2/{NAME}/manifests/{now}", now),
        (f"/v2/{NAME}/blobs/{held}", held),
    ):
        for condition in NEVER:
            headers = {"If-Match": condition.format(was=was, now=digest), "Range": "bytes=0-1"}
            for method in ("GET", "HEAD", "DELETE"):
                answer = await server.call(method, path, headers=headers)
                assert answer.status == 412, (method, path, condition)
        for condition in AT_LAST:
            headers = {"If-Match": condition.format(was=was, now=digest)}
            for method in ("GET", "HEAD"):
                assert (await server.call(method, path, headers=headers)).status == 200
                both = {**headers, "If-None-Match": f'W/"{digest}"'}
                answer = await server.call(method, path, headers=both)
                assert (answer.status, answer.headers["ETag"]) == (304, f'"{digest}"')
        assert (await server.call("GET", path, headers=dated)).status == 200
        answer = await server.call("DELETE", path, headers={"If-None-Match": "*"})
        assert answer.status == 412
    for path, digest in (
        (f"/v2/{NAME}/blobs/{held}", held),
        (f"/v2/{NAME}/manifests/v1", now),
        (f"/v2/{NAME}/manifests/{now}", now),
    ):
        headers = {**dated, "If-Match": f'"{was}", "{digest}"'}
        assert (await server.call("DELETE", path, headers=headers)).status == 202


async def test_several_lines_are_one_list(server: Registry) -> None:
    was, now = await moved(server)
    for first, second in ((was, now), (now, was)):
        request = (
            f"GET /v2/{NAME}/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: {basic(OWNER_SECRET)}\r\n"
            f'If-None-Match: "{first}"\r\nIf-None-Match: "{second}"\r\n\r\n'
        )
        assert (await server.raw(request.encode())).startswith(b"HTTP/1.1 304 ")


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
async def test_conditions_do_not_hide_other_refusals(server: Registry, header: str) -> None:
    """RFC 9110 section 13.2.1: only where the answer would be 2xx without them."""
    _, now = await moved(server)
    headers = {header: "*" if header == "If-None-Match" else '"other"'}
    for path in (f"manifests/{digest_of(b'x')}", "manifests/v9", f"blobs/{digest_of(b'x')}"):
        for method in ("GET", "HEAD", "DELETE"):
            answer = await server.call(method, f"/v2/{NAME}/{path}", headers=headers)
            assert answer.status == 404, (method, path)
    needed = f"/v2/{NAME}/blobs/{digest_of(b'layer')}"
    assert (await server.call("DELETE", needed, headers=headers)).status == 405
    answer = await server.call("DELETE", f"/v2/{NAME}/manifests/v1", headers=headers, secret=None)
    assert answer.status == 401
    space = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(space.id, immutable_tags=("v1",))
    for reference in ("v1", now):
        path = f"/v2/{NAME}/manifests/{reference}"
        assert (await server.call("DELETE", path, headers=headers)).status == 403


async def test_what_has_no_entity_tag_is_there_all_the_same(server: Registry) -> None:
    await server.image(NAME, "v1", b"layer")
    session = await server.session(NAME)
    for path in (f"/v2/{NAME}/tags/list", "/v2/_catalog", session):
        for header, value, status in (
            ("If-Match", '"x"', 412),
            ("If-Match", "*", None),
            ("If-None-Match", '"x"', None),
            ("If-None-Match", "*", 304),
        ):
            answer = await server.call("GET", path, headers={header: value})
            assert answer.status == (status or (204 if path == session else 200))
    digest = digest_of(b"ab")
    for method, path, data in (
        ("PATCH", session, b"a"),
        ("PUT", f"{session}?digest={digest}", b"a"),
        ("DELETE", session, None),
    ):
        for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}):
            answer = await server.call(method, path, data=data, headers=headers)
            assert answer.status == 412, (method, headers)
            gone = path.replace(session[-12:], "0" * 12)
            answer = await server.call(method, gone, data=data, headers=headers)
            assert answer.status == 404
    ordered = {"Content-Range": "5-5", "If-Match": '"x"'}
    assert (await server.call("PATCH", session, data=b"a", headers=ordered)).status == 416
    good = {"If-Match": "*", "If-None-Match": '"x"'}
    answer = await server.call("PATCH", session, data=b"a", headers=good)
    assert (answer.status, answer.headers["Range"]) == (202, "0-0")
    path = f"{session}?digest={digest}"
    assert (await server.call("PUT", path, data=b"b", headers=good)).status == 201
    opening = f"/v2/{NAME}/blobs/uploads/"
    for value in ("*", '"x"'):
        answer = await server.call("POST", opening, headers={"If-Match": value})
        assert answer.status == 412
        answer = await server.call("POST", opening, headers={"If-None-Match": value})
        assert answer.status == 202


async def test_of_deletes_and_moves_one_is_first(server: Registry) -> None:
    """A conditional delete never takes away what came after the digest that it names."""
    for attempt in range(10):
        was = await server.image(NAME, "v1", b"layer", annotations={"n": str(attempt)})
        deleted, now = await asyncio.gather(
            server.call("DELETE", f"/v2/{NAME}/manifests/v1", headers={"If-Match": f'"{was}"'}),
            server.image(NAME, "v1", b"layer", annotations={"n": f"{attempt}b"}),
        )
        assert deleted.status in (202, 412)
        found = await server.call("HEAD", f"/v2/{NAME}/manifests/v1")
        assert found.headers["Docker-Content-Digest"] == now


async def test_a_sha512_that_the_image_does_not_know_is_absent(server: Registry) -> None:
    body = await simple(server)
    await server.put_manifest(NAME, "v1", body)
    longer = digest_of(body, "sha512")
    for header, value, status in (
        ("If-Match", "*", 412),
        ("If-None-Match", "*", 201),
        ("If-None-Match", "*", 412),
        ("If-Match", f'"{longer}"', 201),
    ):
        answer = await server.put_manifest(NAME, longer, body, headers={header: value})
        assert answer.status == status


async def test_a_refused_read_is_no_pull(server: Registry) -> None:
    _, now = await moved(server)
    path = f"/v2/{NAME}/manifests/v1"
    where = await server.store.locate("fr-par", NAME)

    async def pulls() -> int:
        await server.store.pulls.flush()
        assert where.image_id is not None
        page = await server.store.tags.list(where.image_id)
        return page.items[0].pull_count

    before = await pulls()
    assert (await server.call("GET", path, headers={"If-Match": '"x"'})).status == 412
    assert await pulls() == before
    assert (await server.call("GET", path, headers={"If-None-Match": f'"{now}"'})).status == 304
    assert await pulls() == before + 1
