"""The owner key, which has all rights on all projects; created at the first start.

The ledger stores only a hash of the secret. ``owner.json`` (mode 0600) stores the secret itself,
for ``holdfast env``. The server writes the file first and marks it ``pending`` until the ledger
has the key. After a crash between the two steps the next start adds the key; without the mark it
does not, so an owner key that was revoked stays revoked.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import msgspec

from holdfast.engine import NotFound, Store

from .server_files import OWNER_FILE, replace_file

ACCESS_KEY: Final = re.compile(r"SCW[A-Z0-9]{17}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ALPHABET: Final = string.ascii_uppercase + string.digits

VARIABLES: Final = {
    "access_key": "HOLDFAST_ACCESS_KEY",
    "secret_key": "HOLDFAST_SECRET_KEY",  # nosec B105 # a variable's name
    "project_id": "HOLDFAST_PROJECT_ID",
    "organization_id": "HOLDFAST_ORGANIZATION_ID",
}
"""Field of the owner key to the environment variable that sets it at the first start."""


class OwnerError(Exception):
    """The owner key of a data directory is not usable. The text is one line."""


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner key as stored in ``owner.json``. Never log its fields: one is the secret."""

    access_key: str
    secret_key: str
    project_id: str
    """Project of new namespaces when a request names none."""

    organization_id: str
    """The one organization of the installation."""

    pending: bool = False
    """True until the ledger is known to have the key."""

    def __repr__(self) -> str:
        return f"Owner({self.access_key})"


def read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that the environment sets. Raises OwnerError with the bad variable."""
    given: dict[str, str] = {}
    for field, variable in VARIABLES.items():
        value = environment.get(variable, "")
        if not value:
            continue
        if field == "access_key":
            if not ACCESS_KEY.fullmatch(value):
                raise OwnerError(f"{variable} must be SCW and 17 capital letters or digits")
        elif not _UUID.fullmatch(value):
            raise OwnerError(f"{variable} must be a UUID with hyphens, in lower case")
        given[field] = value
    return given


def load_owner(directory: Path) -> Owner | None:
    """Read ``owner.json``; return None without the file. Raises OwnerError if it is damaged."""
    path = directory / OWNER_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OwnerError(f"{path} cannot be read: {error.strerror}") from None
    try:
        owner = msgspec.json.decode(content, type=Owner)
    except msgspec.MsgspecError:
        raise OwnerError(f"{path} is damaged: restore it from a backup") from None
    fields = (owner.secret_key, owner.project_id, owner.organization_id)
    if not ACCESS_KEY.fullmatch(owner.access_key) or not all(map(_UUID.fullmatch, fields)):
        raise OwnerError(f"{path} is damaged: restore it from a backup")
    return owner


async def ensure_owner(store: Store, directory: Path, given: Mapping[str, str]) -> Owner:
    """Return the owner key of an open store; create it at the first start.

    ``given`` has the fields from ``read_environment``. Call it with the server lock held. Raises
    OwnerError if they differ from the existing key, or if the ledger has a different secret for it.
    """
    owner = load_owner(directory)
    if owner is None:
        owner = _create(given)
        _save(directory, owner)
    _check_matches(directory, owner, given)
    if owner.pending:
        # The ledger first: a crash before the second save leaves the mark, and _add is idempotent.
        await _add(store, directory, owner)
        owner = msgspec.structs.replace(owner, pending=False)
        _save(directory, owner)
    return owner


async def is_revoked(store: Store, owner: Owner) -> bool:
    """Return True if the ledger no longer has the owner key."""
    try:
        await store.keys.get(owner.access_key)
    except NotFound:
        return True
    return False


def _create(given: Mapping[str, str]) -> Owner:
    generated = "SCW" + "".join(secrets.choice(_ALPHABET) for _ in range(17))
    project_id = given.get("project_id") or str(uuid4())
    return Owner(
        access_key=given.get("access_key") or generated,
        secret_key=given.get("secret_key") or str(UUID(bytes=secrets.token_bytes(16), version=4)),
        project_id=project_id,
        organization_id=given.get("organization_id") or project_id,
        pending=True,
    )


def _save(directory: Path, owner: Owner) -> None:
    record = msgspec.to_builtins(owner)
    if not owner.pending:
        del record["pending"]
    content = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
    replace_file(directory / OWNER_FILE, content)


def _check_matches(directory: Path, owner: Owner, given: Mapping[str, str]) -> None:
    for field, value in given.items():
        if getattr(owner, field) != value:
            raise OwnerError(
                f"{VARIABLES[field]} differs from {directory / OWNER_FILE}, which the first start "
                "created: unset it, or set it to the value in that file"
            )


async def _add(store: Store, directory: Path, owner: Owner) -> None:
    """Add the key to the ledger, unless the start that created the file has done so."""
    known = await store.keys.authenticate(owner.secret_key)
    if known is not None and known.access_key == owner.access_key:
        return
    if known is not None or not await is_revoked(store, owner):
        raise OwnerError(
            f"the store has this access key with another secret, or the secret with another access "
            f"key: restore {directory / OWNER_FILE}, or remove it and set other values"
        )
    await store.keys.create(
        project_id=None,
        default_project_id=UUID(owner.project_id),
        organization_id=UUID(owner.organization_id),
        permission="full",
        description="owner",
        access_key=owner.access_key,
        secret=owner.secret_key,
    )
