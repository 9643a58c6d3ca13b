"""Tags, catalog, referrers and extensions: lists and their pages (contract 9 and 10)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support import api_fixtures
from support.api import CONFIG_TYPE, EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, OTHER_PROJECT, digest_of
from support.distribution import Answer, Registry, descriptor, manifest

server = api_fixtures.team_server

NAME = "team/app"


def next_page(answer: Answer) -> str | None:
    """The target of the Link header."""
    link = answer.headers.get("Link")
    if link is None:
        return None
    match = re.fullmatch(r'<([^>]+)>; rel="next"', link)
    assert match
    return match.group(1)


async def walk(server: Registry, path: str, member: str, **more: Any) -> list[list[Any]]:
    """Every page of a listing."""
    pages = []
    following: str | None = path
    while following is not None:
        answer = await server.call("GET", following, **more)
        assert answer.status == 200
        pages.append(answer.json[member])
        following = next_page(answer)
    return pages


async def tags(server: Registry, *names: str) -> None:
    config = await server.blob(NAME, b"{}")
    for name in names:
        assert (await server.put_manifest(NAME, name, manifest(config))).status == 201


async def test_tags_come_in_byte_order_in_pages(server: Registry) -> None:
    names = ["b", "A", "a", "_x", "1.0", "1-0", "B", "a.b"]
    await tags(server, *names)
    ordered = sorted(names)
    path = f"/v2/{NAME}/tags/list"
    answer = await server.call("GET", path)
    assert answer.json == {"name": NAME, "tags": ordered}
    assert answer.headers["Content-Type"] == "application/json"
    assert "Link" not in answer.headers
    for size in (1, 3, 7):
        pages = await walk(server, f"{path}?n={size}&keep=a%2Bb", "tags")
        assert [tag for page in pages for tag in page] == ordered
        assert all(len(page) == size for page in pages[:-1])
    answer = await server.call("GET", f"{path}?n=3&keep=a%2Bb")
    assert "keep=a%2Bb" in (next_page(answer) or "")
    assert (await server.call("GET", f"{path}?n=8")).headers.get("Link") is None
    assert (await server.call("GET", f"{path}?n=1000")).json["tags"] == ordered
    answer = await server.call("GET", f"{path}?n=0")
    assert answer.json["tags"] == []
    assert "Link" not in answer.headers


async def test_last_is_exclusive_and_need_not_exist(server: Registry) -> None:
    await tags(server, "a", "b", "c")
    path = f"/v2/{NAME}/tags/list"
    for last, expected in (
        ("a", ["b", "c"]),
        ("aa", ["b", "c"]),
        ("", ["a", "b", "c"]),
        ("c", []),
        ("a%C3%A9", ["b", "c"]),
        ("%C3%A9", []),
        ("%00", ["a", "b", "c"]),
        ("b" * 5000, ["c"]),
        ("%ff", ["a", "b", "c"]),
    ):
        answer = await server.call("GET", f"{path}?last={last}")
        assert answer.json["tags"] == expected, last


LISTINGS = pytest.mark.parametrize(
    "path",
    [f"/v2/{NAME}/tags/list", "/v2/_catalog", f"/v2/{NAME}/referrers/{digest_of(b'subject')}"],
)


@pytest.mark.parametrize(
    "n", ["1000", "1001", "1000000000", "2147483648", "9" * 19, "9" * 15_000, "0" * 15_000 + "7"]
)
@LISTINGS
async def test_n_over_the_bound_is_cut_to_it(server: Registry, n: str, path: str) -> None:
    """However large it is: also where no number of the machine holds it."""
    names = [f"t{number}" for number in range(7)]
    await tags(server, *names)
    answer = await server.call("GET", f"{path}?n={n}")
    assert answer.status == 200
    assert "Link" not in answer.headers
    if "tags" in answer.json:
        assert answer.json["tags"] == names


@pytest.mark.parametrize(
    "n", ["-1", "x", "1.5", "", "%20", "1e3", "+5", "%2B5", "1_0", "%D9%A3", "5%00", "-" + "9" * 99]
)
@LISTINGS
async def test_n_that_is_no_number(server: Registry, n: str, path: str) -> None:
    await tags(server, "a")
    answer = await server.call("GET", f"{path}?n={n}")
    assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")


async def test_tags_of_nothing(server: Registry) -> None:
    answer = await server.call("GET", f"/v2/{NAME}/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    await tags(server, "a")
    await server.call("DELETE", f"/v2/{NAME}/manifests/a")
    assert (await server.call("GET", f"/v2/{NAME}/tags/list")).json["tags"] == []


async def test_many_tags_are_cut_to_a_page_with_a_link(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    body = json.dumps(manifest(config)).encode()
    names = [f"t{number:04}" for number in range(1001)]
    for start in range(0, len(names), 100):
        query = "&".join(f"tag={name}" for name in names[start : start + 100])
        answer = await server.put_manifest(NAME, f"{digest_of(body)}?{query}", body)
        assert answer.status == 201
    for query in ("", "?n=5000", "?n=1000000000000"):
        pages = await walk(server, f"/v2/{NAME}/tags/list{query}", "tags")
        assert [len(page) for page in pages] == [1000, 1]
        assert [tag for page in pages for tag in page] == names


async def test_the_catalog_shows_what_the_caller_may_pull(server: Registry) -> None:
    await server.namespace("open", OTHER_PROJECT, is_public=True)
    await server.namespace("shut", OTHER_PROJECT)
    await server.namespace("abroad", region="nl-ams")
    for name in ("team/b", "team/a", "open/x", "shut/y"):
        await server.image(name, "v1", b"layer")
    await server.blob("team/draft", b"no manifest yet")
    _, own = await server.key()
    _, theirs = await server.key(OTHER_PROJECT, "read")

    async def listed(**credentials: str | None) -> list[str]:
        pages = await walk(server, "/v2/_catalog?n=1", "repositories", **credentials)
        assert all(len(page) <= 1 for page in pages)
        return [name for page in pages for name in page]

    assert await listed() == ["open/x", "shut/y", "team/a", "team/b"]
    assert await listed(secret=own) == ["open/x", "team/a", "team/b"]
    assert await listed(secret=theirs) == ["open/x", "shut/y"]
    assert await listed(token=await server.token("registry:catalog:*", secret=own)) == [
        "open/x",
        "team/a",
        "team/b",
    ]
    anonymous = await server.token("registry:catalog:*", secret=None)
    assert await listed(token=anonymous) == ["open/x"]
    answer = await server.call("GET", "/v2/_catalog", secret=None)
    assert answer.status == 401
    assert 'scope="registry:catalog:*"' in answer.headers["WWW-Authenticate"]
    answer = await server.call("GET", "/v2/_catalog", token=await server.token(secret=own))
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    answer = await server.call("GET", "/v2/_catalog?n=0")
    assert answer.json == {"repositories": []}
    assert "Link" not in answer.headers
    answer = await server.call("GET", "/v2/_catalog?last=team/a")
    assert answer.json == {"repositories": ["team/b"]}
    answer = await server.call("GET", "/v2/_catalog?last=team")
    assert answer.json == {"repositories": ["team/a", "team/b"]}
    assert (await server.call("HEAD", "/v2/_catalog")).status == 200


async def referrer(
    server: Registry, subject: str, number: int = 0, *, name: str = NAME, **more: Any
) -> tuple[str, Answer]:
    """Push an artifact with a subject; its digest and the answer."""
    config = await server.blob(name, b"{}")
    document = manifest(
        config,
        [],
        EMPTY_TYPE,
        subject=descriptor(subject, 7, MANIFEST_TYPE),
        annotations={"n": str(number)},
        **more,
    )
    body = json.dumps(document).encode()
    answer = await server.put_manifest(name, digest_of(body), body)
    assert answer.status == 201
    return digest_of(body), answer


async def referrers(server: Registry, subject: str, query: str = "") -> Answer:
    answer = await server.call("GET", f"/v2/{NAME}/referrers/{subject}{query}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == INDEX_TYPE
    document = answer.json
    assert document["schemaVersion"] == 2
    assert document["mediaType"] == INDEX_TYPE
    return answer


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_subject_need_not_exist(server: Registry, algorithm: str) -> None:
    subject = digest_of(b"absent", algorithm)
    assert (await referrers(server, subject)).json["manifests"] == []
    digest, answer = await referrer(server, subject, artifactType="application/x.sig")
    assert answer.headers["OCI-Subject"] == subject
    found = (await referrers(server, subject)).json["manifests"]
    assert found == [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": digest,
            "size": len((await server.call("GET", f"/v2/{NAME}/manifests/{digest}")).body),
            "artifactType": "application/x.sig",
            "annotations": {"n": "0"},
        }
    ]


async def test_referrers_of_nothing_and_of_nonsense(server: Registry) -> None:
    assert (await referrers(server, "blake3:" + "a" * 64)).json["manifests"] == []
    for digest in ("latest", "sha256:short", "sha256:" + "A" * 64):
        answer = await server.call("GET", f"/v2/{NAME}/referrers/{digest}")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


async def test_the_artifact_type_comes_from_where_the_specification_says(
    server: Registry,
) -> None:
    subject = await server.image(NAME, "v1")
    config = await server.blob(NAME, b"{}")
    about = descriptor(subject, 7, MANIFEST_TYPE)
    plain = manifest(config, [], CONFIG_TYPE, subject=about)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [], "subject": about}
    typed = {**index, "artifactType": "application/x.index"}
    expected: dict[str, str | None] = {}
    for document, kind in ((plain, CONFIG_TYPE), (index, None), (typed, "application/x.index")):
        answer = await server.put_manifest(NAME, f"t{len(expected)}", document)
        assert answer.headers["OCI-Subject"] == subject
        # Pushed by digest too, it is still one referrer.
        digest = answer.headers["Docker-Content-Digest"]
        assert (await server.put_manifest(NAME, digest, document)).status == 201
        expected[digest] = kind
    found = (await referrers(server, subject)).json["manifests"]
    assert {item["digest"]: item.get("artifactType") for item in found} == expected
    assert len(found) == 3
    await server.call("DELETE", f"/v2/{NAME}/manifests/{found[0]['digest']}")
    assert len((await referrers(server, subject)).json["manifests"]) == 2
    # Of this repository only.
    await server.image("team/other", "v1")
    answer = await server.call("GET", f"/v2/team/other/referrers/{subject}")
    assert answer.json["manifests"] == []


async def test_filters_say_that_they_were_applied(server: Registry) -> None:
    subject = digest_of(b"subject")
    for number, kind in enumerate(("application/a+json", "application/b", "application/c")):
        await referrer(server, subject, number, artifactType=kind)
    answer = await referrers(server, subject)
    assert len(answer.json["manifests"]) == 3
    assert "OCI-Filters-Applied" not in answer.headers
    for query, count in (
        ("?artifactType=application/a%2Bjson", 1),
        ("?artifactType=application/a+json", 1),
        ("?artifactType=application/b&artifactType=application/c", 2),
        ("?artifactType=application/none", 0),
    ):
        answer = await referrers(server, subject, query)
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        assert len(answer.json["manifests"]) == count, query


async def test_referrers_come_in_pages(server: Registry) -> None:
    subject = digest_of(b"subject")
    pushed = [(await referrer(server, subject, number))[0] for number in range(5)]
    path = f"/v2/{NAME}/referrers/{subject}?artifactType={EMPTY_TYPE.replace('+', '%2B')}&n=2"
    pages = await walk(server, path, "manifests")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [item["digest"] for page in pages for item in page] == sorted(pushed)


async def test_large_annotations_make_more_pages(server: Registry) -> None:
    subject = digest_of(b"subject")
    config = await server.blob(NAME, b"{}")
    about = descriptor(subject, 7, MANIFEST_TYPE)
    for number in range(5):
        annotations = {"n": str(number), "x": "y" * 1_000_000}
        document = manifest(config, subject=about, annotations=annotations)
        assert (await server.put_manifest(NAME, f"v{number}", document)).status == 201
    pages = await walk(server, f"/v2/{NAME}/referrers/{subject}", "manifests")
    assert sum(len(page) for page in pages) == 5
    assert len(pages) == 2
    assert pages[0][0]["annotations"]["x"] == "y" * 1_000_000


async def test_extensions_are_found(server: Registry) -> None:
    answer = await server.call("GET", "/v2/_oci/ext/discover")
    assert [item["name"] for item in answer.json["extensions"]] == ["_oci"]
    await server.image(NAME, "v1")
    answer = await server.call("GET", f"/v2/{NAME}/_oci/ext/discover")
    found = {item["name"]: item["endpoints"] for item in answer.json["extensions"]}
    assert found == {"_oci": ["_oci/ext/discover"], "_holdfast": ["_holdfast/exists"]}


async def test_many_digests_are_asked_for_in_one_request(server: Registry) -> None:
    first, second = await server.blob(NAME, b"1"), await server.blob(NAME, b"2" * 100_000)
    hidden = await server.blob("team/other", b"3")
    path = f"/v2/{NAME}/_holdfast/exists"
    asked = [hidden, second, digest_of(b"absent"), first, first, "blake3:" + "a" * 64]

    async def ask(question: Any, **more: Any) -> Answer:
        return await server.call("POST", path, data=json.dumps(question).encode(), **more)

    answer = await ask({"digests": asked})
    assert answer.status == 200
    assert answer.json == {
        "present": [second, first],
        "missing": [hidden, digest_of(b"absent"), "blake3:" + "a" * 64],
    }
    token = await server.token(f"repository:{NAME}:pull")
    assert (await ask({"digests": [first]}, token=token)).json["present"] == [first]
    assert (await ask({"digests": [first]}, secret=None)).status == 401
    assert (await ask({"digests": ["sha256:short"]})).code == "DIGEST_INVALID"
    wrong: Any
    for wrong in ([], {}, {"digests": "x"}, {"digests": [1]}, {"digests": [], "more": 1}):
        assert (await ask(wrong)).status == 400
    assert (await server.call("POST", path, data=b"\xff")).status == 400
    assert (await server.call("POST", path)).status == 400
    assert (
        await ask({"digests": [digest_of(bytes([n % 256, n // 256])) for n in range(1001)]})
    ).status == 413
    assert (await server.call("POST", path, data=b" " * 300_000)).status == 413
