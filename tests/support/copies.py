"""What tests of snapshots and restores share."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from holdfast.engine import StorageFailed, Store, StoreConfig
from holdfast.engine.check import child_process
from support.engine import REGION, make_namespace, noise, once, push

BIG: Final = noise(100_000, "big")
LAYER: Final = noise(200_000, "layer")
QUIET: Final = StoreConfig(background=False)


async def fill(store: Store) -> None:
    """Put something of every kind into a store."""
    await make_namespace(store)
    await push(store, "app/web", "v1", [LAYER, b"small"])
    await push(store, "app/web", "v2", [BIG])
    await push(store, "app/gone", "v1", [noise(90_000, "gone")])
    gone = await store.locate(REGION, "app/gone")
    assert gone.image_id is not None
    await store.images.delete(gone.image_id)
    await store.put(b"kept by a root")
    where = await store.locate(REGION, "app/web")
    upload = await store.uploads.begin(where)
    await store.uploads.append(where, upload.id, once(noise(700_000, "on its way")))


async def finish(steps: AsyncIterator[Any]) -> Any:
    return [step async for step in steps][-1]


async def here(
    module: str, *arguments: str, names: Iterable[str] = (), **_: object
) -> AsyncIterator[child_process.Message]:
    """``child_process.messages`` without a process."""
    said: list[child_process.Message] = []
    found: Any = importlib.import_module(f"holdfast.engine.{module}")
    what, *rest = arguments if module == "maintenance.restore_worker" else ("check", *arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "send", said.append)
        if module == "maintenance.restore_worker":
            patch.setattr(found, "names", lambda: list(names))
        try:
            await getattr(found, what)(*rest)
        except OSError as error:
            raise StorageFailed(str(error.filename), str(error.strerror)) from error
    for message in said:
        yield message


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=60)


async def verify(directory: Path) -> list[str]:
    async with Store.open(directory, QUIET, create=False) as store:
        return [str(problem) async for problem in store.check(deep=True)]


def inodes(directory: Path) -> set[int]:
    return {path.stat().st_ino for path in (directory / "files").rglob("*") if path.is_file()}


def file_of(directory: Path, size: int) -> Path:
    (path,) = [
        path
        for path in (directory / "files").rglob("*")
        if path.is_file() and path.stat().st_size == size
    ]
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
