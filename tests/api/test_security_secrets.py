"""Secrets and tokens stay where they belong: with their clients, and in the owner's file."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.api import MANIFEST_TYPE, basic, digest_of
from support.operating import (
    NAMESPACES,
    SECRET,
    WRONG,
    call,
    holds,
    make_namespace,
    metrics_address,
    operated,
    push,
)
from support.rows import Row
from support.server import ServerProcess, command

pytestmark = pytest.mark.slow

FORM = "application/x-www-form-urlencoded"


def exercise(server: ServerProcess) -> list[str]:
    """Send secrets every way there is, and some ways that are none; all secrets and tokens."""
    make_namespace(server, "team")
    push(server, "team/app", b"layer" * 20_000)
    made = call(
        server, "POST", "/holdfast/v1/keys", b'{"permission": "read"}', X_Auth_Token=SECRET
    ).json
    secrets = [SECRET, WRONG, made["secret_key"]]
    scope = "scope=repository:team/app:pull&service=holdfast"
    for secret in list(secrets):
        call(server, "GET", NAMESPACES, X_Auth_Token=secret)
        call(server, "POST", NAMESPACES, b'{"name": "other"}', X_Auth_Token=secret)
        call(server, "GET", "/v2/", Authorization=basic(secret))
        call(server, "DELETE", "/v2/team/app/manifests/absent", Authorization=basic(secret))
        form = {"grant_type": "password", "username": "x", "password": secret}
        for reply in (
            call(server, "GET", f"/token?{scope}&offline_token=true", Authorization=basic(secret)),
            call(server, "POST", "/token", urlencode(form).encode(), Content_Type=FORM),
        ):
            if reply.status == 200:
                tokens = reply.json
                secrets += [tokens["token"], tokens.get("refresh_token", tokens["token"])]
                bearer = f"Bearer {tokens['token']}"
                call(server, "GET", "/v2/team/app/manifests/v1", Authorization=bearer)
                call(server, "PUT", "/v2/team/app/manifests/v1", b"{}", Authorization=bearer)
        # Where secrets do not belong, and people put them all the same.
        call(server, "GET", f"/v2/team/app/tags/list?password={secret}")
        call(server, "GET", f"/token?{scope}&password={secret}")
        call(server, "GET", f"{NAMESPACES}?secret_key={secret}", X_Auth_Token=SECRET)
        call(server, "GET", "/v2/", Authorization=f"Bearer {secret}")
        call(server, "GET", "/v2/", Authorization=f"Digest {secret}")
        call(server, "GET", NAMESPACES, X_Auth_Token=f"{secret} {secret}")
    return secrets


@pytest.mark.promise("SECURITY.md", "metrics")
@pytest.mark.promise("SECURITY.md", "a key's secret, at rest")
@pytest.mark.promise("SECURITY.md", "a key's secret, on the way")
@pytest.mark.row("SECURITY.md", "logs, audit log, metrics, traces")
def test_secrets_and_tokens_are_in_no_log_metric_title_or_file(row: Row, tmp_path: Path) -> None:
    data, audit = tmp_path / "data", tmp_path / "audit.log"
    with operated(
        data,
        "--access-log",
        "--log-format=json",
        "--log-level=debug",
        f"--audit-log={audit}",
        "--metrics=127.0.0.1:0",
        workers=2,
    ) as server:
        secrets = exercise(server)
        assert len(secrets) == 3 + 2 * 2 * 2
        texts = {"metrics": call(metrics_address(server), "GET", "/metrics").body.decode()}
        for pid in (server.process.pid, *server.workers()):
            for name in ("cmdline", "comm"):
                texts[f"{name} {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes().decode()
        assert server.stop() == 0
        texts["output"] = "".join(server.lines)
        texts["errors"] = server.errors()
    texts["audit"] = audit.read_text()
    assert texts["errors"].count("holdfast.access") > 40
    assert texts["audit"].count("\n") > 3
    for named in ("team", "team/app", "127.0.0.1", "SCW"):
        assert named in texts["audit"]
        assert named in texts["errors"]
    for name, text in texts.items():
        for secret in secrets:
            assert secret not in text, name
    for path in data.rglob("*"):
        if path.is_file() and path.name != "owner.json":
            for secret in secrets:
                assert not holds(path, secret), path
    row.says(
        can="read names of namespaces and images, addresses, access keys",
        cannot="find a secret or a token",
        ends="",
    )


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the namespace ``team``."""
    with operated(tmp_path_factory.mktemp("quiet") / "data") as server:
        make_namespace(server, "team")
        yield server


@pytest.mark.promise("SECURITY.md", "a key's secret, in answers")
def test_no_answer_repeats_a_credential(quiet: ServerProcess) -> None:
    """But those whose purpose it is: a new key, and the token service."""
    for secret in (SECRET, WRONG):
        for reply in (
            call(quiet, "GET", "/v2/", Authorization=f"Bearer {secret}"),
            call(quiet, "GET", "/v2/", Authorization=basic(secret)),
            call(quiet, "GET", f"/v2/team/app/tags/list?n={secret}"),
            call(quiet, "GET", NAMESPACES, X_Auth_Token=secret),
            call(quiet, "GET", "/holdfast/v1/keys", X_Auth_Token=secret),
        ):
            text = reply.body.decode() + json.dumps(dict(reply.headers))
            assert secret not in text
            assert basic(secret) not in text


