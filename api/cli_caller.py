"""One way to call the operations of the management API, whoever carries them out.

``Remote`` sends them to a server; ``Local`` runs the same handlers over an open store. So a
command is written once, and does the same to a server and to a data directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import quote
from uuid import UUID

import aiohttp
import msgspec
from yarl import URL

from holdfast.engine import Key, Store

from . import management
from .cli_errors import Failure
from .context import AppSettings
from .management_auth import AUTH_HEADER
from .management_errors import STATUS, ApiError, Body, DeniedAuthentication
from .operation import Call, Operation
from .owner import Owner
from .parameters import parse_body, parse_query

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 300.0
"""Without a byte of an answer: finding out what a delete would free takes a while."""

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest answer is a page of images with a thousand tag names each."""

OPERATIONS: Final[Mapping[str, Operation]] = {item.id: item for item in management.OPERATIONS}

_BODIES: Final[Mapping[object, type[Body]]] = {
    field.default: body
    for body in STATUS
    for field in msgspec.structs.fields(body)
    if field.name == "type"
}
_NEED_OWNER: Final = frozenset({"CreateNamespace", "CreateKey"})
"""They take the organization, and where nothing is said the project, of the owner."""

_PATIENT: Final = frozenset({"CheckStore"})
"""They answer when all is done, however long that takes."""

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


class Remote:
    """Sends the operations to a server."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, region: str, secret: str, source: str
    ) -> None:
        """``source`` says where the secret came from, for messages."""
        self._session = session
        self._url = url
        self._region = region
        self._secret = secret
        self._source = source

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
        parts = {name: _segment(str(item)) for name, item in path.items()}
        place = operation.path.format(region=_segment(self._region), **parts)
        seconds = None if operation_id in _PATIENT else READ_SECONDS
        status, content = await self._send(operation.method, place, query, body, seconds)
        if status == 200:
            try:
                answer: msgspec.Struct = msgspec.json.decode(content, type=operation.answer)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise self._strange("the answer has another form") from None
            return answer
        refusal = self._refusal(status, content)
        if isinstance(refusal.body, DeniedAuthentication):
            raise Failure(f"{self._url} refuses the key of {self._source}: {_why(refusal.body)}")
        raise refusal

    async def _send(
        self,
        method: str,
        place: str,
        query: Mapping[str, str],
        body: Mapping[str, object],
        seconds: float | None,
    ) -> tuple[int, bytes]:
        try:
            async with self._session.request(
                method,
                URL(self._url + place, encoded=True).update_query(query),
                data=msgspec.json.encode(body) if method in ("POST", "PATCH") else None,
                headers={AUTH_HEADER: self._secret, "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=seconds
                ),
                # The secret goes to the server that was named, and to no other.
                allow_redirects=False,
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise self._strange("the answer has no end")
                return response.status, bytes(content)
        except TimeoutError:
            raise Failure(f"{self._url} cannot be reached: no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure(f"{self._url} cannot be reached: {_reason(error)}") from error

    def _refusal(self, status: int, content: bytes) -> ApiError:
        try:
            raw = msgspec.json.decode(content)
            body = msgspec.convert(raw, _BODIES[raw["type"]])
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            raise self._strange(f"status {status} without a reason") from None
        return ApiError(body, status)

    def _strange(self, reason: str) -> Failure:
        return Failure(f"{self._url} does not answer as holdfast does: {reason}")


def _segment(text: str) -> str:
    """A text as one segment of a path, which no dots in it lead out of (RFC 3986, 5.2.4)."""
    escaped = quote(text, safe="")
    return escaped if escaped.strip(".") else escaped.replace(".", "%2E")


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None:
        # asyncio puts the address into the text, and name look-ups count their errors downwards.
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error) or type(error).__name__


def _why(body: DeniedAuthentication) -> str:
    reasons = {"expired": "it has expired", "not_found": "it is unknown there"}
    return reasons.get(body.reason, "it is malformed")
