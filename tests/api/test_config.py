"""The configuration file, ``holdfast config``, and what SIGHUP does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.api import basic, digest_of
from support.cli import InProcess
from support.common import ROOT
from support.operating import NAMESPACES, SECRET, ask, call, connect, eventually, operated
from support.server import WAIT_SECONDS, ServerProcess, command, running

pytestmark = pytest.mark.slow


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    file = written(
        tmp_path / "holdfast.toml",
        'data = "of the file"\ntoken-seconds = 100\nworkers = 3\ngrace = 5\n'
        'region = ["nl-ams"]\ncreate-namespaces = true\naccess-log = true\n',
    )
    done = InProcess(tmp_path, {}).run(
        "config",
        "--token-seconds=300",
        "--no-access-log",
        HOLDFAST_CONFIG=file,
        HOLDFAST_WORKERS="2",
        HOLDFAST_TOKEN_SECONDS="200",
        HOLDFAST_SECRET_KEY=SECRET,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in (
        'data = "of the file"  # file',
        "workers = 2  # environment",
        "token-seconds = 300  # option",
        "grace = 5.0  # file",
        'region = ["nl-ams"]  # file',
        "create-namespaces = true  # file",
        "access-log = false  # option",
        'listen = "127.0.0.1:5000"  # default',
        "# public-url is not set",
        "# HOLDFAST_SECRET_KEY = ***  # environment",
    ):
        assert line in lines, line
    assert SECRET not in done.stdout
    # What it prints is a file that means the same.
    again = command("config", f"--config={written(tmp_path / 'again.toml', done.stdout)}")
    assert again.returncode == 0
    assert tomllib.loads(again.stdout) == tomllib.loads(done.stdout)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour = 1", "'colour' is not an option of serve"),
        ("create_namespaces = true", "'create_namespaces' is not an option"),
        ('config = "x"', "'config' is not an option"),
        ("[serve]\nworkers = 1", "'serve' is not an option"),
        ('workers = "2"', "workers must be a whole number"),
        ("workers = true", "workers must be a whole number"),
        ("workers = 0", "--workers: must be 1 to 256"),
        ("grace = true", "grace must be a number"),
        ("data = 1", "data must be a string"),
        ("region = [1]", "region must be a list of strings"),
        ('create-namespaces = "yes"', "create-namespaces must be true or false"),
        ('log-format = "xml"', "xml"),
        ("workers = ", "Invalid value"),
        ("workers = 1\nworkers = 2", "overwrite"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = written(tmp_path / "holdfast.toml", text)
    done = InProcess(tmp_path, {}).run("config", f"--config={file}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("holdfast: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_what_the_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```sh\nholdfast (.*)\n```", page)
    file = written(tmp_path / "holdfast.toml", example)
    done = InProcess(tmp_path, {}).run(*shown.split(), HOLDFAST_CONFIG=file)
    assert (done.returncode, done.stderr) == (0, "")
    printed = tomllib.loads(done.stdout)
    given = tomllib.loads(example)
    assert {key: printed[key] for key in given} == given | {
        "data": "data",
        "listen": "127.0.0.1:5000",
    }


def test_a_missing_file_and_one_that_is_too_large(tmp_path: Path) -> None:
    run = InProcess(tmp_path, {}).run
    done = command("serve", f"--config={written(tmp_path / 'bad', 'colour = 1')}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run("config", f"--config={tmp_path / 'none'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No such file" in done.stderr
    done = run("config", f"--config={written(tmp_path / 'big', '#' * (1 << 20) + '#')}")
    assert "must not exceed 1048576 bytes" in done.stderr


def reload(server: ServerProcess, workers: Sequence[int]) -> None:
    """Send SIGHUP and wait until all workers are others."""
    server.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: not set(workers) & set(server.workers()) and len(server.workers()) == len(workers)
    )


def push_blob(server: ServerProcess, repository: str) -> int:
    content = repository.encode()
    path = f"/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
    return call(server, "POST", path, content, Authorization=basic(SECRET)).status


def test_a_reload_takes_what_can_change(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    written(file, 'log-format = "json"\n')
    log = tmp_path / "audit.log"
    with operated(tmp_path / "data", f"--config={file}", workers=2) as server:
        assert push_blob(server, "new/one") == 404
        before = server.workers()
        written(
            file,
            'log-format = "json"\ncreate-namespaces = true\naccess-log = true\nworkers = 7\n'
            f'audit-log = "{log}"\nregion = ["mars"]\nlisten = "127.0.0.1:1"\n',
        )
        reload(server, before)
        assert push_blob(server, "new/one") == 201
        written(file, "nonsense = 1\n")
        server.process.send_signal(signal.SIGHUP)
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.errors().splitlines()]
    said = [line["message"] for line in lines if line["logger"] == "holdfast.api.server.supervisor"]
    # What options set is not changed by a file.
    assert said[0] == "reload ignores changes of region: they need a restart"
    assert [line["path"] for line in lines if line["logger"] == "holdfast.access"] == [
        "/v2/new/one/blobs/uploads/"
    ]
    assert json.loads(log.read_text())["name"] == "new/one"


def test_a_reload_of_nonsense_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    written(file, "create-namespaces = true\n")
    with operated(tmp_path / "data", f"--config={file}") as server:
        workers = server.workers()
        errors: list[str] = server._errors
        for text in ("nonsense = 1\n", "token-seconds = 1\n", f'tls-cert = "{file}"\n'):
            known = len(errors)
            written(file, text)
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda known=known: len(errors) > known)  # type: ignore[misc]  # bound now
            assert errors[-1].startswith("reload failed: ")
        assert server.workers() == workers
        assert push_blob(server, "new/one") == 201


def test_a_worker_that_cannot_follow_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    written(file, "")
    with operated(tmp_path / "data", f"--config={file}") as server:
        workers = server.workers()
        written(file, f'audit-log = "{tmp_path}"\n')
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: any("the old worker keeps running" in line for line in server._errors))
        assert server.workers() == workers
        assert call(server, "GET", "/readyz").status == 200
        written(file, "")
        reload(server, workers)
        assert call(server, "GET", "/readyz").status == 200


def test_a_reload_finishes_requests_and_refuses_nobody(tmp_path: Path) -> None:
    """A body that is half there at the reload ends well; connections meanwhile are served."""
    body = b'{"name": "finished"}'
    with operated(tmp_path / "data", workers=2) as server:
        workers = server.workers()
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            connection.sendall(
                f"POST {NAMESPACES} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {SECRET}\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.sendall(body[:5])
            server.process.send_signal(signal.SIGHUP)
            # The one with the running request stays until it has ended.
            eventually(lambda: len(set(workers) & set(server.workers())) == 1)
            for _ in range(20):
                assert call(server, "GET", "/readyz").status == 200
            connection.sendall(body[5:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: not set(workers) & set(server.workers()))
        assert len(server.workers()) == 2


def test_reloads_and_requests_at_the_same_time(tmp_path: Path) -> None:
    """Reloads in a row, with a new connection for each request: no request fails."""
    with operated(tmp_path / "data", workers=2) as server:
        for _ in range(2):
            workers = server.workers()
            server.process.send_signal(signal.SIGHUP)
            server.process.send_signal(signal.SIGHUP)
            while set(workers) & set(server.workers()):
                connection = connect(server.address)
                assert ask(connection, "GET", "/readyz").status == 200
                connection.close()
        assert server.stop() == 0
        assert server.errors() == ""


def test_a_stop_in_the_middle_of_a_reload(tmp_path: Path) -> None:
    with operated(tmp_path / "data", workers=2) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.stop() == 0
        assert server.errors() == ""


def test_a_worker_killed_after_a_reload_comes_back(tmp_path: Path) -> None:
    with operated(tmp_path / "data") as server:
        workers = server.workers()
        reload(server, workers)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: server.workers() not in ([], [worker]))
        assert call(server, "GET", "/readyz").status == 200


def test_the_file_may_name_everything_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = written(
        tmp_path / "holdfast.toml",
        f'data = "{data}"\nlisten = "127.0.0.1:0"\nworkers = 2\nregion = "nl-ams"\n',
    )
    with running(data, bare=True, environment={"HOLDFAST_CONFIG": file}) as server:
        assert call(server, "GET", "/readyz").status == 200
        assert len(server.workers()) == 2
        assert (data / "FORMAT").is_file()
        assert server.variables()["SCW_DEFAULT_REGION"] == "nl-ams"
