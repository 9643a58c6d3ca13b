"""What tests of several areas share. Import it as ``support``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""


def require_tool(name: str) -> str:
    """The path of a program that a test drives.

    Without it the test is skipped, except where HOLDFAST_CI says that nothing may be missing:
    there the test fails.
    """
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("HOLDFAST_CI"):
        pytest.fail(f"{name} is not installed, and HOLDFAST_CI allows no skips")
    pytest.skip(f"{name} is not installed")
