"""What the tests with real clients share: programs that are run with nothing of the machine's own
configuration, and a server to push to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest
from multidict import CIMultiDict

from holdfast.engine import Problem, check_directory
from support.api import Reply, basic
from support.common import require_tool, unavailable
from support.images import MANIFEST_TYPES
from support.server import WAIT_SECONDS, ServerProcess, running

REGION: Final = "fr-par"
PLAIN_COPY: Final = ("copy", "--src-tls-verify=false", "--dest-tls-verify=false")
"""A copy of skopeo's without TLS."""

_COMPLAINT: Final = re.compile(r"^Traceback|\] (WARNING|ERROR|CRITICAL) ", re.MULTILINE)
ABSENT_SECRET: Final = "77777777-7777-4777-8777-777777777777"
"""A secret that no key has."""


def require_root() -> None:
    """Container engines unpack layers with the owners that the layers name."""
    if os.geteuid() != 0:
        unavailable("only root can run it")


class Failed(Exception):
    """A program ended with another exit code than 0. The text is all that it said."""


@dataclass(frozen=True)
class Program:
    """A program with options that every call of it has, in an environment of its own."""

    path: str
    home: Path
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.variables}

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run it; what it wrote to standard output, stripped. Raises Failed."""
        done = subprocess.run(
            [self.path, *self.options, *arguments],
            input=stdin,
            env=self.environment(),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    def refused(self, *arguments: str, stdin: str = "") -> str:
        """Run what must fail; all that it said."""
        with pytest.raises(Failed) as failure:
            self(*arguments, stdin=stdin)
        return str(failure.value)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it beside the test, which waits for it."""
        return subprocess.Popen(
            [self.path, *self.options, *arguments],
            env=self.environment(),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def daemon(program: Program, log: Path, ready: Program, *question: str) -> Iterator[int]:
    """Run a program until the end of the block, from when ``ready`` answers; its process id.

    It is stopped with SIGTERM and stops its children itself; what it leaves mounted below its home
    is unmounted. Where it cannot start, the machine does not allow what it needs.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program.path, *program.options],
            env=program.environment(),
            cwd=program.home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    guard = threading.Timer(WAIT_SECONDS, process.kill)
    guard.start()
    try:
        while not _answers(ready, *question):
            if process.poll() is not None:
                unavailable(f"{program.path} does not start: {log.read_text()[-1000:]}")
        guard.cancel()
        yield process.pid
    finally:
        guard.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(WAIT_SECONDS)
            finally:
                process.kill()
                process.wait()
        _unmount(program.home)


def _unmount(root: Path) -> None:
    """Unmount all below ``root``: a mount there, such as the network namespace that dockerd keeps
    in its run directory, makes the directory impossible to remove."""
    mounted = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed(mounted):
        if path.is_relative_to(root):
            subprocess.run(["umount", path], check=True, timeout=WAIT_SECONDS)


def _answers(program: Program, *question: str) -> bool:
    try:
        program(*question)
    except Failed:
        return False
    return True


def skopeo_in(home: Path) -> Program:
    """A skopeo that is not logged in anywhere, and knows nothing of the machine's other pushes."""
    return Program(require_tool("skopeo"), home, ("--insecure-policy",), containers(home))


def containers(home: Path) -> dict[str, str]:
    """Variables that keep skopeo, podman and buildah to files below one directory."""
    home.mkdir()
    (home / "tmp").mkdir()
    (home / "auth.json").write_text("{}")
    (home / "registries.conf").write_text("unqualified-search-registries = []\n")
    (home / "containers.conf").write_text(
        f'[engine]\ntmp_dir = "{home / "tmp"}"\nlock_type = "file"\nevents_logger = "none"\n'
        'cgroup_manager = "cgroupfs"\n'
    )
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{home / "graph"}"\nrunroot = "{home / "run"}"\n'
    )
    return {
        "CONTAINERS_CONF": str(home / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
        "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        "TMPDIR": str(home / "tmp"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home / "tmp"),
        # For root, skopeo remembers what it saw where in a directory of the machine's.
        "_CONTAINERS_ROOTLESS_UID": "1",
    }


@dataclass
class Registry:
    """A server in processes of its own, as its owner sees it."""

    server: ServerProcess
    secret: str
    access_key: str

    @property
    def host(self) -> str:
        """What clients call it."""
        return self.server.address

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])

    @property
    def data(self) -> Path:
        return self.server.data

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> Reply:
        """One request on a connection of its own."""
        connection = HTTPConnection(host or self.host, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, CIMultiDict(response.headers.items()), response.read())
        finally:
            connection.close()

    def manage(self, method: str, path: str, payload: object = None, region: str = REGION) -> Any:
        """A request to the management API of a region that must succeed; its JSON."""
        headers = {"X-Auth-Token": self.secret, "Content-Type": "application/json"}
        body = b"" if payload is None else json.dumps(payload).encode()
        answer = self.request(method, f"/registry/v1/regions/{region}{path}", body, headers)
        assert answer.status == 200, answer
        return answer.json

    def namespace(self, name: str, *, public: bool = False, region: str = REGION) -> str:
        """Create a namespace; its endpoint, which is what images in it are called by."""
        payload = {"name": name, "is_public": public}
        endpoint: str = self.manage("POST", "/namespaces", payload, region)["endpoint"]
        return endpoint

    def described(self, name: str, region: str = REGION) -> Any:
        """A namespace as the management API shows it."""
        [found] = self.manage("GET", f"/namespaces?name={name}", region=region)["namespaces"]
        return found

    def image(self, namespace: str, name: str, region: str = REGION) -> Any:
        """An image as the management API shows it."""
        owner = self.described(namespace, region)["id"]
        path = f"/images?namespace_id={owner}&name={name}"
        [found] = self.manage("GET", path, region=region)["images"]
        return found

    def tag(self, namespace: str, image: str, name: str) -> Any:
        """A tag as the management API shows it."""
        owner = self.image(namespace, image)["id"]
        [found] = self.manage("GET", f"/images/{owner}/tags?name={name}")["tags"]
        return found

    def v2(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> Reply:
        """A request to ``/v2/…`` with the owner's key."""
        sent = {"Authorization": basic(self.secret), **(headers or {})}
        return self.request(method, f"/v2/{path}", body, sent, host)

    def manifest(self, name: str, reference: str, host: str | None = None) -> Any:
        """A manifest as it was pushed, with its type in ``mediaType``."""
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        answer = self.v2("GET", f"{name}/manifests/{reference}", headers=headers, host=host)
        assert answer.status == 200, answer
        return {"mediaType": answer.headers["Content-Type"], **answer.json}

    def clear(self) -> None:
        """Delete all namespaces of the first region, and sweep what they held."""
        for each in self.manage("GET", "/namespaces")["namespaces"]:
            self.manage("DELETE", f"/namespaces/{each['id']}")
        headers = {"X-Auth-Token": self.secret, "Content-Type": "application/json"}
        answer = self.request("POST", "/holdfast/v1/sweep", b'{"early": true}', headers)
        assert answer.status == 200, answer

    def files(self) -> list[int]:
        """Sizes of all files that hold blobs, ordered."""
        return sorted(
            path.stat().st_size for path in (self.data / "files").rglob("*") if path.is_file()
        )


@contextmanager
def serving(data: Path, *options: str, workers: int = 2) -> Iterator[Registry]:
    """A server whose clients may be spread over two workers, or another number of them.

    At the end of the block it stops without a complaint, and leaves a directory without a fault.
    """
    with running(data, *options, workers=workers) as server:
        known = server.variables()
        yield Registry(server, known["SCW_SECRET_KEY"], known["SCW_ACCESS_KEY"])
        if server.process.poll() is None:
            assert server.stop() == 0
            said = server.errors()
            assert not _COMPLAINT.search(said), said
            assert problems(data) == []


def problems(data: Path) -> list[Problem]:
    """All that is wrong in a data directory, whose every byte is read."""

    async def found() -> list[Problem]:
        return [each async for each in check_directory(data, deep=True)]

    return asyncio.run(found())
