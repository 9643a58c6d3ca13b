"""The programs, scripts and units of examples/ run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from oras.provider import Registry as Oras
from support.api import basic, digest_of
from support.clients import PLAIN_COPY, Registry, problems, serving, skopeo_in
from support.common import ROOT, require_tool
from support.images import Layout, docker_archive, layers, noise
from support.operating import call, eventually
from support.server import HOLDFAST, WAIT_SECONDS
from support.systemd import booted

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
BACKUP = EXAMPLES / "backup"
PUSH = EXAMPLES / "ci-push" / "push.sh"

Backup = Callable[..., subprocess.CompletedProcess[str]]


def run(
    *command: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a program that must succeed in silence printed."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def holdfast_in(directory: Path) -> str:
    """Put a command ``holdfast`` into a new directory; return a PATH that begins with it."""
    directory.mkdir()
    command = directory / "holdfast"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(HOLDFAST)} "$@"\n')
    command.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


# embed_store.py


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a small file and one that is larger than a piece."""
    place = tmp_path / "files"
    place.mkdir()
    (place / "small.txt").write_bytes(b"small\n")
    (place / "large.bin").write_bytes(noise("example", 700_000))
    return place


def embed_store(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, EXAMPLES / "embed_store.py", *arguments, cwd=cwd)


def test_the_store_keeps_a_file_and_gives_it_back(files: Path, tmp_path: Path) -> None:
    digest = printed(embed_store(tmp_path, "put", files / "small.txt")).strip()
    assert digest == digest_of(b"small\n")
    assert printed(embed_store(tmp_path, "get", digest)) == "small\n"
    absent = embed_store(tmp_path, "get", digest_of(b"absent"))
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("embed_store: blob sha256:")
    assert problems(tmp_path / "data") == []


def test_files_become_an_image_that_the_registry_serves(files: Path, tmp_path: Path) -> None:
    paths = sorted(files.iterdir())
    digest = printed(embed_store(tmp_path, "pack", "team/notes:v1", *paths)).strip()
    back = tmp_path / "back"
    back.mkdir()
    names = printed(embed_store(tmp_path, "unpack", "team/notes:v1", back)).split()
    assert names == [path.name for path in paths]
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in paths
    }

    with serving(tmp_path / "data") as registry:
        described = registry.described("team")
        assert described["size"] == 2 + sum(path.stat().st_size for path in paths)
        assert registry.tag("team", "notes", "v1")["digest"] == digest
        # Beside the running server the example works as before.
        assert printed(embed_store(tmp_path, "pack", "team/notes:v2", *paths)).strip() == digest
        assert registry.tag("team", "notes", "v2")["digest"] == digest
        client = Oras(hostname=registry.host, insecure=True, auth_backend="basic")
        client.auth.set_basic_auth("nologin", registry.secret)
        try:
            pulled = client.pull(f"{registry.host}/team/notes:v1", outdir=str(tmp_path / "pulled"))
        finally:
            client.session.close()
    assert {Path(name).name: Path(name).read_bytes() for name in pulled} == {
        path.name: path.read_bytes() for path in paths
    }


def test_a_tag_that_is_missing_is_named(files: Path, tmp_path: Path) -> None:
    refused = embed_store(tmp_path, "pack", "team/notes", files / "small.txt")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "embed_store: image: must be NAMESPACE/IMAGE:TAG\n"


# registry_in_app.py


