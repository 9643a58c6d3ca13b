"""Wheel, sdist and editable install carry the files of the three folders, all and no others."""

from __future__ import annotations

import email
import fcntl
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from http.client import HTTPConnection
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from support.common import ROOT, require_tool

pytestmark = pytest.mark.slow

FOLDERS = ("engine", "api", "bench")
REST = (
    ".ci",
    ".editorconfig",
    ".github",
    ".pre-commit-config.yaml",
    "Dockerfile",
    "Makefile",
    "constraints.txt",
    "deploy",
    "docs",
    "examples",
    "tests",
)
"""What the sdist has besides, so that it can be tested and built from."""

Once = Callable[[str, Callable[[Path], None]], Path]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_of_new_environment(place: Path) -> tuple[str | Path, ...]:
    """Make an environment with nothing in it; how our own pip installs into it."""
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    # Few of the modules are ever imported, and those are compiled then.
    return (*pip, "install", "--quiet", "--no-compile")


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
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)``: a directory that is made once for all processes of a test run."""
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        place, done = top / name, top / f"{name}.made"
        with (top / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(place)
                done.touch()
        return place

    return made


@pytest.fixture(scope="session")
def built(once: Once) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""

    def make(place: Path) -> None:
        command = ("-m", "build", "--no-isolation", "--outdir", place, ROOT)
        run(sys.executable, *command, cwd=place.parent)

    out = once("dist", make)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def installed(built: tuple[Path, Path], once: Once) -> Path:
    """The interpreter of an environment that has the wheel and what it needs, nothing else."""

    def make(place: Path) -> None:
        install = pip_of_new_environment(place)
        run(*install, "-c", ROOT / "constraints.txt", built[1], cwd=place.parent)

    return once("installed", make) / "bin" / "python"


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
@pytest.mark.parametrize("module", ["engine", "api.server.supervisor"])
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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run(command, "--version", cwd=tmp_path) == f"holdfast {project['version']}\n"
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
    install = pip_of_new_environment(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    copy = tmp_path / "copy"
    for name in (*sources, "pyproject.toml", "README.md", "LICENSE"):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(*install, "--no-deps", "--editable", copy, cwd=tmp_path)
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


def needed(extra: str = "") -> dict[NormalizedName, Distribution]:
    """What an installed Holdfast needs, with what that needs in turn, by name."""
    found: dict[NormalizedName, Distribution] = {}
    queue = [Requirement(f"holdfast[{extra}]")]
    while queue:
        wanted = queue.pop()
        one = distribution(wanted.name)
        environments = [{"extra": extra} for extra in ("", *wanted.extras)]
        for text in one.requires or ():
            need = Requirement(text)
            applies = need.marker is None or any(map(need.marker.evaluate, environments))
            if applies and canonicalize_name(need.name) not in found:
                found[canonicalize_name(need.name)] = distribution(need.name)
                queue.append(need)
    return found


def test_every_dependency_is_pinned() -> None:
    pinned = {
        canonicalize_name(name): version
        for name, _, version in (
            line.partition("==")
            for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
            if not line.startswith("#")
        )
    }
    assert len(needed()) > 20
    for name, one in needed("otel").items():
        assert pinned[name] == one.version, name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_has_a_wheel(machine: str, tmp_path: Path) -> None:
    """For both architectures, so that neither needs a compiler. What came as a wheel for any
    machine has one; of the rest, the index is asked."""
    compiled = [
        f"{name}=={one.version}"
        for name, one in needed("otel").items()
        if "-none-any\n" not in (one.read_text("WHEEL") or "")
    ]
    assert 10 < len(compiled) < 20, compiled
    platforms = [f"manylinux2014_{machine}", f"manylinux_2_28_{machine}"]
    report = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--report=-"),
        *("--implementation=cp", "--python-version=3.11", f"--target={tmp_path / 'none'}"),
        *(f"--platform={platform}" for platform in platforms),
        *compiled,
        cwd=tmp_path,
    )
    urls = [each["download_info"]["url"] for each in json.loads(report)["install"]]
    assert len(urls) == len(compiled)
    assert all(url.endswith(".whl") and f"_{machine}" in url for url in urls), urls


@pytest.mark.timeout(600)
def test_without_the_extra_traces_are_refused(installed: Path, tmp_path: Path) -> None:
    holdfast = installed.with_name("holdfast")
    done = subprocess.run(
        [holdfast, "serve", "--traces=http://127.0.0.1:1", f"--data={tmp_path / 'data'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "needs the packages of holdfast[otel]" in done.stderr
