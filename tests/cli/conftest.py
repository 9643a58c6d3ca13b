"""What the tests of the commands run them on: a server and a data directory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import InProcess, make_directory
from support.server import running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    place = tmp_path_factory.mktemp("served")
    with running(place / "data") as server:
        yield InProcess(place, server.variables())


@pytest.fixture(params=["server", "directory"])
def quick(request: pytest.FixtureRequest, tmp_path: Path) -> InProcess:
    if request.param == "server":
        served: InProcess = request.getfixturevalue("served")
        return served
    asyncio.run(make_directory(tmp_path / "data"))
    return InProcess(tmp_path, {"HOLDFAST_DATA": str(tmp_path / "data")})
