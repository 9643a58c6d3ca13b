"""The table from engine errors to bodies, and the bodies' exact form (contract §5)."""

from __future__ import annotations

import json
from uuid import UUID

import msgspec
import pytest
from support import api_fixtures
from support.management import REGISTRY, Server

from holdfast import engine
from holdfast.api.management.errors import STATUS, error_of, too_many

server = api_fixtures.management_server


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            engine.NotFound("image", "i"),
            404,
            {
                "message": "Image was not found",
                "type": "not_found",
                "resource": "registry_image",
                "resource_id": "i",
            },
        ),
        (
            engine.AlreadyExists("namespace", "n"),
            409,
            {
                "message": "resource already exists",
                "type": "already_exists",
                "resource": "registry_namespace",
                "resource_id": "n",
                "help_message": "the namespace's name is taken",
            },
        ),
        (
            engine.Locked("namespace", "n", UUID(int=1)),
            423,
            {
                "message": "namespace n is locked",
                "type": "locked",
                "resource": "registry_namespace",
                "resource_id": "00000000-0000-0000-0000-000000000001",
            },
        ),
        (
            engine.QuotaExceeded("size", 10, 11),
            403,
            {
                "message": "quota exceeded",
                "type": "quotas_exceeded",
                "details": [{"resource": "size", "quota": 10, "current": 11}],
            },
        ),
        (
            engine.Busy("upload", "u"),
            409,
            {
                "message": "resource is in a transient state",
                "type": "transient_state",
                "resource": "upload",
                "resource_id": "u",
                "current_state": "busy",
            },
        ),
        (
            engine.Immutable("v1", "v*"),
            412,
            {
                "message": "precondition is not respected",
                "type": "precondition_failed",
                "precondition": "protected_resource",
                "help_message": "tag v1 is immutable (pattern v*)",
            },
        ),
        (
            engine.TooLarge("size", 5),
            400,
            {
                "message": "invalid argument(s)",
                "type": "invalid_arguments",
                "details": [
                    {
                        "argument_name": "size",
                        "reason": "constraint",
                        "help_message": "over the limit of 5 bytes",
                    }
                ],
            },
        ),
        (
            engine.StorageFull("depot"),
            507,
            {"message": "no space is left in the depot", "type": "unavailable"},
        ),
        (
            engine.Corrupt("record", "secret place", "x"),
            500,
            {"message": "internal error", "type": "internal_error"},
        ),
    ],
)
def test_engine_errors_become_typed_bodies(
    error: engine.EngineError, status: int, body: object
) -> None:
    refusal = error_of(error)
    assert refusal.status == status
    assert json.loads(msgspec.json.encode(refusal.body)) == body


def test_no_type_is_used_twice() -> None:
    types = [body.__struct_fields__ and body.__annotations__["type"] for body in STATUS]
    assert len(set(types)) == len(types)


class Unforeseen(Exception):
    """No error of the engine's."""


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unforeseen("secret"), 500), (engine.Corrupt("record", "secret", "bad"), 500)],
)
async def test_failures_are_typed_logged_and_tell_nothing(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(server.store.namespaces), "list", fail)
    answer = await server.call("GET", REGISTRY + "/namespaces")
    assert answer.status == status
    assert answer.json == {"message": "internal error", "type": "internal_error"}
    assert "ListNamespaces failed" in caplog.text


async def test_a_closed_store_is_unavailable(server: Server) -> None:
    await server.store.close()
    answer = await server.call("GET", REGISTRY + "/namespaces")
    assert (answer.status, answer.json["type"]) == (503, "unavailable")


def test_too_many_requests_has_what_clients_look_for() -> None:
    error = too_many(3, "too many requests with this key")
    assert error.status == 429
    assert msgspec.to_builtins(error.body) == {
        "message": "too many requests",
        "type": "too_many_requests",
        "help_message": "too many requests with this key",
        "reset_seconds": 3,
    }
