"""Operations for keys: create, list, get, update, revoke.

They are not in Scaleway's registry API, where another service manages keys. A key of one project
manages that project's keys; a key of all projects manages all keys. A new key never has more rights
or a later expiry than the key that creates it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from holdfast.engine import Key, Permission

from .errors import (
    ApiError,
    PreconditionFailedBody,
    denied,
    invalid,
    not_found,
    precondition_failed,
)
from .operation import HOLDFAST, Call, Nothing, operation
from .paging import PageNumber, PageSize
from .parameters import change_of
from .views import KeyAnswer, KeysAnswer, NewKeyAnswer, convert

_ALL: Final = HOLDFAST + "/keys"
_ONE: Final = _ALL + "/{access_key}"


class ListKeys(msgspec.Struct, kw_only=True):
    """Filter and page of a list of keys."""

    page: PageNumber = 1
    page_size: PageSize = 20
    project_id: UUID | None = None


class CreateKey(msgspec.Struct, kw_only=True):
    """Without ``project_id`` the new key has the project of the calling key, or all projects."""

    project_id: UUID | None = None
    default_project_id: Annotated[
        UUID | None,
        Meta(
            description="Default project of new namespaces, only for keys of all projects; without "
            "it, that of the calling key"
        ),
    ] = None
    permission: Permission = "full"
    description: Annotated[str, Meta(max_length=200)] = ""
    expires_at: (
        Annotated[
            datetime, Meta(tz=True, description="Must not be after the expiry of the calling key")
        ]
        | None
    ) = None


class UpdateKey(msgspec.Struct, kw_only=True):
    """Absent fields keep their value."""

    description: Annotated[str, Meta(max_length=200)] | None = None
    expires_at: (
        Annotated[
            datetime,
            Meta(
                tz=True,
                description="null: never. A time in the past expires the key now. Must not be "
                "after the expiry of the calling key",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET


def _expiry(calling_key: Key, requested: datetime | None) -> datetime | None:
    if requested is not None and requested <= datetime.now(UTC):
        raise invalid("expires_at", "constraint", "must be in the future")
    if calling_key.expires_at is None:
        return requested
    # Without an expiry of its own, the new key expires with the calling key.
    if requested is not None and requested > calling_key.expires_at:
        raise _after_calling_key()
    return requested or calling_key.expires_at


def _after_calling_key() -> ApiError:
    return invalid("expires_at", "constraint", "must not be after the expiry of the calling key")


@operation("POST", _ALL, "Create a key", writes=True)
async def create_key(call: Call[Nothing, CreateKey]) -> NewKeyAnswer:
    """Create a key. Only this response has its secret."""
    body, calling_key = call.body, call.key
    project_id = body.project_id or calling_key.project_id
    if project_id is not None and not calling_key.covers(project_id):
        raise denied("key", "create")
    default_project_id = project_id or body.default_project_id or calling_key.default_project_id
    key, secret = await call.store.keys.create(
        project_id=project_id,
        default_project_id=default_project_id,
        organization_id=call.organization_id,
        permission=body.permission,
        description=body.description,
        expires_at=_expiry(calling_key, body.expires_at),
    )
    return convert(key, NewKeyAnswer, secret_key=secret)


@operation("GET", _ALL, "List keys", writes=True)
async def list_keys(call: Call[ListKeys, Nothing]) -> KeysAnswer:
    """Return a page of the keys that the calling key manages, without their secrets."""
    requested = call.query.project_id
    if not call.lists(requested, None):
        return KeysAnswer([], 0)
    page = await call.store.keys.list(
        project_id=requested or call.project_id,
        page=call.query.page,
        page_size=call.query.page_size,
    )
    return KeysAnswer([convert(key, KeyAnswer) for key in page.items], page.total)


@operation("GET", _ONE, "Get a key", writes=True)
async def get_key(call: Call[Nothing, Nothing]) -> KeyAnswer:
    """Return a key without its secret."""
    return convert(await _key_of(call), KeyAnswer)


@operation("PATCH", _ONE, "Update a key", writes=True, errors=(PreconditionFailedBody,))
async def update_key(call: Call[Nothing, UpdateKey]) -> KeyAnswer:
    """Change a key. Its expiry must not be after that of the calling key."""
    key, calling_key, body = await _key_of(call), call.key, call.body
    if not isinstance(body.expires_at, UnsetType):
        _refuse_own(call, key, "gets another expiry")
        last = calling_key.expires_at
        if last is not None and (body.expires_at is None or body.expires_at > last):
            raise _after_calling_key()
    changed = await call.store.keys.update(
        key.access_key, description=body.description, expires_at=change_of(body.expires_at)
    )
    return convert(changed, KeyAnswer)


@operation("DELETE", _ONE, "Revoke a key", writes=True, errors=(PreconditionFailedBody,))
async def revoke_key(call: Call[Nothing, Nothing]) -> KeyAnswer:
    """Revoke a key. Requests with it are refused from now on."""
    key = await _key_of(call)
    _refuse_own(call, key, "is revoked")
    await call.store.keys.revoke(key.access_key)
    return convert(key, KeyAnswer)


def _refuse_own(call: Call[Any, Any], key: Key, change: str) -> None:
    """Raise 412 if the key is the calling key and a key of all projects.

    Otherwise the last key of all projects could be removed, and with it the access to all projects.
    """
    if key.access_key == call.key.access_key and key.project_id is None:
        raise precondition_failed(
            "protected_resource", f"a key of all projects {change} only with another such key"
        )


async def _key_of(call: Call[Any, Any]) -> Key:
    """Return the key of the path. Raises 404 also for a key of another project."""
    access_key = call.names["access_key"]
    key = await call.store.keys.get(access_key)
    covered = call.project_id is None or key.project_id == call.project_id
    if not covered:
        raise not_found("key", access_key)
    return key


OPERATIONS: Final = (list_keys, create_key, get_key, update_key, revoke_key)
