"""Manifests and indexes: what is accepted, what is read out of them, and what is refused."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.model import documents
from holdfast.engine.model.config import NEEDS_MAX
from holdfast.engine.model.documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    Need,
)
from holdfast.engine.model.errors import Invalid, InvalidManifest

LIMIT = 4 * 1024 * 1024
EMPTY = "application/vnd.oci.empty.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
Json = dict[str, Any]


def sha(fill: str) -> str:
    return "sha256:" + fill * 64


def descriptor(media_type: str = LAYER, fill: str = "a", size: int = 10, **more: Any) -> Json:
    return {"mediaType": media_type, "digest": sha(fill), "size": size, **more}


def manifest(**more: Any) -> Json:
    base = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, "c", 3),
        "layers": [descriptor(fill="1"), descriptor(fill="2", size=20)],
    }
    return without_absent({**base, **more})


def index(**more: Any) -> Json:
    base = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_MANIFEST, "a"), descriptor(OCI_INDEX, "b")],
    }
    return without_absent({**base, **more})


ABSENT = object()


def without_absent(document: Json) -> Json:
    return {name: value for name, value in document.items() if value is not ABSENT}


def parse(document: Json | bytes, media_type: str | None = None) -> Document:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return documents.parse(body, media_type, limit=LIMIT)


def reason(document: Json | bytes, media_type: str | None = None) -> str:
    with pytest.raises(InvalidManifest) as caught:
        parse(document, media_type)
    return caught.value.reason


def content(
    fill: str, size: int, *, foreign: bool = False, kind: Literal["content", "child"] = "content"
) -> Need:
    return Need(kind, sha(fill), size, foreign)


# What is read


def test_reads_a_manifest() -> None:
    assert parse(manifest(annotations={"a": "b", "": "ü"}), OCI_MANIFEST) == Document(
        media_type=OCI_MANIFEST,
        is_index=False,
        needs=(content("c", 3), content("1", 10), content("2", 20)),
        config_digest=sha("c"),
        subject=None,
        artifact_type=CONFIG,
        annotations={"a": "b", "": "ü"},
    )


def test_reads_an_index() -> None:
    document = parse(
        index(subject=descriptor(OCI_MANIFEST, "9", 7), artifactType="application/x"), OCI_INDEX
    )
    assert document == Document(
        media_type=OCI_INDEX,
        is_index=True,
        needs=(content("a", 10, kind="child"), content("b", 10, kind="child")),
        config_digest=None,
        subject=sha("9"),
        artifact_type="application/x",
        annotations={},
    )


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, None])
def test_reads_docker_schema_2(media_type: str | None) -> None:
    document = parse(manifest(mediaType=DOCKER_MANIFEST), media_type)
    assert (document.media_type, document.is_index) == (DOCKER_MANIFEST, False)
    assert len(document.needs) == 3


@pytest.mark.parametrize("media_type", [DOCKER_LIST, None])
def test_reads_a_docker_list(media_type: str | None) -> None:
    children = [descriptor(DOCKER_MANIFEST, "a", platform={"os": "linux", "features": ["x"]})]
    document = parse(index(mediaType=DOCKER_LIST, manifests=children), media_type)
    assert (document.media_type, document.is_index) == (DOCKER_LIST, True)
    assert document.needs == (content("a", 10, kind="child"),)


@pytest.mark.parametrize(
    ("document", "media_type", "expected"),
    [
        (manifest(mediaType=ABSENT), OCI_MANIFEST, OCI_MANIFEST),
        (manifest(mediaType=ABSENT), None, OCI_MANIFEST),
        (manifest(mediaType=""), None, OCI_MANIFEST),
        (manifest(mediaType=None), "", OCI_MANIFEST),
        (manifest(mediaType=ABSENT, manifests=None), None, OCI_MANIFEST),
        (index(mediaType=ABSENT), OCI_INDEX, OCI_INDEX),
        (index(mediaType=ABSENT), None, OCI_INDEX),
        (index(mediaType=ABSENT, manifests=[]), None, OCI_INDEX),
        (index(mediaType=ABSENT, manifests=None), None, OCI_INDEX),
        (index(config=None, layers=None), None, OCI_INDEX),
        (manifest(), None, OCI_MANIFEST),
    ],
)
def test_finds_the_media_type(document: Json, media_type: str | None, expected: str) -> None:
    assert parse(document, media_type).media_type == expected


@pytest.mark.parametrize("layers", [[], None, ABSENT])
def test_a_manifest_may_have_no_layers(layers: object) -> None:
    assert parse(manifest(layers=layers)).needs == (content("c", 3),)


@pytest.mark.parametrize("children", [[], None])
def test_an_index_may_have_no_manifests(children: object) -> None:
    assert parse(index(manifests=children)).needs == ()


def test_config_and_layer_may_be_one_blob() -> None:
    empty = descriptor(EMPTY, "e", 2, data="e30=")
    document = parse(manifest(config=empty, layers=[empty, empty]))
    assert document.needs == (content("e", 2),)
    assert document.config_digest == sha("e")


def test_unknown_fields_may_hold_anything() -> None:
    extra = {
        "x": None, "y": [1, 2.5, True, {"z": []}], "history": 7, "platform": "p",
        "huge": int("9" * 400), "exponent": 1e300,
    }  # fmt: skip
    document = manifest(**extra)
    document["layers"][0].update(extra, annotations={"a": 1}, data=[1])
    body = json.dumps(document).replace("1e+300", "1e99999").encode()
    assert parse(body).needs == parse(manifest()).needs


def test_the_last_of_repeated_keys_counts() -> None:
    body = json.dumps(manifest()).replace('"schemaVersion": 2', '"schemaVersion": 1', 1)
    assert parse(body[:-1].encode() + b', "schemaVersion": 2}').media_type == OCI_MANIFEST


@pytest.mark.parametrize("media_type", ["x", "text/plain; charset=utf-8", "ü", "", None, ABSENT])
def test_configs_and_layers_have_any_media_type(media_type: object) -> None:
    entry = without_absent(descriptor(mediaType=media_type, fill="e"))
    document = parse(manifest(config=entry, layers=[entry]))
    assert document.needs == (content("e", 10),)
    shown = media_type if isinstance(media_type, str) and media_type else None
    assert document.artifact_type == shown


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (manifest(), CONFIG),
        (manifest(artifactType="application/sbom"), "application/sbom"),
        (manifest(artifactType=""), CONFIG),
        (manifest(artifactType=None), CONFIG),
        (index(artifactType="application/sbom"), "application/sbom"),
        (index(), None),
    ],
)
def test_artifact_type_as_the_referrers_listing_shows_it(
    document: Json, expected: str | None
) -> None:
    assert parse(document).artifact_type == expected


@pytest.mark.parametrize(
    ("entry", "foreign"),
    [
        (descriptor(), False),
        (descriptor(urls=[]), False),
        (descriptor(urls=None), False),
        (descriptor(urls=["https://example.com/layer"]), True),
        (descriptor(FOREIGN), True),
        (descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar"), True),
        (descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"), True),
    ],
)
def test_foreign_layers(entry: Json, foreign: bool) -> None:
    assert parse(manifest(layers=[entry])).needs[1].foreign is foreign


def test_a_layer_that_is_foreign_in_one_place_only_is_needed() -> None:
    for layers in (
        [descriptor(FOREIGN), descriptor(), descriptor(FOREIGN)],
        [descriptor(), descriptor(urls=["u"])],
    ):
        assert parse(manifest(layers=layers)).needs[1:] == (content("a", 10),)


def test_an_index_may_list_plain_content() -> None:
    document = parse(
        index(
            manifests=[
                descriptor(LAYER, "1"),
                descriptor(LAYER, "2"),
                descriptor(DOCKER_LIST, "2"),
                without_absent(descriptor(mediaType=ABSENT, fill="3")),
                descriptor(LAYER, "3"),
            ]
        )
    )
    assert [need.kind for need in document.needs] == ["content", "child", "child"]


def test_digests_of_several_algorithms() -> None:
    digests = [
        "sha512:" + "a" * 128,
        "blake3:" + "b" * 64,
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    ]
    document = parse(manifest(layers=[{**descriptor(), "digest": digest} for digest in digests]))
    assert [need.digest for need in document.needs[1:]] == digests


def test_subjects_are_of_oci_documents_only() -> None:
    subject = descriptor(OCI_MANIFEST, "9")
    assert parse(manifest(subject=subject)).subject == sha("9")
    assert parse(manifest(subject=None)).subject is None
    unknown = {**subject, "digest": "blake3:" + "9" * 64}
    assert parse(manifest(subject=unknown)).subject is None
    assert parse(manifest(subject=subject, mediaType=DOCKER_MANIFEST)).subject is None
    assert sha("9") not in [need.digest for need in parse(manifest(subject=subject)).needs]


# What is refused


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"3", b"null", b'"x"', b"nul", b"{}x", b"{'a':1}", b'{"a":01}',
        b'\xef\xbb\xbf{"schemaVersion":2}', "{}".encode("utf-16"), b"\x00", b'{"a":\x00}',
        b'{"x":"\xff"}', b'{"\xff":1}', b'{"x":"\xed\xa0\x80"}', rb'{"x":"\ud800"}', b'{"x":NaN}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("media_type", [None, OCI_MANIFEST])
def test_what_is_no_json_object_is_refused(body: bytes, media_type: str | None) -> None:
    assert reason(body, media_type)


def test_bytes_that_are_not_utf_8_are_refused_wherever_they_are() -> None:
    body = json.dumps(manifest(note="?")).encode().replace(b"?", b"\xc3\x28")
    assert reason(body) == "is not UTF-8"


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(), OCI_INDEX),
        (manifest(), DOCKER_MANIFEST),
        (manifest(mediaType=DOCKER_MANIFEST), OCI_MANIFEST),
        (index(), OCI_MANIFEST),
        (index(mediaType=DOCKER_LIST), OCI_INDEX),
    ],
)
def test_two_different_media_types_are_refused(document: Json, media_type: str) -> None:
    text = reason(document, media_type)
    assert media_type in text
    assert document["mediaType"] in text


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(manifests=[]), None),
        (manifest(manifests=[descriptor(OCI_MANIFEST)]), OCI_MANIFEST),
        (manifest(manifests=[], mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST),
        (manifest(manifests=[], mediaType=ABSENT), None),
        (manifest(manifests=[], mediaType=ABSENT), OCI_MANIFEST),
        (manifest(manifests=[], mediaType=ABSENT), OCI_INDEX),
        (index(layers=[]), OCI_INDEX),
        (index(config=descriptor()), None),
        (index(config=descriptor(), mediaType=DOCKER_LIST), None),
    ],
)
def test_documents_that_are_both_are_refused(document: Json, media_type: str | None) -> None:
    assert " must not have " in reason(document, media_type)


@pytest.mark.parametrize("version", [ABSENT, None, 0, 1, 3, "2", 2.5, True, [2]])
def test_another_schema_version_is_refused(version: object) -> None:
    assert reason(manifest(schemaVersion=version))


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": []}, None),
        ({"schemaVersion": 1, "fsLayers": [], "history": []}, OCI_MANIFEST),
        ({}, "application/vnd.docker.distribution.manifest.v1+json"),
        ({"signatures": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (manifest(mediaType="application/vnd.docker.distribution.manifest.v1+json"), None),
        (manifest(fsLayers=[]), None),
    ],
)
def test_schema_1_is_refused_by_its_name(document: Json, media_type: str | None) -> None:
    assert "Docker schema 1 is not accepted" in reason(document, media_type)


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.oci.artifact.manifest.v1+json", "application/json", "x" * 100_000],
)
def test_other_media_types_are_refused_with_what_is_accepted(media_type: str) -> None:
    for text in (
        reason(manifest(mediaType=ABSENT), media_type),
        reason(manifest(mediaType=media_type)),
    ):
        assert all(accepted in text for accepted in documents.MEDIA_TYPES)
        assert len(text) < 1000


@pytest.mark.parametrize("document", [{"schemaVersion": 2}, {}, {"schemaVersion": 2, "layers": 0}])
def test_a_shape_that_is_nothing_is_refused(document: Json) -> None:
    assert reason(document)


@pytest.mark.parametrize(
    "document",
    [
        manifest(config=ABSENT),
        manifest(config=None),
        manifest(config={}),
        manifest(config=[]),
        manifest(layers={}),
        manifest(layers=[None]),
        manifest(layers=["x"]),
        manifest(layers=[{"size": 1}]),
        manifest(layers=[{"digest": sha("a")}]),
        manifest(layers=[descriptor(urls="https://example.com")]),
        manifest(layers=[descriptor("x" * 256)]),
        manifest(artifactType=1),
        manifest(artifactType="x" * 256),
        manifest(mediaType=[OCI_MANIFEST]),
        manifest(annotations={"a": 1}),
        manifest(annotations={"a": None}),
        manifest(annotations=["a"]),
        manifest(subject=sha("a")),
        manifest(subject={}),
        manifest(subject={"digest": "sha256:abc", "size": 1}),
        manifest(subject={"digest": sha("a"), "size": -1}),
        index(manifests=ABSENT),
        index(manifests={}),
        index(manifests=[{}]),
        index(subject=5),
        manifest(mediaType=DOCKER_MANIFEST, config=ABSENT),
    ],
)
def test_fields_of_the_wrong_form_are_refused(document: Json) -> None:
    assert reason(document)


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, DOCKER_LIST])
def test_docker_documents_have_to_name_their_type(media_type: str) -> None:
    document = manifest if media_type == DOCKER_MANIFEST else index
    assert "mediaType is missing" in reason(document(mediaType=ABSENT), media_type)


@pytest.mark.parametrize(
    "digest",
    [
        "", "sha256", "sha256:", ":abc", "abc", "sha256:" + "A" * 64, "sha256:" + "a" * 63,
        "sha512:" + "a" * 64, "SHA256:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "x:é",
        "x:" + "a" * 100_000,
    ],
)  # fmt: skip
def test_bad_digests_are_refused(digest: str) -> None:
    for document in (
        manifest(layers=[{**descriptor(), "digest": digest}]),
        index(manifests=[{**descriptor(), "digest": digest}]),
    ):
        assert len(reason(document)) < 500


@pytest.mark.parametrize("size", [0, 1, 2**53])
def test_sizes_in_bounds(size: int) -> None:
    assert parse(manifest(layers=[descriptor(size=size)])).needs[1].size == size


@pytest.mark.parametrize(
    "size", ["-1", "9007199254740993", "1" * 400, "1" * 5000, "1.5", "1e3", "1e999", '"1"', "null"]
)
def test_sizes_out_of_bounds(size: str) -> None:
    body = json.dumps(manifest(layers=[descriptor(size=424242)])).replace("424242", size)
    assert reason(body.encode())


def test_one_digest_with_two_sizes_is_refused() -> None:
    assert sha("a") in reason(manifest(layers=[descriptor(), descriptor(size=11)]))


def test_distinct_references_are_bounded() -> None:
    def layers(count: int) -> list[Json]:
        return [{"digest": f"sha256:{number:064x}", "size": 1} for number in range(count)]

    most = layers(NEEDS_MAX - 1)
    assert len(parse(manifest(layers=most + most)).needs) == NEEDS_MAX
    with pytest.raises(InvalidManifest, match=f"over {NEEDS_MAX} distinct references"):
        parse(manifest(layers=layers(NEEDS_MAX)))


def nested(opening: str, closing: str, depth: int) -> bytes:
    deep = opening * depth + "1" + closing * depth
    return json.dumps(manifest(x="?")).replace('"?"', deep).encode()


@pytest.mark.promise("SECURITY.md", "content")
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
def test_nesting_is_bounded_however_deep_the_caller_is(opening: str, closing: str) -> None:
    per_step = len(opening.replace("]", "").replace('"a":', "").replace('"":', ""))
    fits = (documents.NESTING_MAX - 1) // per_step
    assert parse(nested(opening, closing, fits)).media_type == OCI_MANIFEST
    for depth in (fits + 1, 200, 500_000 // per_step):
        assert "nested deeper" in reason(nested(opening, closing, depth))
    assert "nested deeper" in reason(b'{"x":' + b"[" * 1_000_000)


def test_brackets_in_strings_are_not_nesting() -> None:
    note = '[{"' * 200 + "\\" + '"[' * 100
    document = manifest(annotations={note: note}, layers=[descriptor(fill="1")] * 200)
    assert parse(document).annotations == {note: note}


def test_what_is_accepted_is_accepted_from_a_deep_stack_too() -> None:
    body = nested("[", "]", documents.NESTING_MAX - 1)

    def deeper(levels: int) -> Document:
        return deeper(levels - 1) if levels else parse(body)

    assert deeper(sys.getrecursionlimit() // 2) == parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject",
     "annotations", "fsLayers"]
)  # fmt: skip


@pytest.mark.slow
@given(
    base=st.sampled_from([manifest(), index()]), changes=st.dictionaries(FIELDS, JSON, max_size=3)
)
def test_any_json_is_read_or_refused(base: Json, changes: Json) -> None:
    try:
        document = parse({**base, **changes})
    except Invalid:
        return
    assert document.media_type in documents.MEDIA_TYPES


@given(st.binary(max_size=64), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(noise: bytes, start: int) -> None:
    body = json.dumps(manifest()).encode()
    try:
        document = parse(body[:start] + noise + body[start + len(noise) :])
    except Invalid:
        return
    assert document.media_type == OCI_MANIFEST
