"""``holdfast import`` of the storage directory of a docker-registry: all its repositories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import click

from holdfast.api.cli.errors import Damaged, Failure, printable
from holdfast.api.cli.output import print_json_line, progress, size
from holdfast.api.cli.session import Target, opened
from holdfast.engine import (
    EngineError,
    FoundRepository,
    Migrated,
    Renames,
    import_registry,
    list_registry,
)


async def show_registry(path: Path, renames: Renames, *, as_json: bool) -> None:
    """Print what an import would bring, a line a repository. Raises Damaged, EngineError."""
    brought = refused = 0
    async for found in list_registry(path, renames=renames):
        refused += found.error is not None
        brought += found.error is None
        if as_json:
            print_json_line(
                {
                    "repository": found.repository,
                    "name": found.name,
                    "tags": found.tags,
                    "manifests": found.manifests,
                    "error": _reason(found.error),
                }
            )
        else:
            click.echo(printable(_listed(found)))
    if not as_json:
        click.echo(f"{brought} repositories would be imported; nothing was done")
    _complain(refused, "repositories cannot be imported: see --rename and --namespace")


async def bring_registry(
    path: Path,
    place: Target,
    renames: Renames,
    *,
    project_id: UUID | None,
    untagged: bool,
    as_json: bool,
) -> None:
    """Import it; what is left out is a line each. Raises Damaged, Failure, EngineError."""
    owner = place.owner
    if owner is None:
        raise Failure("the directory has no owner key yet: holdfast serve makes it")
    total = _Total()
    async with opened(place.directory) as store:
        steps = import_registry(
            store,
            path,
            region=place.region,
            project_id=project_id or UUID(owner.project_id),
            organization_id=UUID(owner.organization_id),
            renames=renames,
            untagged=untagged,
        )
        with progress("import") as bar:
            async for step in steps:
                total.add(step)
                bar.show(f"{total}, {step.repository}")
                if as_json:
                    print_json_line(_fields(step))
                elif step.error is not None:
                    click.echo(printable(f"{_label(step)}: {step.error}"))
    if not as_json:
        click.echo(f"imported {total}; {total.known} manifests were there already")
    _complain(total.refused, "items were left out")


class _Total:
    """Sums over all steps of an import."""

    def __init__(self) -> None:
        self.refused = 0
        """Manifests, tags and repositories that were left out."""
        self.known = 0
        """Manifests that were there already."""
        self._tags = self._manifests = self._blobs = self._bytes = 0

    def add(self, step: Migrated) -> None:
        """Count one more."""
        if step.done is None:
            self.refused += 1
            return
        self.known += step.done.manifests == 0
        self._tags += step.done.tags
        self._manifests += step.done.manifests
        self._blobs += step.done.blobs
        self._bytes += step.done.bytes

    def __str__(self) -> str:
        return (
            f"{self._tags} tags, {self._manifests} manifests, {self._blobs} blobs"
            f" ({size(self._bytes)})"
        )


def _complain(refused: int, what: str) -> None:
    if refused:
        raise Damaged(f"{refused} {what}")


def _reason(error: EngineError | None) -> str | None:
    return None if error is None else str(error)


def _listed(found: FoundRepository) -> str:
    if found.error is not None:
        return f"{found.repository}: {found.error}"
    return f"{found.repository} -> {found.name}: {found.tags} tags, {found.manifests} manifests"


def _label(step: Migrated) -> str:
    """What was left out: a repository, a tag, a manifest."""
    what: Sequence[str] = step.tags or ([step.digest] if step.digest else [])
    return f"{step.repository} ({', '.join(what)})" if what else step.repository


def _fields(step: Migrated) -> dict[str, object]:
    done = step.done
    return {
        "repository": step.repository,
        "name": step.name,
        "digest": step.digest,
        "tags": step.tags,
        "manifests": done.manifests if done else 0,
        "blobs": done.blobs if done else 0,
        "bytes": done.bytes if done else 0,
        "present": done.present if done else 0,
        "error": _reason(step.error),
    }
