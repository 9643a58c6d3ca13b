"""Options of the commands that set limits, and their fields in the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from holdfast.api.management.views import LimitsAnswer

from .options import F, parse_size
from .output import Table, exact_size

_EXCLUSIVE: Final = "an option and its --no- form exclude each other"

FIELDS: Final[Table] = {
    "quota": lambda item: "none" if item.quota is None else exact_size(item.quota),
    "immutable tags": lambda item: " ".join(item.immutable_tags),
    "locked": lambda item: item.locked,
}


def limit_options(prefix: str = "") -> Callable[[F], F]:
    """Return a decorator that adds the limit options, with ``prefix`` before each name."""
    options = (
        click.option(
            f"--{prefix}quota", type=parse_size, metavar="SIZE", help="Maximum stored size."
        ),
        click.option(f"--no-{prefix}quota", is_flag=True, help="Remove the quota."),
        click.option(
            f"--{prefix}immutable-tag",
            multiple=True,
            metavar="PATTERN",
            help="Tags that cannot be moved or deleted, repeatable; replaces the current patterns.",
        ),
        click.option(f"--no-{prefix}immutable-tags", is_flag=True, help="Remove all patterns."),
        click.option(
            f"--{prefix}lock/--{prefix}unlock",
            default=None,
            help="Refuse (or allow again) pushes, updates and deletes.",
        ),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def fields_of(given: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the API fields that the limit options in ``given`` set. Raises UsageError."""
    start = prefix.replace("-", "_")
    fields = quota_field(given, prefix)
    patterns, no_patterns = given[f"{start}immutable_tag"], given[f"no_{start}immutable_tags"]
    if no_patterns and patterns:
        raise click.UsageError(_EXCLUSIVE)
    if patterns or no_patterns:
        fields["immutable_tags"] = list(patterns)
    if given[f"{start}lock"] is not None:
        fields["locked"] = given[f"{start}lock"]
    return fields


def quota_field(given: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the API field that the two quota options set, if any. Raises UsageError."""
    start = prefix.replace("-", "_")
    quota, no_quota = given[f"{start}quota"], given[f"no_{start}quota"]
    if no_quota and quota is not None:
        raise click.UsageError(_EXCLUSIVE)
    return {"quota": quota} if no_quota or quota is not None else {}


def in_words(limits: LimitsAnswer) -> str:
    """Format limits for one cell of a table."""
    parts = [f"{name} {cell(limits)}" for name, cell in FIELDS.items() if cell(limits)]
    return ", ".join(parts)
