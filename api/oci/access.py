"""Who is asking, and whether they may: the credentials of a request against the ledger.

Basic (the secret decides, the user name is ignored) and Bearer (a token of ``/token``). Nothing
is remembered here between requests: a revoked key, a deleted and re-created name and a changed
visibility take effect at once. RFC 7617, RFC 6750, the Docker token specification.
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
from holdfast.api.telemetry.request_context import login_wait, note_failed_login
from holdfast.engine import AlreadyExists, Key, NotFound, Repository, Store

from . import rights, tokens
from .rights import Action

SECRET_CHARS_MAX: Final = 512
"""Longer secrets are refused without hashing them."""

FULL_NAME_CHARS_MAX: Final = 255
"""Many clients cut host, slash and name together at this length."""

_SCOPE_ACTIONS: Final[Mapping[Action, str]] = {
    "pull": "pull",
    "push": "pull,push",
    "delete": "delete",
}
_SCOPE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,254}", re.ASCII)


class Unauthenticated(Exception):
    """Credentials that lead to no valid key, and why.

    ``token``: a token that is not valid here, or not any more; a new one helps.
    """

    def __init__(self, reason: Literal["malformed", "not_found", "expired", "token"]) -> None:
        super().__init__(
            {
                "malformed": "the credentials are malformed",
                "not_found": "the secret belongs to no key",
                "expired": "the key has expired",
                "token": "the token is not valid, or not any more",  # nosec B105 # a message
            }[reason]
        )
        self.advice = "insufficient_scope" if reason == "token" else ""
        """What to say in a challenge (RFC 6750 section 3.1): at the other words for a bad token,
        clients give up instead of asking for a new one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: a key, or nobody in particular."""

    key: Key | None
    presented: bool
    """Whether valid credentials came along; an anonymous token is one."""
    scopes: tokens.Scopes | None
    """What a token narrows the caller to; None without a token."""

    def within(self, name: str, action: Action) -> bool:
        """Whether the token, if there is one, covers that action on that repository."""
        return self.scopes is None or action in self.scopes.get(("repository", name), ())


async def key_of_secret(store: Store, secret: str) -> Key:
    """The key with that secret, in its time. Raises Unauthenticated, and 429."""
    if not secret or len(secret) > SECRET_CHARS_MAX or not secret.isascii():
        raise Unauthenticated("malformed")
    if wait := login_wait():
        raise too_many(wait, "too many failed logins from this address")
    key = await store.keys.authenticate(secret)
    if key is None:
        note_failed_login()
        raise Unauthenticated("not_found")
    return _in_time(key)


async def key_of_claims(store: Store, claims: tokens.Claims, region: str) -> Key | None:
    """The living key that a token names, or None for an anonymous one. Raises Unauthenticated."""
    if claims.region != region:
        raise Unauthenticated("token")
    if claims.access_key is None:
        return None
    try:
        key = await store.keys.get(claims.access_key)
    except NotFound:
        raise Unauthenticated("not_found") from None
    # A key made anew under the same access key is another one.
    if claims.issued_at + tokens.LEEWAY_SECONDS < int(key.created_at.timestamp()):
        raise Unauthenticated("not_found")
    return _in_time(key)


def _in_time(key: Key) -> Key:
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise Unauthenticated("expired")
    return key


def credentials_of(request: web.Request) -> tuple[str, str] | None:
    """Scheme, in lower case, and credentials of a request (RFC 9110 section 11.4).

    None without an Authorization header. Only blanks and tabs are taken for white space.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, value = header.strip(" \t").partition(" ")
    return scheme.lower(), value.strip(" \t")


def basic_secret(value: str) -> str:
    """The password of Basic credentials (the part after the scheme). Raises Unauthenticated."""
    try:
        pair = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise Unauthenticated("malformed") from None
    _, colon, secret = pair.partition(":")
    if not colon:
        raise Unauthenticated("malformed")
    return secret


