"""Chooses the target of a command, a server or a data directory, and opens it.

Target: ``--server``; ``--data``; HOLDFAST_SERVER; HOLDFAST_DATA; SCW_API_URL; ``api_url`` of the
profile; ``./data``. The first one that is set wins.

Key, for a server: the owner file of ``--data`` if given together with ``--server``;
SCW_SECRET_KEY; the profile; the owner file of HOLDFAST_DATA. A directory needs no key.

Region: ``--region``; for a server SCW_DEFAULT_REGION, then the profile; for a directory the first
region that its server served last; else fr-par.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import click
import msgspec

from holdfast.api.http.defaults import REGIONS_DEFAULT
from holdfast.api.management.errors import ApiError
from holdfast.api.server.owner_key import Owner, OwnerError, load_owner
from holdfast.api.server.server_files import OWNER_FILE, read_note
from holdfast.engine import EngineError, Store, StoreConfig

from . import output
from .client import Management, id_of
from .error_messages import failure_of_api, failure_of_engine
from .errors import Failure, Misused
from .options import DATA_DEFAULT, json_option
from .profile import Profile, read_profile

SECRET: Final = re.compile(r"[!-~]{1,256}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Target of a command: the server at ``url``, or the data directory if ``url`` is None."""

    url: str | None
    directory: Path
    region: str
    project_id: UUID | None
    """Default project; None leaves the choice to the key."""

    secret: str = ""
    source: str = ""
    """Origin of the secret, for messages."""

    owner: Owner | None = None
    """Owner of a directory; None for a server, or if no server has run on it."""

    registries: Mapping[str, str] = field(default_factory=dict)
    """Region to registry host of a directory's server; empty if none has run."""

    def __repr__(self) -> str:
        return f"Target({self.url or self.directory})"


def choose_target(
    environment: Mapping[str, str],
    *,
    server: str | None = None,
    data: str | None = None,
    region: str | None = None,
    profile: str | None = None,
) -> Target:
    """Choose the target from options (None if not given) and environment. Raises Failure."""
    named = data or environment.get("HOLDFAST_DATA") or None
    directory = data_directory(named or DATA_DEFAULT)
    # An option overrides all variables: --data alone never means a server.
    if server is None and data is not None:
        return _directory(directory, region)
    server = server or environment.get("HOLDFAST_SERVER") or None
    # HOLDFAST variables override those of Scaleway's clients, which may name another service.
    if server is None and named is not None:
        return _directory(directory, region)
    settings = read_profile(environment, profile)
    url = server or settings.get("api_url")
    if url is None:
        if not directory.exists():
            raise Misused(
                "no target: name a server with --server or SCW_API_URL, or a data directory "
                "with --data"
            )
        return _directory(directory, region)
    _check_url(url, "the server" if server else settings.sources["api_url"])
    secret, source = _secret(settings, directory, asked=data is not None, known=named is not None)
    return Target(
        url=url.rstrip("/"),
        directory=directory,
        region=region or settings.get("default_region") or REGIONS_DEFAULT[0],
        project_id=_project(settings),
        secret=secret,
        source=source,
    )


