"""Imports all repositories from the storage directory of a docker-registry, and a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from operator import add
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from holdfast.api.cli.errors import Damaged, Failure, printable
from holdfast.api.cli.output import copied, print_json_line, progress
from holdfast.api.cli.session import Target, open_store
from holdfast.engine import (
    EngineError,
    FoundRepository,
    Migrated,
    Renames,
    Transferred,
    import_registry,
    list_registry,
)

NOTHING: Final = Transferred(manifests=0, blobs=0, bytes=0, present=0, tags=0)


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
    refused = known = 0
    total = NOTHING
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
                if step.done is None:
                    refused += 1
                else:
                    known += step.done.manifests == 0
                    total = Transferred(*map(add, astuple(total), astuple(step.done)))
                bar.show(f"{copied(total)}, {step.repository}")
                if as_json:
                    print_json_line(_fields(step))
                elif step.error is not None:
                    click.echo(printable(f"{_label(step)}: {step.error}"))
    if not as_json:
        click.echo(f"imported {copied(total)}; {known} manifests were already present")
    _raise_if_any(refused, "items were left out")


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
    done = step.done or NOTHING
    return {
        "repository": step.repository,
        "name": step.name,
        "digest": step.digest,
        "tags": step.tags,
        "manifests": done.manifests,
        "blobs": done.blobs,
        "bytes": done.bytes,
        "present": done.present,
        "error": _reason(step.error),
    }
