"""Manifests and indexes: reads a pushed document once, and says what it needs.

Implements what a registry checks of the OCI image-spec ("Image Manifest", "Image Index") and of
Docker's schema 2 ("Image Manifest Version 2, Schema 2"). Content is never looked at, and fields
that are not named here may hold anything. Where a JSON object repeats a key, the last one counts.
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
"""The documents that are accepted."""

SCHEMA_VERSION: Final = 2
"""Of all four; 1 is Docker's older kind of manifest."""

SIZE_MAX: Final = 1 << 53
"""Largest size in a descriptor: up to here every JSON reader agrees on a number."""

MEDIA_TYPE_CHARS_MAX: Final = 255
"""RFC 6838, section 4.2: 127 characters on either side of the slash."""

NESTING_MAX: Final = 64
"""Objects and lists inside each other. Far above any use (an index takes 4), far below what
would exhaust the stack of any reader."""

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
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _STEPS)

_MediaType = Annotated[str, msgspec.Meta(max_length=MEDIA_TYPE_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a document refers to, and that has to be in its image."""

    kind: Literal["content", "child"]
    """``child``: an entry of an index that is a manifest itself. All else is ``content``."""
    digest: str
    """Valid by grammar; its algorithm may be one that is not kept here."""
    size: int
    foreign: bool
    """It has other places (``urls``), or is of a non-distributable type: it may be missing."""


@dataclass(frozen=True, slots=True)
class Document:
    """What the store has to know about a manifest or an index."""

    media_type: str
    is_index: bool
    needs: tuple[Need, ...]
    """Each digest once, in the document's order, the config first."""
    config_digest: str | None
    subject: str | None
    """The digest of the manifest that this one is about, which need not exist (OCI only).

    None for an algorithm that is not kept here: as no OCI-Subject is answered then, the client
    keeps its own list of referrers under the fallback tag.
    """
    artifact_type: str | None
    """As the referrers listing shows it (OCI distribution-spec, "Listing Referrers")."""
    annotations: dict[str, str] = field(default_factory=dict)


class _Descriptor(msgspec.Struct, rename="camel", gc=False):
    """OCI image-spec, "Content Descriptors". Docker's have the same fields."""

    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]
    media_type: _MediaType | None = None
    urls: list[str] | None = None


class _Body(msgspec.Struct, rename="camel"):
    """All four kinds of document at once. Null is taken as absent, as Go programs write it."""

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
    """Read a manifest or an index of at most ``limit`` bytes.

    ``media_type`` is the Content-Type it came with, without parameters, or None. It has to agree
    with ``mediaType`` in the body; where neither is there, the shape tells an OCI manifest from
    an OCI index. Raises InvalidManifest (over NEEDS_MAX distinct references included), and
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
        if _is_kept(content.subject.digest):
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
    """The typed fields of the body. Raises InvalidManifest for all that is not proper JSON."""
    try:
        # The decoder does not look at the encoding of strings that it skips.
        body.decode()
        content = _decoder.decode(body)
    except UnicodeDecodeError:
        raise InvalidManifest("not UTF-8") from None
    except RecursionError:
        raise InvalidManifest(f"nested deeper than {NESTING_MAX}") from None
    except msgspec.ValidationError as error:
        raise InvalidManifest(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidManifest(f"not JSON: {error}") from None
    if _nesting(body) > NESTING_MAX:
        raise InvalidManifest(f"nested deeper than {NESTING_MAX}")
    return content


def _nesting(body: bytes) -> int:
    """An upper bound of how deep the (valid) JSON is nested, exact where it is over NESTING_MAX.

    A bound of its own, since how deep the decoder gets depends on the stack of its caller: what
    was accepted once must be readable ever after.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= NESTING_MAX:
        return brackets
    outline = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(_STEPS[bracket] for bracket in outline), default=0)


