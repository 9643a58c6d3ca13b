"""Which endpoint of the distribution API a path names: pure, over the raw path.

Repository names may hold the words blobs, manifests, tags, referrers and uploads, so a path is
read from its right-hand end. Its parts are percent-decoded once, here; grammars judge them later.
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
    """What a path names. ``name`` is the repository, ``item`` the digest, reference or id."""

    endpoint: Endpoint
    name: str = ""
    item: str = ""


def parse_path(rest: str) -> Target | None:
    """The target of what follows ``/v2/`` in the raw path, or None for no known endpoint."""
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
    """Endpoint, number of its parts at the right-hand end, and the item among them."""
    last = parts[-1]
    if parts[-2:] == ["tags", "list"]:
        return "tags", 2, ""
    if parts[-2:] == ["blobs", "uploads"]:
        return "uploads", 2, ""
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
