"""Bearer tokens and the scopes in them: signed claims, no requests, no rights.

A token says who asked (an access key, or nobody), in which region, and for what; it never says
what its bearer may do. Rights come from the ledger on every request, and a scope only narrows
them. Format: JWT (RFC 7519), HS256, as the Docker token specification describes the claims.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import jwt

from holdfast.engine import SigningKey

SERVICE: Final = "holdfast"
"""The ``service`` of challenges and the audience of tokens."""

ALGORITHM: Final = "HS256"

LEEWAY_SECONDS: Final = 10
"""How far the clocks of workers on several machines may differ."""

REFRESH_SECONDS: Final = 90 * 86400
"""Life of a refresh token: what `docker login` keeps. The key may end it at any time."""

SCOPES_MAX: Final = 64
"""Scopes in one request for a token: with names of usual length the token stays under 8 KiB."""

SCOPE_CHARS_MAX: Final = 512

VERIFIED_MAX: Final = 1024
"""Tokens whose signature need not be verified again: a pull sends the same one many times. Rights
are never kept."""

VERIFIED_CHARS_MAX: Final = 4096
"""Longer tokens are verified each time: what is kept stays under 16 MiB, whatever was asked for."""

Use = Literal["access", "refresh"]

Scopes = Mapping[tuple[str, str], frozenset[str]]
"""(type, name), such as ("repository", "team/app"), to the actions in it."""

CATALOG: Final = ("registry", "catalog")

_SCOPE_TYPE: Final = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?", re.ASCII)
_ACTIONS: Final = frozenset(("pull", "push", "delete"))


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. ``access_key`` is None for an anonymous one."""

    access_key: str | None
    region: str
    issued_at: int
    """Seconds since 1970, as ``expires_at``."""
    expires_at: int
    scopes: Scopes

    @property
    def span(self) -> tuple[int, int]:
        """When the token begins to be valid, and when it ends: seconds since 1970."""
        return self.issued_at - LEEWAY_SECONDS, self.expires_at + LEEWAY_SECONDS

    def in_time(self, now: float) -> bool:
        """Whether the token is valid at ``now``."""
        since, until = self.span
        return since <= now < until


class BadToken(Exception):
    """Not a token of ours, of the wrong use, or out of its time."""


def parse_scopes(texts: Iterable[str]) -> Scopes:
    """The scopes of a request for a token; each text may hold several, separated by spaces.

    A scope is ``type:name:action[,action]``; the name may hold colons itself. What is malformed,
    of an unknown type or an unknown action is left out: a smaller grant is not an error. Of more
    than ``SCOPES_MAX`` the rest is left out too.
    """
    scopes: dict[tuple[str, str], frozenset[str]] = {}
    words = [word for text in texts for word in text.split(" ") if word]
    for word in words[:SCOPES_MAX]:
        kind, first, rest = word.partition(":")
        name, second, listed = rest.rpartition(":")
        if not (first and second and name) or len(word) > SCOPE_CHARS_MAX:
            continue
        if not _SCOPE_TYPE.fullmatch(kind):
            continue
        actions = frozenset(listed.split(","))
        if kind == "registry" and name == "catalog":
            wanted = frozenset("*") & actions
        else:
            # A class in the type, as in repository(plugin), makes no difference here.
            kind = kind.partition("(")[0]
            wanted = _ACTIONS if "*" in actions else _ACTIONS & actions
        if wanted and kind in ("repository", "registry"):
            scopes[kind, name] = scopes.get((kind, name), frozenset()) | wanted
    return scopes


def format_scopes(scopes: Scopes) -> str:
    """Scopes as one space-separated text (RFC 6749 section 3.3)."""
    return " ".join(
        f"{kind}:{name}:{','.join(sorted(actions))}" for (kind, name), actions in scopes.items()
    )


def issue(
    signing_key: bytes,
    use: Use,
    *,
    access_key: str | None,
    region: str,
    scopes: Scopes,
    now: int,
    seconds: int,
) -> str:
    """A signed token that begins ``now`` (seconds since 1970) and lives for ``seconds``."""
    claims: dict[str, Any] = {
        "iss": SERVICE,
        "sub": access_key or "",
        "aud": SERVICE,
        "use": use,
        "region": region,
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
        "jti": uuid.uuid4().hex,
        "access": [
            {"type": kind, "name": name, "actions": sorted(actions)}
            for (kind, name), actions in scopes.items()
        ],
    }
    headers = {"kid": hashlib.sha256(signing_key).hexdigest()[:16]}
    return jwt.encode(claims, signing_key, algorithm=ALGORITHM, headers=headers)


@lru_cache(maxsize=VERIFIED_MAX)
def _verified(signing_key: bytes, text: str) -> tuple[str, Claims]:
    """Use and claims of a token that we signed with that key, whatever the time.

    Raises BadToken.
    """
    try:
        claims = jwt.decode(
            text,
            signing_key,
            algorithms=[ALGORITHM],
            audience=SERVICE,
            issuer=SERVICE,
            options={
                "require": ["iss", "sub", "aud", "iat", "nbf", "exp"],
                "verify_iat": False,
                "verify_nbf": False,
                "verify_exp": False,
            },
        )
    except jwt.InvalidTokenError as error:
        raise BadToken(str(error)) from error
    # Only what `issue` wrote is signed, so the shapes below are its own.
    scopes = {
        (entry["type"], entry["name"]): frozenset(entry["actions"]) for entry in claims["access"]
    }
    return claims["use"], Claims(
        claims["sub"] or None, claims["region"], claims["iat"], claims["exp"], scopes
    )


def read(keys: Sequence[SigningKey], text: str, use: Use) -> Claims:
    """The claims of a token that we issued for that use and that is in its time.

    It is signed with one of the keys, and none counts for longer than its key. Raises BadToken.
    """
    if not text.isascii():
        # Bytes beyond ASCII arrive as surrogates, which nothing further on can encode.
        raise BadToken("not ASCII")
    now = time.time()
    issued_for, claims = _signed_by(keys, text, now)
    if issued_for != use:
        raise BadToken("a token for another use")
    if not claims.in_time(now):
        raise BadToken("a token out of its time")
    return claims


def _signed_by(keys: Sequence[SigningKey], text: str, now: float) -> tuple[str, Claims]:
    """Use and claims of a token, by whichever of the keys verifies it. Raises BadToken."""
    verified = _verified if len(text) <= VERIFIED_CHARS_MAX else _verified.__wrapped__
    refused = BadToken("no key")
    for key in keys:
        until = key.until // 1_000_000
        if until <= now:
            continue
        try:
            issued_for, claims = verified(key.secret, text)
        except BadToken as error:
            refused = error
            continue
        last = until - LEEWAY_SECONDS
        if claims.expires_at > last:
            claims = replace(claims, expires_at=last)
        return issued_for, claims
    raise refused
