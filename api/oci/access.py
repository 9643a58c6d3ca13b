"""Authenticates the caller of a request and checks its rights against the ledger.

Credentials are Basic (the secret decides, the user name is ignored) or Bearer (a token from
``/token``). The module caches nothing between requests: a revoked key, a deleted and re-created
name and a changed visibility take effect at once. RFC 7617, RFC 6750, the Docker token
specification.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from aiohttp import web

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.oci_errors import OciError, too_many
from holdfast.api.http.origin import Origin, token_url
from holdfast.api.telemetry.request_record import login_wait, note_failed_login
from holdfast.engine import AlreadyExists, Key, NotFound, Repository, Store

from . import rights, tokens
from .rights import Action

SECRET_CHARS_MAX: Final = 512
"""Longest secret; longer ones are refused without hashing."""

FULL_NAME_CHARS_MAX: Final = 255
"""Longest host, slash and name together: many clients refuse more."""

_SCOPE_ACTIONS: Final[Mapping[Action, str]] = {
    "pull": "pull",
    "push": "pull,push",
    "delete": "delete",
}
_SCOPE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,254}", re.ASCII)


class Unauthenticated(Exception):
    """The credentials lead to no valid key.

    The reason ``token`` means that the token is not valid here or has expired; a new one helps.
    """

    def __init__(self, reason: Literal["malformed", "not_found", "expired", "token"]) -> None:
        super().__init__(
            {
                "malformed": "the credentials are malformed",
                "not_found": "the secret belongs to no key",
                "expired": "the key has expired",
                "token": "the token is not valid or has expired",  # nosec B105 # a message
            }[reason]
        )
        self.advice = "insufficient_scope" if reason == "token" else ""
        """Value of ``error`` in the challenge (RFC 6750 section 3.1).

        ``insufficient_scope`` makes clients request a new token; at the other values they give up.
        """


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request: a key, or None for an anonymous caller."""

    key: Key | None
    presented: bool
    """True if the request had valid credentials; an anonymous token counts."""
    scopes: tokens.Scopes | None
    """Scopes of the token, which narrow the rights; None without a token."""

    def within(self, name: str, action: Action) -> bool:
        """Return True if there is no token, or it covers the action on the repository."""
        return self.scopes is None or action in self.scopes.get(("repository", name), ())


async def key_of_secret(store: Store, secret: str) -> Key:
    """Return the unexpired key with this secret. Raises Unauthenticated, or OciError 429."""
    if not secret or len(secret) > SECRET_CHARS_MAX or not secret.isascii():
        raise Unauthenticated("malformed")
    # Before the look-up: a client over the rate must not learn if its guess was right.
    if wait := login_wait():
        raise too_many(wait, "too many failed logins from this address")
    key = await store.keys.authenticate(secret)
    if key is None:
        note_failed_login()
        raise Unauthenticated("not_found")
    return _in_time(key)


async def key_of_claims(store: Store, claims: tokens.Claims, region: str) -> Key | None:
    """Return the valid key of a token, or None for an anonymous token. Raises Unauthenticated."""
    if claims.region != region:
        raise Unauthenticated("token")
    if claims.access_key is None:
        return None
    try:
        key = await store.keys.get(claims.access_key)
    except NotFound:
        raise Unauthenticated("not_found") from None
    # A key created later under the same access key must not accept tokens of the old one.
    if claims.issued_at + tokens.LEEWAY_SECONDS < int(key.created_at.timestamp()):
        raise Unauthenticated("not_found")
    return _in_time(key)


def _in_time(key: Key) -> Key:
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise Unauthenticated("expired")
    return key


