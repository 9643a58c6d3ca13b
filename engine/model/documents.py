"""Parses pushed manifests and indexes, and lists the content that they need.

Implements the checks of a registry from the OCI image-spec ("Image Manifest", "Image Index") and
Docker's schema 2 ("Image Manifest Version 2, Schema 2"). It never reads content, and fields not
named here may have any value. If a JSON object repeats a key, the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .config import NEEDS_MAX
from .digest import ALGORITHMS, Digest, is_digest
from .errors import InvalidDigest, InvalidManifest, TooLarge

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

MEDIA_TYPES: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
"""Media types of the documents that are accepted."""

SCHEMA_VERSION: Final = 2
"""``schemaVersion`` of all four; 1 is Docker's older kind of manifest."""

SIZE_MAX: Final = 1 << 53
"""Bytes of the largest size in a descriptor: all JSON parsers agree on integers up to it."""

MEDIA_TYPE_CHARS_MAX: Final = 255
"""Characters of a media type: 127 on either side of the slash (RFC 6838, section 4.2)."""

NESTING_MAX: Final = 64
"""Depth of nested objects and lists. Far above any use (an index has 4), far below the depth
that exhausts the stack of a parser."""

_INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
_DOCKER: Final = (DOCKER_MANIFEST, DOCKER_LIST)
_SCHEMA_1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_SCHEMA_1_REASON: Final = "Docker schema 1 is not accepted, push schema 2 or an OCI manifest"
_FOREIGN_TYPE: Final = re.compile(
    r"application/vnd\.oci\.image\.layer\.nondistributable\..+"
    r"|application/vnd\.docker\.image\.rootfs\.foreign\..+"
)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_DEPTH_CHANGES: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _DEPTH_CHANGES)

