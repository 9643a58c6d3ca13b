"""Checks of names from outside: each grammar is anchored and bounded, and raises Invalid.

A repository's full name is ``namespace/image``: the first component is the namespace, the rest
is the name of the image (OCI distribution-spec, "Pulling manifests", ``<name>``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from .errors import Invalid
from .patterns import patterns_of

FULL_NAME_CHARS_MAX: Final = 255
"""Characters of a full name: many clients limit host, slash and name together to 255."""

NAMESPACE_CHARS_MIN: Final = 2
NAMESPACE_CHARS_MAX: Final = 63

IMAGE_CHARS_MAX: Final = FULL_NAME_CHARS_MAX - NAMESPACE_CHARS_MIN - 1
"""Characters of an image's name: those that the shortest namespace leaves."""

TAG_CHARS_MAX: Final = 128

ROOT_CHARS_MAX: Final = 128
ROOT_BYTES_MAX: Final = 200
"""Bytes of a root's name: it is part of ledger keys, which have at most 500."""

CACHED_NAMES_MAX: Final = 1024
"""Full names whose parts are cached: requests repeat the same ones."""

PATTERNS_MAX: Final = 32
"""Immutable patterns of a namespace: the transaction that moves a tag tries all of them."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9][a-z0-9-]*[a-z0-9]", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_REGION: Final = re.compile(r"[a-z]{2}-[a-z]{3,7}", re.ASCII)
_PATTERN: Final = re.compile(r"[A-Za-z0-9._*?-]+", re.ASCII)


def _check_text(argument: str, given: object) -> None:
    if not isinstance(given, str):
        raise Invalid(argument, f"must be text, not {type(given).__name__}")


def check_namespace_name(name: str) -> str:
    """Check and return the name of a namespace. Raises Invalid("name").

    2 to 63 characters: lower-case letters and digits, and hyphens inside.
    """
    _check_text("name", name)
    if not NAMESPACE_CHARS_MIN <= len(name) <= NAMESPACE_CHARS_MAX:
        raise Invalid(
            "name",
            f"a namespace must have {NAMESPACE_CHARS_MIN} to {NAMESPACE_CHARS_MAX} characters",
        )
    if not _NAMESPACE.fullmatch(name):
        raise Invalid(
            "name", "a namespace must have lower-case letters, digits, and hyphens between them"
        )
    return name


def check_image_name(name: str) -> str:
    """Check and return the name of an image, without ``namespace/``. Raises Invalid("name").

    Components joined by ``/`` (OCI distribution-spec, ``<name>``), at most 252 characters.
    """
    _check_text("name", name)
    if len(name) > IMAGE_CHARS_MAX:
        raise Invalid("name", f"an image must have at most {IMAGE_CHARS_MAX} characters")
    if not _IMAGE.fullmatch(name):
        raise Invalid(
            "name",
            "an image must have components of lower-case letters and digits, joined by '/', with"
            " single '.', '_', '__' or hyphens between them",
        )
    return name


def split_full_name(full: str) -> tuple[str, str]:
    """Split ``namespace/image`` and check both names. Raises Invalid("name").

    At most 255 characters in all (OCI distribution-spec, the note on ``<name>``).
    """
    _check_text("name", full)
    if len(full) > FULL_NAME_CHARS_MAX:
        raise Invalid("name", f"a full name must have at most {FULL_NAME_CHARS_MAX} characters")
    return _split(full)


@lru_cache(CACHED_NAMES_MAX)
def _split(full: str) -> tuple[str, str]:
    namespace, slash, image = full.partition("/")
    if not slash:
        raise Invalid("name", "a name of one component has no namespace: namespace/image is needed")
    return check_namespace_name(namespace), check_image_name(image)


def check_tag_name(name: str) -> str:
    """Check and return the name of a tag. Raises Invalid("tag").

    1 to 128 characters (OCI distribution-spec, ``<reference>`` as a tag).
    """
    _check_text("tag", name)
    if not 1 <= len(name) <= TAG_CHARS_MAX:
        raise Invalid("tag", f"a tag must have 1 to {TAG_CHARS_MAX} characters")
    if not _TAG.fullmatch(name):
        raise Invalid(
            "tag",
            "a tag must have letters, digits, '_', '.' and '-', and not begin with '.' or '-'",
        )
    return name


def check_region(name: str) -> str:
    """Check and return the name of a region, such as ``fr-par``. Raises Invalid("region")."""
    _check_text("region", name)
    if not _REGION.fullmatch(name):
        raise Invalid("region", "must have the form of fr-par: two letters, '-', 3 to 7 letters")
    return name


def check_root_name(name: str) -> str:
    """Check and return the name of an embedder's root. Raises Invalid("root").

    1 to 128 printable characters, at most 200 bytes in UTF-8. Names are compared as given,
    without normalization.
    """
    _check_text("root", name)
    if not 1 <= len(name) <= ROOT_CHARS_MAX:
        raise Invalid("root", f"a root must have 1 to {ROOT_CHARS_MAX} characters")
    # isprintable refuses lone surrogates too, so what passes can be encoded.
    if not name.isprintable():
        raise Invalid("root", "a root must have printable characters only")
    if len(name.encode()) > ROOT_BYTES_MAX:
        raise Invalid("root", f"a root must have at most {ROOT_BYTES_MAX} bytes in UTF-8")
    return name


def check_patterns(
    patterns: Iterable[str], argument: str = "immutable_tags", *, slashes: bool = False
) -> tuple[str, ...]:
    """Check and return patterns of tags, or of image names with ``slashes``, in order.

    Each has 1 to 128 characters of names, ``*`` (any characters, or none) and ``?`` (any one);
    at most 32 patterns. Raises Invalid(argument).
    """
    if isinstance(patterns, str):
        raise Invalid(argument, "must be a list of patterns, not one pattern")
    checked: list[str] = []
    for pattern in patterns:
        if len(checked) == PATTERNS_MAX:
            raise Invalid(argument, f"must be at most {PATTERNS_MAX} patterns")
        if len(pattern) > TAG_CHARS_MAX or not _PATTERN.fullmatch(
            pattern.replace("/", "-") if slashes else pattern
        ):
            raise Invalid(
                argument,
                f"a pattern must have 1 to {TAG_CHARS_MAX} letters, digits, '_', '.', '-', '*'"
                " and '?'",
            )
        checked.append(pattern)
    return tuple(checked)


def first_match(patterns: Iterable[str], name: str) -> str | None:
    """Return the first (checked) pattern that matches the whole name, or None. Case matters."""
    checked = tuple(patterns)
    return patterns_of(checked).first(name) if checked else None
