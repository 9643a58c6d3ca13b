"""``holdfast import`` and ``holdfast export``: images from and to OCI image layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from holdfast.engine import Transferred, export_layout, import_layout

from .cli_options import data_option, example, json_option
from .cli_output import Bar, last_of, print_json, progress, size
from .cli_session import data_directory, opened, place_of, run

_region = click.option(
    "--region", metavar="REGION", help="[default: what the directory's server served last]"
)


@click.command("import", epilog=example("import layout team/web --data data"))
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("image", metavar="NAMESPACE/IMAGE")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME",
    help="A name or a digest in the layout, repeatable.  [default: all]",
)
@data_option
@_region
@json_option
def import_(
    path: Path,
    image: str,
    references: tuple[str, ...],
    data: str,
    region: str | None,
    as_json: bool,
) -> None:
    """Bring the images of an OCI image layout, bit by bit as they are.

    PATH is a directory. The names in its index become tags. The namespace has to exist.
    """
    done = run(_import(path, image, references, data, region))
    _tell("imported", done, as_json=as_json)


async def _import(
    path: Path, image: str, references: tuple[str, ...], data: str, region: str | None
) -> Transferred:
    place = place_of({}, data=data, region=region)
    async with opened(data_directory(data)) as store:
        repository = await store.locate(place.region, image)
        with progress("import") as bar:
            steps = import_layout(store, repository, path, references=references or None)
            return await last_of(steps, _shower(bar))


@click.command("export", epilog=example("export team/web:v1 exported --data data"))
@click.argument("image", metavar="NAMESPACE/IMAGE[:TAG]")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--no-referrers", is_flag=True, help="Leave out signatures and other referrers.")
@data_option
@_region
@json_option
def export(
    image: str, path: Path, no_referrers: bool, data: str, region: str | None, as_json: bool
) -> None:
    """Write images to an OCI image layout, bit by bit as they are.

    PATH is a directory: new, empty, or a layout already, which is added to. IMAGE may end in a
    digest too (NAMESPACE/IMAGE@sha256:...); without a tag, all tags are written.
    """
    done = run(_export(image, path, data, region, referrers=not no_referrers))
    _tell("exported", done, as_json=as_json)


async def _export(
    image: str, path: Path, data: str, region: str | None, *, referrers: bool
) -> Transferred:
    place = place_of({}, data=data, region=region)
    name, reference = _split(image)
    async with opened(data_directory(data)) as store:
        repository = await store.locate(place.region, name)
        with progress("export") as bar:
            steps = export_layout(
                store,
                repository,
                path,
                references=None if reference is None else [reference],
                referrers=referrers,
            )
            return await last_of(steps, _shower(bar))


def _split(image: str) -> tuple[str, str | None]:
    """Full name, and tag or digest, of a reference."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon else (image, None)


def _shower(bar: Bar) -> Callable[[Transferred], None]:
    def show(done: Transferred) -> None:
        bar.show(f"{done.manifests} manifests, {done.blobs} blobs, {size(done.bytes)}")

    return show


def _tell(what: str, done: Transferred, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "manifests": done.manifests,
                "blobs": done.blobs,
                "bytes": done.bytes,
                "present": done.present,
                "tags": done.tags,
            }
        )
        return
    click.echo(
        f"{what} {done.tags} tags, {done.manifests} manifests, {done.blobs} blobs"
        f" ({size(done.bytes)}); {done.present} blobs were there already"
    )
