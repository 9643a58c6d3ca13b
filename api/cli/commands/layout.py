"""``holdfast import`` and ``holdfast export``: images from and to directories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.errors import Misused
from holdfast.api.cli.options import example
from holdfast.api.cli.output import Bar, last_of, print_json, progress, size
from holdfast.api.cli.session import Target, opened, placed, run
from holdfast.engine import (
    Invalid,
    Registry,
    Renames,
    Repository,
    Transferred,
    export_layout,
    import_layout,
)

LAYOUT_FILE: Final = "oci-layout"
"""What tells a layout from the storage of a registry (OCI image-spec, "Image Layout")."""


@click.command(
    "import",
    epilog=example(
        "import layout team/web",
        "import /var/lib/docker-registry --namespace library --dry-run",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("image", metavar="[NAMESPACE/IMAGE]", required=False)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME",
    help="Of a layout: a name or a digest in it, repeatable.  [default: all]",
)
@click.option(
    "--namespace",
    metavar="NAMESPACE",
    help="Of a registry: where images go whose name has one component, or whose first one is no "
    "name of a namespace.",
)
@click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=NEW",
    help="Of a registry: what stands here for a name, or for the components that it begins with, "
    "repeatable; the longest one counts.",
)
@click.option(
    "--project-id",
    type=click.UUID,
    help="Of a registry: whose the namespaces are that it makes.  [default: the owner's project]",
)
@click.option("--tagged-only", is_flag=True, help="Of a registry: leave out untagged manifests.")
@click.option("--dry-run", is_flag=True, help="Of a registry: only say what would be imported.")
@placed
def import_(
    where: Callable[[], Target],
    *,
    path: Path,
    image: str | None,
    references: tuple[str, ...],
    namespace: str | None,
    renames: tuple[str, ...],
    project_id: UUID | None,
    tagged_only: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring images of an OCI image layout, or all of a docker-registry, bit by bit as they are.

    With NAMESPACE/IMAGE, PATH is a layout: a directory whose names become tags. The namespace has
    to exist.

    Without it, PATH is the storage directory of a docker-registry (CNCF distribution), and goes
    into a data directory (--data), which may be in use. The first component of each name becomes
    the namespace, made where it is missing. What was imported
    before is not read again: after an interruption, or to catch up, do it once more.
    """
    of_registry = {
        "--namespace": namespace,
        "--rename": renames,
        "--project-id": project_id,
        "--tagged-only": tagged_only,
        "--dry-run": dry_run,
    }
    if image is not None:
        _refuse(of_registry, "needs an import without NAMESPACE/IMAGE")
        done = run(_import(where(), path, image, references))
        _tell("imported", done, as_json=as_json)
        return
    _refuse({"--reference": references}, "needs an import into NAMESPACE/IMAGE")
    if (path / LAYOUT_FILE).is_file():
        raise click.UsageError(f"{path} is an OCI layout: say into which NAMESPACE/IMAGE")
    from .docker_registry import bring_registry, show_registry

    try:
        rules = Renames.parse(renames, namespace)
    except Invalid as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        run(show_registry(path, rules, as_json=as_json))
        return
    place = where()
    if place.url is not None:
        raise Misused("the storage of a registry goes into a data directory: give --data DIR")
    run(
        bring_registry(
            path,
            place,
            rules,
            project_id=project_id,
            untagged=not tagged_only,
            as_json=as_json,
        )
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options of the other kind of directory. Raises UsageError."""
    for option, value in options.items():
        if value:
            raise click.UsageError(f"{option} {why}")


@asynccontextmanager
async def _images(place: Target, name: str) -> AsyncIterator[tuple[Registry, Repository]]:
    """Where ``namespace/image`` is, on a server or in a directory."""
    if place.url is not None:
        from holdfast.api.cli.remote_registry import remote_images

        async with remote_images(place, name) as found:
            yield found
        return
    async with opened(place.directory) as store:
        yield store, await store.locate(place.region, name)


async def _import(
    place: Target, path: Path, image: str, references: tuple[str, ...]
) -> Transferred:
    async with _images(place, image) as (registry, repository):
        with progress("import") as bar:
            steps = import_layout(registry, repository, path, references=references or None)
            return await last_of(steps, _shower(bar))


@click.command(
    "export", epilog=example("export team/web:v1 exported", "export team/web exported --data data")
)
@click.argument("image", metavar="NAMESPACE/IMAGE[:TAG]")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--no-referrers", is_flag=True, help="Leave out signatures and other referrers.")
@placed
def export(
    where: Callable[[], Target], *, image: str, path: Path, no_referrers: bool, as_json: bool
) -> None:
    """Write images to an OCI image layout, bit by bit as they are.

    PATH is a directory: new, empty, or a layout already, which is added to. IMAGE may end in a
    digest too (NAMESPACE/IMAGE@sha256:...); without a tag, all tags are written.
    """
    done = run(_export(where(), image, path, referrers=not no_referrers))
    _tell("exported", done, as_json=as_json)


async def _export(place: Target, image: str, path: Path, *, referrers: bool) -> Transferred:
    name, reference = _split(image)
    async with _images(place, name) as (registry, repository):
        with progress("export") as bar:
            steps = export_layout(
                registry,
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
