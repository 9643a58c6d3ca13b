"""Wheel, sdist and editable install carry the files of the three folders, all and no others."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support import ROOT, require_tool

FOLDERS = ("engine", "api", "bench")
REST = ("Makefile", "constraints.txt", "Dockerfile", ".ci", "deploy", "docs", "tests")
"""What the sdist has besides, so that it can be tested and built from."""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sources() -> set[str]:
    """What belongs into the packages, such as ``engine/store.py``."""
    listed = run(
        require_tool("git"),
        *("ls-files", "--cached", "--others", "--exclude-standard", "--", *FOLDERS),
        cwd=ROOT,
    )
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and what it needs, nothing else."""
    place = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", place, cwd=place)
    python = place / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, built[1], cwd=place)
    return python


@pytest.mark.timeout(600)
def test_the_wheel_has_all_sources(built: tuple[Path, Path], sources: set[str]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.removeprefix("holdfast/") for name in names} == sources
    assert all(name.startswith("holdfast/") for name in names)


@pytest.mark.timeout(600)
def test_the_sdist_has_all_sources(built: tuple[Path, Path], sources: set[str]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert {name for name in names if name.partition("/")[0] in FOLDERS} == sources
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    rest = run(require_tool("git"), "ls-files", "--", "*.md", *REST, cwd=ROOT).splitlines()
    assert {name for name in rest if (ROOT / name).exists()} <= names


@pytest.mark.timeout(600)
def test_metadata(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    needs = metadata.get_all("Requires-Dist", [])
    assert not [need for need in needs if "pytest" in need and "extra ==" not in need]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", ["engine", "api.supervisor"])
def test_what_speaks_no_http_loads_none(installed: Path, tmp_path: Path, module: str) -> None:
    program = f"import sys, holdfast.{module}; print({{'aiohttp', 'uvloop'}} & set(sys.modules))"
    assert run(installed, "-c", program, cwd=tmp_path) == "set()\n"


@pytest.mark.timeout(600)
def test_the_installed_wheel_embeds_and_has_its_command(installed: Path, tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from holdfast.api import create_app\n"
        "from holdfast.engine import Store\n"
        "async def main():\n"
        "    async with Store.open('data') as store:\n"
        "        blob = await store.put(b'hello')\n"
        "        create_app(store)\n"
        "        async with store.get(blob.digest) as reader:\n"
        "            print(b''.join([chunk async for chunk in reader]))\n"
        "asyncio.run(main())\n"
    )
    assert run(installed, "-c", program, cwd=tmp_path) == "b'hello'\n"
    command = installed.with_name("holdfast")
    assert run(command, "--version", cwd=tmp_path) == "holdfast 0.1.0\n"
    assert "serve" in run(command, "--help", cwd=tmp_path)


@pytest.mark.timeout(600)
def test_the_installed_wheel_serves(installed: Path, tmp_path: Path) -> None:
    """With its one command."""
    program = (
        "from importlib.metadata import distribution\n"
        "print([point.name for point in distribution('holdfast').entry_points])\n"
    )
    assert run(installed, "-c", program, cwd=tmp_path) == "['holdfast']\n"
    holdfast = str(installed.with_name("holdfast"))
    command = [holdfast, "serve", "--listen=127.0.0.1:0", "--workers=1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            said = ""
            while (place := re.search(r"127\.0\.0\.1:([1-9]\d*)", said)) is None:
                line = server.stdout.readline()
                assert line, said
                said += line
            client = HTTPConnection("127.0.0.1", int(place[1]), timeout=30)
            client.request("GET", "/v2/")
            assert client.getresponse().status == 401
            client.close()
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.timeout(600)
def test_an_editable_install_has_the_same_modules(sources: set[str], tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    copy = tmp_path / "copy"
    for name in (*sources, "pyproject.toml", "README.md", "LICENSE"):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", copy, cwd=tmp_path)
    program = (
        "import importlib.util, pathlib\n"
        "for folder in ('engine', 'api', 'bench'):\n"
        "    spec = importlib.util.find_spec('holdfast.' + folder)\n"
        "    place = pathlib.Path(spec.submodule_search_locations[0])\n"
        "    for path in place.rglob('*'):\n"
        "        if path.is_file() and '__pycache__' not in path.parts:\n"
        "            print(f'{folder}/{path.relative_to(place)}')\n"
        "    assert place == pathlib.Path.cwd() / 'copy' / folder, place\n"
    )
    assert set(run(python, "-c", program, cwd=tmp_path).splitlines()) == sources
