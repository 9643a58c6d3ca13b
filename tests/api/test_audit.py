"""What the audit log tells of changes of every kind: who, what, to what, and how it ended."""

from __future__ import annotations

import json
from pathlib import Path

from support.api import basic, digest_of
from support.operating import NAMESPACES, OWNER, SECRET, call, make_namespace, operated, push

UPLOADS = "/v2/team/app/blobs/uploads/"


def test_changes_of_every_kind(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    layer = b"the layer"
    with operated(tmp_path / "data", f"--audit-log={log}") as server:

        def asked(method: str, path: str, body: bytes = b"") -> str:
            """Where an upload is that was begun."""
            if path.startswith("/v2/"):
                reply = call(server, method, path, body, Authorization=basic(SECRET))
            else:
                reply = call(server, method, path, body, X_Auth_Token=SECRET)
            assert reply.status < 300, (method, path, reply.status, reply.body)
            return reply.headers.get("Location", "")

        namespace = make_namespace(server, "team").json["id"]
        make_namespace(server, "other")
        push(server, "team/app", layer)
        beyond = "/holdfast/v1/regions/fr-par"
        base = NAMESPACES.removesuffix("/namespaces")
        images = call(server, "GET", f"{base}/images", X_Auth_Token=SECRET).json
        image = images["images"][0]["id"]
        tags = call(server, "GET", f"{base}/images/{image}/tags", X_Auth_Token=SECRET).json
        tag = tags["tags"][0]["id"]
        key = call(server, "POST", "/holdfast/v1/keys", b"{}", X_Auth_Token=SECRET).json[
            "access_key"
        ]
        log.write_bytes(b"")  # what follows is what the test is about

        asked("PATCH", f"{NAMESPACES}/{namespace}", b'{"description": "new"}')
        asked("PATCH", f"{base}/images/{image}", b'{"visibility": "public"}')
        rules = b'{"rules": [{"images": ["a"], "tags": ["v*"], "keep_last": 1}]}'
        asked("PATCH", f"{beyond}/namespaces/{namespace}/retention", rules)
        asked("POST", f"{beyond}/namespaces/{namespace}/retention/apply")
        asked("DELETE", f"/holdfast/v1/keys/{key}")
        asked("POST", f"/v2/other/app/blobs/uploads/?mount={digest_of(layer)}&from=team/app")
        upload = asked("POST", UPLOADS)
        asked("DELETE", upload)
        asked("DELETE", f"{base}/tags/{tag}")
        asked("DELETE", f"{base}/images/{image}")
        asked("POST", f"/holdfast/v1/trash/{image}/restore")
        asked("DELETE", f"{NAMESPACES}/{namespace}")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["action"], line["kind"], line["id"]) for line in lines] == [
        ("UpdateNamespace", "namespace", namespace),
        ("UpdateImage", "image", image),
        ("UpdateRetention", "namespace", namespace),
        ("ApplyRetention", "namespace", namespace),
        ("RevokeKey", "key", key),
        ("POST uploads", "blob", digest_of(layer)),
        ("POST uploads", "upload", ""),
        ("DELETE upload", "upload", upload.partition("?")[0].rpartition("/")[2]),
        ("DeleteTag", "tag", tag),
        ("DeleteImage", "image", image),
        ("RestoreFromTrash", "item", image),
        ("DeleteNamespace", "namespace", namespace),
    ]
    assert {line["actor"] for line in lines} == {OWNER["HOLDFAST_ACCESS_KEY"]}
    assert {line["result"] for line in lines} == {"done"}
