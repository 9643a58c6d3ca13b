"""Fixtures of stores, which test modules take under a name of their own:
``store = engine_fixtures.namespace_store``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine import Store
from support.engine import REGION, Clock, Place, make_namespace, noise, upload

CONFIG, LAYER, OTHER = b"{}", noise(1000), noise(50_000)
"""The blobs of ``content_store``."""


@pytest.fixture
def disk_place(tmp_path: Path, clock: Clock) -> Place:
    """Return a place on disk, for tests that have nothing to show over memory."""
    return Place("disk", tmp_path, clock)


@pytest.fixture
async def namespace_store(store: Store) -> Store:
    """Add a namespace to push to."""
    await make_namespace(store)
    return store


@pytest.fixture
async def content_store(store: Store) -> Store:
    """Add an image ``app/web`` with the blobs that manifests of these tests need."""
    await make_namespace(store)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG, LAYER, OTHER)
    return store
