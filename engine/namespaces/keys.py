"""Keys: who may use the store through a service. The secret is kept only as a hash.

A secret has 122 random bits or more, so one round of sha256 is enough: there is nothing to guess
from a list. Lookup is by that hash, so the time it takes says nothing about the secret.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import string
import struct
from datetime import datetime
from functools import lru_cache
from typing import Final, get_args
from uuid import UUID, uuid4

import msgspec

from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, VersionedLedger, after
from holdfast.engine.ledger.records import Key as Row
from holdfast.engine.ledger.records import decode, get_payload, load, put_payload, readable, save
from holdfast.engine.model.errors import AlreadyExists, Corrupt, Invalid, NotFound, TooLarge
from holdfast.engine.model.values import (
    MOMENT_MAX,
    UNSET,
    Key,
    Page,
    Permission,
    SigningKey,
    Unset,
    microseconds,
    moment,
)

_ACCESS_KEY: Final = re.compile(r"SCW[A-Z0-9]{17}", re.ASCII)
_ALPHABET: Final = string.ascii_uppercase + string.digits
SIGNING: Final = layout.SETTING + b"signing-key"
_SIGNING_BYTES: Final = 32
_RETIRED: Final = struct.Struct(f">{_SIGNING_BYTES}sQ")
"""A key that signs nothing any more, and until when what it signed counts (microseconds)."""

OVERLAP_SECONDS_MAX: Final = 100 * 86_400
"""How long a signing key may count after another one has taken its place."""

SIGNING_KEYS_MAX: Final = 16
"""Signing keys that count at the same time: a token may be tried with each of them."""

_SECRET_CHARS_MAX: Final = 256
DESCRIPTION_CHARS_MAX: Final = 200
PAGE_MAX: Final = 1000
"""Most keys of a page."""

_STEP: Final = 1000

CACHED_KEYS_MAX: Final = 256
"""Rows of keys whose meaning is remembered: some 2 KiB each."""


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def create(txn: Transaction, row: Row) -> Key:
    """Add a key. Raises AlreadyExists for its access key or its secret."""
    if await txn.get(layout.KEY + row.access_key.encode()) is not None:
        raise AlreadyExists("key", row.access_key)
    if await txn.get(layout.KEY_SECRET + row.secret) is not None:
        raise AlreadyExists("key", "with that secret")
    await save(txn, layout.KEY + row.access_key.encode(), row)
    await put_payload(txn, layout.KEY_SECRET + row.secret, row.access_key.encode())
    return view(row)


async def get(txn: Transaction, access_key: str) -> Key:
    """The key. Raises NotFound."""
    row_key = layout.KEY + access_key.encode()
    value = await txn.get(row_key)
    if value is None:
        raise NotFound("key", access_key)
    return _viewed(row_key, value)


@lru_cache(CACHED_KEYS_MAX)
def _viewed(row_key: bytes, value: bytes) -> Key:
    """The key that a stored row says. It is asked for after each commit, and rarely another."""
    return view(decode(Row, row_key, value))


async def _require(txn: Transaction, access_key: str) -> Row:
    row = await load(txn, Row, layout.KEY + access_key.encode())
    if row is None:
        raise NotFound("key", access_key)
    return row


async def by_secret(txn: Transaction, hashed: bytes) -> Key | None:
    """The key with that secret, expired or not, or None."""
    access_key = await get_payload(txn, layout.KEY_SECRET + hashed)
    return None if access_key is None else await get(txn, access_key.decode())


async def revoke(txn: Transaction, access_key: str) -> None:
    """Remove a key. Raises NotFound."""
    row = await _require(txn, access_key)
    await txn.delete(layout.KEY + access_key.encode())
    await txn.delete(layout.KEY_SECRET + row.secret)


async def page_of(txn: Transaction, project: bytes | None, skip: int, limit: int) -> Page[Key]:
    """Some of all keys, or of those of one project, in order of their access keys.

    Linear in the number of all keys: they are made by hand, and few.
    """
    found: list[Key] = []
    total = 0
    start = layout.KEY
    while rows := await txn.scan(start, after(layout.KEY), limit=_STEP):
        for _, row in readable(Row, rows):
            if project is None or row.project == project:
                total += 1
                if skip < total <= skip + limit:
                    found.append(view(row))
        start = rows[-1][0] + b"\0"
    return Page(found, total)


async def update(
    txn: Transaction, access_key: str, description: str | None, expires: int | None
) -> Key:
    """Change what is not None; 0 is never to expire. Raises NotFound."""
    row = await _require(txn, access_key)
    row = msgspec.structs.replace(
        row,
        description=row.description if description is None else description,
        expires=row.expires if expires is None else expires,
    )
    await save(txn, layout.KEY + access_key.encode(), row)
    return view(row)


async def signing_keys(txn: Transaction) -> tuple[SigningKey, ...]:
    """The keys that tokens are signed with, the newest first; none before the first token.

    Raises Corrupt.
    """
    row = await get_payload(txn, SIGNING)
    return () if row is None else _signing_keys(row)


def _signing_keys(row: bytes) -> tuple[SigningKey, ...]:
    """What the row says: the key in use, then the retired ones. Raises Corrupt."""
    retired = row[_SIGNING_BYTES:]
    if len(row) < _SIGNING_BYTES or len(retired) % _RETIRED.size:
        raise Corrupt(*layout.about(SIGNING), "its row has a wrong length")
    old = (SigningKey(secret, until) for secret, until in _RETIRED.iter_unpack(retired))
    return SigningKey(row[:_SIGNING_BYTES]), *old


async def make_signing_key(txn: Transaction, candidate: bytes) -> tuple[SigningKey, ...]:
    """The keys; ``candidate`` becomes the first one where there is none. Raises Corrupt."""
    if found := await signing_keys(txn):
        return found
    await put_payload(txn, SIGNING, candidate)
    return (SigningKey(candidate),)


async def end_signing_keys(txn: Transaction, candidate: bytes) -> None:
    """Another key to sign tokens with, instead of all there are, damaged or not."""
    await put_payload(txn, SIGNING, candidate)


async def rotate_signing_key(txn: Transaction, candidate: bytes, now: int, until: int) -> None:
    """Another key to sign tokens with; what the one in use has signed counts until then.

    Raises TooLarge, Corrupt.
    """
    keys = await signing_keys(txn)
    old = [key for key in keys[1:] if now < key.until]
    if keys:
        old.insert(0, SigningKey(keys[0].secret, until))
    if len(old) >= SIGNING_KEYS_MAX:
        raise TooLarge("signing_keys", SIGNING_KEYS_MAX, "signing keys at the same time")
    retired = (_RETIRED.pack(key.secret, key.until) for key in old)
    await put_payload(txn, SIGNING, b"".join((candidate, *retired)))


async def far_signing_keys(txn: Transaction, beyond: int) -> int:
    """How many retired keys count longer than until then; 0 where the row cannot be read."""
    try:
        keys = await signing_keys(txn)
    except Corrupt:
        return 0
    return sum(key.until > beyond for key in keys[1:])


async def cut_signing_keys(txn: Transaction, until: int) -> None:
    """Let no retired key count longer than until then. Raises Corrupt."""
    keys = await signing_keys(txn)
    retired = (_RETIRED.pack(key.secret, min(key.until, until)) for key in keys[1:])
    await put_payload(txn, SIGNING, b"".join((keys[0].secret, *retired)))


def permission_of(row: Row) -> Permission:
    """The row's permission, as one of the two."""
    return "full" if row.permission == "full" else "read"


