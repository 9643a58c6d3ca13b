"""The command line in processes of its own, and data directories for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from holdfast.api.cli.main import main
from holdfast.api.server.owner_key import Owner, ensure_owner
from holdfast.engine import Store, StoreConfig
from support.engine import REGION, manifest, put, sha256, upload
from support.server import HOLDFAST, WAIT_SECONDS

CONFIG = b"{}"
LAYER = bytes(range(256)) * 400
"""Over the inline limit: it lies in a file."""


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of the test, without anybody's Scaleway settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCW_")}
    kept.pop("XDG_CONFIG_HOME", None)
    return {**kept, "HOME": str(home), "NO_COLOR": "1", **(more or {})}


@dataclass(frozen=True)
class Shell:
    """Runs ``holdfast`` in a directory, with the same variables each time."""

    directory: Path
    variables: Mapping[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without a terminal."""
        return subprocess.run(
            [*HOLDFAST, *arguments],
            cwd=self.directory,
            env=environment(self.directory, {**self.variables, **variables}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def ok(self, *arguments: str, **variables: str) -> str:
        """As ``run``, for what must succeed in silence; its standard output."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    def json(self, *arguments: str, **variables: str) -> Any:
        """As ``ok``, with ``--json``: what it printed."""
        return json.loads(self.ok(*arguments, "--json", **variables))

    def refused(self, code: int, *arguments: str, **variables: str) -> str:
        """As ``run``, for what must fail: its one line, without the name of the program."""
        done = self.run(*arguments, **variables)
        assert done.returncode == code, (done.returncode, done.stderr)
        assert done.stderr.startswith("holdfast: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("holdfast: ").rstrip("\n")


class InProcess(Shell):
    """Runs the commands in this process, without paying for one each; paths must be absolute."""

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """See Shell."""
        given: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith(("SCW_", "HOLDFAST_"))},
            **environment(self.directory, {**self.variables, **variables}),
        }
        code: object = 0
        with (
            CliRunner().isolation(env=given) as (out, err, _),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "argv", ["holdfast", *arguments])
            try:
                main()
            except SystemExit as ended:
                code = ended.code
            sys.stdout.flush()
            sys.stderr.flush()
            streams = out.getvalue().decode(), err.getvalue().decode()
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *streams)


def data_of(shell: Shell) -> Path:
    """The directory that the commands of a shell work on, themselves or through a server."""
    return shell.directory / "data"


def open_store(data: Path) -> Store:
    """The store of a directory, beside whoever uses it."""
    return Store.open(data, StoreConfig(background=False))


async def make_directory(data: Path) -> Owner:
    """What a first start of a server leaves: a store with its owner key."""
    async with open_store(data) as store:
        return await ensure_owner(store, data, {})


async def add_namespace(data: Path, name: str, owner: Owner, region: str = "fr-par") -> UUID:
    """A namespace of the owner's project; its id."""
    async with open_store(data) as store:
        namespace = await store.namespaces.create(
            region,
            name,
            project_id=UUID(owner.project_id),
            organization_id=UUID(owner.organization_id),
        )
        return namespace.id


async def push(data: Path, name: str, *tags: str, layer: bytes = LAYER) -> str:
    """Push an image of one layer into a namespace of fr-par; the digest of its manifest."""
    async with open_store(data) as store:
        body = manifest(CONFIG, [layer])
        await upload(store, await store.locate(REGION, name), CONFIG, layer)
        await put(store, name, body, *tags)
        return sha256(body)


def blob_files(data: Path) -> list[Path]:
    """The files of the depot."""
    return [path for path in (data / "files").rglob("*") if path.is_file()]


def damage(path: Path, offset: int = 1000) -> None:
    """Change some bytes of a file, and neither its size nor anything else."""
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = bytes(byte ^ 0xFF for byte in content[offset : offset + 4])
    path.chmod(0o600)
    path.write_bytes(content)
