"""What several tests of the bench share."""

from __future__ import annotations

import pytest

from holdfast.bench.targets import machine_limits
from holdfast.bench.targets.machine_limits import LIMITS


@pytest.fixture
def _known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is not asked again."""
    monkeypatch.setattr(
        machine_limits, "measure", lambda directory, seconds: dict.fromkeys(LIMITS, 1.0)
    )