_MediaType = Annotated[str, msgspec.Meta(max_length=MEDIA_TYPE_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class Need:
    """A blob or manifest that a document refers to, and that its image must have."""

    kind: Literal["content", "child"]
    """``child`` for an entry of an index that is a manifest itself, else ``content``."""
    digest: str
    """Digest with valid grammar; the store may not support its algorithm."""
    size: int
    foreign: bool
    """True for content with ``urls`` or of a non-distributable type: it may be missing."""


@dataclass(frozen=True, slots=True)
class Document:
    """The parsed facts of a manifest or an index."""

    media_type: str
    is_index: bool
    needs: tuple[Need, ...]
    """Needs with each digest once, in the document's order, the config first."""
    config_digest: str | None
    subject: str | None
    """Digest of the manifest that this one refers to, which need not exist (OCI only).

    None for an unsupported algorithm: the response then has no OCI-Subject, so the client keeps
    its own list of referrers under the fallback tag.
    """
    artifact_type: str | None
    """Artifact type in the list of referrers (OCI distribution-spec, "Listing Referrers")."""
    annotations: dict[str, str] = field(default_factory=dict)


class _Descriptor(msgspec.Struct, rename="camel", gc=False):
    """A descriptor (OCI image-spec, "Content Descriptors"). Docker's have the same fields."""

    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]
    media_type: _MediaType | None = None
    urls: list[str] | None = None


class _Body(msgspec.Struct, rename="camel"):
    """The fields of all four kinds of document. Null means absent, as Go programs write it."""

    schema_version: int | None = None
    media_type: str | None = None
    artifact_type: _MediaType | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | UnsetType | None = UNSET
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None
    fs_layers: msgspec.Raw | UnsetType = UNSET


_decoder: Final = msgspec.json.Decoder(_Body)


def parse(body: bytes, media_type: str | None, *, limit: int) -> Document:
    """Parse a manifest or an index of at most ``limit`` bytes.

    ``media_type`` is the Content-Type of the request without parameters, or None. It must agree
    with ``mediaType`` in the body; if both are missing, the fields decide between an OCI manifest
    and an OCI index. Raises InvalidManifest (also over NEEDS_MAX distinct references), and
    TooLarge for the body.
    """
    if len(body) > limit:
        raise TooLarge("manifest", limit)
    if media_type:
        _check_media_type(media_type)
    content = _decode(body)
    chosen = _choose_media_type(content, media_type or None)
    is_index = chosen in _INDEXES
    _check_shape(content, chosen, is_index)
    if isinstance(content.manifests, list):
        needs = _collect(content.manifests, in_index=True)
    else:
        config = [] if content.config is None else [content.config]
        needs = _collect([*config, *(content.layers or ())], in_index=False)
    subject = None
    if content.subject is not None and chosen not in _DOCKER:
        _check_digest(content.subject.digest)
        if _is_supported(content.subject.digest):
            subject = content.subject.digest
    config_type = None if content.config is None else content.config.media_type
    return Document(
        media_type=chosen,
        is_index=is_index,
        needs=needs,
        config_digest=None if content.config is None else content.config.digest,
        subject=subject,
        artifact_type=content.artifact_type or config_type or None,
        annotations=content.annotations or {},
    )


def _decode(body: bytes) -> _Body:
    """Decode the known fields of the body. Raises InvalidManifest for invalid JSON."""
    try:
        # The JSON decoder does not check the encoding of strings that it skips.
        body.decode()
        content = _decoder.decode(body)
    except UnicodeDecodeError:
        raise InvalidManifest("is not UTF-8") from None
    except RecursionError:
        raise InvalidManifest(f"nested deeper than {NESTING_MAX}") from None
    except msgspec.ValidationError as error:
        raise InvalidManifest(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidManifest(f"is not JSON: {error}") from None
    if _nesting(body) > NESTING_MAX:
        raise InvalidManifest(f"nested deeper than {NESTING_MAX}")
    return content


def _nesting(body: bytes) -> int:
    """Return an upper bound of the depth of valid JSON; exact if over NESTING_MAX.

    The decoder's own depth limit depends on the stack of its caller, but a document that was
    accepted once must stay readable.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= NESTING_MAX:
        # So few brackets cannot nest deeper, even if all of them were open at once.
        return brackets
    outline = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(_DEPTH_CHANGES[bracket] for bracket in outline), default=0)


def _check_media_type(media_type: str) -> None:
    if media_type in _SCHEMA_1:
        raise InvalidManifest(_SCHEMA_1_REASON)
    if media_type not in MEDIA_TYPES:
        shown = media_type[:MEDIA_TYPE_CHARS_MAX]
        accepted = ", ".join(MEDIA_TYPES)
        raise InvalidManifest(f"media type {shown!r} is not accepted, must be one of {accepted}")


def _choose_media_type(content: _Body, media_type: str | None) -> str:
    """Return the media type from header, body or fields. Raises InvalidManifest if they
    disagree."""
    if content.schema_version == 1:
        raise InvalidManifest(_SCHEMA_1_REASON)
    if content.media_type:
        _check_media_type(content.media_type)
        if media_type is not None and media_type != content.media_type:
            raise InvalidManifest(
                f"Content-Type is {media_type}, but mediaType is {content.media_type}"
            )
        return content.media_type
    if media_type in _DOCKER:
        raise InvalidManifest("mediaType is missing; only OCI documents may omit it")
    if media_type is not None:
        return media_type
    if isinstance(content.manifests, list):
        return OCI_INDEX
    if content.config is not None or content.layers is not None:
        return OCI_MANIFEST
    if content.manifests is None:
        return OCI_INDEX
    raise InvalidManifest("has no media type, and no fields of a manifest or an index")


def _check_shape(content: _Body, media_type: str, is_index: bool) -> None:
    """Check that the fields are those of the media type, and of no other.

    One parser would read a document with the fields of both as a manifest, another one as an
    index (CVE-2021-41190). Raises InvalidManifest.
    """
    if content.schema_version != SCHEMA_VERSION:
        raise InvalidManifest(f"schemaVersion must be {SCHEMA_VERSION}")
    if content.fs_layers is not UNSET and bytes(content.fs_layers) != b"null":
        raise InvalidManifest(f"fsLayers: {_SCHEMA_1_REASON}")
    if is_index:
        if content.config is not None or content.layers is not None:
            raise InvalidManifest(f"a document of type {media_type} must not have config or layers")
        if content.manifests is UNSET:
            raise InvalidManifest("manifests is missing")
    else:
        if isinstance(content.manifests, list):
            raise InvalidManifest(f"a document of type {media_type} must not have manifests")
        if content.config is None:
            raise InvalidManifest("config is missing")


def _collect(descriptors: Iterable[_Descriptor], *, in_index: bool) -> tuple[Need, ...]:
    """Return the needs of the descriptors, each digest once. Raises InvalidManifest."""
    needs: dict[str, Need] = {}
    for descriptor in descriptors:
        need = _need(descriptor, in_index)
        known = needs.get(need.digest)
        if known is None:
            _check_digest(need.digest)
            if len(needs) == NEEDS_MAX:
                raise InvalidManifest(f"has over {NEEDS_MAX} distinct references")
            needs[need.digest] = need
            continue
        if known.size != need.size:
            raise InvalidManifest(
                f"{need.digest} is listed with sizes {known.size} and {need.size}"
            )
        # The stricter entry wins: it must be present if one of them is not foreign.
        needs[need.digest] = replace(
            known,
            kind="child" if "child" in (known.kind, need.kind) else "content",
            foreign=known.foreign and need.foreign,
        )
    return tuple(needs.values())


def _need(descriptor: _Descriptor, in_index: bool) -> Need:
    # An index may list content too: the caches of BuildKit are indexes of layers.
    is_child = in_index and (not descriptor.media_type or descriptor.media_type in MEDIA_TYPES)
    foreign = bool(descriptor.urls) or bool(_FOREIGN_TYPE.fullmatch(descriptor.media_type or ""))
    kind: Literal["content", "child"] = "child" if is_child else "content"
    return Need(kind, descriptor.digest, descriptor.size, foreign)


def _check_digest(text: str) -> None:
    """Check a digest; for an unsupported algorithm only its grammar. Raises InvalidManifest."""
    if not is_digest(text):
        raise InvalidManifest(f"{text[:80]!r} is not a digest")
    if _is_supported(text):
        try:
            Digest.parse(text)
        except InvalidDigest as error:
            raise InvalidManifest(f"{text}: {error.reason}") from None


def _is_supported(digest: str) -> bool:
    return digest.partition(":")[0] in ALGORITHMS
