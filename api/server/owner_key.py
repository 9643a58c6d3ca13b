"""The owner key: all rights on all projects, made at the first start, kept in ``owner.json``.

The ledger has only a hash of its secret; the file (mode 0600) has the secret itself, for
``holdfast env``. The file is written first and says ``pending`` until the ledger has the key, so
a crash between the two is finished by the next start, while an owner key that somebody revoked
later stays revoked.
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
    """The owner key of a data directory cannot be used as asked. The text is one line."""


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner key as ``owner.json`` has it. Never log one: it has the secret."""

    access_key: str
    secret_key: str
    project_id: str
    """Where its namespaces go when a request names no project."""

    organization_id: str
    """The one organization of the installation."""

    pending: bool = False
    """Whether the ledger may not have the key yet."""

    def __repr__(self) -> str:
        return f"Owner({self.access_key})"


def given_by(environment: Mapping[str, str]) -> dict[str, str]:
    """The fields that the environment sets, checked. Raises OwnerError naming the variable."""
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
    """Read ``owner.json``; None when there is none. Raises OwnerError when it is damaged."""
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
        raise OwnerError(f"{path} is damaged: bring it back from a backup") from None
    fields = (owner.secret_key, owner.project_id, owner.organization_id)
    if not ACCESS_KEY.fullmatch(owner.access_key) or not all(map(_UUID.fullmatch, fields)):
        raise OwnerError(f"{path} is damaged: bring it back from a backup")
    return owner


async def ensure_owner(store: Store, directory: Path, given: Mapping[str, str]) -> Owner:
    """The owner key of an open store, made if this is its first start.

    ``given`` are the values from ``given_by``. Call it with the server lock held. Raises
    OwnerError when they differ from the key that exists, or the ledger has another secret for it.
    """
    owner = load_owner(directory)
    if owner is None:
        owner = _make(given)
        _save(directory, owner)
    _refuse_other(directory, owner, given)
    if owner.pending:
        await _enter(store, directory, owner)
        owner = msgspec.structs.replace(owner, pending=False)
        _save(directory, owner)
    return owner


async def is_revoked(store: Store, owner: Owner) -> bool:
    """Whether the ledger no longer has the owner key."""
    try:
        await store.keys.get(owner.access_key)
    except NotFound:
        return True
    return False


def _make(given: Mapping[str, str]) -> Owner:
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


def _refuse_other(directory: Path, owner: Owner, given: Mapping[str, str]) -> None:
    for field, value in given.items():
        if getattr(owner, field) != value:
            raise OwnerError(
                f"{VARIABLES[field]} differs from {directory / OWNER_FILE}, which the first start "
                "made: unset it, or set it to what that file says"
            )


async def _enter(store: Store, directory: Path, owner: Owner) -> None:
    """Give the ledger the key, unless the start that made the file already did."""
    known = await store.keys.authenticate(owner.secret_key)
    if known is not None and known.access_key == owner.access_key:
        return
    if known is not None or not await is_revoked(store, owner):
        raise OwnerError(
            f"the store has this access key or secret with another counterpart: bring "
            f"{directory / OWNER_FILE} back, or remove it and start with other values"
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
