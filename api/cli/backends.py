"""One way to call the operations of the management API, whoever carries them out.

``Local`` runs the handlers over an open store; ``remote`` sends the same calls to a server. So
a command is written once, and does the same to a server and to a data directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.management.operation import Call, Operation
from holdfast.api.management.operations import OPERATIONS as TABLE
from holdfast.api.management.parameters import parse_body, parse_query
from holdfast.api.server.owner_key import Owner
from holdfast.engine import Key, Store

from .errors import Failure

OPERATIONS: Final[Mapping[str, Operation]] = {item.id: item for item in TABLE}

_NEED_OWNER: Final = frozenset({"CreateNamespace", "CreateKey"})
"""They take the organization, and where nothing is said the project, of the owner."""

_NOBODY: Final = UUID(int=0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Caller(Protocol):
    """Carries out operations in one region."""

    async def call(
        self,
        operation_id: str,
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> msgspec.Struct:
        """The operation's answer, of its ``answer`` type.

        Raises ApiError, EngineError (from a store), Failure.
        """


class Local:
    """Runs the operations over an open store, as one who may do everything."""

    def __init__(
        self, store: Store, region: str, owner: Owner | None, registries: Mapping[str, str]
    ) -> None:
        """``registries`` has each region's ``host[:port]``; none where no server ever ran."""
        self._store = store
        self._region = region
        self._owner = owner
        self._settings = AppSettings(regions=tuple(registries) or (region,), endpoints=registries)

    async def call(
        self,
        operation_id: str,
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> msgspec.Struct:
        """See Caller."""
        operation = OPERATIONS[operation_id]
        key = await self._key(operation_id)
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

    async def _key(self, operation_id: str) -> Key:
        """Who has the directory may do what the owner may; no key in the ledger stands for it."""
        if self._owner is None and operation_id in _NEED_OWNER:
            raise Failure("the directory has no owner key yet: holdfast serve makes it")
        project = UUID(self._owner.project_id) if self._owner else _NOBODY
        organization = UUID(self._owner.organization_id) if self._owner else _NOBODY
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
