"""Issues and verifies bearer tokens with their scopes.

A token names an access key (none in an anonymous token), a region and the requested scopes. It
grants no rights: the rights come from the ledger on every request, and the scopes only narrow
them. Format: JWT (RFC 7519), HS256, with the claims of the Docker token specification.
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
"""Value of ``service`` in challenges, and the audience of tokens."""

ALGORITHM: Final = "HS256"

LEEWAY_SECONDS: Final = 10
"""Largest difference in seconds between the clocks of machines."""

REFRESH_SECONDS: Final = 90 * 86400
"""Lifetime of a refresh token, which `docker login` stores. It ends earlier with its key."""

SCOPES_MAX: Final = 64
"""Scopes per token request; with names of usual length the token stays under 8 KiB."""

SCOPE_CHARS_MAX: Final = 512

VERIFIED_MAX: Final = 1024
"""Tokens in the cache of verified signatures: a pull sends the same token many times. Rights are
never cached."""

VERIFIED_CHARS_MAX: Final = 4096
"""Longest token that is cached; it bounds the cache to 16 MiB."""

Use = Literal["access", "refresh"]

Scopes = Mapping[tuple[str, str], frozenset[str]]
"""(type, name), such as ("repository", "team/app"), to the set of actions."""

CATALOG: Final = ("registry", "catalog")

_SCOPE_TYPE: Final = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?", re.ASCII)
_ACTIONS: Final = frozenset(("pull", "push", "delete"))


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims of a valid token. ``access_key`` is None for an anonymous token."""

    access_key: str | None
    region: str
    issued_at: int
    """Unix time in seconds, like ``expires_at``."""
    expires_at: int
    scopes: Scopes

    @property
    def span(self) -> tuple[int, int]:
        """First and last moment of validity, with leeway, in Unix time."""
        return self.issued_at - LEEWAY_SECONDS, self.expires_at + LEEWAY_SECONDS

    def in_time(self, now: float) -> bool:
        """Return True if the token is valid at ``now``."""
        since, until = self.span
        return since <= now < until


class BadToken(Exception):
    """The token has a wrong signature or use, or has expired."""


def parse_scopes(texts: Iterable[str]) -> Scopes:
    """Parse the scopes of a token request; each text may hold several, separated by spaces.

    A scope is ``type:name:action[,action]``; the name may contain colons. Malformed scopes, unknown
    types and actions, and all scopes after ``SCOPES_MAX`` are skipped: a smaller grant is not an
    error.
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
            # The type may have a class, as in repository(plugin); it does not matter here.
            kind = kind.partition("(")[0]
            wanted = _ACTIONS if "*" in actions else _ACTIONS & actions
        if wanted and kind in ("repository", "registry"):
            scopes[kind, name] = scopes.get((kind, name), frozenset()) | wanted
    return scopes


def format_scopes(scopes: Scopes) -> str:
    """Format scopes as a space-separated text (RFC 6749 section 3.3)."""
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
    """Return a signed token, valid for ``seconds`` from ``now`` (Unix time in seconds)."""
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
    """Verify the signature of a token, but not its times. Return its use and claims.

    The result is cached, so the caller checks the times. Raises BadToken.
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
    # The signature is valid, so `issue` wrote the claims and their types are known.
    scopes = {
        (entry["type"], entry["name"]): frozenset(entry["actions"]) for entry in claims["access"]
    }
    return claims["use"], Claims(
        claims["sub"] or None, claims["region"], claims["iat"], claims["exp"], scopes
    )


def read(keys: Sequence[SigningKey], text: str, use: Use) -> Claims:
    """Return the claims of a token for this use.

    One of the keys must have signed it; a token expires no later than its key. Raises BadToken.
    """
    if not text.isascii():
        # Bytes beyond ASCII arrive as surrogates, which the JWT library cannot encode.
        raise BadToken("not ASCII")
    now = time.time()
    issued_for, claims = _signed_by(keys, text, now)
    if issued_for != use:
        raise BadToken("token is for another use")
    if not claims.in_time(now):
        raise BadToken("token has expired or is not valid yet")
    return claims


def _signed_by(keys: Sequence[SigningKey], text: str, now: float) -> tuple[str, Claims]:
    """Return use and claims of a token that one of the keys verifies. Raises BadToken."""
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
        # The key's end bounds the token even with the leeway that ``span`` adds.
        last = until - LEEWAY_SECONDS
        if claims.expires_at > last:
            claims = replace(claims, expires_at=last)
        return issued_for, claims
    raise refused
