"""``holdfast import`` and ``holdfast export``: copy images from and to directories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.errors import Misused
from holdfast.api.cli.options import example
from holdfast.api.cli.output import Bar, copied, follow, print_json, size
from holdfast.api.cli.session import Target, open_store, run, target_options
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
"""File that marks a directory as an OCI layout (OCI image-spec, "Image Layout")."""


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
    help="Name or digest to import from a layout, repeatable.  [default: all]",
)
@click.option(
    "--namespace",
    metavar="NAMESPACE",
    help="Registry import: namespace for images whose name has one component, or whose first "
    "component is not a valid namespace.",
)
@click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=NEW",
    help="Registry import: replace a name, or the components it begins with, repeatable; the "
    "longest match wins.",
)
@click.option(
    "--project-id",
    type=click.UUID,
    help="Registry import: project of new namespaces.  [default: the owner's project]",
)
@click.option("--tagged-only", is_flag=True, help="Registry import: skip untagged manifests.")
@click.option("--dry-run", is_flag=True, help="Registry import: only list the repositories.")
@target_options
def import_(
    get_target: Callable[[], Target],
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
    """Import images from an OCI image layout, or all images of a docker-registry, unchanged.

    With NAMESPACE/IMAGE, PATH is a layout: a directory whose names become tags. The namespace must
    exist.

    Without it, PATH is the storage directory of a docker-registry (CNCF distribution). Its images
    go into a data directory (--data), which may be in use. The first component of each name
    becomes the namespace, created if missing. Content imported before is not read again: after an
    interruption, or to catch up, run the import again.
    """
    of_registry = {
        "--namespace": namespace,
        "--rename": renames,
        "--project-id": project_id,
        "--tagged-only": tagged_only,
        "--dry-run": dry_run,
    }
    if image is not None:
        _refuse(of_registry, "is only for an import without NAMESPACE/IMAGE")
        done = run(_import(get_target(), path, image, references))
        _print_result("imported", done, as_json=as_json)
        return
    _refuse({"--reference": references}, "is only for an import into NAMESPACE/IMAGE")
    if (path / LAYOUT_FILE).is_file():
        raise click.UsageError(f"{path} is an OCI layout: give the NAMESPACE/IMAGE to import into")
    # Imported late: only imports of a registry need it.
    from .docker_registry import import_storage, show_storage

    try:
        rules = Renames.parse(renames, namespace)
    except Invalid as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        run(show_storage(path, rules, as_json=as_json))
        return
    target = get_target()
    if target.url is not None:
        raise Misused("a registry import needs a data directory: give --data DIR")
    run(
        import_storage(
            path,
            target,
            rules,
            project_id=project_id,
            untagged=not tagged_only,
            as_json=as_json,
        )
    )


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Raise UsageError if an option of the other kind of import is set."""
    for option, value in options.items():
        if value:
            raise click.UsageError(f"{option} {reason}")


@asynccontextmanager
async def _images(target: Target, name: str) -> AsyncIterator[tuple[Registry, Repository]]:
    """Open the registry of ``namespace/image``, on a server or in a directory."""
    if target.url is not None:
        from holdfast.api.cli.remote_registry import remote_images

        async with remote_images(target, name) as found:
            yield found
        return
    async with open_store(target.directory) as store:
        yield store, await store.locate(target.region, name)


async def _import(
    target: Target, path: Path, image: str, references: tuple[str, ...]
) -> Transferred:
    async with _images(target, image) as (registry, repository):
        steps = import_layout(registry, repository, path, references=references or None)
        return await follow("import", steps, _show)


@click.command(
    "export", epilog=example("export team/web:v1 exported", "export team/web exported --data data")
)
@click.argument("image", metavar="NAMESPACE/IMAGE[:TAG]")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--no-referrers", is_flag=True, help="Skip signatures and other referrers.")
@target_options
def export(
    get_target: Callable[[], Target], *, image: str, path: Path, no_referrers: bool, as_json: bool
) -> None:
    """Export images to an OCI image layout, unchanged.

    PATH is a new or empty directory, or a layout to add to. IMAGE may also end in a digest
    (NAMESPACE/IMAGE@sha256:...). Without a tag or digest, all tags are exported.
    """
    done = run(_export(get_target(), image, path, referrers=not no_referrers))
    _print_result("exported", done, as_json=as_json)


async def _export(target: Target, image: str, path: Path, *, referrers: bool) -> Transferred:
    name, reference = _split(image)
    async with _images(target, name) as (registry, repository):
        steps = export_layout(
            registry,
            repository,
            path,
            references=None if reference is None else [reference],
            referrers=referrers,
        )
        return await follow("export", steps, _show)


def _split(image: str) -> tuple[str, str | None]:
    """Split a reference into the full name and the tag or digest."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon else (image, None)


def _show(bar: Bar, done: Transferred) -> None:
    bar.show(f"{done.manifests} manifests, {done.blobs} blobs, {size(done.bytes)}")


def _print_result(verb: str, done: Transferred, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    click.echo(f"{verb} {copied(done)}; {done.present} blobs were already present")
