"""Authenticates callers of the management API: ``X-Auth-Token`` has the secret of a key.

It is a module of its own since it counts failed logins: the command line imports the operations,
and so the checks in ``auth``, but none of the counters and limits of a server.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from holdfast.api.telemetry.request_record import login_wait, note_failed_login
from holdfast.engine import Key, Store

from .errors import ApiError, AuthReason, DeniedAuthentication, too_many

AUTH_HEADER: Final = "X-Auth-Token"
SECRET_CHARS_MAX: Final = 256


def _unauthenticated(reason: AuthReason) -> ApiError:
    return ApiError(DeniedAuthentication(reason=reason))


async def authenticate(store: Store, token: str | None) -> Key:
    """Return the key of a request.

    Raises ApiError: 401 ``denied_authentication`` without a valid key, 429 after too many
    failures.
    """
    if not token or len(token) > SECRET_CHARS_MAX or not token.isascii():
        raise _unauthenticated("invalid_argument")
    if wait := login_wait():
        raise too_many(wait, "too many failed logins from this address")
    key = await store.keys.authenticate(token)
    if key is None:
        note_failed_login()
        raise _unauthenticated("not_found")
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise _unauthenticated("expired")
    return key
