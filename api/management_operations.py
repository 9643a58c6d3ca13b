"""The whole table of the management API, without what serves it: the command line has a use for it
too."""

from __future__ import annotations

from typing import Final

from . import (
    management_holds,
    management_images,
    management_keys,
    management_limits,
    management_manifests,
    management_namespaces,
    management_pulls,
    management_retention,
    management_settings,
    management_store,
    management_tags,
    management_trash,
    management_upkeep,
    management_uploads,
    management_usage,
)
from .operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
    *management_namespaces.OPERATIONS,
    *management_images.OPERATIONS,
    *management_tags.OPERATIONS,
    *management_manifests.OPERATIONS,
    *management_usage.OPERATIONS,
    *management_settings.OPERATIONS,
    *management_limits.OPERATIONS,
    *management_retention.OPERATIONS,
    *management_pulls.OPERATIONS,
    *management_uploads.OPERATIONS,
    *management_holds.OPERATIONS,
    *management_trash.OPERATIONS,
    *management_keys.OPERATIONS,
    *management_store.OPERATIONS,
    *management_upkeep.OPERATIONS,
)
"""Every operation there is; routes and OpenAPI document are made from it."""
