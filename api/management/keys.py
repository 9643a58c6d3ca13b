"""Keys: create, list, get, update, revoke. Beyond Scaleway's API, where another service keeps them.

A key of one project manages that project's keys; a key of all projects manages all. No key can
make one that reaches further, or lives longer, than itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from holdfast import engine
from holdfast.engine import Key, Permission

from .errors import PreconditionFailedBody, denied, invalid, not_found, precondition_failed
from .operation import BEYOND, Call, Nothing, Operation
from .paging import PageNumber, PageSize
from .views import KeyAnswer, KeysAnswer, NewKeyAnswer, key_answer, new_key_answer


class ListKeys(msgspec.Struct, kw_only=True):
    """A filter."""

    page: PageNumber = 1
    page_size: PageSize = 20
    project_id: UUID | None = None


class CreateKey(msgspec.Struct, kw_only=True):
    """Without ``project_id`` the key is of the project of the key that makes it, or of all."""

    project_id: UUID | None = None
    default_project_id: Annotated[
        UUID | None,
        Meta(
            description="Where its namespaces go when nothing says otherwise; of keys of all "
            "projects only, which take the maker's by default"
        ),
    ] = None
    permission: Permission = "full"
    description: Annotated[str, Meta(max_length=200)] = ""
    expires_at: (
        Annotated[
            datetime, Meta(tz=True, description="At the latest when the key that makes it expires")
        ]
        | None
    ) = None


class UpdateKey(msgspec.Struct, kw_only=True):
    """Absent fields stay as they are."""

    description: Annotated[str, Meta(max_length=200)] | None = None
    expires_at: (
        Annotated[
            datetime,
            Meta(
                tz=True,
                description="null: never. A moment that is over ends the key now. At the latest "
                "when the key that asks for it expires",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET


def _expiry(maker: Key, asked: datetime | None) -> datetime | None:
    if asked is not None and asked <= datetime.now(UTC):
        raise invalid("expires_at", "constraint", "must be in the future")
    if maker.expires_at is None:
        return asked
    if asked is not None and asked > maker.expires_at:
        raise invalid("expires_at", "constraint", "is after this key itself expires")
    return asked or maker.expires_at


async def create_key(call: Call[Nothing, CreateKey]) -> NewKeyAnswer:
    """A new key with its secret, which is never shown again."""
    body, maker = call.body, call.key
    project_id = body.project_id or maker.project_id
    if project_id is not None and not maker.covers(project_id):
        raise denied("key", "create")
    default_project_id = project_id or body.default_project_id or maker.default_project_id
    key, secret = await call.store.keys.create(
        project_id=project_id,
        default_project_id=default_project_id,
        organization_id=call.organization_id,
        permission=body.permission,
        description=body.description,
        expires_at=_expiry(maker, body.expires_at),
    )
    return new_key_answer(key, secret)


async def list_keys(call: Call[ListKeys, Nothing]) -> KeysAnswer:
    """The keys that this one manages, without their secrets."""
    asked = call.query.project_id
    if not call.lists(asked, None):
        return KeysAnswer([], 0)
    page = await call.store.keys.list(
        project_id=asked or call.project_id, page=call.query.page, page_size=call.query.page_size
    )
    return KeysAnswer([key_answer(key) for key in page.items], page.total)


async def get_key(call: Call[Nothing, Nothing]) -> KeyAnswer:
    """One key, without its secret."""
    return key_answer(await _key_of(call))


async def update_key(call: Call[Nothing, UpdateKey]) -> KeyAnswer:
    """The key as it is now. No key can make one last longer than itself."""
    key, maker, body = await _key_of(call), call.key, call.body
    expires_at: datetime | engine.Unset | None = engine.UNSET
    if not isinstance(body.expires_at, UnsetType):
        expires_at = body.expires_at
        _refuse_own(call, key, "gets another expiry")
        if maker.expires_at is not None and (expires_at is None or expires_at > maker.expires_at):
            raise invalid("expires_at", "constraint", "is after this key itself expires")
    changed = await call.store.keys.update(
        key.access_key, description=body.description, expires_at=expires_at
    )
    return key_answer(changed)


async def revoke_key(call: Call[Nothing, Nothing]) -> KeyAnswer:
    """The key that was; requests with it are refused from now on."""
    key = await _key_of(call)
    _refuse_own(call, key, "is revoked")
    await call.store.keys.revoke(key.access_key)
    return key_answer(key)


def _refuse_own(call: Call[Any, Any], key: Key, what: str) -> None:
    """Raises 412 for the caller's own key, if it is one of all projects.

    Else the last one of those could go, and with it all access to the other projects' keys.
    """
    if key.access_key == call.key.access_key and key.project_id is None:
        raise precondition_failed(
            "protected_resource", f"a key of all projects {what} with another such key"
        )


async def _key_of(call: Call[Any, Any]) -> Key:
    """The key of the path; a stranger's answers as an absent one."""
    access_key = call.names["access_key"]
    key = await call.store.keys.get(access_key)
    covered = call.project_id is None or key.project_id == call.project_id
    if not covered:
        raise not_found("key", access_key)
    return key


_ALL: Final = BEYOND + "/keys"
_ONE: Final = _ALL + "/{access_key}"

OPERATIONS: Final = (
    Operation(
        id="ListKeys",
        method="GET",
        path=_ALL,
        summary="List keys",
        handler=list_keys,
        answer=KeysAnswer,
        query=ListKeys,
        writes=True,
    ),
    Operation(
        id="CreateKey",
        method="POST",
        path=_ALL,
        summary="Create a key",
        handler=create_key,
        answer=NewKeyAnswer,
        body=CreateKey,
        writes=True,
    ),
    Operation(
        id="GetKey",
        method="GET",
        path=_ONE,
        summary="Get a key",
        handler=get_key,
        answer=KeyAnswer,
        writes=True,
    ),
    Operation(
        id="UpdateKey",
        method="PATCH",
        path=_ONE,
        summary="Update a key",
        handler=update_key,
        answer=KeyAnswer,
        body=UpdateKey,
        writes=True,
        errors=(PreconditionFailedBody,),
    ),
    Operation(
        id="RevokeKey",
        method="DELETE",
        path=_ONE,
        summary="Revoke a key",
        handler=revoke_key,
        answer=KeyAnswer,
        writes=True,
        errors=(PreconditionFailedBody,),
    ),
)
