"""One interface to the management API's operations, for a server and for a data directory.

``LocalBackend`` runs the handlers over an open store; ``remote.RemoteBackend`` sends the same
calls to a server. A command is written once and does the same through both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar
from uuid import UUID

import msgspec

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.management.keys import create_key
from holdfast.api.management.namespaces import create_namespace
from holdfast.api.management.operation import AnyOperation, Call, Operation
from holdfast.api.management.parameters import parse_body, parse_query
from holdfast.api.server.owner_key import Owner
from holdfast.engine import Key, Store

from .errors import Failure

_NEED_OWNER: Final[tuple[AnyOperation, ...]] = (create_namespace, create_key)
"""Operations that need the owner: its organization and its project, the default one."""

_NO_ID: Final = UUID(int=0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

A = TypeVar("A", bound=msgspec.Struct)


class Backend(Protocol):
    """Runs operations in one region."""

    async def call(
        self,
        operation: Operation[A],
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> A:
        """Run an operation and return its answer.

        Raises ApiError, EngineError (from a store) or Failure.
        """


class LocalBackend:
    """Runs the operations over an open store, with all rights."""

    def __init__(
        self, store: Store, region: str, owner: Owner | None, registries: Mapping[str, str]
    ) -> None:
        """``registries`` maps a region to its ``host[:port]``; empty if no server ever ran."""
        self._store = store
        self._region = region
        self._owner = owner
        self._settings = AppSettings(regions=tuple(registries) or (region,), endpoints=registries)

    async def call(
        self,
        operation: Operation[A],
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> A:
        """See ``Backend.call``."""
        key = await self._key(operation)
        return await operation.handler(
            Call(
                store=self._store,
                settings=self._settings,
                key=key,
                organization_id=key.organization_id,
                scheme="http",
                host="localhost",
                region=self._region,
                ids={name: item for name, item in path.items() if isinstance(item, UUID)},
                names={name: item for name, item in path.items() if isinstance(item, str)},
                query=parse_query(operation.query, query),
                body=parse_body(operation.body, msgspec.json.encode(body)),
            )
        )

    async def _key(self, operation: AnyOperation) -> Key:
        """Return a key with the owner's rights, which the ledger does not hold.

        Access to the directory grants them. Raises Failure.
        """
        if self._owner is None and operation in _NEED_OWNER:
            raise Failure("the directory has no owner key yet: holdfast serve creates it")
        project = UUID(self._owner.project_id) if self._owner else _NO_ID
        organization = UUID(self._owner.organization_id) if self._owner else _NO_ID
        return Key(
            access_key="",
            project_id=None,
            default_project_id=project,
            organization_id=organization,
            permission="full",
            description="",
            created_at=_EPOCH,
            expires_at=None,
        )
