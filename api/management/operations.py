"""The whole table of the management API, without what serves it: the command line has a use for it
too."""

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
    store,
    tags,
    trash,
    upkeep,
    uploads,
    usage,
)
from .operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
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
    *store.OPERATIONS,
    *upkeep.OPERATIONS,
)
"""Every operation there is; routes and OpenAPI document are made from it."""
