"""TLS: from a start to pushes and pulls, reloads of the certificate, and clients that hang."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from support import tls as tls_support
from support.api import MANIFEST_TYPE, basic, digest_of
from support.edge import EDGES, Edge, edge_of
from support.operating import (
    SECRET,
    ask,
    call,
    connect,
    eventually,
    make_namespace,
    metrics_address,
    operated,
    push,
)
from support.server import HOLDFAST, WAIT_SECONDS, ServerProcess, command
from support.tls import install, trusting
from support.wire import LAST, connected

from holdfast.api.http import site
from holdfast.api.http.connection_limits import ConnectionLimits

pytestmark = pytest.mark.slow


@pytest.fixture(params=EDGES[:2])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Edge:
    """Without the lane, which TLS has no part in."""
    return edge_of(request.param, tmp_path)


def options(directory: Path) -> tuple[str, str]:
    certificate, key = install(directory, 0)
    return f"--tls-cert={certificate}", f"--tls-key={key}"


def test_push_and_pull(tmp_path: Path) -> None:
    """Whole, in parts, in small pieces and large ones; Locations stay relative."""
    layer = os.urandom(3_000_000)
    tls = trusting(0)
    with operated(tmp_path / "data", *options(tmp_path), workers=2) as server:
        assert server.lines[-1].startswith(f"holdfast is ready on https://{server.address} (")
        assert make_namespace(server, "team", tls=tls, is_public=True).status == 200
        digest = push(server, "team/app", layer, tls=tls)
        connection = connect(server.address, tls)
        for _ in range(3):
            manifest = ask(
                connection, "GET", f"/v2/team/app/manifests/{digest}", Accept=MANIFEST_TYPE
            )
            assert digest_of(manifest.body) == digest
            assert ask(connection, "GET", f"/v2/team/app/blobs/{digest_of(layer)}").body == layer
        part = ask(
            connection, "GET", f"/v2/team/app/blobs/{digest_of(layer)}", Range="bytes=9-1000008"
        )
        assert (part.status, part.body) == (206, layer[9:1_000_009])
        begun = ask(
            connection, "POST", "/v2/team/app/blobs/uploads/", b"", Authorization=basic(SECRET)
        )
        assert begun.headers["Location"].startswith("/v2/team/app/blobs/uploads/")
        challenge = ask(connection, "GET", "/v2/").headers["WWW-Authenticate"]
        assert f'realm="https://{server.address}/token"' in challenge
        connection.close()
        assert command("health", f"--data={server.data}").returncode == 0
        with pytest.raises(ssl.SSLCertVerificationError):
            call(server, "GET", "/healthz", tls=trusting(1))
        with socket.create_connection(tuple_of(server), timeout=WAIT_SECONDS) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(1000)
        assert server.stop() == 0
        assert server.errors() == ""


def tuple_of(server: ServerProcess) -> tuple[str, int]:
    host, port = server.address.split(":")
    return host, int(port)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(tmp_path: Path, version: ssl.TLSVersion) -> None:
    tls = trusting(0)
    tls.minimum_version = tls.maximum_version = version
    with operated(tmp_path / "data", *options(tmp_path)) as server:
        assert call(server, "GET", "/healthz", tls=tls).status == 200


def test_another_certificate(tmp_path: Path) -> None:
    """SIGHUP takes it; connections that are there go on; a bad one changes nothing."""
    with operated(tmp_path / "data", *options(tmp_path), workers=2) as server:
        assert call(server, "GET", "/healthz", tls=trusting(0)).status == 200
        workers = server.workers()
        install(tmp_path, 1)
        assert call(server, "GET", "/healthz", tls=trusting(0)).status == 200
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(workers) & set(server.workers()))
        assert [call(server, "GET", "/healthz", tls=trusting(1)).status for _ in range(10)] == [
            200
        ] * 10
        with pytest.raises(ssl.SSLCertVerificationError):
            call(server, "GET", "/healthz", tls=trusting(0))
        workers = server.workers()
        (tmp_path / "cert.pem").write_text(tls_support.CERTIFICATES[0])
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: any("reload failed" in line for line in server.said))
        assert server.workers() == workers
        assert call(server, "GET", "/healthz", tls=trusting(1)).status == 200


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    certificate, key = install(tmp_path, 0)
    (tmp_path / "other.pem").write_text(tls_support.KEYS[1])
    encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + "A" * 64 + "\n"
    (tmp_path / "secret.pem").write_text(f"{encrypted}-----END ENCRYPTED PRIVATE KEY-----\n")
    for given in (
        (f"--tls-cert={certificate}",),
        (f"--tls-key={key}",),
        (f"--tls-cert={tmp_path / 'none'}", f"--tls-key={key}"),
        (f"--tls-cert={certificate}", f"--tls-key={tmp_path / 'other.pem'}"),
        (f"--tls-cert={certificate}", f"--tls-key={tmp_path / 'secret.pem'}"),
        (f"--tls-cert={key}", f"--tls-key={certificate}"),
    ):
        done = subprocess.run(
            [*HOLDFAST, "serve", f"--data={tmp_path / 'data'}", *given],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert done.stderr.startswith("holdfast: --tls-")
    assert not (tmp_path / "data").exists()


def test_a_handshake_that_hangs_is_given_up(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as a connection before it is one, and holds nobody up."""
    monkeypatch.setattr(site, "HANDSHAKE_SECONDS", 0.5)
    tls = tls_support.serving(edge.path)

    async def story() -> None:
        async with edge.server(house=ConnectionLimits(2, 0, 2), tls=tls) as port:
            async with connected(port) as silent, connected(port) as noisy:
                await noisy.send(b"\x16\x03\x01\x02\x00\x01")
                async with connected(port) as third:
                    assert await third.rest() == b"", "the house is full"
                assert await silent.rest() == b""
                await noisy.rest()
            assert (await asked(port)).startswith(b"HTTP/1.1 401 ")

    edge.run(story())


async def asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(0), server_hostname="localhost"
    )
    writer.write(LAST)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_hanging_handshakes_hold_nobody_up(edge: Edge) -> None:
    tls = tls_support.serving(edge.path)

    async def story() -> None:
        async with edge.server(tls=tls) as port:
            hanging = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
            answers = await asyncio.gather(*(asked(port) for _ in range(10)))
            assert all(answer.startswith(b"HTTP/1.1 401 ") for answer in answers)
            for _, writer in hanging:
                writer.close()

    edge.run(story())


def test_failed_handshakes_are_counted(tmp_path: Path) -> None:
    with operated(tmp_path / "data", *options(tmp_path), "--metrics=127.0.0.1:0") as server:
        with socket.create_connection(tuple_of(server), timeout=WAIT_SECONDS) as plain:
            plain.sendall(b"this is no TLS\r\n\r\n")
            plain.recv(1000)

        def scraped() -> str:
            return call(metrics_address(server), "GET", "/metrics").body.decode()

        eventually(lambda: "\nholdfast_failed_handshakes_total 1\n" in scraped())


def test_the_note_says_that_it_is_tls(tmp_path: Path) -> None:
    with operated(tmp_path / "data", *options(tmp_path)) as server:
        note = json.loads((server.data / "server.json").read_text())
        assert note["url"] == f"https://{server.address}"
        assert note["tls"] is True
