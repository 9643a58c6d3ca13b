"""Try each row of SECURITY.md on thieves and abuse: what is possible, what is not, what ends it."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import pytest
from support.api import OTHER_PROJECT, OWNER_SECRET, PROJECT, Reply, basic, digest_of
from support.distribution import Registry, registry
from support.engine import collect
from support.full import GO_ON, filled, pulled_and_deleted
from support.operating import SECRET, WRONG, call, holds, make_namespace, operated, push
from support.rows import Row, said
from support.server import WAIT_SECONDS, command

from holdfast.api import AppSettings
from holdfast.api.oci import tokens
from holdfast.api.server.settings import Settings
from holdfast.engine import Store, StoreConfig
from holdfast.engine.depot.disk import DiskDepot

NAME: Final = "team/app"
SCOPE: Final = f"repository:{NAME}:*"
LISTED: Final = "/registry/v1/regions/fr-par/namespaces"
KEYS: Final = "/holdfast/v1/keys"
DAY: Final = 24 * 3600


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    """Start a server with a private image, and a private and a public one of another project."""
    async with registry() as running:
        await running.namespace("team")
        await running.namespace("shut", OTHER_PROJECT)
        await running.namespace("open", OTHER_PROJECT, is_public=True)
        for name in (NAME, "shut/app", "open/app"):
            await running.image(name, "v1", b"layer")
        yield running


async def managed(
    server: Registry, method: str, path: str, secret: str, document: Any = None
) -> Reply:
    """Ask the management API of the same server."""
    async with server.http.request(
        method, server.url + path, headers={"X-Auth-Token": secret}, json=document
    ) as answer:
        return Reply(answer.status, dict(answer.headers), await answer.read())


async def pull(server: Registry, name: str = NAME, **more: Any) -> int:
    return (await server.call("GET", f"/v2/{name}/manifests/v1", **more)).status


async def upload(server: Registry, name: str = NAME, **more: Any) -> int:
    return (await server.call("POST", f"/v2/{name}/blobs/uploads/", **more)).status


async def delete(server: Registry, name: str = NAME, **more: Any) -> int:
    return (await server.call("DELETE", f"/v2/{name}/manifests/v1", **more)).status


async def refreshed(server: Registry, refresh: str) -> Reply:
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": SCOPE}
    answer = await server.call("POST", "/token", secret=None, data=form)
    return Reply(answer.status, dict(answer.headers), answer.body)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which tokens end; a leeway is left to clocks that differ."""
    real = time.time

    def move(seconds: float) -> None:
        clock = SimpleNamespace(time=lambda: real() + seconds)
        monkeypatch.setattr("holdfast.api.oci.tokens.time", clock)

    return move


@pytest.mark.row("SECURITY.md", "bearer token")
async def test_a_bearer_token(row: Row, server: Registry, later: Callable[[float], None]) -> None:
    key, secret = await server.key()
    _, reader = await server.key(permission="read")
    token = await server.token(SCOPE, secret=secret)
    assert await pull(server, token=token) == 200
    assert await upload(server, token=token) == 202
    assert await delete(server, token=token) == 202
    await server.image(NAME, "v1", b"layer")
    # Another name, another region, and what its key may not do.
    assert await upload(server, "team/other", token=token) == 401
    elsewhere = {"Host": f"nl-ams.localhost:{server.port}"}
    assert await pull(server, token=token, headers=elsewhere) == 401
    narrow = await server.token(SCOPE, secret=reader)
    assert await pull(server, token=narrow) == 200
    assert await upload(server, token=narrow) in {401, 403}
    assert (await server.call("GET", "/token", token=token)).status == 401
    assert (await server.call("GET", "/token", secret=token)).status == 401
    assert (await refreshed(server, token)).status == 401
    assert (await managed(server, "GET", LISTED, token)).status == 401
    lives = Settings.parse().token_seconds
    for seconds, status in ((lives - 5, 200), (lives + tokens.LEEWAY_SECONDS + 5, 401), (0, 200)):
        later(seconds)
        assert await pull(server, token=token) == status
    await server.store.keys.revoke(key.access_key)
    assert await pull(server, token=token) == 401
    row.says(
        can="within its scope and region, do what its key may do: pull, push or delete",
        cannot="get other tokens, use the management API, do more than its key may do now",
        ends=f"after `--token-seconds` ({lives}), or with the key",
    )