@contextmanager
def application(cwd: Path) -> Iterator[tuple[int, list[str]]]:
    """Run the application until the end of the block; its port and what it printed by then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(EXAMPLES / "registry_in_app.py")
    process = subprocess.Popen(
        [sys.executable, "-u", program, f"--port={port}", "--registry-host=localhost"],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(WAIT_SECONDS, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "Running on" in line:
                break
        assert lines, "the application did not start"
        yield port, lines
    finally:
        guard.cancel()
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0


def test_the_application_serves_a_registry_and_its_own_route(tmp_path: Path) -> None:
    docker_archive(tmp_path / "image.tar", "localhost/web:v1", layers("example", 300_000))
    skopeo = skopeo_in(tmp_path / "skopeo")
    with application(tmp_path) as (port, lines):
        secret = lines[0].removeprefix("secret key of namespace team: ")
        assert secret != lines[0]
        login = ("login", "--tls-verify=false", "--username=nologin", "--password-stdin")
        skopeo(*login, f"localhost:{port}", stdin=secret)
        name = f"docker://localhost:{port}/team/web:v1"
        skopeo(*PLAIN_COPY, f"docker-archive:{tmp_path / 'image.tar'}", name)

        own = f"127.0.0.1:{port}"
        (image,) = call(own, "GET", "/images", X_Auth_Token=secret).json
        assert (image["name"], image["tags"]) == ("web", ["v1"])
        assert image["size"] > 300_000
        assert call(own, "GET", "/images").status == 401
        assert call(own, "GET", "/v2/", Authorization=basic(secret)).status == 404
        assert call(f"localhost:{port}", "GET", "/images", X_Auth_Token=secret).status == 404

    with application(tmp_path) as (port, lines):
        assert "Running on" in lines[0]
        skopeo(*login, f"localhost:{port}", stdin=secret)
        shown = skopeo("inspect", "--tls-verify=false", f"docker://localhost:{port}/team/web:v1")
        assert json.loads(shown)["RepoTags"] == ["v1"]


# backup/


def settings(text: str, key: str) -> list[str]:
    """Return the values of a key in a unit, in their order."""
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    """``backup(KEEP="2")``: run the command of the unit on data and backups of the test's own."""
    unit = (BACKUP / "holdfast-backup.service").read_text("utf-8")
    (command,) = settings(unit, "ExecStart")
    assert command == "/usr/local/bin/holdfast-backup"
    variables = dict(pair.split("=", 1) for pair in settings(unit, "Environment"))
    assert variables.keys() == {"HOLDFAST_DATA", "BACKUPS", "KEEP"}
    # The unit may write where these say.
    state = [f"/var/lib/{name}" for name in settings(unit, "StateDirectory")[0].split()]
    assert state == [variables["HOLDFAST_DATA"], variables["BACKUPS"]]
    (tmp_path / "backups").mkdir()
    variables |= {
        "HOLDFAST_DATA": str(tmp_path / "data"),
        "BACKUPS": str(tmp_path / "backups"),
        "PATH": holdfast_in(tmp_path / "bin"),
    }

    def started(**more: str) -> subprocess.CompletedProcess[str]:
        return run(BACKUP / Path(command).name, cwd=tmp_path, environment={**variables, **more})

    return started


def backups(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "backups").iterdir())


