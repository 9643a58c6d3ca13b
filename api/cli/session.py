"""From the options of a command to what it works on: a server, or a data directory.

Where: ``--server``; ``--data``; HOLDFAST_SERVER; HOLDFAST_DATA; SCW_API_URL; ``api_url`` of the
profile; ``./data``. The first one that is given counts.

Key, for a server: the owner file of ``--data`` where that is given beside ``--server``;
SCW_SECRET_KEY; the profile; the owner file of HOLDFAST_DATA. A directory needs none.

Region: ``--region``; for a server SCW_DEFAULT_REGION, then the profile; for a directory what its
server served last; else fr-par.
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

from holdfast.api.http.regions import REGIONS_DEFAULT
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
    """Where a command works: a server's URL, or (None) a data directory."""

    url: str | None
    directory: Path
    region: str
    project_id: UUID | None
    """The project that is meant where none is named; None leaves it to the key."""

    secret: str = ""
    source: str = ""
    """Where the secret came from."""

    owner: Owner | None = None
    """Of a directory."""

    registries: Mapping[str, str] = field(default_factory=dict)
    """Of a directory: region to what ``docker push`` calls its server, as far as one ran."""

    def __repr__(self) -> str:
        return f"Place({self.url or self.directory})"


def place_of(
    environment: Mapping[str, str],
    *,
    server: str | None = None,
    data: str | None = None,
    region: str | None = None,
    profile: str | None = None,
) -> Target:
    """Decide it, from options (None where not given) and environment. Raises Failure."""
    named = data or environment.get("HOLDFAST_DATA") or None
    directory = data_directory(named or DATA_DEFAULT)
    if server is None and data is not None:
        return _directory(directory, region)
    server = server or environment.get("HOLDFAST_SERVER") or None
    if server is None and named is not None:
        return _directory(directory, region)
    settings = read_profile(environment, profile)
    url = server or settings.get("api_url")
    if url is None:
        if not directory.exists():
            raise Misused(
                "nothing to work on: name a server with --server or SCW_API_URL, or a data "
                "directory with --data"
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
    """Raises Misused, without the URL: where people err, it may hold a secret."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        usable = usable and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Misused(f"{source} is no URL such as http://127.0.0.1:5000")


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
    """The secret key to show to a server, and where it came from. Raises Failure."""
    secret = settings.get("secret_key")
    source = settings.sources.get("secret_key", "")
    if asked or (secret is None and known):
        owner = _owner(directory)
        if owner is None:
            raise Failure(f"there is no {directory / OWNER_FILE}: no server has run there yet")
        secret, source = owner.secret_key, str(directory / OWNER_FILE)
    if secret is None:
        raise Misused(
            "no key: set SCW_SECRET_KEY, or name the server's data directory with --data too"
        )
    if not SECRET.fullmatch(secret):
        raise Misused(f"{source} holds no secret key")
    return secret, source


def _project(settings: Profile) -> UUID | None:
    text = settings.get("default_project_id")
    project = None if text is None else id_of(text)
    if text is not None and project is None:
        raise Misused(f"{settings.sources['default_project_id']} is no UUID")
    return project


def data_directory(text: str) -> Path:
    """The value of ``--data``. Raises Failure for one that is no path."""
    if not text or "\0" in text:
        raise Misused("--data: must be a path")
    return Path(text)


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Store]:
    """The store of a data directory that exists; a server may use it at the same time."""
    async with Store.open(directory, StoreConfig(background=False), create=False) as store:
        yield store


@contextlib.asynccontextmanager
async def management_of(place: Target) -> AsyncIterator[Management]:
    """The management operations of a place."""
    if place.url is None:
        from .backends import Local

        async with opened(place.directory) as store:
            yield Management(Local(store, place.region, place.owner, place.registries))
        return
    import aiohttp

    from .remote import Remote

    async with aiohttp.ClientSession() as http:
        yield Management(Remote(http, place.url, place.region, place.secret, place.source))


@dataclass(frozen=True, slots=True)
class Session:
    """One command at work."""

    management: Management
    place: Target
    as_json: bool

    def show(self, value: msgspec.Struct, fields: output.Table) -> None:
        """Print one object."""
        if self.as_json:
            output.print_json(value)
        else:
            output.print_fields(value, fields)

    def show_all(self, values: Sequence[msgspec.Struct], columns: output.Table) -> None:
        """Print a list of them."""
        if self.as_json:
            output.print_json(values)
        else:
            output.print_rows(values, columns)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a command; what goes wrong is a Failure."""
    try:
        return asyncio.run(work)
    except ApiError as error:
        raise failure_of_api(error) from error
    except EngineError as error:
        raise failure_of_engine(error) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        told = error.strerror or str(error)
        raise Failure(f"{error.filename}: {told}" if error.filename else told) from error


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where it works.

    It gets ``as_json``, and a function that gives its Place, or raises Failure.
    """

    @click.option("--server", metavar="URL", help="A running server.  [env: HOLDFAST_SERVER]")
    @click.option(
        "--data",
        metavar="DIR",
        help="A data directory, used directly; beside --server: whose owner key to use.  "
        "[env: HOLDFAST_DATA]",
    )
    @click.option(
        "--region", metavar="REGION", help="A region such as fr-par.  [env: SCW_DEFAULT_REGION]"
    )
    @click.option(
        "--profile", metavar="NAME", help="Of the Scaleway profile file.  [env: SCW_PROFILE]"
    )
    @json_option
    @functools.wraps(command)
    def outer(
        *,
        server: str | None,
        data: str | None,
        region: str | None,
        profile: str | None,
        as_json: bool,
        **rest: Any,
    ) -> None:
        where = functools.partial(
            place_of, os.environ, server=server, data=data, region=region, profile=profile
        )
        command(where, as_json=as_json, **rest)

    return outer


def managing(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Give an async command the options of all that can work on a server, and its Session."""

    @placed
    @functools.wraps(command)
    def outer(where: Callable[[], Target], *, as_json: bool, **rest: Any) -> None:
        place = where()

        async def work() -> None:
            async with management_of(place) as management:
                await command(Session(management, place, as_json), **rest)

        run(work())

    return outer
