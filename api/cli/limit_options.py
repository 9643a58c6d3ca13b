"""Options of the commands that set limits, and their fields in the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from holdfast.api.management.views import LimitsAnswer

from .options import parse_size
from .output import Table, exact_size

F = TypeVar("F", bound=Callable[..., Any])

FIELDS: Final[Table] = {
    "quota": lambda item: "none" if item.quota is None else exact_size(item.quota),
    "immutable tags": lambda item: " ".join(item.immutable_tags),
    "locked": lambda item: item.locked,
}


def limit_options(prefix: str = "") -> Callable[[F], F]:
    """Return a decorator that adds the limit options, with ``prefix`` before each name."""

    def decorate(command: F) -> F:
        for option in reversed(
            (
                click.option(
                    f"--{prefix}quota",
                    f"{_name(prefix)}quota",
                    type=parse_size,
                    metavar="SIZE",
                    help="Maximum stored size.",
                ),
                click.option(
                    f"--no-{prefix}quota",
                    f"no_{_name(prefix)}quota",
                    is_flag=True,
                    help="Remove the quota.",
                ),
                click.option(
                    f"--{prefix}immutable-tag",
                    f"{_name(prefix)}patterns",
                    multiple=True,
                    metavar="PATTERN",
                    help="Tags that cannot be moved or deleted, repeatable; replaces the "
                    "current patterns.",
                ),
                click.option(
                    f"--no-{prefix}immutable-tags",
                    f"no_{_name(prefix)}patterns",
                    is_flag=True,
                    help="Remove all patterns.",
                ),
                click.option(
                    f"--{prefix}lock/--{prefix}unlock",
                    f"{_name(prefix)}locked",
                    default=None,
                    help="Refuse (or allow again) pushes, updates and deletes.",
                ),
            )
        ):
            command = option(command)
        return command

    return decorate


def _name(prefix: str) -> str:
    return prefix.replace("-", "_")


def fields_of(given: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the API fields that the limit options in ``given`` set. Raises UsageError."""
    start = _name(prefix)
    quota, no_quota = given[f"{start}quota"], given[f"no_{start}quota"]
    patterns, no_patterns = given[f"{start}patterns"], given[f"no_{start}patterns"]
    if (no_quota and quota is not None) or (no_patterns and patterns):
        raise click.UsageError("an option and its --no- form exclude each other")
    fields: dict[str, object] = {}
    if quota is not None or no_quota:
        fields["quota"] = quota
    if patterns or no_patterns:
        fields["immutable_tags"] = list(patterns)
    if given[f"{start}locked"] is not None:
        fields["locked"] = given[f"{start}locked"]
    return fields


def in_words(limits: LimitsAnswer) -> str:
    """Format limits for one cell of a table."""
    parts = [f"{name} {cell(limits)}" for name, cell in FIELDS.items() if cell(limits)]
    return ", ".join(parts)
