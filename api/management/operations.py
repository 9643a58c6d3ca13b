"""The table of all operations of the management API.

It does not import the HTTP server, so that the command line can use it too.
"""

from __future__ import annotations

from typing import Final

from . import (
    holds,
    images,
    keys,
    limits,
    manifests,
    namespaces,
    pulls,
    retention,
    settings,
    tags,
    trash,
    upkeep,
    uploads,
    usage,
)
from .operation import AnyOperation

OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    *namespaces.OPERATIONS,
    *images.OPERATIONS,
    *tags.OPERATIONS,
    *manifests.OPERATIONS,
    *usage.OPERATIONS,
    *settings.OPERATIONS,
    *limits.OPERATIONS,
    *retention.OPERATIONS,
    *pulls.OPERATIONS,
    *uploads.OPERATIONS,
    *holds.OPERATIONS,
    *trash.OPERATIONS,
    *keys.OPERATIONS,
    *upkeep.OPERATIONS,
)
"""All operations; routes and OpenAPI document are generated from them."""