def _check_media_type(media_type: str) -> None:
    if media_type in _SCHEMA_1:
        raise InvalidManifest(_SCHEMA_1_REASON)
    if media_type not in MEDIA_TYPES:
        shown = media_type[:MEDIA_TYPE_CHARS_MAX]
        accepted = ", ".join(MEDIA_TYPES)
        raise InvalidManifest(f"media type {shown!r} is not accepted, only {accepted}")


def _choose_media_type(content: _Body, media_type: str | None) -> str:
    """The media type by header, body or shape. Raises InvalidManifest where they disagree."""
    if content.schema_version == 1:
        raise InvalidManifest(_SCHEMA_1_REASON)
    if content.media_type:
        _check_media_type(content.media_type)
        if media_type is not None and media_type != content.media_type:
            raise InvalidManifest(f"it came as {media_type}, its mediaType is {content.media_type}")
        return content.media_type
    if media_type in _DOCKER:
        raise InvalidManifest("mediaType is missing, and only OCI documents may leave it out")
    if media_type is not None:
        return media_type
    if isinstance(content.manifests, list):
        return OCI_INDEX
    if content.config is not None or content.layers is not None:
        return OCI_MANIFEST
    if content.manifests is None:
        return OCI_INDEX
    raise InvalidManifest("neither a media type, nor the fields of a manifest or of an index")


def _check_shape(content: _Body, media_type: str, is_index: bool) -> None:
    """Raises InvalidManifest unless the fields are those of the media type, and of no other.

    A document with the fields of both would be one thing to this reader and another to the next
    (CVE-2021-41190).
    """
    if content.schema_version != SCHEMA_VERSION:
        raise InvalidManifest(f"schemaVersion must be {SCHEMA_VERSION}")
    if content.fs_layers is not UNSET and bytes(content.fs_layers) != b"null":
        raise InvalidManifest(f"fsLayers: {_SCHEMA_1_REASON}")
    if is_index:
        if content.config is not None or content.layers is not None:
            raise InvalidManifest(f"config or layers in a document of type {media_type}")
        if content.manifests is UNSET:
            raise InvalidManifest("manifests is missing")
    else:
        if isinstance(content.manifests, list):
            raise InvalidManifest(f"manifests in a document of type {media_type}")
        if content.config is None:
            raise InvalidManifest("config is missing")


def _collect(descriptors: Iterable[_Descriptor], *, in_index: bool) -> tuple[Need, ...]:
    """What the descriptors need, each digest once. Raises InvalidManifest."""
    needs: dict[str, Need] = {}
    for descriptor in descriptors:
        need = _need(descriptor, in_index)
        known = needs.get(need.digest)
        if known is None:
            _check_digest(need.digest)
            if len(needs) == NEEDS_MAX:
                raise InvalidManifest(f"it has over {NEEDS_MAX} distinct references")
            needs[need.digest] = need
            continue
        if known.size != need.size:
            raise InvalidManifest(
                f"{need.digest} is listed with sizes {known.size} and {need.size}"
            )
        needs[need.digest] = replace(
            known,
            kind="child" if "child" in (known.kind, need.kind) else "content",
            foreign=known.foreign and need.foreign,
        )
    return tuple(needs.values())


def _need(descriptor: _Descriptor, in_index: bool) -> Need:
    # An index may list plain content too: the caches of BuildKit are indexes of layers.
    is_child = in_index and (not descriptor.media_type or descriptor.media_type in MEDIA_TYPES)
    foreign = bool(descriptor.urls) or bool(_FOREIGN_TYPE.fullmatch(descriptor.media_type or ""))
    kind: Literal["content", "child"] = "child" if is_child else "content"
    return Need(kind, descriptor.digest, descriptor.size, foreign)


def _check_digest(text: str) -> None:
    """Raises InvalidManifest. Algorithms that are not kept here pass by grammar alone."""
    if not is_digest(text):
        raise InvalidManifest(f"not a digest: {text[:80]!r}")
    if _is_kept(text):
        try:
            Digest.parse(text)
        except InvalidDigest as error:
            raise InvalidManifest(f"{text}: {error.reason}") from None


def _is_kept(digest: str) -> bool:
    return digest.partition(":")[0] in ALGORITHMS
