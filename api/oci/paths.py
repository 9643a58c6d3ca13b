"""Parses a raw path of the distribution API into endpoint, repository name and item.

Repository names may contain the words blobs, manifests, tags, referrers and uploads, so the parser
starts at the end of the path. It percent-decodes the parts once; the handlers check their grammar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.api.http.queries import percent_decode

Endpoint = Literal[
    "ping",
    "catalog",
    "registry_extensions",
    "repository_extensions",
    "exists",
    "tags",
    "manifest",
    "blob",
    "uploads",
    "upload",
    "referrers",
]


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed path. ``name`` is the repository, ``item`` the digest, reference or upload id."""

    endpoint: Endpoint
    name: str = ""
    item: str = ""


def parse_path(rest: str) -> Target | None:
    """Parse the rest of a raw path after ``/v2/``; return None for an unknown endpoint."""
    if not rest:
        return Target("ping")
    if rest == "_catalog":
        return Target("catalog")
    if rest == "_oci/ext/discover":
        return Target("registry_extensions")
    parts = rest.split("/")
    found = _repository_endpoint(parts)
    if found is None:
        return None
    endpoint, length, item = found
    name = percent_decode("/".join(parts[:-length]))
    return Target(endpoint, name, percent_decode(item)) if name else None


def _repository_endpoint(parts: list[str]) -> tuple[Endpoint, int, str] | None:
    """Return the endpoint, the number of its trailing parts, and the item among them."""
    last = parts[-1]
    if parts[-2:] == ["tags", "list"]:
        return "tags", 2, ""
    if parts[-2:] == ["blobs", "uploads"]:
        return "uploads", 2, ""
    # The spec writes the path of a new upload with a trailing slash; some clients omit it.
    if parts[-3:] == ["blobs", "uploads", ""]:
        return "uploads", 3, ""
    if parts[-3:-1] == ["blobs", "uploads"]:
        return "upload", 3, last
    if parts[-2:] == ["_holdfast", "exists"]:
        return "exists", 2, ""
    if parts[-3:] == ["_oci", "ext", "discover"]:
        return "repository_extensions", 3, ""
    if not last or len(parts) < 3:
        return None
    if parts[-2] == "manifests":
        return "manifest", 2, last
    if parts[-2] == "blobs":
        return "blob", 2, last
    if parts[-2] == "referrers":
        return "referrers", 2, last
    return None
