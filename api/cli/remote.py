"""Calls of the management API's operations that go to a server, over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from holdfast.api.management.auth import AUTH_HEADER
from holdfast.api.management.errors import STATUS, ApiError, Body, DeniedAuthentication

from .backends import OPERATIONS
from .errors import Failure

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 300.0
"""Without a byte of an answer: finding out what a delete would free takes a while."""

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest answer is a page of images with a thousand tag names each."""

_BODIES: Final[Mapping[object, type[Body]]] = {
    field.default: body
    for body in STATUS
    for field in msgspec.structs.fields(body)
    if field.name == "type"
}
_PATIENT: Final = frozenset({"CheckStore"})
"""They answer when all is done, however long that takes."""


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