def _check_url(url: str, source: str) -> None:
    """Raise Misused for a bad URL, and do not quote it: it may hold a secret by mistake."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        usable = usable and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Misused(f"{source} is not a URL such as http://127.0.0.1:5000")


def _directory(directory: Path, region: str | None) -> Target:
    note = read_note(directory) if directory.is_dir() else None
    owner = _owner(directory)
    registries = note.registries if note else {}
    region = region or next(iter(registries), REGIONS_DEFAULT[0])
    if registries and region not in registries:
        raise Misused(f"--region: {region!r} is not one of {', '.join(registries)}")
    return Target(
        url=None,
        directory=directory,
        region=region,
        project_id=UUID(owner.project_id) if owner else None,
        owner=owner,
        registries=registries,
    )


def _owner(directory: Path) -> Owner | None:
    try:
        return load_owner(directory) if directory.is_dir() else None
    except OwnerError as error:
        raise Failure(str(error)) from error


def _secret(settings: Profile, directory: Path, *, asked: bool, known: bool) -> tuple[str, str]:
    """Return the secret key for a server and its origin. Raises Failure.

    ``asked``: ``--data`` names the directory; ``known``: ``--data`` or HOLDFAST_DATA does.
    """
    secret = settings.get("secret_key")
    source = settings.sources.get("secret_key", "")
    if asked or (secret is None and known):
        owner = _owner(directory)
        if owner is None:
            raise Failure(f"{directory / OWNER_FILE} does not exist: no server has run there yet")
        secret, source = owner.secret_key, str(directory / OWNER_FILE)
    if secret is None:
        raise Misused("no key: set SCW_SECRET_KEY, or add --data with the server's data directory")
    if not SECRET.fullmatch(secret):
        raise Misused(f"{source} is not a secret key")
    return secret, source


def _project(settings: Profile) -> UUID | None:
    text = settings.get("default_project_id")
    project = None if text is None else id_of(text)
    if text is not None and project is None:
        raise Misused(f"{settings.sources['default_project_id']} is not a UUID")
    return project


def data_directory(text: str) -> Path:
    """Return the value of ``--data`` as a path. Raises Failure if it is not a path."""
    if not text or "\0" in text:
        raise Misused("--data: must be a path")
    return Path(text)


@contextlib.asynccontextmanager
async def open_store(directory: Path) -> AsyncIterator[Store]:
    """Open the store of an existing data directory; a server may use it at the same time."""
    # No background work: a server on the same directory does it.
    async with Store.open(directory, StoreConfig(background=False), create=False) as store:
        yield store


@contextlib.asynccontextmanager
async def management_of(target: Target) -> AsyncIterator[Management]:
    """Open a target and yield its management operations."""
    if target.url is None:
        # Each backend loads only its own modules.
        from .backends import LocalBackend

        async with open_store(target.directory) as store:
            yield Management(LocalBackend(store, target.region, target.owner, target.registries))
        return
    import aiohttp

    from .remote import RemoteBackend

    async with aiohttp.ClientSession() as http:
        yield Management(
            RemoteBackend(http, target.url, target.region, target.secret, target.source)
        )


@dataclass(frozen=True, slots=True)
class Session:
    """Context of a running command: its operations, its target and its output format."""

    api: Management
    target: Target
    as_json: bool

    def show(self, value: msgspec.Struct, fields: output.Table) -> None:
        """Print one object."""
        if self.as_json:
            output.print_json(value)
        else:
            output.print_fields(value, fields)

    def show_all(self, values: Sequence[msgspec.Struct], columns: output.Table) -> None:
        """Print a list of objects."""
        if self.as_json:
            output.print_json(values)
        else:
            output.print_rows(values, columns)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine of a command and turn its errors into Failure.

    BrokenPipeError passes: the reader of the output has gone, which is no failure of the command.
    """
    try:
        return asyncio.run(work)
    except ApiError as error:
        raise failure_of_api(error) from error
    except EngineError as error:
        raise failure_of_engine(error) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        reason = error.strerror or str(error)
        raise Failure(f"{error.filename}: {reason}" if error.filename else reason) from error


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose the target of a command.

    The command gets ``as_json`` and a function that returns its Target or raises Failure.
    """

    @click.option(
        "--server", metavar="URL", help="URL of a running server.  [env: HOLDFAST_SERVER]"
    )
    @click.option(
        "--data",
        metavar="DIR",
        help="Data directory to work on; with --server, to read the owner key from.  "
        "[env: HOLDFAST_DATA]",
    )
    @click.option(
        "--region", metavar="REGION", help="Region such as fr-par.  [env: SCW_DEFAULT_REGION]"
    )
    @click.option(
        "--profile",
        metavar="NAME",
        help="Profile in the Scaleway profile file.  [env: SCW_PROFILE]",
    )
    @json_option
    @functools.wraps(command)
    def outer(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in ("server", "data", "region", "profile")}
        command(functools.partial(choose_target, os.environ, **chosen), **given)

    return outer


def session_command(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn an async function over a Session into a command with the target options."""

    @target_options
    @functools.wraps(command)
    def outer(get_target: Callable[[], Target], *, as_json: bool, **rest: Any) -> None:
        target = get_target()

        async def work() -> None:
            async with management_of(target) as management:
                await command(Session(management, target, as_json), **rest)

        run(work())

    return outer