async def identify(request: web.Request, store: Store, region: str) -> Caller:
    """The caller of a request. Raises Unauthenticated for credentials that are not valid, and 429.

    Without an Authorization header, and with an empty secret as some clients send it, the caller
    is nobody in particular.
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
    """The caller that a valid token names; without one, nobody. Raises Unauthenticated."""
    if claims is None:
        return Caller(None, presented=False, scopes=None)
    key = await key_of_claims(store, claims, region)
    return Caller(key, presented=True, scopes=claims.scopes)


def scope_of(name: str, action: Action) -> str:
    """What a token must cover for that, as a challenge says it.

    Empty for what is no name at all, and is not to get into a header.
    """
    return f"repository:{name}:{_SCOPE_ACTIONS[action]}" if _SCOPE_NAME.fullmatch(name) else ""


def may(caller: Caller, repository: Repository, action: Action) -> bool:
    """Whether the caller may do that in a repository, without saying why not.

    Nobody needs a token for what anyone may do, so no token narrows it.
    """
    if not rights.verdict(caller.key, repository, action).allowed:
        return False
    return caller.within(repository.full_name, action) or _open_to_all(repository, action)


@dataclass(frozen=True, slots=True)
class Gate:
    """The rights of one request's caller, and the challenges that refuse it."""

    store: Store
    settings: AppSettings
    origin: Origin
    prefix: str
    """Where the application is mounted, such as ``/registry``; empty at the root."""

    def challenge(self, scope: str = "", error: str = "") -> dict[str, str]:
        """The WWW-Authenticate header (RFC 6750 section 3), every value quoted."""
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
        """401 with a challenge."""
        return OciError("UNAUTHORIZED", message, headers=self.challenge(scope, error))

    async def repository(
        self, caller: Caller, name: str, action: Action, *, scope: str, creates: bool = False
    ) -> Repository:
        """Where ``name`` leads, for a caller who may do ``action`` there.

        A challenge asks for ``scope``. A request that ``creates`` makes the namespace where there
        is none, if that is configured. Raises OciError as the table in ``rights`` says, and
        Invalid("name").
        """
        repository = await self.find(name)
        if repository is None and creates and self._creates(caller):
            if not caller.within(name, action):
                raise self.unauthorized(scope=scope, error="insufficient_scope")
            repository = await self._create(caller, name)
        verdict = rights.verdict(caller.key, repository, action)
        if repository is None or not verdict.allowed:
            raise self._refusal(caller, verdict, name, action, scope)
        # Nobody needs a token for what anyone may do, so no token narrows it.
        if not caller.within(name, action) and not _open_to_all(repository, action):
            raise self.unauthorized(scope=scope, error="insufficient_scope")
        return repository

    async def find(self, name: str) -> Repository | None:
        """Where a name leads; None where there is no such namespace. Raises Invalid("name")."""
        try:
            return await self.store.locate(self.origin.region, name)
        except NotFound:
            return None

    def may_pull(self, caller: Caller, repository: Repository) -> bool:
        """Whether the caller may pull from it, without saying why not."""
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
            f"this key may not {action} in {name}: that needs permission full in its project",
        )

    def _creates(self, caller: Caller) -> bool:
        key = caller.key
        return self.settings.create_namespaces and key is not None and key.permission == "full"

    async def _create(self, caller: Caller, name: str) -> Repository | None:
        """Make the missing namespace in the key's default project (``create_namespaces``)."""
        assert caller.key is not None
        # Another push may have made it at the same moment; the table decides then.
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
    """The same words whether the name is absent or belongs to strangers."""
    namespace = name.partition("/")[0]
    if action == "push":
        return (
            f"no namespace {namespace} that this key may push to; create it with POST"
            f" /registry/v1/regions/{region}/namespaces and the body"
            f' {{"name": "{namespace}"}}, then push again'
        )
    return f"no repository {name} that this key may read"


def unix_now() -> int:
    """Seconds since 1970."""
    return int(time.time())
