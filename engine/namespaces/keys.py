"""Keys: credentials of the clients of a service, and the keys that sign its tokens.

The store keeps only a hash of a secret. A generated secret has 122 random bits, so one round of
sha256 is enough: a dictionary attack has nothing to try. The lookup goes by the hash, so its
duration reveals nothing about the secret.
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
"""A retired signing key, and the time (microseconds) until which it verifies tokens."""

OVERLAP_SECONDS_MAX: Final = 100 * 86_400
"""Longest time in seconds that a retired signing key verifies tokens."""

SIGNING_KEYS_MAX: Final = 16
"""Signing keys that are valid at the same time: a token may be tried with each of them."""

_SECRET_CHARS_MAX: Final = 256
DESCRIPTION_CHARS_MAX: Final = 200
PAGE_MAX: Final = 1000
"""Most keys of a page."""

_ROWS_PER_SCAN: Final = 1000

CACHED_KEYS_MAX: Final = 256
"""Decoded key rows in the cache, about 2 KiB each."""


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def create(txn: Transaction, row: Row) -> Key:
    """Add a key. Raises AlreadyExists if its access key or its secret is in use."""
    if await txn.get(layout.KEY + row.access_key.encode()) is not None:
        raise AlreadyExists("key", row.access_key)
    if await txn.get(layout.KEY_SECRET + row.secret) is not None:
        raise AlreadyExists("key", "with that secret")
    await save(txn, layout.KEY + row.access_key.encode(), row)
    await put_payload(txn, layout.KEY_SECRET + row.secret, row.access_key.encode())
    return view(row)


async def get(txn: Transaction, access_key: str) -> Key:
    """Return the key with that access key. Raises NotFound."""
    row_key = layout.KEY + access_key.encode()
    value = await txn.get(row_key)
    if value is None:
        raise NotFound("key", access_key)
    return _viewed(row_key, value)


@lru_cache(CACHED_KEYS_MAX)
def _viewed(row_key: bytes, value: bytes) -> Key:
    """Decode a stored row. Cached, since each commit makes callers read the same few rows again."""
    return view(decode(Row, row_key, value))


async def _require(txn: Transaction, access_key: str) -> Row:
    row = await load(txn, Row, layout.KEY + access_key.encode())
    if row is None:
        raise NotFound("key", access_key)
    return row


async def by_secret(txn: Transaction, hashed: bytes) -> Key | None:
    """Return the key with the secret of that hash, expired or not, or None."""
    access_key = await get_payload(txn, layout.KEY_SECRET + hashed)
    return None if access_key is None else await get(txn, access_key.decode())


async def revoke(txn: Transaction, access_key: str) -> None:
    """Remove a key. Raises NotFound."""
    row = await _require(txn, access_key)
    await txn.delete(layout.KEY + access_key.encode())
    await txn.delete(layout.KEY_SECRET + row.secret)


async def page_of(txn: Transaction, project: bytes | None, skip: int, limit: int) -> Page[Key]:
    """Return a page of all keys, or of those of one project, in order of access keys.

    Linear in the number of all keys: operators create them, so they are few.
    """
    found: list[Key] = []
    total = 0
    start = layout.KEY
    while rows := await txn.scan(start, after(layout.KEY), limit=_ROWS_PER_SCAN):
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
    """Change the fields that are not None; ``expires`` 0 means never. Raises NotFound."""
    row = await _require(txn, access_key)
    row = msgspec.structs.replace(
        row,
        description=row.description if description is None else description,
        expires=row.expires if expires is None else expires,
    )
    await save(txn, layout.KEY + access_key.encode(), row)
    return view(row)


async def signing_keys(txn: Transaction) -> tuple[SigningKey, ...]:
    """Return the keys that tokens are signed with, newest first; empty before the first token.

    Raises Corrupt.
    """
    row = await get_payload(txn, SIGNING)
    return () if row is None else _signing_keys(row)


def _signing_keys(row: bytes) -> tuple[SigningKey, ...]:
    """Decode the row: the key in use, then the retired ones. Raises Corrupt."""
    retired = row[_SIGNING_BYTES:]
    if len(row) < _SIGNING_BYTES or len(retired) % _RETIRED.size:
        raise Corrupt(*layout.about(SIGNING), "its row has the wrong length")
    old = (SigningKey(secret, until) for secret, until in _RETIRED.iter_unpack(retired))
    return SigningKey(row[:_SIGNING_BYTES]), *old


async def make_signing_key(txn: Transaction, candidate: bytes) -> tuple[SigningKey, ...]:
    """Return the signing keys; make ``candidate`` the first if there is none. Raises Corrupt."""
    # Another process may have made one since the caller looked.
    if found := await signing_keys(txn):
        return found
    await put_payload(txn, SIGNING, candidate)
    return (SigningKey(candidate),)


async def end_signing_keys(txn: Transaction, candidate: bytes) -> None:
    """Replace all signing keys by ``candidate``, even if their row is damaged."""
    await put_payload(txn, SIGNING, candidate)


async def rotate_signing_key(txn: Transaction, candidate: bytes, now: int, until: int) -> None:
    """Sign with ``candidate`` from now on; the key in use verifies tokens until ``until``.

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
    """Count retired keys that are valid beyond a time; 0 if the row cannot be read."""
    try:
        keys = await signing_keys(txn)
    except Corrupt:
        return 0
    return sum(key.until > beyond for key in keys[1:])