def test_the_timer_backs_a_running_server_up(backup: Backup, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    digest = layout.index("all", "example", ("amd64",))
    skopeo = skopeo_in(tmp_path / "skopeo")
    with serving(tmp_path / "data") as registry:
        name = f"docker://{registry.namespace('team')}/web:all"
        credentials = f"--dest-creds=nologin:{registry.secret}"
        skopeo(*PLAIN_COPY, "--all", credentials, f"oci:{layout.directory}:all", name)
        assert "no problems" in printed(backup())
    (taken,) = backups(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z", taken)

    restored = tmp_path / "restored"
    printed(run(*HOLDFAST, "restore", tmp_path / "backups" / taken, f"--data={restored}", cwd=ROOT))
    with serving(restored) as registry:
        assert registry.tag("team", "web", "all")["digest"] == digest


def test_old_backups_go_and_only_they(backup: Backup, tmp_path: Path) -> None:
    printed(embed_store(tmp_path, "put", PUSH))
    for name in ("2026-01-01T030000Z", "2026-01-02T030000Z", "lost+found", "of-mine"):
        (tmp_path / "backups" / name).mkdir()
    (tmp_path / "backups" / "2026-01-03T030000Z.unchecked").mkdir()
    said = printed(backup(KEEP="2"))
    assert f"deleted {tmp_path}/backups/2026-01-01T030000Z\n" in said
    kept = backups(tmp_path)
    assert kept[0] == "2026-01-02T030000Z"
    assert kept[2:] == ["lost+found", "of-mine"]


def test_a_backup_that_is_damaged_replaces_none(
    backup: Backup, files: Path, tmp_path: Path
) -> None:
    printed(embed_store(tmp_path, "put", files / "large.bin"))
    (stored,) = (path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file())
    content = bytearray(stored.read_bytes())
    content[1000] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(content)
    old = tmp_path / "backups" / "2026-01-01T030000Z"
    old.mkdir()
    done = backup(KEEP="1")
    assert done.returncode != 0
    assert "deleted" not in done.stdout
    first, second = backups(tmp_path)
    assert first == old.name
    assert second.endswith(".unchecked")


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    unit = (BACKUP / "holdfast-backup.service").read_text("utf-8")
    path = tmp_path / "holdfast-backup.service"
    path.write_text(unit.replace("/usr/local/bin/holdfast-backup", require_tool("true")))
    timer = tmp_path / "holdfast-backup.timer"
    timer.write_bytes((BACKUP / "holdfast-backup.timer").read_bytes())
    analyze = require_tool("systemd-analyze")
    plain = {"LC_ALL": "C.UTF-8"}
    printed(run(analyze, "verify", "--man=no", path, timer, cwd=tmp_path, environment=plain))
    checks = ("security", "--offline=yes", "--threshold=20")
    printed(run(analyze, *checks, path, cwd=tmp_path, environment=plain))
    (when,) = settings(timer.read_text("utf-8"), "OnCalendar")
    printed(run(analyze, "calendar", when, cwd=tmp_path, environment=plain))


@pytest.mark.image
def test_systemd_runs_the_backup(tmp_path: Path) -> None:
    """By the commands of the page, with all that the unit locks up, beside a running server."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with booted(scratch) as systemd:
        eventually(lambda: "holdfast is ready" in systemd.said())
        text = (BACKUP / "README.md").read_text("utf-8")
        (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        assert block.count("/etc/systemd/system/") == 1
        # This systemd looks for units in one directory only.
        block = block.replace("/etc/systemd/system/", "/run/units/")
        systemd.run("sh", "-euc", f"cd {BACKUP}\n{block}")
        assert systemd.run("systemctl", "is-active", "holdfast-backup.timer") == "active\n"
        (taken,) = systemd.run("ls", "/var/lib/holdfast-backup").split()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z", taken)
        place = "/var/lib/holdfast-backup/"
        assert systemd.run("stat", "--dereference", "--format=%a %U", place) == "700 holdfast\n"


# ci-push/


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path / "data") as running:
        yield running


def push(
    registry: Registry, home: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the job's script with a login and files of its own."""
    given = {"HOME": str(home), "REGISTRY": registry.host, "REGISTRY_HTTP": "1", **variables}
    return run(PUSH, *arguments, cwd=home, environment=given)


@pytest.fixture
def source(tmp_path: Path) -> tuple[str, str]:
    """An index of two images as the script takes it, and its digest."""
    layout = Layout(tmp_path / "layout")
    digest = layout.index("all", "example", ("amd64", "arm64"))
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for path in layout.directory.iterdir():
            archive.add(path, path.name)
    return f"oci-archive:{tmp_path / 'image.tar'}", digest


@pytest.fixture
def page(tmp_path: Path) -> Callable[[int], str]:
    """``page(0)``: what the first block of commands of the page prints, run by a shell."""
    text = (EXAMPLES / "ci-push" / "README.md").read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "push.sh").symlink_to(PUSH)
    variables = {"PATH": holdfast_in(tmp_path / "bin"), "HOME": str(tmp_path)}

    def shell(number: int) -> str:
        done = run("sh", "-euc", blocks[number], cwd=tmp_path, environment=variables)
        assert done.returncode == 0, done
        return done.stdout

    return shell


def test_the_job_pushes_all_tags(
    registry: Registry, page: Callable[[int], str], source: tuple[str, str], tmp_path: Path
) -> None:
    """With the key that the commands of the page make."""
    require_tool("skopeo")
    (key,) = re.findall(r"^secret key +(\S+)$", page(0), re.MULTILINE)
    assert key != registry.secret
    image, digest = source
    done = push(registry, tmp_path, image, "team/app", "0123abc", "latest", REGISTRY_KEY=key)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1] == f"{registry.host}/team/app@{digest}"
    assert key not in done.stdout + done.stderr
    for tag in ("0123abc", "latest"):
        assert registry.tag("team", "app", tag)["digest"] == digest


def test_the_script_is_tried_as_its_page_says(
    registry: Registry, page: Callable[[int], str], source: tuple[str, str]
) -> None:
    require_tool("skopeo")
    registry.namespace("team")
    assert f"{registry.host}/team/app@{source[1]}\n" in page(1)
    assert registry.tag("team", "app", "latest")["digest"] == source[1]


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (("team/app",), {}, "usage: push.sh SOURCE"),
        (("team/app", "v1"), {}, "REGISTRY_KEY: must be set to a secret key"),
        (("team/app", "v1"), {"REGISTRY_KEY": "wrong"}, "invalid username/password"),
    ],
)
def test_a_job_that_cannot_push_fails(
    registry: Registry,
    source: tuple[str, str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    complaint: str,
) -> None:
    require_tool("skopeo")
    done = push(registry, tmp_path, source[0], *arguments, **variables)
    assert done.returncode != 0
    assert complaint in done.stderr
