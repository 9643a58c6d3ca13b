"""What tests of several areas share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


def unavailable(reason: str) -> NoReturn:
    """What a test needs of the machine is not there: a skip, a failure where HOLDFAST_CI is set."""
    if os.environ.get("HOLDFAST_CI"):
        pytest.fail(f"{reason}, and HOLDFAST_CI allows no skips")
    pytest.skip(reason)


def require_tool(name: str) -> str:
    """The path of a program that a test drives; ``unavailable`` without it."""
    path = shutil.which(name)
    if path is None:
        unavailable(f"{name} is not installed")
    return path
