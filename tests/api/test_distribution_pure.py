"""The pure parts of the distribution API: paths, queries, ranges, scopes, and the error table."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import engine
from holdfast.api.http.oci_errors import CODES, TABLE, oci_error
from holdfast.api.http.queries import parse_query, percent_decode
from holdfast.api.http.ranges import Span, Unsatisfiable, parse_content_range, parse_range
from holdfast.api.oci.paths import Target, parse_path
from holdfast.api.oci.tokens import parse_scopes

SPEC_CODES = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 400,
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429,
}
"""OCI distribution-spec, "Error Codes", with the statuses that registries use for them."""

LEGACY_CODES = {"RANGE_INVALID", "PAGINATION_NUMBER_INVALID", "UNKNOWN", "UNAVAILABLE"}


def test_the_codes_are_those_of_the_specification_and_a_few_legacy_ones() -> None:
    oci = {code: known.status for code, known in CODES.items() if known.origin == "oci"}
    assert oci == SPEC_CODES
    assert set(CODES) - set(oci) == LEGACY_CODES


def test_every_error_of_the_engine_has_a_row_with_a_known_code_and_no_500() -> None:
    errors = [
        value
        for value in vars(engine).values()
        if inspect.isclass(value) and engine.EngineError in value.__mro__[1:]
    ]
    assert len(errors) > 20
    for error in errors:
        assert any(kind in TABLE for kind in error.__mro__ if kind is not engine.EngineError), error
    for rows in TABLE.values():
        for row in rows.values():
            assert row.code in CODES
            assert row.status != 500


def test_400_bodies_have_codes_of_the_specification_only() -> None:
    rows = [row for rows in TABLE.values() for row in rows.values()]
    assert all(row.code in SPEC_CODES for row in rows if row.status == 400)


def test_missing_content_is_one_error_for_each_digest() -> None:
    answer = oci_error(engine.MissingContent(["sha256:a", "sha256:b"]))
    assert answer.body() == (
        b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"the manifest needs content that'
        b' is not here","detail":{"digest":"sha256:a"}},{"code":"MANIFEST_BLOB_UNKNOWN","message":'
        b'"the manifest needs content that is not here","detail":{"digest":"sha256:b"}}]}'
    )


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", Target("ping")),
        ("_catalog", Target("catalog")),
        ("_oci/ext/discover", Target("registry_extensions")),
        ("a/b/_oci/ext/discover", Target("repository_extensions", "a/b")),
        ("a/b/_holdfast/exists", Target("exists", "a/b")),
        ("a/b/tags/list", Target("tags", "a/b")),
        ("a/b/manifests/v1", Target("manifest", "a/b", "v1")),
        ("a/b/manifests/sha256%3Aaa", Target("manifest", "a/b", "sha256:aa")),
        ("a/b/blobs/sha256:aa", Target("blob", "a/b", "sha256:aa")),
        ("a/b/blobs/uploads", Target("uploads", "a/b")),
        ("a/b/blobs/uploads/", Target("uploads", "a/b")),
        ("a/b/blobs/uploads/7", Target("upload", "a/b", "7")),
        ("a/b/referrers/sha256:aa", Target("referrers", "a/b", "sha256:aa")),
        # Names with the words of endpoints in them.
        ("a/blobs/uploads/manifests/v1", Target("manifest", "a/blobs/uploads", "v1")),
        ("a/manifests/tags/list", Target("tags", "a/manifests")),
        ("a/tags/blobs/uploads/", Target("uploads", "a/tags")),
        ("a/referrers/referrers/x", Target("referrers", "a/referrers", "x")),
        ("blobs/uploads/blobs/uploads/7", Target("upload", "blobs/uploads", "7")),
        ("a/uploads/blobs/sha256:aa", Target("blob", "a/uploads", "sha256:aa")),
        # Decoded once, whatever comes of it.
        ("a%2Fb/manifests/v1", Target("manifest", "a/b", "v1")),
        ("a%252Fb/manifests/v1", Target("manifest", "a%2Fb", "v1")),
        ("a/%zz/manifests/v1", Target("manifest", "a/%zz", "v1")),
        ("a//b/manifests/v1", Target("manifest", "a//b", "v1")),
        # No endpoints.
        ("manifests/v1", None),
        ("/manifests/v1", None),
        ("a/b", None),
        ("a/b/manifests/", None),
        ("a/b/tags/list/", None),
        ("a/b/m%61nifests/v1", None),
        ("tags/list", None),
    ],
)
def test_paths_are_read_from_the_right(rest: str, target: Target | None) -> None:
    assert parse_path(rest) == target


@given(st.text(st.sampled_from("ab/%2F.:_") | st.characters(), max_size=40))
def test_no_path_breaks_the_parser(rest: str) -> None:
    parse_path(rest)


@given(st.text(max_size=60))
def test_no_query_breaks_the_parser(raw: str) -> None:
    for name, value in parse_query(raw):
        (name + value).encode()


def test_queries_keep_the_plus_of_media_types_and_decode_forms() -> None:
    query = parse_query("artifactType=application/x+json&from=a%2Fb&tag=1&tag=2&bad=%zz&flag")
    assert query.first("artifactType") == "application/x+json"
    assert query.first("from") == "a/b"
    assert query.all("tag") == ["1", "2"]
    assert query.first("bad") == "%zz"
    assert query.first("flag") == ""
    assert query.first("absent") is None
    assert query.with_values(tag=None, n="3") == (
        "artifactType=application%2Fx%2Bjson&from=a%2Fb&bad=%25zz&flag=&n=3"
    )
    assert parse_query("scope=a+b", form=True).all("scope") == ["a b"]


def test_what_cannot_be_decoded_stays_encoded() -> None:
    assert percent_decode("a%ffb") == "a%ffb"
    assert percent_decode("a%") == "a%"
    assert percent_decode("\udcff") == "?"


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        (None, []),
        ("bytes=0-1", [Span(0, 2)]),
        ("bytes=5-", [Span(5, 5)]),
        ("bytes=-3", [Span(7, 3)]),
        ("bytes=-30", [Span(0, 10)]),
        ("bytes=8-100", [Span(8, 2)]),
        ("BYTES = 0-0", [Span(0, 1)]),
        ("bytes=0-0, 9-9", [Span(0, 1), Span(9, 1)]),
        ("bytes=0-0,20-30", [Span(0, 1)]),
        ("bytes=0-9,0-9", []),
        ("bytes=" + ",".join(["0-0"] * 11), []),
        ("bytes=" + ",".join(["0-0"] * 10), [Span(0, 1)] * 10),
        ("bytes=9-9,,\t0-0 ,", [Span(9, 1), Span(0, 1)]),
        ("bytes=00000000000000000000005-00006", [Span(5, 2)]),
        ("bytes=7-" + "9" * 5000, [Span(7, 3)]),
        ("bytes=-" + "9" * 5000, [Span(0, 10)]),
        ("items=0-1", []),
        ("bytes=", []),
        ("bytes=-", []),
        ("bytes=a-b", []),
        ("bytes=1", []),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, spans: list[Span]) -> None:
    assert parse_range(header, 10) == spans


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=10-20,30-", "bytes=5-0", "bytes=-0", "bytes=" + "9" * 2000 + "-"]
)
def test_ranges_outside_of_ten_bytes(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 10)


def test_as_many_ranges_as_podman_asks_for() -> None:
    """Of the largest blob they fit into a header of 32 KiB."""
    size = 1 << 40
    spans = [Span(size - 2 * number, 1) for number in range(1024, 0, -1)]
    header = "bytes=" + ",".join(f"{span.offset}-{span.offset}" for span in spans)
    assert len(header) < 32 * 1024
    assert parse_range(header, size) == spans
    assert parse_range(header + ",0-0", size) == []
    assert parse_range("bytes=" + ",".join(["0-0"] * 5000), size) == []


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("0-0", Span(0, 1)),
        ("5-9", Span(5, 5)),
        ("9-5", None),
        ("bytes 0-1/2", None),
        ("bytes=0-1", None),
        ("0-", None),
        ("-1", None),
        ("a-b", None),
        ("", None),
        ("0-" + "9" * 30, None),
    ],
)
def test_content_ranges(header: str, span: Span | None) -> None:
    assert parse_content_range(header) == span


def test_scopes_are_read_and_what_is_unknown_is_left_out() -> None:
    assert parse_scopes(
        [
            "repository:localhost:5000/a/b:pull,push repository:a/b:pull",
            "repository:a/b:push,fly",
            "repository(plugin):p/q:pull",
            "registry:catalog:*",
            "registry:catalog:read",
            "repository:c/d:*",
            "repository:e/f:",
            "repository",
            "other:a/b:pull",
            ":a:pull",
        ]
    ) == {
        ("repository", "localhost:5000/a/b"): {"pull", "push"},
        ("repository", "a/b"): {"pull", "push"},
        ("repository", "p/q"): {"pull"},
        ("registry", "catalog"): {"*"},
        ("repository", "c/d"): {"pull", "push", "delete"},
    }


@given(st.lists(st.text(max_size=80), max_size=5))
def test_no_scope_breaks_the_parser(texts: list[str]) -> None:
    parse_scopes(texts)
