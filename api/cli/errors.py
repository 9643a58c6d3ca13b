"""What goes wrong in a command: one line on standard error, and a telling exit code.

Light, since every command imports it: ``holdfast health`` runs every few seconds. What errors of
the store and of the API mean is in ``error_messages``.
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
  3    what was named does not exist
  4    check, scrub, snapshot or restore found damage; import left something out
  130  interrupted
"""
"""For the help of the whole command."""


class Failure(click.ClickException):
    """Ends the command with one line, which nobody else's text can turn into several."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Misused(Failure):
    """An option, an argument, a variable or the profile is wrong."""

    exit_code = USAGE


class Missing(Failure):
    """What was named does not exist."""

    exit_code = NOT_FOUND


class Damaged(Failure):
    """The command did its work, and found damage."""

    exit_code = PROBLEMS


def printable(text: str) -> str:
    """Text that cannot steer a terminal: what others wrote may hold escape sequences."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def not_found(kind: str, name: str) -> Missing:
    """Nothing of that kind has that name."""
    return Missing(f"{kind} {name} was not found")