@pytest.mark.row("SECURITY.md", "refresh token")
async def test_a_refresh_token(row: Row, server: Registry, later: Callable[[float], None]) -> None:
    key, secret = await server.key()
    answer = await server.call("GET", "/token?offline_token=true", secret=secret)
    refresh = answer.json["refresh_token"]
    token = (await refreshed(server, refresh)).json["token"]
    assert await pull(server, token=token) == 200
    assert await upload(server, token=token) == 202
    assert await pull(server, token=refresh) == 401
    assert (await managed(server, "GET", LISTED, refresh)).status == 401
    days = int(re.findall(r"\d+", row.cells["ends"])[0])
    for seconds in (days * DAY - 5, days * DAY + tokens.LEEWAY_SECONDS + 5, 0):
        later(seconds)
        assert ((await refreshed(server, refresh)).status == 200) == (seconds < days * DAY)
    await server.store.keys.revoke(key.access_key)
    assert (await refreshed(server, refresh)).status == 401
    row.says(
        can="get bearer tokens for all that its key may do",
        cannot="open anything else",
        ends=f"after {days} days, or with the key",
    )


@pytest.mark.row("SECURITY.md", "anonymous token")
async def test_an_anonymous_token(
    row: Row, server: Registry, later: Callable[[float], None]
) -> None:
    scopes = [f"repository:{name}:*" for name in ("open/app", NAME)]
    token = await server.token(*scopes, secret=None)
    assert await pull(server, "open/app", token=token) == 200
    assert await upload(server, "open/app", token=token) == 401
    assert await pull(server, token=token) == 401
    lives = AppSettings().token_seconds
    for seconds, status in ((lives - 5, 200), (lives + tokens.LEEWAY_SECONDS + 5, 401), (0, 200)):
        later(seconds)
        assert await pull(server, "open/app", token=token) == status
    namespace = await server.store.namespaces.find("fr-par", "open")
    await server.store.namespaces.update(namespace.id, is_public=False)
    assert await pull(server, "open/app", token=token) == 401
    row.says(
        can="pull public images, while they are public",
        cannot="see anything else",
        ends="after `--token-seconds`",
    )


async def ends_with_its_key(server: Registry, project: UUID | None, permission: Any) -> None:
    """A key opens nothing once it is revoked, or out of its time."""
    key, secret = await server.key(project, permission)
    _, expiring = await server.key(
        project, permission, expires_at=datetime.now(UTC) + timedelta(milliseconds=200)
    )
    assert await pull(server, secret=secret) == 200
    await server.store.keys.revoke(key.access_key)
    while await pull(server, secret=expiring) == 200:
        pass
    for ended in (secret, expiring):
        assert await pull(server, secret=ended) == 401
        assert (await managed(server, "GET", LISTED, ended)).status == 401


@pytest.mark.row("SECURITY.md", "read-only key")
async def test_a_read_only_key(row: Row, server: Registry) -> None:
    _, secret = await server.key(permission="read")
    assert await pull(server, secret=secret) == 200
    listed = (await managed(server, "GET", LISTED, secret)).json["namespaces"]
    assert [namespace["name"] for namespace in listed] == ["team"]
    mine = f"{LISTED}/{listed[0]['id']}"
    assert (await managed(server, "GET", mine, secret)).status == 200
    assert await upload(server, secret=secret) == 403
    assert await delete(server, secret=secret) == 403
    theirs = (await server.store.namespaces.find("fr-par", "shut")).id
    for method, path, status in (
        ("POST", LISTED, 403),
        ("PATCH", mine, 403),
        ("DELETE", mine, 403),
        ("GET", KEYS, 403),
        ("POST", KEYS, 403),
        ("GET", f"{LISTED}/{theirs}", 404),
    ):
        document: Any = {} if method in ("POST", "PATCH") else None
        assert (await managed(server, method, path, secret, document)).status == status, path
    assert await pull(server, "shut/app", secret=secret) == 404
    await ends_with_its_key(server, PROJECT, "read")
    row.says(
        can="pull and read everything of its project, over both APIs",
        cannot="change anything, create or list keys, see other projects",
        ends="at its expiry, or when it is revoked",
    )


