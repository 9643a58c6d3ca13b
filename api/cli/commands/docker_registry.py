"""Imports all repositories from the storage directory of a docker-registry, and a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import click

from holdfast.api.cli.errors import Damaged, Failure, printable
from holdfast.api.cli.output import print_json_line, progress, size
from holdfast.api.cli.session import Target, open_store
from holdfast.engine import (
    EngineError,
    FoundRepository,
    Migrated,
    Renames,
    import_registry,
    list_registry,
)


async def show_storage(path: Path, renames: Renames, *, as_json: bool) -> None:
    """Print one line per repository to import. Raises Damaged or EngineError."""
    importable = refused = 0
    async for found in list_registry(path, renames=renames):
        refused += found.error is not None
        importable += found.error is None
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
        click.echo(f"{importable} repositories would be imported; nothing was done")
    _raise_if_any(refused, "repositories cannot be imported: see --rename and --namespace")


async def import_storage(
    path: Path,
    target: Target,
    renames: Renames,
    *,
    project_id: UUID | None,
    untagged: bool,
    as_json: bool,
) -> None:
    """Import the storage; print one line per skipped item.

    Raises Damaged, Failure or EngineError.
    """
    owner = target.owner
    if owner is None:
        raise Failure("the directory has no owner key yet: holdfast serve creates it")
    total = _Total()
    async with open_store(target.directory) as store:
        steps = import_registry(
            store,
            path,
            region=target.region,
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
        click.echo(f"imported {total}; {total.known} manifests were already present")
    _raise_if_any(total.refused, "items were left out")


class _Total:
    """Sums over the steps of an import."""

    def __init__(self) -> None:
        self.refused = 0
        """Number of skipped manifests, tags and repositories."""
        self.known = 0
        """Number of manifests that were already present."""
        self._tags = self._manifests = self._blobs = self._bytes = 0

    def add(self, step: Migrated) -> None:
        """Add a step."""
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


def _raise_if_any(refused: int, message: str) -> None:
    if refused:
        raise Damaged(f"{refused} {message}")


def _reason(error: EngineError | None) -> str | None:
    return None if error is None else str(error)


def _listed(found: FoundRepository) -> str:
    if found.error is not None:
        return f"{found.repository}: {found.error}"
    return f"{found.repository} -> {found.name}: {found.tags} tags, {found.manifests} manifests"


def _label(step: Migrated) -> str:
    """Return the label of a skipped repository, tag or manifest."""
    names: Sequence[str] = step.tags or ([step.digest] if step.digest else [])
    return f"{step.repository} ({', '.join(names)})" if names else step.repository


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
