"""Which server, which key, which region: options, variables, profile file, owner file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.cli import Shell, make_directory
from support.server import ServerProcess, running

from holdfast.api.cli.errors import Misused
from holdfast.api.cli.session import Target, choose_target
from holdfast.api.server.owner_key import load_owner

pytestmark = pytest.mark.slow

WRONG = "44444444-4444-4444-8444-444444444444"
PROJECT = "55555555-5555-4555-8555-555555555555"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("server") / "data") as process:
        yield process


def secret_of(server: ServerProcess) -> str:
    owner = load_owner(server.data)
    assert owner is not None
    return owner.secret_key


@contextmanager
def answering(
    status: int, headers: dict[str, str], body: bytes
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that always says the same; its URL, and the headers that it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        thread = threading.Thread(target=stub.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{stub.server_port}", seen
        finally:
            stub.shutdown()
            thread.join()


def test_a_wrong_key_is_one_line_that_names_its_source(
    server: ServerProcess, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, {"SCW_API_URL": server.url})
    refusal = shell.refused(1, "namespace", "list", SCW_SECRET_KEY=WRONG)
    assert refusal == f"{server.url} refuses the key of SCW_SECRET_KEY: the server does not know it"
    assert "SCW_SECRET_KEY" in shell.refused(2, "namespace", "list")
    assert WRONG not in shell.refused(2, "namespace", "list", SCW_SECRET_KEY=f"{WRONG}\n")


def test_the_profile_file(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / ".config" / "scw" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"secret_key: {WRONG}\n"
        "default_region: nl-ams\n"
        "profiles:\n"
        "  here:\n"
        f"    api_url: {server.url}\n"
        f"    secret_key: {secret_of(server)}\n"
    )
    shell = Shell(tmp_path, {})
    made = shell.json("namespace", "create", "profiled", "--profile", "here")
    assert made["region"] == "nl-ams"
    listed = shell.json("namespace", "list", SCW_PROFILE="here", SCW_DEFAULT_REGION="fr-par")
    assert listed == []
    refusal = shell.refused(1, "namespace", "list", "--server", server.url)
    assert refusal.endswith(f"refuses the key of secret_key in {path}: the server does not know it")
    assert shell.refused(2, "namespace", "list", "--profile", "no").endswith("has no profile no")
    path.write_text(f"secret_key: [{WRONG}")
    refusal = shell.refused(2, "namespace", "list", "--server", server.url)
    assert refusal == f"{path}: is not valid YAML"


def test_the_owner_file_beside_a_server(server: ServerProcess, tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"SCW_SECRET_KEY": WRONG})
    arguments = ("namespace", "list", "--server", server.url)
    assert isinstance(shell.json(*arguments, "--data", str(server.data)), list)
    refusal = shell.refused(1, *arguments, "--data", "none")
    assert refusal == "none/owner.json does not exist: no server has run there yet"


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"SCW_SECRET_KEY": WRONG})
    refusal = shell.refused(1, "tag", "list", PROJECT, "--server", "http://127.0.0.1:1")
    assert refusal == "http://127.0.0.1:1 cannot be reached: Connection refused"
    refusal = shell.refused(2, "tag", "list", PROJECT, "--server", f"http://u:{WRONG}@h")
    assert refusal == "the server is not a URL such as http://127.0.0.1:5000"


def test_a_server_that_is_another_thing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"SCW_SECRET_KEY": WRONG})
    with answering(404, {"Content-Type": "text/html"}, b"<h1>no</h1>") as (url, _):
        refusal = shell.refused(1, "namespace", "list", "--server", url)
    assert (
        refusal == f"{url} does not answer like a holdfast server: status 404 without an error body"
    )
    with answering(200, {}, b'{"namespaces": 1}') as (url, _):
        refusal = shell.refused(1, "namespace", "list", "--server", url)
    assert refusal.endswith("the response does not match the operation")


def test_the_secret_goes_nowhere_else(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"SCW_SECRET_KEY": WRONG})
    with (
        answering(200, {}, b"{}") as (elsewhere, seen),
        answering(302, {"Location": elsewhere}, b"") as (url, asked),
    ):
        assert "status 302" in shell.refused(1, "namespace", "list", "--server", url)
    assert [headers["X-Auth-Token"] for headers in asked] == [WRONG]
    assert seen == []


@pytest.mark.promise("SECURITY.md", "names and messages that come from a server")
def test_what_others_wrote_cannot_steer_the_terminal(server: ServerProcess, tmp_path: Path) -> None:
    shell = Shell(tmp_path, server.variables())
    hostile = "\x1b[2Jgone\x9b\n"
    shell.ok("namespace", "create", "hostile", "--description", hostile)
    shown = shell.ok("namespace", "get", "hostile")
    assert "gone" in shown
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert shell.json("namespace", "get", "hostile")["description"] == hostile


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {})
    assert "--data" in shell.refused(2, "namespace", "list")
    refusal = shell.refused(1, "namespace", "list", "--data", "absent")
    assert refusal == "absent: there is no such directory"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for command in (("key", "list"), ("sweep",), ("scrub",), ("check",), ("snapshot", "s")):
        assert "other" in shell.refused(1, *command, "--data", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


class TestPrecedence:
    """Where a command works, decided without any process."""

    @pytest.fixture
    async def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        for name in ("data", "other"):
            await make_directory(tmp_path / name)
        (tmp_path / "config.yaml").write_text(
            f"secret_key: from-file\napi_url: http://file\ndefault_project_id: {PROJECT}\n"
            "active_profile: second\n"
            "profiles: {second: {default_region: pl-waw}}\n"
        )
        return tmp_path

    def place(self, variables: dict[str, str], **options: str) -> Target:
        return choose_target({"HOME": "/nonexistent", **variables}, **options)

    def test_where(self, home: Path) -> None:
        scw = {"SCW_API_URL": "http://scw", "SCW_SECRET_KEY": "s"}
        data = {"HOLDFAST_DATA": "other"}
        own = {"HOLDFAST_SERVER": "http://own"}
        assert self.place({}).directory == Path("data")
        assert self.place(scw).url == "http://scw"
        assert self.place({**scw, **data}).url is None
        assert self.place({**scw, **data, **own}).url == "http://own"
        assert self.place({**scw, **data, **own}, data="data").directory == Path("data")
        assert self.place({**scw, **own}, server="http://option/").url == "http://option"
        assert self.place({**scw, "SCW_API_URL": ""}).url is None

    def test_key(self, home: Path) -> None:
        server = {"HOLDFAST_SERVER": "http://own"}
        file = {"SCW_CONFIG_PATH": "config.yaml"}
        variable = {"SCW_SECRET_KEY": "from-variable"}
        owner, other = load_owner(home / "data"), load_owner(home / "other")
        assert owner is not None
        assert other is not None
        known = {"HOLDFAST_DATA": "other"}
        everything = {**server, **file, **variable, **known}
        assert self.place({**server, **known}).secret == other.secret_key
        assert self.place({**server, **file, **known}).secret == "from-file"
        assert self.place(everything).secret == "from-variable"
        both = self.place(everything, server="http://own", data="data")
        assert both.secret == owner.secret_key
        with pytest.raises(Misused, match="no key"):
            self.place(server)
        for place in (both, self.place(everything)):
            assert place.secret not in repr(place)

    def test_region_and_project(self, home: Path) -> None:
        file = {"SCW_CONFIG_PATH": "config.yaml"}
        place = self.place(file)
        assert (place.url, place.region, str(place.project_id)) == (
            "http://file",
            "pl-waw",
            PROJECT,
        )
        assert self.place({**file, "SCW_PROFILE": "default"}).region == "fr-par"
        assert self.place({**file, "SCW_DEFAULT_REGION": "nl-ams"}).region == "nl-ams"
        assert self.place({**file, "SCW_DEFAULT_REGION": "x"}, region="nl-ams").region == "nl-ams"
        here = self.place({**file, "SCW_DEFAULT_REGION": "nl-ams"}, data="data")
        owner = load_owner(home / "data")
        assert owner is not None
        assert (here.region, str(here.project_id)) == ("fr-par", owner.project_id)
        with pytest.raises(Misused, match="SCW_DEFAULT_PROJECT_ID is not a UUID"):
            self.place({**file, "SCW_DEFAULT_PROJECT_ID": "x"})
        with pytest.raises(Misused, match="profile file does not exist"):
            self.place({"SCW_CONFIG_PATH": "absent.yaml"})
