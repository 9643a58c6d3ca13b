"""``holdfast restore`` of a directory with links and pipes in it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.cli import InProcess

from holdfast.api.server.server_files import OWNER_FILE
from holdfast.engine import Store, StoreConfig


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A closed data directory with an owner key and a blob in a file."""

    async def make() -> None:
        async with Store.open(tmp_path / "data", StoreConfig(background=False)) as store:
            await store.put(os.urandom(100_000))

    asyncio.run(make())
    (tmp_path / "data" / OWNER_FILE).write_text("the owner")
    return tmp_path / "data"


def arguments(data: Path) -> tuple[str, ...]:
    return "restore", str(data), "--data", str(data.with_name("restored"))


@pytest.mark.slow
def test_the_owner_key_comes_along(data: Path) -> None:
    InProcess(data.parent, {}).ok(*arguments(data))
    assert (data.with_name("restored") / OWNER_FILE).read_text() == "the owner"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("which", ["owner key", "blob"])
def test_what_is_no_file_is_named(data: Path, kind: str, which: str) -> None:
    path = data / OWNER_FILE
    if which == "blob":
        (path,) = (file for file in (data / "files").rglob("*") if file.is_file())
    path.rename(data.with_name("secret"))
    if kind == "link":
        path.symlink_to(data.with_name("secret"))
    else:
        os.mkfifo(path)
    assert str(path) in InProcess(data.parent, {}).refused(4, *arguments(data))
    assert not data.with_name("restored").exists()
