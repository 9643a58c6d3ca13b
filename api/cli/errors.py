"""Failures of a command: one line on standard error and an exit code.

Every command imports this module, and ``holdfast health`` runs every few seconds, so it imports
little. ``error_messages`` translates the errors of the store and of the API.
"""

from __future__ import annotations

from typing import Final

import click

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
PROBLEMS: Final = 4
INTERRUPTED: Final = 130

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    failed: refused, in conflict, unreachable, no space
  2    an option or an argument is wrong, or --yes is missing
  3    the named resource does not exist
  4    check, scrub, snapshot or restore found damage; import skipped items
  130  interrupted
"""
"""Epilog of the help of ``holdfast``."""


class Failure(click.ClickException):
    """Ends the command with one line of output, even if the message holds foreign text."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Misused(Failure):
    """An option, an argument, an environment variable or the profile is wrong."""

    exit_code = USAGE


class Missing(Failure):
    """The named resource does not exist."""

    exit_code = NOT_FOUND


class Damaged(Failure):
    """The command finished its work and found damage."""

    exit_code = PROBLEMS


def printable(text: str) -> str:
    """Replace unprintable characters: foreign text may hold escape sequences of terminals."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def not_found(kind: str, name: str) -> Missing:
    """Return the failure for a name that no resource of the kind has."""
    return Missing(f"{kind} {name} was not found")