@pytest.mark.row("SECURITY.md", "full key of a project")
async def test_a_full_key(row: Row, server: Registry) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key, secret = await server.key(expires_at=soon)
    assert await upload(server, secret=secret) == 202
    assert await delete(server, secret=secret) == 202
    made = await managed(server, "POST", LISTED, secret, {"name": "more"})
    assert made.status == 200
    assert (await managed(server, "DELETE", f"{LISTED}/{made.json['id']}", secret)).status == 200
    own = (await managed(server, "POST", KEYS, secret, {})).json
    assert own["project_id"] == str(PROJECT)
    assert datetime.fromisoformat(own["expires_at"]) <= soon
    later = {"expires_at": (soon + timedelta(hours=1)).isoformat()}
    assert (await managed(server, "POST", KEYS, secret, later)).status == 400
    other = {"project_id": str(OTHER_PROJECT)}
    assert (await managed(server, "POST", KEYS, secret, other)).status == 403
    assert (await managed(server, "GET", "/holdfast/v1/stats", own["secret_key"])).status == 403
    assert await pull(server, "shut/app", secret=secret) == 404
    theirs = (await server.store.namespaces.find("fr-par", "shut")).id
    assert (await managed(server, "DELETE", f"{LISTED}/{theirs}", secret)).status == 404
    # Its keys live on without it.
    await server.store.keys.revoke(key.access_key)
    assert (await managed(server, "GET", LISTED, own["secret_key"])).status == 200
    await server.store.keys.revoke(own["access_key"])
    assert (await managed(server, "GET", LISTED, own["secret_key"])).status == 401
    await server.image(NAME, "v1", b"layer")
    await ends_with_its_key(server, PROJECT, "full")
    row.says(
        can="do everything in its project, deletes included; create more keys of that project",
        cannot="reach other projects, create a key with more rights or a longer life than its own",
        ends="at its expiry, or when it is revoked; "
        "the keys that it created stay valid: revoke those too",
    )


@pytest.mark.row("SECURITY.md", "key of all projects")
async def test_a_key_of_all_projects(row: Row, server: Registry) -> None:
    key, secret = await server.key(None)
    for name in (NAME, "shut/app"):
        assert await upload(server, name, secret=secret) == 202
        assert await delete(server, name, secret=secret) == 202
    assert (await managed(server, "GET", "/holdfast/v1/stats", secret)).status == 200
    assert (await managed(server, "POST", "/holdfast/v1/sweep", secret)).status == 200
    other = {"project_id": str(OTHER_PROJECT)}
    assert (await managed(server, "POST", KEYS, secret, other)).status == 200
    place = f"{KEYS}/{key.access_key}"
    assert (await managed(server, "DELETE", place, secret)).status == 412
    assert (await managed(server, "DELETE", place, OWNER_SECRET)).status == 200
    assert (await managed(server, "GET", LISTED, secret)).status == 401
    row.says(
        can="everything",
        cannot="revoke itself: only another such key can",
        ends="when it is revoked",
    )


