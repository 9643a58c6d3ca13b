"""Behind nginx, as docs/operating.md says: HTTPS in front, a unix socket behind."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.clients import Program, serving, skopeo_in
from support.common import ROOT, require_tool
from support.images import docker_archive, layers
from support.server import WAIT_SECONDS

PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
NAME = "registry.example.org"


def site(home: Path, port: int, certificate: Path, key: Path) -> str:
    """The page's configuration, with the places of this test."""
    text = PAGE.partition("```nginx\n")[2].partition("```")[0]
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (f"/etc/ssl/{NAME.partition('.')[0]}.pem", str(certificate)),
        (f"/etc/ssl/{NAME.partition('.')[0]}.key", str(key)),
        ("/run/holdfast/socket", str(home / "socket")),
        ("$host;", "$http_host;"),  # the port of this test is not 443
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(home: Path, port: int) -> Iterator[ssl.SSLContext]:
    """A running nginx with that site; what its certificate is known by."""
    certificate, key = home / "ca.crt", home / "key.pem"
    subprocess.run(
        [
            require_tool("openssl"),
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=WAIT_SECONDS,
    )
    paths = "".join(
        f"{kind}_temp_path {home / kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"daemon off;\nuser root;\nworker_processes 1;\npid {home / 'pid'};\n"
        f"error_log {home / 'error.log'} warn;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{site(home, port, certificate, key)}}}\n"
    )
    process = subprocess.Popen(
        [require_tool("nginx"), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    )
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), WAIT_SECONDS).close()
                break
            except ConnectionRefusedError:
                continue
        assert process.poll() is None, (home / "error.log").read_text()
        yield ssl.create_default_context(cafile=str(certificate))
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def test_images_go_through_it(tmp_path: Path) -> None:
    home = tmp_path / "n"
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = f"localhost:{port}"
    docker_archive(tmp_path / "image.tar", "localhost/image:v1", layers("nginx"))
    options = (
        f"--unix={home / 'socket'}",
        "--trusted-proxy=unix",
        f"--public-url=https://{host}",
    )
    with (
        serving(tmp_path / "data", *options) as registry,
        nginx(home, port) as context,
    ):
        endpoint = registry.namespace("team")
        assert endpoint == f"{host}/team"
        trust = f"--cert-dir={home}"
        skopeo: Program = skopeo_in(tmp_path / "skopeo")
        skopeo(
            *("login", trust, "--username=nologin", "--password-stdin", host),
            stdin=registry.secret,
        )
        image = f"docker://{endpoint}/web:v1"
        skopeo("copy", f"--dest-cert-dir={home}", f"docker-archive:{tmp_path}/image.tar", image)
        skopeo("copy", f"--src-cert-dir={home}", image, f"dir:{tmp_path / 'back'}")
        pulled = json.loads((tmp_path / "back" / "manifest.json").read_text())
        assert pulled == json.loads(registry.v2("GET", "team/web/manifests/v1").body)
        # Challenges name what clients see.
        request = urllib.request.Request(f"https://{host}/v2/")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, context=context, timeout=WAIT_SECONDS)  # noqa: S310
        with refusal.value as answer:
            assert answer.code == 401
            assert f'realm="https://{host}/token"' in answer.headers["WWW-Authenticate"]
    assert (home / "error.log").read_text() == ""