async def cut_signing_keys(txn: Transaction, until: int) -> None:
    """End retired keys at ``until`` at the latest. Raises Corrupt."""
    keys = await signing_keys(txn)
    retired = (_RETIRED.pack(key.secret, min(key.until, until)) for key in keys[1:])
    await put_payload(txn, SIGNING, b"".join((keys[0].secret, *retired)))


def permission_of(row: Row) -> Permission:
    """Return the row's permission; a value that is not known counts as ``read``."""
    return "full" if row.permission == "full" else "read"


def view(row: Row) -> Key:
    """Return the public value of a key's row."""
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
    """Check the length of a description. Raises Invalid."""
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise Invalid("description", f"must be at most {DESCRIPTION_CHARS_MAX} characters")


def _expiry(when: datetime | None) -> int:
    """Return an expiry in microseconds, 0 for never. Raises Invalid."""
    if when is None:
        return 0
    if when.tzinfo is None:
        raise Invalid("expires_at", "must have a time zone")
    expires = microseconds(when)
    if not 0 < expires <= MOMENT_MAX:
        raise Invalid("expires_at", "must be between the years 1970 and 9999 in UTC")
    return expires


class Keys:
    """The keys of a store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._versioned = core.ledger if isinstance(core.ledger, VersionedLedger) else None
        self._signing: tuple[SigningKey, ...] = ()
        self._signing_version = -1
        """Ledger version for which ``_signing`` is valid; -1 before the first read."""

    async def authenticate(self, secret: str) -> Key | None:
        """Return the key with that secret, or None. The caller must check ``expires_at``."""
        if not 0 < len(secret) <= _SECRET_CHARS_MAX:
            return None
        return await self._core.ledger.read(by_secret, _hash(secret))

    async def get(self, access_key: str) -> Key:
        """Return the key with that access key. Raises NotFound."""
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
        """Add a key of one project, or (None) of all; return it with its secret.

        The secret cannot be read later. Raises Invalid, AlreadyExists.
        """
        access_key = access_key or "SCW" + "".join(secrets.choice(_ALPHABET) for _ in range(17))
        secret = secret or str(uuid4())
        if not _ACCESS_KEY.fullmatch(access_key):
            raise Invalid("access_key", "must be SCW followed by 17 capital letters or digits")
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
        """Return a page of all keys, or of those of one project, in order of access keys.

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
        """Change the given fields; ``expires_at`` None means never, a past time ends the key.

        Raises NotFound, Invalid.
        """
        await self.get(access_key)
        if description is not None:
            _check_description(description)
        expires = None if isinstance(expires_at, Unset) else _expiry(expires_at)
        return await self._core.ledger.transact(update, access_key, description, expires)

    async def revoke(self, access_key: str) -> None:
        """Remove a key, which is refused from now on. Raises NotFound."""
        await self.get(access_key)
        await self._core.ledger.transact(revoke, access_key)

    async def signing_keys(self) -> tuple[SigningKey, ...]:
        """Return the valid signing keys: the first one signs, all of them verify.

        Empty before the first token. Every opening of the store sees a new key as soon as it is
        committed: the row is read again once the ledger has a new version, or each time if the
        ledger has no versions. Raises Corrupt.
        """
        version = -1 if self._versioned is None else self._versioned.last_txn()
        if version < 0 or version != self._signing_version:
            # The version was taken before the read, so the read sees at least that state.
            self._signing = await self._core.ledger.read(signing_keys)
            self._signing_version = version
        return self._signing

    async def signing_key(self) -> bytes:
        """Return the 32 bytes that sign tokens, made on first use. Raises Corrupt, StorageFull."""
        keys = await self.signing_keys()
        if not keys:
            candidate = os.urandom(_SIGNING_BYTES)
            keys = await self._core.ledger.transact(make_signing_key, candidate)
        return keys[0].secret

    async def renew_signing_key(self, *, overlap_seconds: int = 0) -> None:
        """Sign with a new key from now on.

        Tokens signed before stay valid for ``overlap_seconds`` more (at most
        ``OVERLAP_SECONDS_MAX``); by default they end at once, in every process. Raises Invalid
        (``overlap_seconds``); with an overlap also TooLarge if too many keys are valid already,
        and Corrupt.
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
