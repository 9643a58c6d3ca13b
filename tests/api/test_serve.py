"""``holdfast serve`` from outside: real processes, signals, files and sockets."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from uuid import UUID

import pytest
from support.operating import eventually, holds
from support.rows import Row
from support.server import HOLDFAST, WAIT_SECONDS, ServerProcess, command, running

from holdfast.api.server.server_files import LOCK_FILE

pytestmark = pytest.mark.slow

OWNER = {
    "HOLDFAST_ACCESS_KEY": "SCW0123456789ABCDEFG",
    "HOLDFAST_SECRET_KEY": "11111111-2222-4333-8444-555555555555",
    "HOLDFAST_PROJECT_ID": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "HOLDFAST_ORGANIZATION_ID": "99999999-8888-4777-8666-555555555555",
}


def fetch(server: ServerProcess, path: str, secret: str | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection(server.address, timeout=WAIT_SECONDS)
    try:
        headers = {} if secret is None else {"X-Auth-Token": secret}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        UUID(answer.headers["X-Request-Id"])
        return answer.status, answer.read()
    finally:
        connection.close()


def namespaces(server: ServerProcess, secret: str) -> int:
    status, _ = fetch(server, "/registry/v1/regions/fr-par/namespaces", secret)
    return status


def gone(pid: int) -> bool:
    """Whether a process ended (one that nobody waited for yet has ended, too)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in {"Z", "X"}


def test_ready_line_answers_and_clean_stop(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, workers=2) as server:
        *regions, line = server.lines
        assert [text.rpartition(" is on ")[0] for text in regions] == [
            "region nl-ams",
            "region pl-waw",
        ]
        assert line == (
            f"holdfast is ready on http://{server.address} "
            f"(data {data}, owner key in {data}/owner.json)"
        )
        assert fetch(server, "/healthz") == (200, b"ok\n")
        assert fetch(server, "/readyz") == (200, b"ok\n")
        assert len(server.workers()) == 2
        assert command("health", f"--data={data}").returncode == 0
        assert server.stop() == 0
        assert server.errors() == ""
    assert command("health", f"--data={data}").returncode == 1


