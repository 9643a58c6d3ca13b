"""Calls the management API's operations on a server, over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from holdfast.api.management.errors import STATUS, ApiError, Body, DeniedAuthentication
from holdfast.api.management.login import AUTH_HEADER
from holdfast.api.management.operation import Operation
from holdfast.api.management.upkeep import check_store

from .errors import Failure

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 300.0
"""Seconds without a byte of the response: computing what a delete would free takes long."""

RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Response body limit in bytes; the largest is a page of images with 1,000 tag names each."""

_BODIES: Final[Mapping[object, type[Body]]] = {
    field.default: body
    for body in STATUS
    for field in msgspec.structs.fields(body)
    if field.name == "type"
}

A = TypeVar("A", bound=msgspec.Struct)


class RemoteBackend:
    """Sends the operations to a server; see ``Backend``."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, region: str, secret: str, source: str
    ) -> None:
        """``source`` names the origin of the secret, for messages."""
        self._session = session
        self._url = url
        self._region = region
        self._secret = secret
        self._source = source

    async def call(
        self,
        operation: Operation[A],
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> A:
        """See ``Backend.call``."""
        parts = {name: _segment(str(item)) for name, item in path.items()}
        target = operation.path.format(region=_segment(self._region), **parts)
        # A check responds only when all its work is done, which has no time limit.
        seconds = None if operation is check_store else READ_SECONDS
        status, content = await self._send(operation.method, target, query, body, seconds)
        if status == 200:
            try:
                return msgspec.json.decode(content, type=operation.answer)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise self._bad_response("the response does not match the operation") from None
        error = self._api_error(status, content)
        if isinstance(error.body, DeniedAuthentication):
            raise Failure(f"{self._url} refuses the key of {self._source}: {_why(error.body)}")
        raise error

    async def _send(
        self,
        method: str,
        target: str,
        query: Mapping[str, str],
        body: Mapping[str, object],
        seconds: float | None,
    ) -> tuple[int, bytes]:
        try:
            async with self._session.request(
                method,
                URL(self._url + target, encoded=True).update_query(query),
                data=msgspec.json.encode(body) if method in ("POST", "PATCH") else None,
                headers={AUTH_HEADER: self._secret, "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=seconds
                ),
                # A redirect would send the secret to a server that the user did not name.
                allow_redirects=False,
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    # Check while reading: a wrong server may send without end.
                    if len(content) > RESPONSE_BYTES_MAX:
                        raise self._bad_response("the response is too large")
                return response.status, bytes(content)
        except TimeoutError:
            raise Failure(f"{self._url} cannot be reached: timed out") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure(f"{self._url} cannot be reached: {_reason(error)}") from error

    def _api_error(self, status: int, content: bytes) -> ApiError:
        try:
            raw = msgspec.json.decode(content)
            body = msgspec.convert(raw, _BODIES[raw["type"]])
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            raise self._bad_response(f"status {status} without an error body") from None
        return ApiError(body, status)

    def _bad_response(self, reason: str) -> Failure:
        return Failure(f"{self._url} does not answer like a holdfast server: {reason}")


def _segment(text: str) -> str:
    """Quote a text as one path segment; dots are escaped, so none is removed (RFC 3986, 5.2.4)."""
    escaped = quote(text, safe="")
    return escaped if escaped.strip(".") else escaped.replace(".", "%2E")


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None:
        # asyncio adds the address to the text, and getaddrinfo has negative error numbers.
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error) or type(error).__name__


def _why(body: DeniedAuthentication) -> str:
    reasons = {"expired": "it has expired", "not_found": "the server does not know it"}
    return reasons.get(body.reason, "it is malformed")