def view(row: Row) -> Key:
    """The key as callers see it."""
    return Key(
        access_key=row.access_key,
        project_id=UUID(bytes=row.project) if row.project else None,
        default_project_id=UUID(bytes=row.default_project),
        organization_id=UUID(bytes=row.organization),
        permission=permission_of(row),
        description=row.description,
        created_at=moment(row.created),
        expires_at=moment(row.expires) if row.expires else None,
    )


def _check_description(text: str) -> None:
    """Raises Invalid."""
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise Invalid("description", f"over {DESCRIPTION_CHARS_MAX} characters")


def _expiry(when: datetime | None) -> int:
    """A moment as a row has it, 0 for never. Raises Invalid."""
    if when is None:
        return 0
    if when.tzinfo is None:
        raise Invalid("expires_at", "must say its time zone")
    told = microseconds(when)
    if not 0 < told <= MOMENT_MAX:
        raise Invalid("expires_at", "must be between the years 1970 and 9999 in UTC")
    return told


class Keys:
    """The keys of a store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._versioned = core.ledger if isinstance(core.ledger, VersionedLedger) else None
        self._signing: tuple[SigningKey, ...] = ()
        self._signing_version = -1
        """The transaction up to which those are known to be the keys; -1 is none."""

    async def authenticate(self, secret: str) -> Key | None:
        """The key with that secret, or None. Whoever asks has to look at ``expires_at``."""
        if not 0 < len(secret) <= _SECRET_CHARS_MAX:
            return None
        return await self._core.ledger.read(by_secret, _hash(secret))

    async def get(self, access_key: str) -> Key:
        """The key with that access key. Raises NotFound."""
        if not _ACCESS_KEY.fullmatch(access_key):
            raise NotFound("key", access_key[:32])
        return await self._core.ledger.read(get, access_key)

    async def create(
        self,
        *,
        project_id: UUID | None,
        default_project_id: UUID,
        organization_id: UUID,
        permission: Permission = "full",
        description: str = "",
        expires_at: datetime | None = None,
        access_key: str | None = None,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """Add a key of one project, or (None) of all; the answer holds the secret, once.

        Raises Invalid, AlreadyExists.
        """
        access_key = access_key or "SCW" + "".join(secrets.choice(_ALPHABET) for _ in range(17))
        secret = secret or str(uuid4())
        if not _ACCESS_KEY.fullmatch(access_key):
            raise Invalid("access_key", "must be SCW and 17 capitals or digits")
        if not 16 <= len(secret) <= _SECRET_CHARS_MAX:
            raise Invalid("secret", f"must be 16 to {_SECRET_CHARS_MAX} characters")
        if permission not in get_args(Permission):
            raise Invalid("permission", "must be full or read")
        _check_description(description)
        row = Row(
            access_key=access_key,
            secret=_hash(secret),
            project=project_id.bytes if project_id else b"",
            default_project=default_project_id.bytes,
            organization=organization_id.bytes,
            permission=permission,
            description=description,
            created=self._core.now(),
            expires=_expiry(expires_at),
        )
        return await self._core.grow(create, row), secret

    async def list(
        self, *, project_id: UUID | None = None, page: int = 1, page_size: int = 100
    ) -> Page[Key]:
        """One page of all keys, or of those of one project, in order of access keys.

        Raises Invalid.
        """
        if page < 1:
            raise Invalid("page", "must be at least 1")
        if not 1 <= page_size <= PAGE_MAX:
            raise Invalid("page_size", f"must be 1 to {PAGE_MAX}")
        project = project_id.bytes if project_id else None
        skip = (page - 1) * page_size
        return await self._core.ledger.read_in_thread(page_of, project, skip, page_size)

    async def update(
        self,
        access_key: str,
        *,
        description: str | None = None,
        expires_at: datetime | Unset | None = UNSET,
    ) -> Key:
        """Change what is given; None lets it never expire, a moment that is over ends it.

        Raises NotFound, Invalid.
        """
        await self.get(access_key)
        if description is not None:
            _check_description(description)
        expires = None if isinstance(expires_at, Unset) else _expiry(expires_at)
        return await self._core.ledger.transact(update, access_key, description, expires)

    async def revoke(self, access_key: str) -> None:
        """Remove a key: it is refused from now on. Raises NotFound."""
        await self.get(access_key)
        await self._core.ledger.transact(revoke, access_key)

    async def signing_keys(self) -> tuple[SigningKey, ...]:
        """The keys that tokens are signed with now: the first one signs, all of them verify.

        None before the first token. Every opening of the store sees another key as soon as it is
        committed. The row is read once for each transaction of the ledger, where the ledger can
        tell them apart. Raises Corrupt.
        """
        version = -1 if self._versioned is None else self._versioned.last_txn()
        if version < 0 or version != self._signing_version:
            # Stamped with what came before the read, which sees that much at the least.
            self._signing = await self._core.ledger.read(signing_keys)
            self._signing_version = version
        return self._signing

    async def signing_key(self) -> bytes:
        """32 bytes to sign tokens with, made once and kept in the ledger. Raises Corrupt."""
        keys = await self.signing_keys()
        if not keys:
            candidate = os.urandom(_SIGNING_BYTES)
            keys = await self._core.ledger.transact(make_signing_key, candidate)
        return keys[0].secret

    async def renew_signing_key(self, *, overlap_seconds: int = 0) -> None:
        """Sign with another key from now on.

        What was signed before counts for ``overlap_seconds`` more (at most
        ``OVERLAP_SECONDS_MAX``): by default no token that was
        given out is valid any more, in any process. Raises Invalid (``overlap_seconds``); with an
        overlap also TooLarge where too many keys count already, and Corrupt.
        """
        if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
            raise Invalid("overlap_seconds", f"must be 0 to {OVERLAP_SECONDS_MAX}")
        ledger, candidate = self._core.ledger, os.urandom(_SIGNING_BYTES)
        if not overlap_seconds:
            await ledger.transact(end_signing_keys, candidate)
            return
        now = self._core.now()
        until = now + overlap_seconds * SECOND
        await ledger.transact(rotate_signing_key, candidate, now, until)