def test_sigint_stops_too(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(WAIT_SECONDS) == 0
        assert server.errors() == ""


def test_a_running_request_is_finished_by_the_stop(tmp_path: Path) -> None:
    """A body that is half there when SIGTERM comes is read to its end, and answered."""
    body = b'{"name": "finished"}'
    with running(tmp_path / "data") as server:
        secret = server.variables()["SCW_SECRET_KEY"]
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            begin_request(connection, secret, len(body))
            connection.sendall(body[:5])
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: refuses(host, int(port)))
            assert server.process.poll() is None
            connection.sendall(body[5:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert server.process.wait(WAIT_SECONDS) == 0


def begin_request(connection: socket.socket, secret: str, length: int) -> None:
    """Ask for a namespace and return when the request runs: it waits for its body."""
    connection.sendall(
        b"POST /registry/v1/regions/fr-par/namespaces HTTP/1.1\r\n"
        b"Host: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        + f"X-Auth-Token: {secret}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=WAIT_SECONDS).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


@pytest.mark.row("limits.md", "how long a stop waits for running requests")
@pytest.mark.parametrize("second_signal", [False, True])
def test_a_request_that_never_ends_does_not_keep_it(
    row: Row, tmp_path: Path, second_signal: bool
) -> None:
    grace = "3600" if second_signal else "0.5"
    with running(tmp_path / "data", f"--{row.source}={grace}") as server:
        secret = server.variables()["SCW_SECRET_KEY"]
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            begin_request(connection, secret, 100)
            server.process.send_signal(signal.SIGTERM)
            if second_signal:
                eventually(lambda: refuses(host, int(port)))
                server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT_SECONDS) == 0
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
            row.says(beyond_it="the connection is cut")


def test_a_connection_from_before_the_stop_is_answered(tmp_path: Path) -> None:
    """It was accepted and has not asked yet; beside it is one that never will."""
    with running(tmp_path / "data") as server:
        host, port = server.address.split(":")
        address = (host, int(port))
        with (
            socket.create_connection(address, timeout=WAIT_SECONDS) as silent,
            socket.create_connection(address, timeout=WAIT_SECONDS) as late,
        ):
            # An answer on a third one says that both were accepted.
            assert fetch(server, "/healthz")[0] == 200
            server.process.terminate()
            eventually(lambda: closed(address))
            late.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b"".join(iter(lambda: late.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: close\r\n" in answer
            assert silent.recv(1) == b""
        assert server.stop() == 0
        assert server.errors() == ""


def closed(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_connection(address, timeout=WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_owner_key_is_made_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as server:
        first = server.variables()
        assert namespaces(server, first["SCW_SECRET_KEY"]) == 200
        assert namespaces(server, "00000000-0000-4000-8000-000000000000") == 401
    path = data / "owner.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    owner = json.loads(path.read_text())
    assert set(owner) == {"access_key", "secret_key", "project_id", "organization_id"}
    assert re.fullmatch("SCW[A-Z0-9]{17}", owner["access_key"])
    assert str(UUID(owner["secret_key"])) == owner["secret_key"]
    assert owner["organization_id"] == owner["project_id"]
    assert first == {
        "SCW_ACCESS_KEY": owner["access_key"],
        "SCW_SECRET_KEY": owner["secret_key"],
        "SCW_DEFAULT_PROJECT_ID": owner["project_id"],
        "SCW_PROJECT_ID": owner["project_id"],
        "SCW_DEFAULT_ORGANIZATION_ID": owner["project_id"],
        "SCW_ORGANIZATION_ID": owner["project_id"],
        "SCW_DEFAULT_REGION": "fr-par",
        "SCW_REGION": "fr-par",
        "SCW_API_URL": server.url,
        "HOLDFAST_REGISTRY": server.address,
    }
    with running(data) as server:
        assert server.variables()["SCW_SECRET_KEY"] == owner["secret_key"]
        assert namespaces(server, owner["secret_key"]) == 200


def test_the_secret_is_only_in_the_owner_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, environment=OWNER) as server:
        secret = OWNER["HOLDFAST_SECRET_KEY"]
        assert namespaces(server, secret) == 200
        for pid in server.workers():
            assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        server.stop()
        assert secret not in "".join(server.lines) + server.errors()
    for path in data.rglob("*"):
        if path.is_file() and path.name != "owner.json":
            assert not holds(path, secret), path


def test_the_owner_key_of_the_environment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        with running(data, environment=OWNER) as server:
            variables = server.variables()
            for name, value in OWNER.items():
                assert variables[name.replace("HOLDFAST", "SCW")] == value
            assert namespaces(server, OWNER["HOLDFAST_SECRET_KEY"]) == 200
    for name, value in OWNER.items():
        other = {name: value[:-1] + "0"}
        refused(data, f"{name} differs from {data}/owner.json", environment=other)


@pytest.mark.parametrize("name", OWNER)
def test_an_owner_key_that_cannot_be_one(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    refused(data, f"{name} must be", environment={name: "hello"})
    assert not data.exists()


def test_a_start_that_died_between_file_and_ledger_is_finished(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data):
        pass
    secret = OWNER["HOLDFAST_SECRET_KEY"]
    record = {
        "access_key": OWNER["HOLDFAST_ACCESS_KEY"],
        "secret_key": secret,
        "project_id": OWNER["HOLDFAST_PROJECT_ID"],
        "organization_id": OWNER["HOLDFAST_ORGANIZATION_ID"],
        "pending": True,
    }
    (data / "owner.json").write_text(json.dumps(record))
    for _ in range(2):
        with running(data) as server:
            assert namespaces(server, secret) == 200
        assert "pending" not in json.loads((data / "owner.json").read_text())


def refused(
    data: Path, reason: str, *options: str, environment: dict[str, str] | None = None
) -> None:
    """A server does not start, exits with 1, and says why in one line."""
    arguments = ["serve", f"--data={data}", "--listen=127.0.0.1:0", "--workers=1", *options]
    done = command(*arguments, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("holdfast: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert reason in done.stderr


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as server:
        refused(data, f"{data} is in use by another server")
        assert fetch(server, "/readyz")[0] == 200
    with running(data):
        pass


def test_a_port_has_one_server(tmp_path: Path) -> None:
    with running(tmp_path / "one") as server:
        refused(
            tmp_path / "two",
            f"cannot listen on {server.address}: the port is in use",
            f"--listen={server.address}",
        )
        assert not (tmp_path / "two").exists()


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-grandmother.txt").write_text("Dear Grandmother")
    refused(tmp_path / "letters", str(tmp_path / "letters"))
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["to-grandmother.txt"]
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", str(tmp_path / "file"))


def test_a_data_directory_of_a_newer_version(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data):
        pass
    mark = data / "FORMAT"
    assert mark.read_text() == "holdfast 3\n"
    mark.write_text("holdfast 999\n")
    refused(data, "999")
    mark.write_text("holdfast 3\n")
    with running(data):
        pass


def test_a_damaged_owner_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data):
        pass
    (data / "owner.json").write_text("{}")
    refused(data, f"{data}/owner.json is damaged")
    done = command("env", f"--data={data}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_env_before_the_first_start(tmp_path: Path) -> None:
    done = command("env", f"--data={tmp_path / 'data'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "holdfast serve" in done.stderr
    assert not (tmp_path / "data").exists()


def test_env_is_what_a_shell_can_evaluate(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        script = 'eval "$("$@")" && printf "%s" "$SCW_SECRET_KEY"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *HOLDFAST, "env", f"--data={server.data}"],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=True,
        )
        assert namespaces(server, done.stdout) == 200


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "data", workers=2) as server:
        victim, survivor = server.workers()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in server.workers() and len(server.workers()) == 2)
        assert survivor in server.workers()
        # Connections that go to the worker that is just starting wait; none is refused.
        assert [fetch(server, "/readyz")[0] for _ in range(20)] == [200] * 20
        server.stop()
        assert server.errors() == "worker 0 ended: SIGKILL; restarting it\n"


def opened(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found


def test_a_worker_has_nothing_that_is_anothers(tmp_path: Path) -> None:
    """Each is a fork: neither the directory's lock is in it, nor the sockets of another one."""
    with running(tmp_path / "data", workers=2) as server:
        server.kill_worker(server.workers()[0])
        lock = str(tmp_path / "data" / LOCK_FILE)
        assert lock in opened(server.process.pid)
        # A fork has all files of its parent until it has closed them.
        eventually(lambda: not any(lock in opened(pid) for pid in server.workers()))
        eventually(lambda: fetch(server, "/readyz")[0] == 200)
        files = {pid: opened(pid) for pid in server.workers()}
        own = [{name for name in each if name.startswith("socket:")} for each in files.values()]
        assert all(own)
        assert not own[0] & own[1]


def test_a_process_that_forks_has_one_thread(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) == 1
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in server.workers()]
        assert names == ["holdfast-0\n"]


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, workers=2) as server:
        workers = server.workers()
        address = server.address
        server.kill()
        eventually(lambda: all(map(gone, workers)))
    with running(data, f"--listen={address}") as server:
        assert server.address == address
        assert fetch(server, "/readyz")[0] == 200


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole group; only the supervisor acts on it."""
    with running(tmp_path / "data", workers=2, prefix=("setsid",)) as server:
        os.killpg(os.getpgid(server.process.pid), signal.SIGINT)
        assert server.process.wait(WAIT_SECONDS) == 0
        assert server.errors() == ""


def test_another_region_on_a_port_of_its_own(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    with running(tmp_path / "data", f"--endpoint=nl-ams={endpoint}") as server:
        assert server.lines[0] == f"region nl-ams is on {endpoint}"
        server.address = endpoint
        assert fetch(server, "/readyz")[0] == 200
        assert server.variables()["HOLDFAST_REGISTRY"] != endpoint


def test_options_win_over_the_environment(tmp_path: Path) -> None:
    environment = {
        "HOLDFAST_DATA": str(tmp_path / "other"),
        "HOLDFAST_LISTEN": "no such address",
        "HOLDFAST_WORKERS": "200",
        "HOLDFAST_REGION": "nl-ams, fr-par",
    }
    with running(tmp_path / "data", environment=environment) as server:
        assert len(server.workers()) == 1
        assert server.variables()["SCW_DEFAULT_REGION"] == "nl-ams"
    assert not (tmp_path / "other").exists()


def test_the_access_log(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--access-log") as server:
        fetch(server, "/readyz")
        server.stop()
        (line,) = server.errors().splitlines()
    assert re.search(r' 127\.0\.0\.1 "GET /readyz HTTP/1\.1" 200 \d+ ', line)


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    """The ready line goes into a pipe that is closed: the server runs on."""
    reader, writer = os.pipe()
    os.close(reader)
    data = tmp_path / "data"
    arguments = [*HOLDFAST, "serve", f"--data={data}", "--listen=127.0.0.1:0", "--workers=1"]
    with subprocess.Popen(arguments, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        try:
            eventually((data / "server.json").exists)
            assert process.poll() is None
            assert process.stderr is not None
            assert not select.select([process.stderr], [], [], 0)[0]
        finally:
            process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