def credentials_of(request: web.Request) -> tuple[str, str] | None:
    """Return the scheme in lower case and the credentials (RFC 9110 section 11.4).

    Return None without an Authorization header. Only blanks and tabs count as white space.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, value = header.strip(" \t").partition(" ")
    return scheme.lower(), value.strip(" \t")


def basic_secret(value: str) -> str:
    """Return the password of Basic credentials without the scheme. Raises Unauthenticated."""
    try:
        pair = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise Unauthenticated("malformed") from None
    _, colon, secret = pair.partition(":")
    if not colon:
        raise Unauthenticated("malformed")
    return secret


async def identify(request: web.Request, store: Store, region: str) -> Caller:
    """Return the caller of a request. Raises Unauthenticated for bad credentials, or OciError 429.

    Without an Authorization header the caller is anonymous, and also with an empty secret, which
    some clients send.
    """
    credentials = credentials_of(request)
    if credentials is None:
        return Caller(None, presented=False, scopes=None)
    scheme, value = credentials
    if scheme == "basic":
        secret = basic_secret(value)
        if not secret:
            return Caller(None, presented=False, scopes=None)
        return Caller(await key_of_secret(store, secret), presented=True, scopes=None)
    if scheme != "bearer":
        raise Unauthenticated("malformed")
    try:
        claims = tokens.read(await store.keys.signing_keys(), value, "access")
    except tokens.BadToken:
        raise Unauthenticated("token") from None
    return await caller_of(store, claims, region)


async def caller_of(store: Store, claims: tokens.Claims | None, region: str) -> Caller:
    """Return the caller of a valid token; without one, an anonymous one. Raises Unauthenticated."""
    if claims is None:
        return Caller(None, presented=False, scopes=None)
    key = await key_of_claims(store, claims, region)
    return Caller(key, presented=True, scopes=claims.scopes)


def scope_of(name: str, action: Action) -> str:
    """Return the scope for an action on a repository, for a challenge.

    Return an empty text for a malformed name, which must not get into a header.
    """
    return f"repository:{name}:{_SCOPE_ACTIONS[action]}" if _SCOPE_NAME.fullmatch(name) else ""


def may(caller: Caller, repository: Repository, action: Action) -> bool:
    """Return True if the caller may do the action in a repository.

    A token does not narrow an action that anonymous callers may do.
    """
    if not rights.verdict(caller.key, repository, action).allowed:
        return False
    return caller.within(repository.full_name, action) or _open_to_all(repository, action)


@dataclass(frozen=True, slots=True)
class Gate:
    """Checks the rights of the caller of a request, and builds the challenges."""

    store: Store
    settings: AppSettings
    origin: Origin
    prefix: str
    """Path at which the application is mounted, such as ``/registry``; empty at the root."""

    def challenge(self, scope: str = "", error: str = "") -> dict[str, str]:
        """Return the WWW-Authenticate header (RFC 6750 section 3), every value quoted."""
        parts = [
            f'Bearer realm="{token_url(self.origin, self.settings, self.prefix)}"',
            f'service="{tokens.SERVICE}"',
        ]
        if scope:
            parts.append(f'scope="{scope}"')
        if error:
            parts.append(f'error="{error}"')
        return {"WWW-Authenticate": ",".join(parts)}

    def unauthorized(
        self, message: str | None = None, *, scope: str = "", error: str = ""
    ) -> OciError:
        """Return a 401 error with a challenge."""
        return OciError("UNAUTHORIZED", message, headers=self.challenge(scope, error))

    async def repository(
        self, caller: Caller, name: str, action: Action, *, scope: str, creates: bool = False
    ) -> Repository:
        """Return the repository ``name`` for a caller who may do ``action`` there.

        A challenge asks for ``scope``. With ``creates`` a missing namespace is created, if the
        settings allow it. Raises OciError according to the table in ``rights``, or
        Invalid("name").
        """
        repository = await self.find(name)
        if repository is None and creates and self._creates(caller):
            # First the scope: a token without it must not create a namespace.
            if not caller.within(name, action):
                raise self.unauthorized(scope=scope, error="insufficient_scope")
            repository = await self._create(caller, name)
        verdict = rights.verdict(caller.key, repository, action)
        if repository is None or not verdict.allowed:
            raise self._refusal(caller, verdict, name, action, scope)
        # A token does not narrow an action that anonymous callers may do.
        if not caller.within(name, action) and not _open_to_all(repository, action):
            raise self.unauthorized(scope=scope, error="insufficient_scope")
        return repository

    async def find(self, name: str) -> Repository | None:
        """Return the repository of a name; None without its namespace. Raises Invalid("name")."""
        try:
            return await self.store.locate(self.origin.region, name)
        except NotFound:
            return None

    def may_pull(self, caller: Caller, repository: Repository) -> bool:
        """Return True if the caller may pull from the repository."""
        return may(caller, repository, "pull")

    def _refusal(
        self, caller: Caller, verdict: rights.Verdict, name: str, action: Action, scope: str
    ) -> OciError:
        if verdict.status == 401:
            error = "insufficient_scope" if caller.presented else ""
            return self.unauthorized(scope=scope, error=error)
        if verdict.status == 404:
            return OciError("NAME_UNKNOWN", _unknown(name, action, self.origin.region))
        return OciError(
            "DENIED",
            f"this key may not {action} in {name}: the action needs permission full in its project",
        )

    def _creates(self, caller: Caller) -> bool:
        key = caller.key
        return self.settings.create_namespaces and key is not None and key.permission == "full"

    async def _create(self, caller: Caller, name: str) -> Repository | None:
        """Create the missing namespace in the key's default project (``create_namespaces``)."""
        assert caller.key is not None
        # A concurrent push may have created it, for another project even: the table decides.
        with suppress(AlreadyExists):
            await self.store.namespaces.create(
                self.origin.region,
                name.partition("/")[0],
                project_id=caller.key.default_project_id,
                organization_id=self.settings.organization_id or caller.key.organization_id,
            )
        return await self.find(name)


def _open_to_all(repository: Repository, action: Action) -> bool:
    return rights.verdict(None, repository, action).allowed


def _unknown(name: str, action: Action, region: str) -> str:
    """Return the message of a 404, the same for an absent and for another project's name."""
    namespace = name.partition("/")[0]
    if action == "push":
        return (
            f"no namespace {namespace} that this key may push to; create it with POST"
            f" /registry/v1/regions/{region}/namespaces and the body"
            f' {{"name": "{namespace}"}}, then push again'
        )
    return f"no repository {name} that this key may read"


def unix_now() -> int:
    """Return the Unix time in seconds."""
    return int(time.time())
