"""What several tests of the bench share."""

from __future__ import annotations

import pytest

from holdfast.bench import limits
from holdfast.bench.limits import LIMITS


@pytest.fixture
def _known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is not asked again."""
    monkeypatch.setattr(limits, "measure", lambda directory, seconds: dict.fromkeys(LIMITS, 1.0))
