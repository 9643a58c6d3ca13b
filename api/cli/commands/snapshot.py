"""``holdfast snapshot`` and ``holdfast restore``: whole data directories, owner key included."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from holdfast.api.cli.errors import Damaged
from holdfast.api.cli.options import data_option, example, json_option
from holdfast.api.cli.output import Bar, last_of, print_json, progress, size
from holdfast.api.cli.session import data_directory, opened, run
from holdfast.api.server.server_files import OWNER_FILE, replace_file
from holdfast.engine import Copied, Corrupt, Store

_OWNER_BYTES_MAX = 64 * 1024


@click.command(epilog=example("snapshot --data data backups/monday"))
@click.argument("target", type=click.Path(path_type=Path))
@data_option
@click.option("--copy", is_flag=True, help="Copy files even where they could be linked.")
@json_option
def snapshot(target: Path, data: str, copy: bool, as_json: bool) -> None:
    """Write a consistent copy of a data directory, in use or not, into a new directory.

    On one file system the files are linked: that is quick and takes no space, but both go bad
    together. Open uploads are left out. TARGET has the owner key too: keep it as safe.
    """
    done = run(_snapshot(target, data_directory(data), copy=copy))
    _tell("snapshot", target, done, as_json=as_json)
    if done.damaged:
        raise Damaged(f"{done.damaged} blobs are damaged, and in quarantine")


async def _snapshot(target: Path, directory: Path, *, copy: bool) -> Copied:
    async with opened(directory) as store:
        with progress("snapshot") as bar:
            done = await last_of(store.snapshot(target, copy=copy), _shower(bar))
    _copy_owner(directory, target)
    return done


@click.command(epilog=example("restore backups/monday --data restored"))
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option(
    "--data",
    envvar="HOLDFAST_DATA",
    required=True,
    metavar="DIR",
    help="Where to: a directory that is new or empty.",
)
@click.option("--link", is_flag=True, help="Link files where possible, instead of copying them.")
@click.option("--salvage", is_flag=True, help="Restore a damaged snapshot, as far as it is good.")
@json_option
def restore(snapshot: Path, data: str, link: bool, salvage: bool, as_json: bool) -> None:
    """Make a data directory of a snapshot, or of any directory that is not in use.

    Every blob is read and compared before the directory appears.
    """
    owner = _owner_of(snapshot)
    done = run(_restore(snapshot, data_directory(data), link=link, salvage=salvage))
    if owner is not None:
        replace_file(Path(data) / OWNER_FILE, owner)
    _tell("restored", Path(data), done, as_json=as_json)


async def _restore(snapshot: Path, directory: Path, *, link: bool, salvage: bool) -> Copied:
    try:
        with progress("restore") as bar:
            steps = Store.restore(snapshot, directory, copy=not link, salvage=salvage)
            done = await last_of(steps, _shower(bar))
    except Corrupt as error:
        raise Damaged(f"{error}; --salvage takes what is good") from error
    return done


def _shower(bar: Bar) -> Callable[[Copied], None]:
    def show(done: Copied) -> None:
        bar.show(f"{size(done.bytes)}", done=done.files, total=done.total)

    return show


def _copy_owner(source: Path, target: Path) -> None:
    """The owner key, without which a restored directory would get another one.

    A directory that never had a server has none.
    """
    with suppress(FileNotFoundError):
        replace_file(target / OWNER_FILE, (source / OWNER_FILE).read_bytes())


def _owner_of(snapshot: Path) -> bytes | None:
    """The owner key of a snapshot, which others may have written: no link is followed, and a
    pipe is not waited for. Raises Damaged."""
    path = snapshot / OWNER_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"{path}: not a file that can be read ({error.strerror})") from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged(f"{path}: not a file")
        return file.read(_OWNER_BYTES_MAX)


def _tell(what: str, where: Path, done: Copied, *, as_json: bool) -> None:
    if as_json:
        print_json({"files": done.files, "bytes": done.bytes, "damaged": done.damaged})
        return
    damaged = f", {done.damaged} blobs damaged" if done.damaged else ""
    click.echo(f"{what} {where}: {done.files} files, {size(done.bytes)}{damaged}")