@pytest.mark.row("SECURITY.md", "a revoked or expired key")
async def test_a_key_that_ended(row: Row, server: Registry) -> None:
    key, revoked = await server.key()
    _, expired = await server.key(expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
    tokens_before = [await server.token(SCOPE, secret=secret) for secret in (revoked, expired)]
    await server.store.keys.revoke(key.access_key)
    while await pull(server, secret=expired) == 200:
        pass
    for secret, token in zip((revoked, expired), tokens_before, strict=True):
        for refused in (
            await pull(server, secret=secret),
            await pull(server, token=token),
            await upload(server, secret=secret),
            (await server.call("GET", "/token", secret=secret)).status,
            (await managed(server, "GET", LISTED, secret)).status,
            (await managed(server, "POST", KEYS, secret, {})).status,
        ):
            assert refused == 401
    row.says(can="nothing", cannot="open anything, nor can a token that was made with it", ends="")


@pytest.mark.slow
@pytest.mark.row("SECURITY.md", "data directory, or a snapshot of it")
async def test_a_data_directory(row: Row, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    layer = b"layer" * 20_000
    with operated(data) as server:
        make_namespace(server, "team")
        push(server, NAME, layer)
        made = call(server, "POST", KEYS, b"{}", X_Auth_Token=SECRET).json
        # The first token needs a key to sign with.
        assert call(server, "GET", "/token", Authorization=basic(SECRET)).status == 200
        done = command("snapshot", "--data", str(data), str(copy))
        assert done.returncode == 0, done.stderr
        assert SECRET in (copy / "owner.json").read_text()
        async with Store.open(copy, StoreConfig(background=False)) as store:
            here = await store.locate("fr-par", NAME)
            async with store.get(digest_of(layer), repository=here) as reader:
                assert await collect(reader) == layer
            token = tokens.issue(
                await store.keys.signing_key(),
                "access",
                access_key=made["access_key"],
                region="fr-par",
                scopes={("repository", NAME): frozenset(("pull",))},
                now=int(time.time()),
                seconds=300,
            )

        def pulled() -> int:
            path = f"/v2/{NAME}/manifests/v1"
            return call(server, "GET", path, Authorization=f"Bearer {token}").status

        assert pulled() == 200
        for path in (*data.rglob("*"), *copy.rglob("*")):
            if path.is_file() and path.name != "owner.json":
                assert not holds(path, SECRET), path
            if path.is_file():
                assert not holds(path, made["secret_key"]), path
        done = command("key", "end-tokens", "--yes", "--data", str(data))
        assert done.returncode == 0, done.stderr
        assert pulled() == 401
    row.says(
        can="read all content and `owner.json`; sign tokens for any key in it; "
        "the other secrets are stored as SHA-256 only",
        cannot="recover random secrets, such as those that Holdfast creates",
        ends="run `holdfast key end-tokens`, which ends all tokens at once, "
        "in a running server too; revoke the owner key",
    )


# --- abuse --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.row("SECURITY.md", "no key")
def test_guessing(row: Row, tmp_path: Path) -> None:
    with operated(tmp_path / "data") as server:

        def login(secret: str) -> Reply:
            return call(server, "GET", "/v2/", Authorization=basic(secret))

        number = int(Settings.parse().rates.login)
        assert {login(WRONG).status for _ in range(number)} == {401}
        # Some of them come back while the others are tried.
        while login(WRONG).status == 401:
            pass
        assert login(SECRET).status == 429
    row.says(
        can="guess secrets",
        is_stopped_by=f"`--login-failures`: {number} a minute from an address; "
        "after that the right secret is refused too",
    )


@pytest.mark.row("SECURITY.md", "a full key")
async def test_filling_the_disk(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1 << 29
    monkeypatch.setattr(DiskDepot, "free_bytes", lambda _: free)
    config = StoreConfig(background=False, disk_reserve_bytes=1 << 20)
    async with registry(Store.open(tmp_path / "data", config)) as server:
        namespace = await server.namespace("team")
        image = await server.image(NAME, "v1", b"layer")
        _, secret = await server.key()

        async def fill() -> str:
            large = os.urandom(100_000)
            path = f"/v2/{NAME}/blobs/uploads/?digest={digest_of(large)}"
            return said(await server.call("POST", path, data=large, secret=secret))

        await server.store.namespaces.update(namespace.id, quota=50_000)
        assert await fill() == "403 DENIED"
        await server.store.namespaces.update(namespace.id, quota=None)
        assert await fill() == "201"
        free = 1 << 20
        assert await fill() == "507 UNAVAILABLE"
        assert await pull(server, secret=secret) == 200
        path = f"/v2/{NAME}/manifests/{image}"
        assert (await server.call("DELETE", path, secret=secret)).status == 202
    monkeypatch.undo()
    async with filled(tmp_path / "disk") as server:
        await pulled_and_deleted(server)
    row.says(
        can="fill the disk",
        is_stopped_by="quotas of its namespaces (`holdfast namespace settings --quota`), "
        f"and the reserve of the disk: pulls and deletes {GO_ON}",
    )


@pytest.mark.slow
@pytest.mark.row("SECURITY.md", "many addresses")
def test_taking_all_connections(row: Row, tmp_path: Path) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with operated(tmp_path / "data", "--max-connections=3") as server:
        host, port = server.address.split(":")

        def connect(number: int) -> socket.socket:
            source = (f"127.0.2.{number}", 0)
            return socket.create_connection((host, int(port)), WAIT_SECONDS, source)

        kept = [connect(number) for number in range(1, 4)]
        for sock in kept:
            sock.sendall(asked)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(4) as refused:
            # Before it asks for anything.
            status = refused.recv(65536)[9:12].decode()
        for sock in kept:
            sock.sendall(asked)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
            sock.close()
    row.says(
        can="take all connections",
        is_stopped_by=f"`--max-connections`: beyond them {status} at once; "
        "open connections stay served",
    )
