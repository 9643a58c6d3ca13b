"""``holdfast snapshot`` and ``holdfast restore``: copy data directories with their owner key."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import click

from holdfast.api.cli.errors import Damaged
from holdfast.api.cli.options import data_option, example, json_option
from holdfast.api.cli.output import Bar, follow, print_json, size
from holdfast.api.cli.session import data_directory, open_store, run
from holdfast.api.server.server_files import OWNER_FILE, replace_file
from holdfast.engine import Copied, Corrupt, Store

_OWNER_BYTES_MAX = 64 * 1024


@click.command(epilog=example("snapshot --data data backups/monday"))
@click.argument("target", type=click.Path(path_type=Path))
@data_option
@click.option("--copy", is_flag=True, help="Copy files even if they could be linked.")
@json_option
def snapshot(target: Path, data: str, copy: bool, as_json: bool) -> None:
    """Write a consistent copy of a data directory, in use or not, into a new directory.

    On the same file system the files are linked: that is quick and takes no space, but damage
    affects both directories. Open uploads are left out. TARGET also holds the owner key: protect
    it like the data directory.
    """
    done = run(_snapshot(target, data_directory(data), copy=copy))
    _print_result("snapshot", target, done, as_json=as_json)
    if done.damaged:
        raise Damaged(f"{done.damaged} blobs are damaged and in quarantine")


async def _snapshot(target: Path, directory: Path, *, copy: bool) -> Copied:
    async with open_store(directory) as store:
        done = await follow("snapshot", store.snapshot(target, copy=copy), _show)
    _copy_owner(directory, target)
    return done


@click.command(epilog=example("restore backups/monday --data restored"))
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option(
    "--data",
    envvar="HOLDFAST_DATA",
    required=True,
    metavar="DIR",
    help="New or empty directory to restore into.",
)
@click.option("--link", is_flag=True, help="Link files if possible, instead of copying them.")
@click.option("--salvage", is_flag=True, help="Restore the intact part of a damaged snapshot.")
@json_option
def restore(snapshot: Path, data: str, link: bool, salvage: bool, as_json: bool) -> None:
    """Restore a data directory from a snapshot, or from any data directory not in use.

    Every blob is read and verified before the directory appears.
    """
    # First: a bad owner file must fail before the long copy.
    owner = _owner_of(snapshot)
    done = run(_restore(snapshot, data_directory(data), link=link, salvage=salvage))
    if owner is not None:
        replace_file(Path(data) / OWNER_FILE, owner)
    _print_result("restored", Path(data), done, as_json=as_json)


async def _restore(snapshot: Path, directory: Path, *, link: bool, salvage: bool) -> Copied:
    try:
        steps = Store.restore(snapshot, directory, copy=not link, salvage=salvage)
        return await follow("restore", steps, _show)
    except Corrupt as error:
        raise Damaged(f"{error}; --salvage restores the intact part") from error


def _show(bar: Bar, done: Copied) -> None:
    bar.show(size(done.bytes), done=done.files, total=done.total)


def _copy_owner(source: Path, target: Path) -> None:
    """Copy the owner key; without it, a restored directory would get a new one.

    A directory that never had a server has no owner key.
    """
    with suppress(FileNotFoundError):
        replace_file(target / OWNER_FILE, (source / OWNER_FILE).read_bytes())


def _owner_of(snapshot: Path) -> bytes | None:
    """Return the owner key of a snapshot, or None. Raises Damaged.

    The snapshot may come from another user: O_NOFOLLOW refuses a link, and O_NONBLOCK keeps the
    command from waiting on a pipe.
    """
    path = snapshot / OWNER_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"{path}: is not a readable file ({error.strerror})") from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged(f"{path}: is not a regular file")
        return file.read(_OWNER_BYTES_MAX)


def _print_result(verb: str, directory: Path, done: Copied, *, as_json: bool) -> None:
    if as_json:
        print_json({"files": done.files, "bytes": done.bytes, "damaged": done.damaged})
        return
    damaged = f", {done.damaged} blobs damaged" if done.damaged else ""
    click.echo(f"{verb} {directory}: {done.files} files, {size(done.bytes)}{damaged}")