@pytest.mark.promise("SECURITY.md", "a key's secret, on the way")
def test_a_secret_in_a_url_opens_nothing(quiet: ServerProcess) -> None:
    """Wherever in a URL somebody might put it; one there beside none in a header is none at all."""
    for name in ("password", "secret_key", "access_token", "token", "X-Auth-Token"):
        pair = urlencode({name: SECRET})
        assert call(quiet, "GET", f"{NAMESPACES}?{pair}").status in (400, 401)
        assert call(quiet, "GET", f"/v2/?{pair}").status == 401
        assert call(quiet, "GET", f"/v2/team/app/tags/list?{pair}").status == 401
        scope = "service=holdfast&scope=repository:team/app:push"
        token = call(quiet, "GET", f"/token?{scope}&{pair}").json["token"]
        bearer = f"Bearer {token}"
        path = "/v2/team/app/blobs/uploads/"
        assert call(quiet, "POST", path, Authorization=bearer).status == 401
    address = quiet.address.replace("127", f"nologin:{SECRET}@127", 1)
    assert call(quiet, "GET", f"http://{address}/v2/").status in (400, 401)


@pytest.mark.promise("SECURITY.md", "content")
def test_content_is_served_as_what_no_browser_runs(quiet: ServerProcess) -> None:
    page = b"<html><script>alert(1)</script>"
    push(quiet, "team/page", page)
    auth = basic(SECRET)
    reply = call(quiet, "GET", f"/v2/team/page/blobs/{digest_of(page)}", Authorization=auth)
    assert (reply.body, reply.headers["Content-Type"]) == (page, "application/octet-stream")
    path = "/v2/team/page/manifests/v1"
    manifest = call(quiet, "GET", path, Authorization=auth)
    assert manifest.headers["Content-Type"] == MANIFEST_TYPE
    put = call(quiet, "PUT", path, manifest.body, Authorization=auth, Content_Type="text/html")
    assert put.status == 400
    html = manifest.body.replace(MANIFEST_TYPE.encode(), b"text/html")
    for declared in (MANIFEST_TYPE, "text/html"):
        put = call(quiet, "PUT", path, html, Authorization=auth, Content_Type=declared)
        assert put.status == 400
    assert call(quiet, "GET", path, Authorization=auth).headers["Content-Type"] == MANIFEST_TYPE


@pytest.mark.row("SECURITY.md", "a place on the machine as another user")
def test_only_the_servers_user_can_read_what_it_writes(row: Row, tmp_path: Path) -> None:
    """Whatever the umask: directories 0700, files 0600."""
    data, audit = tmp_path / "data", tmp_path / "audit.log"
    umask = os.umask(0)
    try:
        with operated(data, f"--audit-log={audit}", workers=2) as server:
            make_namespace(server, "team")
            push(server, "team/app", b"layer" * 20_000)
            assert len(server.workers()) == 2
            seen = {path: path.lstat().st_mode for path in (data, audit, *data.rglob("*"))}
    finally:
        os.umask(umask)
    assert any(path.parent.name != "files" and "files" in path.parts for path in seen)
    for path, mode in seen.items():
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert stat.S_IMODE(mode) == wanted, (path, oct(mode))
    row.says(
        can="see process titles, connect where the server listens",
        cannot="read what the server writes: files have mode 0600, directories 0700",
        ends="",
    )


TOKENS = "/token?service=holdfast&offline_token=true&scope=repository:team/app:pull"


def login(server: ServerProcess) -> dict[str, str]:
    """Return a bearer token and a refresh token."""
    answer: dict[str, str] = call(server, "GET", TOKENS, Authorization=basic(SECRET)).json
    return answer


def statuses(server: ServerProcess, tokens: dict[str, str]) -> set[int]:
    """Use both tokens."""
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    bearer = f"Bearer {tokens['token']}"
    return {
        call(server, "GET", "/v2/team/app/manifests/v1", Authorization=bearer).status,
        call(server, "POST", "/token", urlencode(form).encode(), Content_Type=FORM).status,
    }


def run(server: ServerProcess, *arguments: str) -> None:
    done = command("key", *arguments, "--data", str(server.data))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def signing(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of two workers with an image to pull."""
    with operated(tmp_path / "data", workers=2) as server:
        make_namespace(server, "team")
        push(server, "team/app", b"layer")
        yield server


@pytest.mark.promise("SECURITY.md", "the operator")
def test_all_tokens_end_when_the_operator_says_so(signing: ServerProcess) -> None:
    """A reader of the ledger can sign tokens for any key until then: it holds at once, in every
    worker, also where one was replaced meanwhile, and what any of them signs later is good."""
    tokens = login(signing)
    assert statuses(signing, tokens) == {200}
    run(signing, "end-tokens", "--yes")
    for _ in range(10):
        assert statuses(signing, tokens) == {401}
    signing.kill_worker(min(signing.workers()))
    for _ in range(10):
        assert statuses(signing, tokens) == {401}
        again = login(signing)
        assert [statuses(signing, again) for _ in range(4)] == [{200}] * 4


def test_the_signing_key_is_rotated_without_a_client_that_notices(signing: ServerProcess) -> None:
    first = login(signing)
    run(signing, "rotate-signing-key")
    second = login(signing)
    assert _kid(first["token"]) != _kid(second["token"])
    for _ in range(6):
        assert _kid(login(signing)["token"]) == _kid(second["token"])
        assert statuses(signing, first) == statuses(signing, second) == {200}
    run(signing, "end-tokens", "--yes")
    for _ in range(6):
        assert statuses(signing, first) == statuses(signing, second) == {401}


def _kid(token: str) -> str:
    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
