"""Starting and stopping what is compared: Holdfast, its peers, and nginx as the limit of reads.

All listen on free ports of 127.0.0.1 and keep their data under one directory, so on one file
system. Each is stopped by its pid.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from holdfast.bench.load import interrupts
from holdfast.bench.load.endpoint import Login

from .targets import Target

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0

_READY: Final = re.compile(r"holdfast is ready on (http://\S+) \(")
_METRICS: Final = re.compile(r"metrics are on (http://\S+)")
_ERROR: Final = re.compile(r"^[\w.]*(?:Error|Exception)\b|\b(?:error|emerg|fatal)\b")
REGION: Final = "fr-par"
"""Of the namespaces; the first one of a Holdfast that is told nothing else."""

NAMESPACES: Final = ("bench-one", "bench-two")
_OWNERS: Final = uuid.UUID("6d3a3a5e-5b6f-4f0e-9a53-0c6f3b1d2e47")

_DOCKER_REGISTRY: Final = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {data}, maxthreads: 100}}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""

_NGINX: Final = """\
daemon off;
{user}
worker_processes 1;
pid {data}/nginx.pid;
error_log {data}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  sendfile_max_chunk 2m;
  keepalive_requests 1000000000;
  default_type application/vnd.oci.image.manifest.v1+json;
  client_body_temp_path {data}/body;
  proxy_temp_path {data}/proxy;
  fastcgi_temp_path {data}/fastcgi;
  uwsgi_temp_path {data}/uwsgi;
  scgi_temp_path {data}/scgi;
  server {{ listen 127.0.0.1:{port}; root {data}/root; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """Another way to run Holdfast, for the rows that are about the difference."""

    name: str
    note: str
    options: tuple[str, ...] = ()
    workers: int = 1


VARIANTS: Final = {
    "log": Variant("holdfast +log", "as holdfast, with an access log", ("--access-log",)),
    "two": Variant("holdfast x2", "as holdfast, with two workers", workers=2),
    "zstd": Variant("holdfast zstd", "as holdfast, compresses at rest", ("--compression=auto",)),
}


class CannotStart(Exception):
    """A server did not come up. The text is one line."""


@dataclass(slots=True)
class Server:
    """A started process and how it is measured."""

    target: Target
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it by its pid."""
        _end(self.process)


@dataclass(frozen=True, slots=True)
class Starter:
    """What can be started when it is needed."""

    name: str
    start: Callable[[], Server]
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A registry started by a command line of the user's.

    In the command ``{config}`` is the path of the filled-in config file; in both, ``{port}``,
    ``{address}`` and ``{data}`` are what the bench chose.
    """

    name: str
    command: str
    config: Path | None = None


def start(stack: ExitStack, starter: Callable[[], Server]) -> Target:
    """Start one that the stack stops, whatever interrupts. Raises CannotStart."""
    with interrupts.held():
        server = starter()
        stack.callback(server.stop)
    return server.target


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_holdfast(
    directory: Path, variant: str = "", *, namespaces: tuple[str, ...] = NAMESPACES
) -> Server:
    """``holdfast serve`` with these namespaces, in a new directory. Raises CannotStart."""
    how = VARIANTS.get(variant, Variant("holdfast", ""))
    process, secret, project = spawn_holdfast(directory, how)
    with _ended_on_failure(process):
        url, metrics = _announced(process, directory)
        for name in namespaces:
            _create_namespace(url, name, project, secret)
    many = "a worker process" if how.workers == 1 else f"{how.workers} worker processes"
    note = how.note or f"{many}, metrics on, a bearer token checked on every request"
    target = Target(
        name=how.name,
        url=url,
        prefixes=NAMESPACES,
        login=Login("nologin", secret),
        pid=process.pid,
        data=directory,
        metrics=metrics,
        variant=variant,
        workers=how.workers,
        notes=(note,),
    )
    return Server(target, process)


def spawn_holdfast(directory: Path, how: Variant) -> tuple[subprocess.Popen[bytes], str, str]:
    """The process, its owner's secret key and project. Raises CannotStart."""
    command = (
        sys.executable,
        "-m",
        "holdfast.api.cli.main",
        "serve",
        f"--data={directory}",
        "--listen=127.0.0.1:0",
        "--metrics=127.0.0.1:0",
        f"--workers={how.workers}",
        "--token-seconds=3600",
        *how.options,
    )
    # The owner key is chosen here, so that nothing has to be read back; the same one each time
    # that the same directory is served.
    secret, project = (
        str(uuid.uuid5(_OWNERS, f"{what}/{directory}")) for what in ("key", "project")
    )
    settings = {"HOLDFAST_SECRET_KEY": secret, "HOLDFAST_PROJECT_ID": project}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    process = _spawn(command, directory, {**environment, **settings}, stdout=subprocess.PIPE)
    return process, secret, project


def _announced(process: subprocess.Popen[bytes], directory: Path) -> tuple[str, str]:
    """The URLs of the server and of its metrics, when it says that it is ready."""
    assert process.stdout is not None
    guard = threading.Timer(START_SECONDS, process.kill)
    guard.start()
    metrics = ""
    try:
        for line in process.stdout:
            text = line.decode("utf-8", "replace")
            if match := _METRICS.match(text):
                metrics = match[1]
            if match := _READY.match(text):
                return match[1], metrics
    finally:
        guard.cancel()
    raise CannotStart(f"holdfast did not start: {_last_words(directory)}")


def _create_namespace(url: str, name: str, project: str, secret: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=START_SECONDS)
    try:
        connection.request(
            "POST",
            f"/registry/v1/regions/{REGION}/namespaces",
            msgspec.json.encode({"name": name, "project_id": project, "is_public": False}),
            {"X-Auth-Token": secret, "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise CannotStart(f"holdfast does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise CannotStart(f"holdfast refuses a namespace: {answer.status} {text}")


def start_docker_registry(directory: Path, binary: str) -> Server:
    """Debian's docker-registry on its filesystem driver. Raises CannotStart."""
    version = subprocess.run(  # noqa: S603 - found on the PATH
        (binary, "--version"), capture_output=True, text=True, timeout=10, check=False
    ).stdout.split()
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    config.write_text(_DOCKER_REGISTRY.format(data=directory / "data", port=port))
    process = _spawn((binary, "serve", str(config)), directory, dict(os.environ))
    _wait(process, port, "docker-registry", directory)
    target = Target(
        name="docker-registry",
        url=f"http://127.0.0.1:{port}",
        prefixes=NAMESPACES,
        pid=process.pid,
        data=directory,
        workers=os.cpu_count() or 1,
        version=version[-1] if version else "",
        notes=("no authorization; all cores (Go)",),
    )
    return Server(target, process)


def start_nginx(directory: Path, binary: str) -> Server:
    """nginx with one worker serving the same objects as files. Raises CannotStart."""
    port = free_port()
    (directory / "root").mkdir(parents=True, exist_ok=True)
    # Started by root, its worker would be another user, who may not get at the files: the
    # directories above may be closed.
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(data=directory, port=port, user=user))
    command = (binary, "-c", str(config), "-e", str(directory / "error.log"))
    process = _spawn(command, directory, dict(os.environ))
    _wait(process, port, "nginx", directory)
    target = Target(
        name="nginx",
        url=f"http://127.0.0.1:{port}",
        prefixes=NAMESPACES,
        pid=process.pid,
        data=directory,
        files=directory / "root",
        notes=("static files with sendfile, one worker: the limit of reads, no registry",),
    )
    return Server(target, process)


def start_peer(directory: Path, peer: Peer) -> Server:
    """A registry of the user's. Raises CannotStart."""
    port = free_port()
    (directory / "data").mkdir(parents=True, exist_ok=True)
    values = {
        "{port}": str(port),
        "{address}": f"127.0.0.1:{port}",
        "{data}": str(directory / "data"),
    }

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    if peer.config is not None:
        config = directory / peer.config.name
        try:
            config.write_text(filled(peer.config.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            raise CannotStart(f"{peer.name}: {error}") from error
        values["{config}"] = str(config)
    command = tuple(filled(word) for word in shlex.split(peer.command))
    if not command or shutil.which(command[0]) is None:
        raise CannotStart(f"{peer.name}: no such program: {peer.command}")
    process = _spawn(command, directory, dict(os.environ))
    _wait(process, port, peer.name, directory)
    target = Target(
        name=peer.name,
        url=f"http://127.0.0.1:{port}",
        prefixes=NAMESPACES,
        pid=process.pid,
        data=directory,
        workers=os.cpu_count() or 1,
        notes=(peer.command,),
    )
    return Server(target, process)


def installed(directory: Path, peers: tuple[Peer, ...]) -> list[Starter]:
    """All that is found on this machine, Holdfast first."""
    found = [Starter("holdfast", partial(start_holdfast, directory / "holdfast"))]
    docker = _program("docker-registry")
    if docker:
        start = partial(start_docker_registry, directory / "docker-registry", docker)
        found.append(Starter("docker-registry", start))
    found += [Starter(one.name, partial(start_peer, directory / one.name, one)) for one in peers]
    nginx = _program("nginx")
    if nginx:
        found.append(Starter("nginx", partial(start_nginx, directory / "nginx", nginx)))
    for key, variant in VARIANTS.items():
        place = directory / f"holdfast-{key}"
        found.append(Starter(variant.name, partial(start_holdfast, place, key), key))
    return found


def _program(name: str) -> str:
    """Its path or ''; also where ordinary users have no system programs on their PATH."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return shutil.which(name, path=path) or ""


def _spawn(
    command: tuple[str, ...],
    directory: Path,
    environment: dict[str, str],
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own: an interrupt from the terminal is for us."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _log(directory).open("wb") as log:
        try:
            return subprocess.Popen(  # noqa: S603 - programs found here or named by the user
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise CannotStart(f"{command[0]}: {error}") from error


def _log(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.log")


def _last_words(directory: Path) -> str:
    """What a server's log says about its end: the first error in it, else its last line."""
    lines = _log(directory).read_text("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors[:1] or lines[-1:] or ["it said nothing"])[0][:300]


def _wait(process: subprocess.Popen[bytes], port: int, name: str, directory: Path) -> None:
    """Until the port answers. Raises CannotStart, and the process is ended then."""
    deadline = time.monotonic() + START_SECONDS
    with _ended_on_failure(process):
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise CannotStart(f"{name} did not start: {_last_words(directory)}")


@contextmanager
def _ended_on_failure(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A server that did not come up, or was interrupted while it did, is not left behind."""
    try:
        with interrupts.allowed():
            yield
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely first, so that it can end its own children, then not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
